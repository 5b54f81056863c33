//! The thread that advances the engine's epoch, so that a looping guest gives way and ends on time.
//!
//! It ticks while calls run and sleeps otherwise. Owned by the host: stopped and joined when that
//! is dropped. In passing it has unused instances dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// How long a guest runs before it gives way to its neighbours. At 10 ms two looping plugins left
/// a neighbour a quarter of the calls that it gets at 2 ms.
const TICK: Duration = Duration::from_millis(2);

/// Ticks without any sign of a call after which the thread goes to sleep.
const QUIET_TICKS: u32 = 25;

/// How often instances are looked at that may have been unused for long.
const SWEEP: Duration = Duration::from_secs(10);

/// The thread, joined when this is dropped.
pub(super) struct Ticker {
    pulse: Pulse,
    thread: Option<JoinHandle<()>>,
}

/// What runs guests shows with it that it does. Cheap to clone and to use.
#[derive(Clone)]
pub(super) struct Pulse(Arc<State>);

struct State {
    /// Somebody ran a guest since the thread last looked.
    beating: AtomicBool,
    /// The thread sleeps.
    asleep: AtomicBool,
    stop: AtomicBool,
    thread: std::sync::OnceLock<Thread>,
}

impl Pulse {
    /// Say that a guest is about to run or runs: keeps the ticks coming for at least
    /// [`QUIET_TICKS`]. To be called whenever a guest's future is polled, and on each tick that a
    /// guest sees: then a guest can't run unnoticed, however long a host call kept it before.
    ///
    /// In the usual case this only reads, so that calls on several cores share nothing they write.
    pub(super) fn beat(&self) {
        if !self.0.beating.load(SeqCst) {
            self.0.beating.store(true, SeqCst);
            self.wake();
        }
    }

    fn wake(&self) {
        if self.0.asleep.swap(false, SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
    }
}

impl Ticker {
    /// Start the thread. `sweep` is called every ten seconds while calls or instances are there;
    /// it says whether anything is left to sweep later.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        engine: Engine,
        sweep: impl Fn(Instant) -> bool + Send + 'static,
    ) -> std::io::Result<Ticker> {
        let pulse = Pulse(Arc::new(State {
            beating: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        }));
        let state = pulse.0.clone();
        let thread = std::thread::Builder::new()
            .name("plugin-ticker".into())
            .spawn(move || run(&state, &engine, sweep))?;
        let _ = pulse.0.thread.set(thread.thread().clone());
        // The thread may have gone to sleep before it could be woken.
        thread.thread().unpark();
        Ok(Ticker { pulse, thread: Some(thread) })
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.pulse.0.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A sweep may have dropped the last handler, and with it the host.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn run(state: &State, engine: &Engine, sweep: impl Fn(Instant) -> bool) {
    let mut quiet = 0;
    let mut swept = Instant::now();
    let mut left = false;
    while !state.stop.load(SeqCst) {
        if quiet < QUIET_TICKS {
            std::thread::sleep(TICK);
            engine.increment_epoch();
            quiet += 1;
        } else if state.beating.swap(false, SeqCst) {
            quiet = 0;
            left = true;
        } else {
            // Every guest has seen its tick by now, or will at its next step, and then beats.
            state.asleep.store(true, SeqCst);
            if !state.beating.load(SeqCst) && !state.stop.load(SeqCst) {
                if left { std::thread::park_timeout(SWEEP) } else { std::thread::park() }
            }
            state.asleep.store(false, SeqCst);
            quiet = if state.beating.load(SeqCst) { 0 } else { QUIET_TICKS };
        }
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            left = sweep(swept);
        }
    }
}
