//! What a worker has in hand of a queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Queue, Received, lock};

/// Messages that a worker has in hand. What it has not got through when it is dropped (its worker
/// was ended) is counted as `shutdown`.
#[derive(Default)]
pub struct Batch {
    pub(super) queue: Option<Arc<Queue>>,
    pub(super) messages: VecDeque<Received>,
    pub(super) bytes: usize,
    /// Messages that were handed out and aren't done with.
    in_hand: u64,
    /// With `order_by`: their keys.
    pub(super) keys: Vec<u64>,
}

impl Batch {
    /// All of the messages, in order. Each is in hand until it is [`Self::done`] with.
    pub fn drain(&mut self) -> impl Iterator<Item = Received> {
        self.in_hand += self.messages.len() as u64;
        self.messages.drain(..)
    }

    /// So many messages in hand are done with: they have been counted as what became of them.
    pub fn done(&mut self, messages: usize) {
        self.in_hand -= messages as u64;
        if self.is_done() {
            self.finish();
        }
    }

    /// These of the messages in hand wait again, before all others: all of them, or all but one,
    /// which is tried again. Then its key, with `order_by`, is the only one that stays in hand.
    pub fn put_back(&mut self, mut messages: Vec<Received>, stays: Option<u64>) {
        let left = messages.len() as u64 + u64::from(stays.is_some());
        debug_assert_eq!(self.in_hand, left, "others than those that were taken");
        let Some(queue) = self.queue.clone() else { return };
        self.in_hand -= messages.len() as u64;
        let bytes: usize = messages.iter().map(Received::footprint).sum();
        self.bytes -= bytes;
        let turn = {
            let mut waiting = lock(&queue.waiting);
            if waiting.closed && queue.kept_by_source {
                // Nobody is to begin them: they go back to their stream when they are dropped here.
                queue.budget.release(bytes);
            } else {
                waiting.put_back(&mut messages);
                // They have been in the budget all the time.
                waiting.bytes += bytes;
                queue.bytes.store(waiting.bytes, Relaxed);
            }
            waiting.busy.release(&mut self.keys, stays);
            queue.wants_turn(&mut waiting)
        };
        if turn {
            queue.ready();
        }
        if self.is_done() {
            self.finish();
        }
    }

    /// The messages in hand go back to their source: nothing became of them.
    pub fn give_back(&mut self) {
        self.messages.clear();
        self.in_hand = 0;
        self.finish();
    }

    /// Bytes of the messages that were taken, until they are done with.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no message is left or in hand.
    pub fn is_done(&self) -> bool {
        self.in_hand == 0 && self.messages.is_empty()
    }

    pub(super) fn finish(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.budget.release(self.bytes);
            if !self.keys.is_empty() {
                queue.release(&mut self.keys);
            }
        }
        self.bytes = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let left = self.messages.len() as u64 + self.in_hand;
        if let (Some(queue), true) = (&self.queue, left > 0) {
            queue.lost(left);
        }
        self.finish();
    }
}
