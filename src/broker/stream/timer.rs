//! What is to be done every so often.

use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Timer {
    every: Duration,
    /// When it is due.
    pub(super) next: Instant,
}

impl Timer {
    /// Due at once.
    pub(super) fn new(every: Duration) -> Self {
        Timer { every, next: Instant::now() }
    }

    /// Whether it is due; if so, it is next due after its time.
    pub(super) fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }

    /// It is due now.
    pub(super) fn now(&mut self) {
        self.next = Instant::now();
    }
}
