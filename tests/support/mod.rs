//! What every black-box test needs: a Redis of its own, the real binary, a watcher, a proxy.
//!
//! Nothing in here outlives a test, a failed one included: each process is killed when its guard
//! is dropped, and by the kernel when the test's thread ends without that. So start processes on
//! the test's own thread. Waiting is always for a condition, with a generous limit that only a
//! broken product reaches.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

pub mod changing;
pub mod committed;
pub mod disk;
pub mod embedded;
pub mod endpoints;
pub mod handlerd;
pub mod letters;
pub mod plugins;
pub mod process;
pub mod proxy;
pub mod redis_server;
pub mod watcher;

use std::time::{Duration, Instant};

pub use handlerd::{Handlerd, Output, Run, Stopped};
pub use proxy::{Hole, Proxy};
pub use redis_server::{Client, Redis};
pub use watcher::{Got, Watcher};

/// How long a condition may take to come true: far longer than it does on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How soon messages must flow again after their Redis is back.
pub const RECOVERY: Duration = Duration::from_secs(2);

/// Check that it took no longer than promised, but for a time or two when the machine stood still:
/// once in three, three times in twenty.
#[track_caller]
pub fn mostly_within(limit: Duration, taken: &[Duration]) {
    let late = taken.iter().filter(|time| **time > limit).count();
    let may_be_late = (taken.len() * 3 / 20).max(usize::from(taken.len() > 2));
    assert!(late <= may_be_late, "{late} took longer than {limit:?}: {taken:?}");
}

/// Wait until `ready` answers something. Panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Wait until `ready` is true.
#[track_caller]
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    wait_for(what, || ready().then_some(()));
}

/// For a part of handlerd that runs without the daemon: its loop is watched by nobody.
pub fn beat() -> ::handlerd::heartbeat::Beat {
    ::handlerd::heartbeat::Heartbeats::default().register("a test")
}

/// Bytes that look random and are the same in each run.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
