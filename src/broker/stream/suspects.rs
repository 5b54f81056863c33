//! Entries that were delivered so often that one of them may have ended the daemon: each is handed on
//! alone, when nothing else of its stream is in hand.

use std::collections::VecDeque;

use super::entry::Taken;

#[derive(Default)]
pub(super) struct Suspects {
    waiting: VecDeque<Taken>,
    /// One was handed on, and all that was in hand with it has not been let go since.
    out: bool,
}

impl Suspects {
    /// These wait.
    pub(super) fn add(&mut self, suspects: Vec<Taken>) {
        self.waiting.extend(suspects);
    }

    /// The next one, if nothing is in hand but those that wait.
    pub(super) fn next(&mut self, in_hand: usize) -> Option<Taken> {
        if in_hand > self.waiting.len() {
            return None;
        }
        let next = self.waiting.pop_front();
        self.out = next.is_some();
        next
    }

    /// Whether one waits or is being handled: nothing else may be handed on.
    pub(super) fn are_waiting(&self, in_hand: usize) -> bool {
        !self.waiting.is_empty() || (self.out && in_hand > 0)
    }

    /// Let go of all.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
