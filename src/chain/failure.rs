//! How a handler fails, and what is said of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How a handler failed. The names are the values of the metric label `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The handler says that it can never handle this message.
    Reject,
    /// The handler says that it may succeed later, not before this pause (if it gave one).
    Retry {
        /// The pause that `retry-after` asked for.
        after: Option<Duration>,
    },
    /// The plugin trapped: a panic, an unreachable, an access out of bounds, a stack overflow, an exit.
    Trap,
    /// The call took longer than the handler's `timeout`.
    Timeout,
    /// The plugin asked for more than its `memory` (or tables, or instances).
    Memory,
    /// More messages or bytes came out than `max_outputs` and `max_output` permit.
    Output,
    /// A message came out with a route that the channel's `routes` don't permit.
    Route,
    /// A new instance could not be made, or its `setup` returned an error.
    Setup,
}

impl FailureKind {
    /// The word for logs, metrics and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Reject => "reject",
            FailureKind::Retry { .. } => "retry",
            FailureKind::Trap => "trap",
            FailureKind::Timeout => "timeout",
            FailureKind::Memory => "memory",
            FailureKind::Output => "output",
            FailureKind::Route => "route",
            FailureKind::Setup => "setup",
        }
    }
}

/// Why a run through a chain failed: the input message's failure, whichever hop it happened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The handler it happened in.
    pub handler: Arc<str>,
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, in words; a guest's own text is not escaped yet.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { handler, kind, reason } = self;
        write!(f, "handler {handler}: {}: {reason}", kind.as_str())
    }
}

impl std::error::Error for Failure {}
