//! The subscriptions that are wanted, and everything that is made of them.
//!
//! Owned by the supervisor, used by sessions. A change has two steps: [`Plan::begin`] gives the names
//! that stay to their new subscriptions and leaves those that go with their old ones; when Redis has
//! confirmed that these ended, [`Plan::settle`] forgets them. Each makes roster and router anew, 8 to
//! 20 ms for 10,000 channels, and happens between two reads. Does no I/O.

use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashSet;

use super::Subscription;
use super::intake::Intake;
use super::roster::{NameId, Parties, Roster, State, texts};
use super::router::Router;
use crate::broker::single::Lane;
use crate::config::Source;

/// The subscriptions, the names of them, and the way of their messages.
pub(super) struct Plan {
    wanted: Arc<[Subscription]>,
    pub(super) roster: Roster,
    pub(super) intake: Intake,
}

/// For each id of a name, the one that it has now; `None` for a name that was forgotten.
pub(super) type Moved = Vec<Option<NameId>>;

impl Plan {
    /// Of these; nothing is subscribed yet.
    pub(super) fn new(wanted: Arc<[Subscription]>, now: Instant) -> Self {
        let parties =
            Parties { subscriptions: wanted.to_vec(), wanted: wanted.len(), unclaimed: Vec::new() };
        let roster = Roster::new(&parties, |_, _| None, now);
        let intake = Intake::new(Router::new(parties.subscriptions, &roster));
        Plan { wanted, roster, intake }
    }

    /// Whether it is for this very list.
    pub(super) fn is_for(&self, wanted: &Arc<[Subscription]>) -> bool {
        Arc::ptr_eq(&self.wanted, wanted)
    }

    /// The channels that are single.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.wanted.iter().filter_map(|wanted| wanted.single.clone()).collect()
    }

    /// Whether nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.roster.wanted() == 0
    }

    /// These are wanted from now on. The names that no longer are, are `leaving`: their messages go
    /// where they went. No other change is under way.
    pub(super) fn begin(&mut self, wanted: Arc<[Subscription]>, now: Instant) -> Moved {
        let mut names = FxHashSet::default();
        for subscription in &*wanted {
            names.extend(subscription.names().map(|(pattern, text)| (pattern, &**text)));
        }
        // One that is single counts all that comes, or nothing.
        for lane in self.wanted.iter().filter_map(|old| old.single.as_ref()) {
            let stays = |new: &Subscription| {
                new.single.as_ref().is_some_and(|other| Arc::ptr_eq(lane, other))
            };
            if !wanted.iter().any(stays) {
                lane.close();
            }
        }
        let mut subscriptions = wanted.to_vec();
        subscriptions.extend(self.wanted.iter().filter_map(|old| left_of(old, &names)));
        let unclaimed = self.roster.leaving().map(|id| self.roster.names()[id].key());
        let unclaimed = unclaimed.filter(|(pattern, text)| !names.contains(&(*pattern, &**text)));
        let parties =
            Parties { unclaimed: unclaimed.collect(), wanted: wanted.len(), subscriptions };

        let stay: FxHashSet<_> = wanted.iter().map(|s| Arc::as_ptr(s.queue.metrics())).collect();
        let moved = self.remake(parties, now);
        for gone in self.wanted.iter().map(|s| s.queue.metrics()) {
            if !stay.contains(&Arc::as_ptr(gone)) {
                gone.unsubscribed.replace(std::iter::empty());
            }
        }
        self.wanted = wanted;
        moved
    }

    /// Nothing more comes of the names that were leaving, or not to anybody: forget them.
    pub(super) fn settle(&mut self, now: Instant) -> Moved {
        if self.roster.leaving().is_empty() {
            return (0..self.roster.names().len()).map(Some).collect();
        }
        // Those that Redis won't end are remembered: it counts them.
        let kept = self.roster.leaving().filter(|id| self.roster.state(*id) == State::Confirmed);
        let parties = Parties {
            subscriptions: self.wanted.to_vec(),
            wanted: self.wanted.len(),
            unclaimed: kept.map(|id| self.roster.names()[id].key()).collect(),
        };
        self.remake(parties, now)
    }

    fn remake(&mut self, parties: Parties, now: Instant) -> Moved {
        self.roster.count_gaps(now);
        let Plan { roster: old, intake, .. } = &*self;
        let known =
            |pattern, text: &str| intake.find(pattern, text.as_bytes()).map(|id| old.known(id));
        let roster = Roster::new(&parties, known, now);
        let router = Router::new(parties.subscriptions, &roster);
        let moved = self.roster.names().iter();
        let moved = moved.map(|name| router.find(name.pattern, name.text.as_bytes()));
        let moved: Moved = moved.collect();
        self.intake.reroute(router, &moved);
        self.roster = roster;
        moved
    }
}

/// A subscription with only those of its names that aren't wanted any more, if there are any.
fn left_of(old: &Subscription, wanted: &FxHashSet<(bool, &str)>) -> Option<Subscription> {
    let (pattern, texts) = texts(&old.source);
    let left: Vec<Arc<str>> =
        texts.iter().filter(|text| !wanted.contains(&(pattern, &***text))).cloned().collect();
    let mark = old.single.iter().any(|lane| !wanted.contains(&(false, &**lane.mark_channel())));
    if left.is_empty() && !mark {
        return None;
    }
    let source = if pattern { Source::Pattern(left) } else { Source::Subscribe(left) };
    Some(Subscription { source, ..old.clone() })
}
