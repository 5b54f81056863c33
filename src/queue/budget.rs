//! What all queues together may hold.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use super::{Queue, lock};

/// Bytes that all queues together may hold: `[limits] memory`.
pub struct Budget {
    limit: AtomicUsize,
    pub(super) used: AtomicUsize,
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let (limit, used) = (AtomicUsize::new(limit), AtomicUsize::new(0));
        Arc::new(Budget { limit, used, queues: Mutex::default() })
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

    /// Drop from the fullest queue until the limit is kept. One 64th of the limit goes at once, so
    /// that looking for the fullest of many queues is paid for by many messages.
    pub(super) fn enforce(&self) {
        let limit = self.limit.load(Relaxed);
        if self.used() <= limit {
            return;
        }
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        loop {
            // Read once: workers give back meanwhile.
            let over = self.used().saturating_sub(limit);
            if over == 0 {
                break;
            }
            let fullest = queues.iter().filter_map(Weak::upgrade).max_by_key(|queue| queue.bytes());
            match fullest {
                Some(queue) if queue.bytes() > 0 => {
                    queue.shed(over.max(limit / 64));
                }
                // All of it is in hand: the workers will give it back.
                _ => break,
            }
        }
    }

    /// One queue more.
    pub(super) fn add(&self, queue: &Arc<Queue>) {
        let mut queues = lock(&self.queues);
        // Now and then, so that those of channels long gone don't gather.
        if queues.len().is_power_of_two() {
            queues.retain(|queue| queue.strong_count() > 0);
        }
        queues.push(Arc::downgrade(queue));
    }
}
