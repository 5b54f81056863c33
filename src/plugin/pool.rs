//! The instances of one handler: made on demand, one call at a time each, at most so many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::instance::Instance;

/// How long an instance may wait for a message before it is dropped.
const UNUSED: Duration = Duration::from_secs(60);

/// The right to use an instance of a handler; held by whoever uses one and by those that wait.
type Turn = OwnedSemaphorePermit;

/// The instances of a handler, and who waits for one.
pub(super) struct Pool {
    idle: Mutex<Idle>,
    /// As many turns as there may be instances.
    turns: Arc<Semaphore>,
    /// How many that is.
    most: usize,
}

#[derive(Default)]
struct Idle {
    /// The one used last is used next: the others may be dropped in time. Each keeps its turn, so
    /// that in the usual case taking and giving back is one lock each; while calls wait, turns are
    /// for them.
    instances: Vec<(Box<Instance>, Option<Turn>)>,
    /// Calls that wait for a turn.
    waiting: usize,
}

/// An instance in use.
pub(super) struct Lease {
    pub(super) instance: Box<Instance>,
    turn: Turn,
}

impl Pool {
    /// An empty pool of at most `instances`.
    pub(super) fn new(instances: usize) -> Self {
        let most = instances.clamp(1, Semaphore::MAX_PERMITS);
        Pool { idle: Mutex::default(), turns: Arc::new(Semaphore::new(most)), most }
    }

    /// Take an instance that waits, if no call was there before.
    pub(super) fn take(&self) -> Option<Lease> {
        let mut idle = self.idle();
        if idle.waiting > 0 {
            return None;
        }
        let (instance, turn) = idle.instances.pop()?;
        match turn.map_or_else(|| self.turns.clone().try_acquire_owned(), Ok) {
            Ok(turn) => Some(Lease { instance, turn }),
            Err(_) => {
                idle.instances.push((instance, None));
                None
            }
        }
    }

    /// Wait for the right to use an instance, then take one that waits, or have one made. Who came
    /// first has it first.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) async fn wait<E>(
        &self,
        make: impl AsyncFnOnce() -> Result<Box<Instance>, E>,
    ) -> Result<Lease, E> {
        let waiting = Waiting::new(self);
        // The semaphore is never closed, so this is no busy loop.
        let turn = loop {
            if let Ok(turn) = self.turns.clone().acquire_owned().await {
                break turn;
            }
        };
        drop(waiting);
        let idle = self.idle().instances.pop();
        let instance = match idle {
            // A turn that it kept is given to the next call.
            Some((instance, _)) => instance,
            None => make().await?,
        };
        Ok(Lease { instance, turn })
    }

    /// Give an instance back.
    pub(super) fn give(&self, lease: Lease) {
        let Lease { instance, turn } = lease;
        let mut idle = self.idle();
        let kept = if idle.waiting == 0 { Some(turn) } else { None };
        idle.instances.push((instance, kept));
    }

    /// Drop what has waited for long; whether any instance is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle();
        let unused = |i: &Instance| now.saturating_duration_since(i.used) >= UNUSED;
        let instances = &mut idle.instances;
        // In the order of their last use, but for calls that took different times.
        let used = instances.iter().position(|(i, _)| !unused(i)).unwrap_or(instances.len());
        let dropped: Vec<_> = instances.drain(..used).collect();
        let left = !instances.is_empty();
        drop(idle);
        drop(dropped);
        left
    }

    /// How many there are: those that wait, and those in use.
    pub(super) fn instances(&self) -> usize {
        let idle = self.idle();
        let kept = idle.instances.iter().filter(|(_, turn)| turn.is_some()).count();
        let in_use = self.most.saturating_sub(self.turns.available_permits() + kept);
        in_use + idle.instances.len()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many instances wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.idle().instances.len()
    }
}

/// A call that waits for a turn.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    /// From now on instances that are given back leave their turn; those that kept theirs until
    /// now give it up.
    fn new(pool: &'a Pool) -> Self {
        let mut idle = pool.idle();
        idle.waiting += 1;
        for (_, turn) in &mut idle.instances {
            *turn = None;
        }
        Waiting(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.idle().waiting -= 1;
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
