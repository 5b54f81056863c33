//! When a call into a guest must be done, and how it is ended when it is not.
//!
//! Used by an instance for each of its calls. A guest that computes is interrupted by the engine's
//! ticks, one that waits in a host's function by a timer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::ticker::Pulse;

/// Ticks at which a guest is seen to compute before it is interrupted. Time in which its thread was
/// given none, by a machine that has too much to do or stood still, is no fault of the guest's: it then
/// sees one tick, however many there were. One that loops sees them all.
const LEAST_TICKS: u32 = 4;

/// When the guest must be done with what it has in hand. Read from outside of the store too, while
/// a guest waits.
#[derive(Clone)]
pub(super) struct Deadline {
    /// Counted from here.
    base: Instant,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    nanos: AtomicU64,
    /// Ticks that the guest has seen since the deadline was set.
    ticks: AtomicU32,
    /// It gave way at a tick when it was polled last, and doesn't wait for anything.
    gave_way: AtomicBool,
}

impl Deadline {
    pub(super) fn new() -> Self {
        Deadline { base: Instant::now(), shared: Arc::default() }
    }

    pub(super) fn set(&self, deadline: Instant) {
        let nanos = deadline.saturating_duration_since(self.base).as_nanos();
        self.shared.nanos.store(u64::try_from(nanos).unwrap_or(u64::MAX), Relaxed);
        self.shared.ticks.store(0, Relaxed);
    }

    fn get(&self) -> Instant {
        self.base + Duration::from_nanos(self.shared.nanos.load(Relaxed))
    }

    /// The guest is about to be polled.
    fn goes_on(&self) {
        self.shared.gave_way.store(false, Relaxed);
    }

    /// The guest sees a tick. Whether it is to give way; else its time is up.
    pub(super) fn gives_way(&self) -> bool {
        let ticks = self.shared.ticks.fetch_add(1, Relaxed) + 1;
        let gives_way = ticks < LEAST_TICKS || Instant::now() < self.get();
        self.shared.gave_way.store(gives_way, Relaxed);
        gives_way
    }

    /// Whether the guest gave way when it was polled last, and so sees the next tick.
    fn gave_way(&self) -> bool {
        self.shared.gave_way.load(Relaxed)
    }
}

/// The deadline passed first.
pub(super) struct Elapsed;

/// Run a guest until it is done or the deadline passes. Most calls are done at once, and don't
/// need a timer; a guest that computes gives way at each tick and interrupts itself; the timer is
/// for one that waits in a host's function.
pub(super) async fn run_until<F: Future>(
    deadline: &Deadline,
    pulse: &Pulse,
    guest: F,
) -> Result<F::Output, Elapsed> {
    let mut guest = pin!(guest);
    let mut guest = std::future::poll_fn(move |context| {
        pulse.beat();
        deadline.goes_on();
        guest.as_mut().poll(context)
    });
    let first = std::future::poll_fn(|context| Poll::Ready(pin!(&mut guest).poll(context))).await;
    match first {
        Poll::Ready(output) => Ok(output),
        // Boxed: seldom needed, and a timer is large.
        Poll::Pending => Box::pin(wait_until(deadline, guest)).await,
    }
}

/// The same for one that has given way once. The deadline moves on with each message of a batch.
async fn wait_until<F: Future + Unpin>(
    deadline: &Deadline,
    mut guest: F,
) -> Result<F::Output, Elapsed> {
    loop {
        let until = deadline.get();
        if let Ok(output) = tokio::time::timeout_at(until.into(), &mut guest).await {
            return Ok(output);
        }
        if deadline.gave_way() {
            // It computes, and is interrupted by a tick when it has seen enough of them.
            tokio::task::yield_now().await;
        } else if deadline.get() == until {
            return Err(Elapsed);
        }
    }
}
