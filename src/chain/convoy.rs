//! Messages that are on their way through a chain together.
//!
//! Filled and emptied by the workers; [`Chain::advance`](super::Chain::advance) takes them further.

use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, Transit};
use crate::message::{Delivery, Message};

/// Shown what a hop made of one message: the handler's name, how long it took, and what came out.
pub type Observer = Box<dyn FnMut(&Arc<str>, Duration, &Outcome) + Send>;

/// Messages that go through a chain together: as far as each handler's time
/// allows they are handed to it at once, since that is far cheaper than one by one.
#[derive(Default)]
pub struct Convoy {
    /// In the order in which they came.
    pub(super) transits: Vec<Transit>,
    /// For each handler, how many of them have passed it: never more than the one before it.
    pub(super) passed: Vec<usize>,
    /// How many have come out.
    pub(super) out: usize,
    /// Who looks on at which messages, in the order of these; nearly always nobody at any.
    pub(super) observers: Vec<(usize, Observer)>,
}

impl Convoy {
    /// Forget the messages: they have all come out.
    pub fn clear(&mut self) {
        self.observers.clear();
        self.transits.clear();
        self.passed.clear();
        self.out = 0;
    }

    /// Let messages go, behind those that are in it.
    pub fn extend(&mut self, messages: impl Iterator<Item = Transit>) {
        self.transits.extend(messages);
    }

    /// The message of this place, before it is begun.
    pub fn waiting(&self, place: usize) -> Option<(&Arc<Delivery>, &Message)> {
        let transit = self.transits.get(place)?;
        Some((&transit.delivery, transit.single()?))
    }

    /// Look on at the message of this place, which is not before that of an earlier call and is not
    /// begun: each handler is given it alone, in its turn.
    pub fn observe(&mut self, place: usize, observer: Observer) {
        self.observers.push((place, observer));
    }

    /// Bytes of the messages in it.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let messages = self.transits.iter().flat_map(|transit| transit.outcome.iter().flatten());
        messages.map(Message::size).sum()
    }

    /// How many have been handed to the first handler, or came out where there is none.
    pub fn begun(&self) -> usize {
        self.passed.first().copied().unwrap_or(self.out)
    }

    /// Take those from this place on out again; none of them may have [begun](Self::begun).
    pub fn split_off(&mut self, at: usize) -> Vec<Transit> {
        debug_assert!(at >= self.begun(), "what a handler was given is on its way");
        self.observers.retain(|(place, _)| *place < at);
        self.transits.split_off(at)
    }

    /// One of those in it, by its place.
    pub fn at(&mut self, place: usize) -> &mut Transit {
        &mut self.transits[place]
    }

    /// How many have come out.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Take those from this place on out again, however far they have come: they begin anew.
    pub fn cut(&mut self, at: usize) -> Vec<Transit> {
        self.passed.iter_mut().for_each(|passed| *passed = at.min(*passed));
        self.out = at.min(self.out);
        self.observers.retain(|(place, _)| *place < at);
        self.transits.split_off(at)
    }

    /// How many have been let go, those that came out included.
    pub fn len(&self) -> usize {
        self.transits.len()
    }

    /// Whether none has been let go.
    pub fn is_empty(&self) -> bool {
        self.transits.is_empty()
    }
}
