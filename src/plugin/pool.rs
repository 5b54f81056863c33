//! The instances of one handler: made on demand, one call at a time each, at most so many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::instance::Instance;

/// How long an instance may wait for a message before it is dropped.
const UNUSED: Duration = Duration::from_secs(60);

/// The instances of a handler that wait for a message, and the right to use one.
pub(super) struct Pool {
    /// The one used last is used next: the others may be dropped in time.
    idle: Mutex<Vec<Instance>>,
    turns: Semaphore,
}

impl Pool {
    /// An empty pool of at most `instances`.
    pub(super) fn new(instances: usize) -> Self {
        let turns = Semaphore::new(instances.clamp(1, Semaphore::MAX_PERMITS));
        Pool { idle: Mutex::default(), turns }
    }

    /// Wait for the right to use an instance. Who came first has it first.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        loop {
            // Without a wait in the usual case; it fails while others wait.
            if let Ok(turn) = self.turns.try_acquire() {
                return turn;
            }
            // The semaphore is never closed, so this is no busy loop.
            if let Ok(turn) = self.turns.acquire().await {
                return turn;
            }
        }
    }

    /// Take an instance that waits.
    pub(super) fn take(&self) -> Option<Instance> {
        self.idle().pop()
    }

    /// Give an instance back.
    pub(super) fn give(&self, instance: Instance) {
        self.idle().push(instance);
    }

    /// Drop what has waited for long; whether any instance is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle();
        let unused = |i: &Instance| now.saturating_duration_since(i.used) >= UNUSED;
        // In the order of their last use, but for calls that took different times.
        let used = idle.iter().position(|i| !unused(i)).unwrap_or(idle.len());
        let dropped: Vec<Instance> = idle.drain(..used).collect();
        let left = !idle.is_empty();
        drop(idle);
        drop(dropped);
        left
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many instances wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.idle().len()
    }
}

/// All pools of a host, for sweeping them.
#[derive(Default)]
pub(super) struct Pools(Mutex<Vec<Weak<Pool>>>);

impl Pools {
    pub(super) fn add(&self, pool: &Arc<Pool>) {
        self.lock().push(Arc::downgrade(pool));
    }

    /// Drop the instances that have waited for long; whether any is left.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        let pools: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
        // All of them, not only until one has something left.
        pools.iter().filter(|pool| pool.sweep(now)).count() > 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
