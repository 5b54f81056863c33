//! What the service manager and the terminal say, signals, and what is said to the service manager.
//!
//! Used by `handlerd run` and the daemon. Counts and decides nothing of what they do.
//!
//! | module | owns |
//! | --- | --- |
//! | `notify` | systemd's notification socket: what is said, and that it never waits |
//! | `watch` | the supervisor: asks the loops, feeds the watchdog, says how things go |

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub mod notify;
pub mod watch;

pub use notify::Notify;
pub use watch::Watch;

/// Everything that is asked by a signal.
pub struct Signals {
    /// The end.
    pub stop: Stop,
    /// A reload.
    pub reload: Reload,
}

impl Signals {
    /// Listen for them from now on, instead of being ended by them.
    pub fn listen() -> io::Result<Self> {
        // Nobody waits for it. But a log that is as long as a file may be (`ulimit -f`) is then an
        // error of a write, and no longer the end of the daemon.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Signals { stop: Stop::listen()?, reload: Reload(signal(SignalKind::hangup())?) })
    }
}

/// The signals that ask for an end.
pub struct Stop {
    /// systemd's and `kill`'s.
    terminate: Signal,
    /// Ctrl-C.
    interrupt: Signal,
}

impl Stop {
    /// Listen for them from now on, instead of being ended by them.
    pub fn listen() -> io::Result<Self> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Wait for the next one and answer its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The signal that asks for a reload: SIGHUP.
pub struct Reload(Signal);

impl Reload {
    /// Wait for the next one; several that come before this is called are one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
