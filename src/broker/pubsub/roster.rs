//! The names of all pub/sub channels of one Redis: which are subscribed, and whose messages are missed.
//!
//! Lives over all connections; made anew of the one before when the subscriptions change. Counts the
//! gaps of channels. Does no I/O.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

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
    /// Indices of the subscriptions that get its messages.
    pub(super) wanted_by: Vec<usize>,
}

impl Name {
    /// What tells it from all others.
    pub(super) fn key(&self) -> (bool, Arc<str>) {
        (self.pattern, self.text.clone())
    }

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

/// What a name takes along into the next roster.
#[derive(Clone, Copy)]
pub(super) struct Known {
    state: State,
    refusal_told: bool,
}

/// Whose messages are taken: what a roster is made of.
pub(super) struct Parties {
    /// The subscriptions; first those that are wanted.
    pub(super) subscriptions: Vec<Subscription>,
    /// How many are wanted. The others are what is left of earlier ones: only with names that no
    /// wanted one has.
    pub(super) wanted: usize,
    /// Further names that Redis has us down for, whose messages nobody gets.
    pub(super) unclaimed: Vec<(bool, Arc<str>)>,
}

/// All names, and the gaps of all channels.
pub(super) struct Roster {
    /// First those that are wanted.
    names: Vec<Name>,
    /// How many names are wanted; the others are leaving.
    wanted: usize,
    /// Of the wanted subscriptions.
    gaps: Vec<Gap>,
    /// How many gaps are open.
    open: usize,
    confirmed: usize,
    refused: usize,
}

/// Whether these are patterns, and the names.
pub(super) fn texts(source: &Source) -> (bool, &[Arc<str>]) {
    match source {
        Source::Subscribe(texts) => (false, texts),
        Source::Pattern(texts) => (true, texts),
        // integration: the daemon gives streams to their own reader, not to this one.
        Source::Stream(_) => (false, &[]),
    }
}

impl Roster {
    /// Of these; `known` tells of names what was known of them until now. The gaps of channels
    /// without all their names begin now.
    pub(super) fn new(
        parties: &Parties,
        known: impl Fn(bool, &str) -> Option<Known>,
        now: Instant,
    ) -> Self {
        let mut roster = Roster {
            names: Vec::new(),
            wanted: 0,
            gaps: Vec::new(),
            open: 0,
            confirmed: 0,
            refused: 0,
        };
        let mut ids = FxHashMap::default();
        for (index, subscription) in parties.subscriptions.iter().enumerate() {
            let mut missing = Vec::new();
            for (pattern, text) in subscription.names() {
                let id = *ids
                    .entry((pattern, text.clone()))
                    .or_insert_with(|| roster.add(pattern, text, known(pattern, text)));
                let name = &mut roster.names[id];
                name.wanted_by.push(index);
                if name.state != State::Confirmed {
                    missing.push(text.clone());
                }
            }
            if index < parties.wanted {
                roster.wanted = roster.names.len();
                roster.open += usize::from(!missing.is_empty());
                let metrics = subscription.queue.metrics().clone();
                roster.gaps.push(Gap {
                    missing: missing.len(),
                    counted_to: (!missing.is_empty()).then_some(now),
                    metrics: metrics.clone(),
                });
                metrics.unsubscribed.replace(missing.into_iter());
            }
        }
        for (pattern, text) in &parties.unclaimed {
            roster.add(*pattern, text, known(*pattern, text));
        }
        roster
    }

    fn add(&mut self, pattern: bool, text: &Arc<str>, known: Option<Known>) -> NameId {
        let Known { state, refusal_told } =
            known.unwrap_or(Known { state: State::Missing, refusal_told: false });
        self.confirmed += usize::from(state == State::Confirmed);
        self.refused += usize::from(state == State::Refused);
        let wanted_by = Vec::new();
        self.names.push(Name { text: text.clone(), pattern, refusal_told, state, wanted_by });
        self.names.len() - 1
    }

    /// What this name takes along into the next roster.
    pub(super) fn known(&self, id: NameId) -> Known {
        let name = &self.names[id];
        Known { state: name.state, refusal_told: name.refusal_told }
    }

    /// How many names are wanted.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// How many of these are confirmed.
    pub(super) fn wanted_confirmed(&self) -> usize {
        self.names[..self.wanted].iter().filter(|name| name.state == State::Confirmed).count()
    }

    /// Whether this one is.
    pub(super) fn is_wanted(&self, id: NameId) -> bool {
        id < self.wanted
    }

    /// The names that are no longer wanted, as long as Redis may send their messages.
    pub(super) fn leaving(&self) -> Range<NameId> {
        self.wanted..self.names.len()
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
        } else if before == State::Confirmed {
            self.confirmed -= 1;
        } else {
            return;
        }
        // Only the gaps of subscriptions that are wanted are counted.
        for &index in &name.wanted_by {
            let Some(gap) = self.gaps.get_mut(index) else { continue };
            if state == State::Confirmed {
                gap.missing -= 1;
                gap.metrics.unsubscribed.remove(&name.text);
                if gap.missing == 0 {
                    gap.count(at);
                    gap.counted_to = None;
                    self.open -= 1;
                }
            } else {
                gap.missing += 1;
                gap.metrics.unsubscribed.insert(&name.text);
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
        for gap in self.names[id].wanted_by.iter().filter_map(|&index| self.gaps.get(index)) {
            // Where one is open, the same time is being counted already.
            if gap.counted_to.is_none() {
                gap.metrics.gap_ms.add(length.as_millis() as u64);
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
