//! The names of all pub/sub channels of one Redis: which are subscribed, and whose messages are missed.
//!
//! Lives as long as the supervisor, over all connections. Counts the gaps of channels. Does no I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Subscription;
use crate::config::Source;
use crate::telemetry::ChannelMetrics;

/// Index of a name in the roster.
pub(super) type NameId = usize;

/// What is known of a name on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not subscribed, as far as is known.
    Missing,
    /// Redis confirmed the subscription.
    Confirmed,
    /// Redis answered with an error.
    Refused,
}

/// A name or a pattern, once, however many channels want it.
pub(super) struct Name {
    /// As it is in the configuration.
    pub(super) text: Arc<str>,
    /// Whether it is a pattern.
    pub(super) pattern: bool,
    /// Whether the log has said that it was refused, and not yet that it is permitted again.
    pub(super) refusal_told: bool,
    state: State,
    /// Indices of the subscriptions that want it.
    pub(super) wanted_by: Vec<usize>,
}

impl Name {
    /// The command that subscribes to it.
    pub(super) fn command(&self) -> &'static str {
        if self.pattern { "PSUBSCRIBE" } else { "SUBSCRIBE" }
    }
}

/// A channel's time without all of its names.
struct Gap {
    metrics: Arc<ChannelMetrics>,
    /// How many of its names are not confirmed.
    missing: usize,
    /// Up to when the gap is counted, while one is open.
    counted_to: Option<Instant>,
}

impl Gap {
    fn count(&mut self, now: Instant) {
        if let Some(from) = self.counted_to {
            // Whole milliseconds only; the rest stays for the next time.
            let ms = now.saturating_duration_since(from).as_millis() as u64;
            self.metrics.gap_ms.add(ms);
            self.counted_to = Some(from + Duration::from_millis(ms));
        }
    }
}

/// All names, and the gaps of all channels.
pub(super) struct Roster {
    names: Vec<Name>,
    gaps: Vec<Gap>,
    /// How many gaps are open.
    open: usize,
    confirmed: usize,
    refused: usize,
}

impl Roster {
    /// Of these subscriptions; nothing is subscribed yet, and every gap begins now.
    pub(super) fn new(subscriptions: &[Subscription], now: Instant) -> Self {
        let mut names: Vec<Name> = Vec::new();
        let mut known: HashMap<(bool, Arc<str>), NameId> = HashMap::new();
        let mut gaps = Vec::with_capacity(subscriptions.len());
        let none = Vec::new();
        for (index, subscription) in subscriptions.iter().enumerate() {
            let (pattern, texts) = match &subscription.source {
                Source::Subscribe(texts) => (false, texts),
                Source::Pattern(texts) => (true, texts),
                // integration: the daemon gives streams to their own reader, not to this one.
                Source::Stream(_) => (false, &none),
            };
            for text in texts {
                let id = *known.entry((pattern, text.clone())).or_insert_with(|| {
                    names.push(Name {
                        text: text.clone(),
                        pattern,
                        refusal_told: false,
                        state: State::Missing,
                        wanted_by: Vec::new(),
                    });
                    names.len() - 1
                });
                names[id].wanted_by.push(index);
            }
            subscription.queue.metrics().unsubscribed.replace(texts.iter().cloned());
            gaps.push(Gap {
                metrics: subscription.queue.metrics().clone(),
                missing: texts.len(),
                counted_to: Some(now),
            });
        }
        let open = gaps.len();
        Roster { names, gaps, open, confirmed: 0, refused: 0 }
    }

    /// All names; a [`NameId`] is an index in them.
    pub(super) fn names(&self) -> &[Name] {
        &self.names
    }

    /// One name.
    pub(super) fn name_mut(&mut self, id: NameId) -> &mut Name {
        &mut self.names[id]
    }

    /// How many names are confirmed: what Redis must count for this connection.
    pub(super) fn confirmed(&self) -> usize {
        self.confirmed
    }

    /// How many names are refused.
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    /// What is known of a name.
    pub(super) fn state(&self, id: NameId) -> State {
        self.names[id].state
    }

    /// The ids of all names in this state.
    pub(super) fn in_state(&self, state: State) -> impl Iterator<Item = NameId> {
        (0..self.names.len()).filter(move |&id| self.names[id].state == state)
    }

    /// Note what is known of a name since `at`.
    pub(super) fn set(&mut self, id: NameId, state: State, at: Instant) {
        let name = &mut self.names[id];
        let before = std::mem::replace(&mut name.state, state);
        if before == state {
            return;
        }
        self.refused += usize::from(state == State::Refused);
        self.refused -= usize::from(before == State::Refused);
        if state == State::Confirmed {
            self.confirmed += 1;
            for &channel in &name.wanted_by {
                let gap = &mut self.gaps[channel];
                gap.metrics.unsubscribed.remove(&name.text);
                gap.missing -= 1;
                if gap.missing == 0 {
                    gap.count(at);
                    gap.counted_to = None;
                    self.open -= 1;
                }
            }
        } else if before == State::Confirmed {
            self.confirmed -= 1;
            for &channel in &name.wanted_by {
                let gap = &mut self.gaps[channel];
                gap.metrics.unsubscribed.insert(&name.text);
                gap.missing += 1;
                if gap.counted_to.is_none() {
                    gap.counted_to = Some(at);
                    self.open += 1;
                }
            }
        }
    }

    /// The connection is gone: nothing was heard since `since`.
    pub(super) fn lose_all(&mut self, since: Instant) {
        for id in 0..self.names.len() {
            self.set(id, State::Missing, since);
        }
    }

    /// Count a gap of a name that ended before it was noticed.
    pub(super) fn charge(&mut self, id: NameId, length: Duration) {
        for &channel in &self.names[id].wanted_by {
            // Where one is open, the same time is being counted already.
            if self.gaps[channel].counted_to.is_none() {
                self.gaps[channel].metrics.gap_ms.add(length.as_millis() as u64);
            }
        }
    }

    /// Count the open gaps up to now.
    pub(super) fn count_gaps(&mut self, now: Instant) {
        if self.open > 0 {
            self.gaps.iter_mut().for_each(|gap| gap.count(now));
        }
    }
}
