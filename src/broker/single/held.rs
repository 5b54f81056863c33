//! What a standby holds until it has heard that it was done: counted in `[limits] memory`, as what waits in
//! a queue is.
//!
//! Under the lane's lock, but for how many bytes there are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::queue::{Budget, Received};

/// Messages of ascending numbers.
pub(super) struct Held {
    messages: VecDeque<(u64, Received)>,
    bytes: Arc<AtomicUsize>,
    budget: Arc<Budget>,
}

impl Held {
    /// None; they will be counted there.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Held { messages: VecDeque::new(), bytes: Arc::default(), budget: budget.clone() }
    }

    /// How many bytes there are, for who hasn't the lock.
    pub(super) fn counter(&self) -> Arc<AtomicUsize> {
        self.bytes.clone()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn push(&mut self, number: u64, message: Received) {
        let bytes = message.footprint();
        self.bytes.fetch_add(bytes, Relaxed);
        self.budget.hold(bytes);
        self.messages.push_back((number, message));
    }

    /// Drop the oldest; answers its number.
    pub(super) fn drop_oldest(&mut self) -> Option<u64> {
        let (number, message) = self.messages.pop_front()?;
        self.release(message.footprint());
        Some(number)
    }

    /// Drop all up to this number.
    pub(super) fn forget(&mut self, number: u64) {
        while self.messages.front().is_some_and(|(held, _)| *held <= number) {
            self.drop_oldest();
        }
    }

    /// Which there are.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.messages.iter().map(|(number, _)| *number)
    }

    /// All of them, which are held no longer.
    pub(super) fn take(&mut self) -> Vec<Received> {
        self.release(self.bytes());
        self.messages.drain(..).map(|(_, message)| message).collect()
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.budget.release(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes());
    }
}
