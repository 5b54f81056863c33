//! What the service manager and the terminal say: signals.
//!
//! Used by the daemon; knows nothing of what it does.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// The signal that asks for the configuration to be read again.
pub struct Hangup(Signal);

impl Hangup {
    /// Listen for it from now on, instead of being ended by it.
    pub fn listen() -> io::Result<Self> {
        Ok(Hangup(signal(SignalKind::hangup())?))
    }

    /// Wait for the next one.
    pub async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}
