//! Which lines are outputs of a channel, so that it is counted what becomes of them.
//!
//! `tracing` hands an event to where it goes at once, on the thread that logs: whose it is goes along on
//! that thread. A line that the filter leaves out is nobody's output, and counted nowhere.

use std::cell::Cell;
use std::sync::Arc;

use crate::telemetry::{ChannelMetrics, DropReason, OutputKind, Written};

thread_local! {
    static FROM: Cell<Option<Written>> = const { Cell::new(None) };
}

/// Whoever logs ends with this, however it does.
struct Reset;

impl Drop for Reset {
    fn drop(&mut self) {
        FROM.take();
    }
}

/// What this logs, one line, is an output of a channel: delivered when it is written, and lost where the
/// log drops it.
pub fn output_of(channel: &Arc<ChannelMetrics>, log: impl FnOnce()) {
    FROM.set(Some(channel.written()));
    let _reset = Reset;
    log();
}

/// Whose output the line is that is being logged on this thread.
pub(super) fn whose() -> Option<Written> {
    FROM.take()
}

/// A line of this channel was written, or not.
pub(super) fn count(channel: &ChannelMetrics, written: bool) {
    match written {
        true => channel.delivered.add(OutputKind::Log, 1),
        false => channel.lost(DropReason::LogFull, 1),
    }
}
