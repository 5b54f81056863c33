//! Whether every loop of the daemon still comes around.
//!
//! A supervisor asks every loop once a second, and a loop answers when it comes around: one that is
//! idle is woken by the question, so it costs nothing in between. One that owes an answer for long
//! is named; systemd's watchdog and `/healthz` go by that. Nothing is done about it here.
//!
//! What a loop waits for is not its fault: a Redis that is away or slow has time limits, and what
//! has none, or long ones, is waited for [`Beat::during`].

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Between two questions.
pub const ROUND: Duration = Duration::from_secs(1);

/// Rounds for which a loop may owe its answer. Counted, not measured: a daemon that was stopped for a
/// while (SIGSTOP, a machine asleep) hasn't asked meanwhile. The slowest loop, the one that reads a
/// stream, may wait for a slow Redis five times, 2 s each, before it comes around.
const PATIENCE: u32 = 15;

/// All loops. Clones are the same.
#[derive(Clone, Default)]
pub struct Heartbeats {
    pulses: Arc<Mutex<Vec<Arc<Pulse>>>>,
}

struct Pulse {
    name: String,
    /// Rounds since it owes an answer; 0: it owes none.
    owed: AtomicU32,
    asked: Notify,
}

/// One loop's; it is watched as long as this lives.
pub struct Beat {
    all: Heartbeats,
    pulse: Arc<Pulse>,
    #[cfg(debug_assertions)]
    hangs: bool,
}

impl Heartbeats {
    /// Watch a loop of this name from now on.
    pub fn register(&self, name: impl Into<String>) -> Beat {
        let pulse =
            Arc::new(Pulse { name: name.into(), owed: AtomicU32::new(0), asked: Notify::new() });
        self.pulses().push(pulse.clone());
        Beat {
            all: self.clone(),
            #[cfg(debug_assertions)]
            hangs: is_to_hang(&pulse.name),
            pulse,
        }
    }

    /// Ask every loop that owes no answer, and wait one round longer for the others. Once each
    /// [`ROUND`], by one supervisor.
    pub fn ask(&self) {
        for pulse in self.pulses().iter() {
            if pulse.owed.fetch_add(1, Relaxed) == 0 {
                pulse.asked.notify_one();
            }
        }
    }

    /// The names of the loops that have not come around for long.
    pub fn stalled(&self) -> Vec<String> {
        let pulses = self.pulses();
        let stalled = pulses.iter().filter(|pulse| pulse.owed.load(Relaxed) > PATIENCE);
        stalled.map(|pulse| pulse.name.clone()).collect()
    }

    /// A lock whose holder panicked is still good: it is held for single steps only.
    fn pulses(&self) -> MutexGuard<'_, Vec<Arc<Pulse>>> {
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Heartbeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pulses = self.pulses();
        f.debug_list().entries(pulses.iter().map(|pulse| &pulse.name)).finish()
    }
}

impl Beat {
    /// The loop comes around: at its top, each time. One relaxed read unless it was asked.
    pub fn answer(&self) {
        #[cfg(debug_assertions)]
        self.hang();
        if self.pulse.owed.load(Relaxed) != 0 {
            self.pulse.owed.store(0, Relaxed);
        }
    }

    /// Wait until it is asked: a branch of a select that may wait for long, so that the loop comes
    /// around.
    pub async fn asked(&self) {
        self.pulse.asked.notified().await;
    }

    /// Wait for something that may take its time, and answer meanwhile.
    pub async fn during<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.asked() => self.answer(),
            }
        }
    }

    /// For tests of the whole daemon: the loop that this variable names stands still, with its
    /// thread, as a fault of handlerd's own would make it.
    #[cfg(debug_assertions)]
    fn hang(&self) {
        while self.hangs && self.pulse.owed.load(Relaxed) != 0 {
            std::thread::park();
        }
    }
}

#[cfg(debug_assertions)]
fn is_to_hang(name: &str) -> bool {
    std::env::var("HANDLERD_TEST_HANG").is_ok_and(|hangs| hangs == name)
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.all.pulses().retain(|pulse| !Arc::ptr_eq(pulse, &self.pulse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(beats: &Heartbeats, count: u32) {
        (0..count).for_each(|_| beats.ask());
    }

    #[test]
    fn a_loop_that_does_not_come_around_is_named() {
        let beats = Heartbeats::default();
        let (still, goes) = (beats.register("still"), beats.register("goes"));
        for _ in 0..PATIENCE {
            beats.ask();
            goes.answer();
        }
        assert_eq!(beats.stalled(), [""; 0]);
        beats.ask();
        goes.answer();
        assert_eq!(beats.stalled(), ["still"]);
        still.answer();
        assert_eq!(beats.stalled(), [""; 0]);
        rounds(&beats, PATIENCE + 1);
        assert_eq!(beats.stalled(), ["still", "goes"]);
        drop(still);
        assert_eq!(beats.stalled(), ["goes"], "one that has ended is not watched");
    }

    #[tokio::test]
    async fn an_idle_loop_is_woken_by_the_question() {
        let beats = Heartbeats::default();
        let beat = beats.register("idle");
        rounds(&beats, PATIENCE + 1);
        // Asked before it waited: that is kept.
        beat.asked().await;
        beat.answer();
        assert_eq!(beats.stalled(), [""; 0]);
    }

    #[tokio::test]
    async fn who_waits_for_something_slow_is_not_stalled() {
        let beats = Heartbeats::default();
        let beat = beats.register("waits");
        let mut left = PATIENCE + 2;
        let slow = std::future::poll_fn(|cx| {
            beats.ask();
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        beat.during(slow).await;
        assert_eq!(beats.stalled(), [""; 0]);
    }
}
