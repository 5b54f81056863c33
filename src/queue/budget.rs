//! What all queues together may hold, and what waits elsewhere to get into them.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use super::{Queue, lock};
use crate::config::Overflow;
use crate::telemetry::DropReason;

/// Bytes that all queues together may hold: `[limits] memory`.
pub struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// Holds messages that are counted in a budget, and gives some up when it is used up: a queue, or
/// who holds back what is to get into one.
pub trait Holder: Send + Sync {
    /// Bytes that could be given up.
    fn bytes(&self) -> usize;

    /// Drop at least so many bytes, or all there is.
    fn shed(&self, bytes: usize);
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let (limit, used) = (AtomicUsize::new(limit), AtomicUsize::new(0));
        Arc::new(Budget { limit, used, holders: Mutex::default() })
    }

    /// So many bytes from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
        self.enforce();
    }

    /// Bytes that wait or are in hand now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// So many bytes more are held. Who says so calls [`Self::enforce`] when it has no lock any more.
    pub fn hold(&self, bytes: usize) {
        self.used.fetch_add(bytes, Relaxed);
    }

    /// So many bytes are held no longer.
    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    /// Drop from the fullest holder until the limit is kept. One 64th of the limit goes at once, so
    /// that looking for the fullest of many queues is paid for by many messages.
    pub fn enforce(&self) {
        let limit = self.limit.load(Relaxed);
        if self.used() <= limit {
            return;
        }
        let mut holders = lock(&self.holders);
        holders.retain(|holder| holder.strong_count() > 0);
        loop {
            // Read once: workers give back meanwhile.
            let over = self.used().saturating_sub(limit);
            if over == 0 {
                break;
            }
            let all = holders.iter().filter_map(Weak::upgrade);
            match all.max_by_key(|holder| holder.bytes()) {
                Some(fullest) if fullest.bytes() > 0 => fullest.shed(over.max(limit / 64)),
                // All of it is in hand: the workers will give it back.
                _ => break,
            }
        }
    }

    /// One holder more.
    pub fn add(&self, holder: Weak<dyn Holder>) {
        let mut holders = lock(&self.holders);
        // Now and then, so that those of channels long gone don't gather.
        if holders.len().is_power_of_two() {
            holders.retain(|holder| holder.strong_count() > 0);
        }
        holders.push(holder);
    }
}

impl Holder for Queue {
    fn bytes(&self) -> usize {
        Queue::bytes(self)
    }

    fn shed(&self, bytes: usize) {
        let (passed, dropped) = {
            let mut waiting = lock(&self.waiting);
            let before = waiting.bytes;
            let mut dropped = 0;
            while before - waiting.bytes < bytes {
                let message = match waiting.rules.overflow {
                    Overflow::DropOldest => waiting.pop_oldest(),
                    Overflow::DropNewest => waiting.pop_newest(),
                };
                let Some(message) = message else { break };
                waiting.bytes -= message.footprint();
                dropped += 1;
            }
            self.settle(&waiting, before);
            self.rest(&waiting);
            (waiting.passed_at_rest(), dropped)
        };
        self.metrics.lost(DropReason::Memory, dropped);
        passed.into_iter().for_each(|passed| passed());
    }
}
