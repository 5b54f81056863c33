//! What went wrong in a guest: a wasmtime error becomes a kind and a sentence.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::instance::State;
use super::limiter::Denied;
use crate::chain::{Failure, FailureKind};
use crate::config::HandlerLimits;

/// Functions that are named of a trapped guest's call stack.
const MAX_FRAMES: usize = 5;

/// Longest text of a guest that becomes part of a failure.
const MAX_TEXT: usize = 4 << 10;

/// A failure without the handler's name.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: FailureKind,
    /// What happened, in words; a guest's own text is not escaped yet.
    pub(super) reason: String,
}

impl Fault {
    /// The failure of the handler of this name.
    pub(super) fn of(self, handler: &Arc<str>) -> Failure {
        let Fault { kind, reason } = self;
        Failure { handler: handler.clone(), kind, reason }
    }
}

/// The call took too long.
pub(super) fn timeout(limit: Duration) -> Fault {
    let limit = humantime::format_duration(limit);
    Fault { kind: FailureKind::Timeout, reason: format!("it took longer than {limit}") }
}

/// The guest came back without having said what became of the message in hand: it can only have
/// meddled with the driver.
pub(super) fn no_outcome() -> Fault {
    Fault { kind: FailureKind::Trap, reason: "it came back without an outcome".into() }
}

/// There are too many instances already.
pub(super) fn no_room() -> Fault {
    Fault {
        kind: FailureKind::Setup,
        reason: "there are as many instances of plugins as the system has memory maps for: lower \
                 `instances` of some handlers, or raise the system's vm.max_map_count"
            .into(),
    }
}

/// `setup` returned an error.
pub(super) fn setup_refused(text: &str) -> Fault {
    Fault { kind: FailureKind::Setup, reason: shorten(text.to_owned()) }
}

/// Whatever goes wrong in `setup`, or while an instance starts, is a failure of `setup`.
pub(super) fn in_setup(fault: Fault) -> Fault {
    let Fault { kind, reason } = fault;
    let reason = match kind {
        FailureKind::Setup => reason,
        kind => format!("{}: {reason}", kind.as_str()),
    };
    Fault { kind: FailureKind::Setup, reason }
}

/// More came out than `max_output` permits.
pub(super) fn too_much_output(limit: usize) -> Fault {
    Fault {
        kind: FailureKind::Output,
        reason: format!("it returned more than `max_output` permits: {}", size(limit)),
    }
}

/// A size as people write it.
pub(super) fn size(bytes: usize) -> String {
    bytesize::ByteSize::b(bytes as u64).display().iec().to_string()
}

/// A guest's text, cut where it is very long.
pub(super) fn shorten(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

/// What an error of a call into a guest means, of a call that had so much time.
pub(super) fn classify(
    error: &wasmtime::Error,
    state: &State,
    limits: &HandlerLimits,
    time: Duration,
) -> Fault {
    let trap = error.downcast_ref::<Trap>();
    if state.timed_out || trap == Some(&Trap::Interrupt) {
        return timeout(time);
    }
    if fuel_ran_out(error) {
        return too_much_output(limits.max_output);
    }
    let denied = state.limiter.denied;
    let kind = if denied.is_some() { FailureKind::Memory } else { FailureKind::Trap };
    let mut reason = match denied {
        Some(Denied::Memory(wanted)) => format!(
            "it wanted {} of memory, and `memory` permits {}; then: ",
            size(wanted),
            size(limits.memory)
        ),
        Some(Denied::Table(wanted)) => {
            format!("it wanted tables of {wanted} elements, more than a plugin may have; then: ")
        }
        None => String::new(),
    };
    reason.push_str(&what_happened(error, trap));
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        push_frames(&mut reason, backtrace);
    }
    Fault { kind, reason: shorten(reason) }
}

fn what_happened(error: &wasmtime::Error, trap: Option<&Trap>) -> String {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("it called exit with code {code}");
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return "it holds too many streams, pollables or other things of the host".into();
    }
    match trap {
        Some(Trap::StackOverflow) => "its call stack is used up: an endless recursion?".into(),
        Some(Trap::UnreachableCodeReached) => {
            "it reached `unreachable`: a panic or an abort (what it logged before may say more)"
                .into()
        }
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    }
}

/// Whether the host refused to copy so much out of the guest. The error's type is private to
/// wasmtime; a test sees that the text stays the same.
fn fuel_ran_out(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// Name the innermost functions, without those that a language ends itself by.
fn push_frames(reason: &mut String, backtrace: &WasmBacktrace) {
    let frames = backtrace.frames().iter();
    let names: Vec<String> = frames
        .filter_map(|frame| frame.func_name())
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .collect();
    let own = names.iter().position(|name| !is_of_an_abort(name)).unwrap_or(0);
    for (i, name) in names[own..].iter().take(MAX_FRAMES).enumerate() {
        let separator = if i == 0 { "; in " } else { " < " };
        let _ = write!(reason, "{separator}{name}");
    }
}

fn is_of_an_abort(function: &str) -> bool {
    const PREFIXES: [&str; 7] =
        ["abort", "std::", "core::panicking", "core::option", "core::result", "__rust", "rust_"];
    let function = function.trim_start_matches('<');
    PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}
