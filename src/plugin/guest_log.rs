//! What guests say: lines in the daemon's log, bounded and escaped.
//!
//! Each call may log `max_log` bytes, over wasi:logging, standard output and standard error
//! together; the rest is cut off, and one line says so. Over all its calls a handler may log [`BURST`]
//! at once and [`PER_SECOND`] for long, or one broken plugin could fill a disk; what is held back is
//! counted, and said once in a while. Standard output and error are kept until
//! the call ends (or logs otherwise) and come out in lines.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// The target of all lines of guests.
pub(super) const TARGET: &str = "handlerd::plugin";

/// Longest line of standard output and error: a longer one comes out in pieces.
const MAX_LINE: usize = 4096;

/// What a line is counted with beside its text, so that a flood of empty ones ends too.
const LINE: usize = 32;

/// Bytes that a handler may log at once, if `max_log` isn't more, and in each second for long.
const BURST: usize = 1 << 20;
const PER_SECOND: usize = 16 << 10;

/// That lines were held back is said this often at most.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What a guest's output stream takes at once.
const WRITE: usize = 64 << 10;

/// Whose lines they are.
#[derive(Debug)]
pub(super) struct Speaker {
    /// The file's name without its folder.
    pub(super) plugin: String,
    /// NAME of the handler.
    pub(super) handler: Arc<str>,
    /// `max_log`.
    pub(super) max_log: usize,
    allowance: Mutex<Allowance>,
}

/// What a handler may log, over all its calls.
#[derive(Debug)]
struct Allowance {
    left: usize,
    since: Instant,
    held_back: u64,
    /// When it was said last that lines are held back.
    said: Option<Instant>,
}

impl Allowance {
    /// Whether a line of so many bytes may come.
    fn take(&mut self, bytes: usize, most: usize, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_millis() as usize;
        let earned = earned.saturating_mul(PER_SECOND) / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(most);
            self.since = now;
        }
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        } else {
            self.held_back += 1;
        }
        fits
    }

    /// How many lines were held back, when that is to be said.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        let said = self.said.is_some_and(|said| now.saturating_duration_since(said) < SAY_EVERY);
        if self.held_back == 0 || said {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

impl Speaker {
    pub(super) fn new(plugin: String, handler: Arc<str>, max_log: usize) -> Self {
        let left = BURST.max(max_log);
        let (since, held_back, said) = (Instant::now(), 0, None);
        let allowance = Mutex::new(Allowance { left, since, held_back, said });
        Speaker { plugin, handler, max_log, allowance }
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The log of one instance.
#[derive(Clone)]
pub(super) struct GuestLog {
    speaker: Arc<Speaker>,
    call: Arc<Call>,
}

/// What the call in hand has said.
#[derive(Default)]
struct Call {
    /// Bytes that it may still log.
    left: AtomicUsize,
    /// Something was cut off, and it isn't said yet.
    cut: AtomicBool,
    /// Something waits in `waiting`.
    pending: AtomicBool,
    /// Of standard output and standard error: what wasn't logged yet.
    waiting: Mutex<[Vec<u8>; 2]>,
}

impl Call {
    /// Of so many bytes, how many may be logged.
    fn take(&self, bytes: usize) -> usize {
        let left = self.left.load(Relaxed);
        let taken = bytes.min(left);
        self.left.store(left - taken, Relaxed);
        if taken < bytes {
            self.cut.store(true, Relaxed);
        }
        taken
    }

    /// Whether nothing more may be logged; then something is about to be cut off.
    fn is_full(&self) -> bool {
        let full = self.left.load(Relaxed) == 0;
        if full {
            self.cut.store(true, Relaxed);
        }
        full
    }

    fn waiting(&self) -> MutexGuard<'_, [Vec<u8>; 2]> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether the flag was set; it isn't any more. Only read in the usual case, that it wasn't: an
/// exchange costs as much as entering the guest.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Relaxed) && flag.swap(false, Relaxed)
}

impl GuestLog {
    pub(super) fn new(speaker: Arc<Speaker>) -> Self {
        GuestLog { speaker, call: Arc::default() }
    }

    /// A call begins: it has the whole `max_log`.
    pub(super) fn begin(&self) {
        self.call.left.store(self.speaker.max_log, Relaxed);
    }

    /// A call has ended: log what is left of standard output and error, and whether there was
    /// more than `max_log`. `channel` is NAME of the channel.
    pub(super) fn end(&self, channel: Option<&str>) {
        self.drain(channel);
        if take(&self.call.cut) {
            let text = format!(
                "the rest of what the plugin logs in this call is cut off: `max_log` permits {} \
                 bytes a call",
                self.speaker.max_log
            );
            self.event(Level::WARN, channel, "", &text);
        }
    }

    /// Whether a line of this level would be seen: the daemon's own filter wants it, and the call
    /// in hand may log more.
    pub(super) fn wants(&self, level: Level) -> bool {
        enabled(level) && !self.call.is_full()
    }

    /// Log a line of wasi:logging.
    pub(super) fn line(&self, level: Level, channel: Option<&str>, context: &str, text: &str) {
        self.drain(channel);
        if !self.wants(level) {
            return;
        }
        let fits = self.call.take(LINE + context.len() + text.len()).saturating_sub(LINE);
        let context = &context[..context.floor_char_boundary(fits)];
        let text = &text[..text.floor_char_boundary(fits - context.len())];
        self.event(level, channel, context, text);
    }

    /// Log what waits of standard output and error.
    fn drain(&self, channel: Option<&str>) {
        if !take(&self.call.pending) {
            return;
        }
        let [stdout, stderr] = std::mem::take(&mut *self.call.waiting());
        for (level, bytes) in [(Level::INFO, stdout), (Level::WARN, stderr)] {
            let lines = bytes.split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
            for piece in lines.flat_map(|line| line.chunks(MAX_LINE)) {
                self.event(level, channel, "", &String::from_utf8_lossy(piece));
            }
        }
    }

    /// Log a line, unless the handler has logged too much lately.
    fn event(&self, level: Level, channel: Option<&str>, context: &str, text: &str) {
        if !enabled(level) {
            return;
        }
        let now = Instant::now();
        let (fits, held_back) = {
            let mut allowance = self.speaker.allowance();
            let most = BURST.max(self.speaker.max_log);
            let fits = allowance.take(LINE + context.len() + text.len(), most, now);
            (fits, allowance.tell(now))
        };
        if let Some(held_back) = held_back {
            let text = format!(
                "{held_back} lines of this plugin are held back: it logs more than {} KiB a second",
                PER_SECOND >> 10
            );
            self.write(Level::WARN, channel, "", &text);
        }
        if fits {
            self.write(level, channel, context, text);
        }
    }

    fn write(&self, level: Level, channel: Option<&str>, context: &str, text: &str) {
        let Speaker { plugin, handler, .. } = &*self.speaker;
        let handler: &str = handler;
        let context = (!context.is_empty()).then(|| escape(context));
        let context = context.as_deref();
        let text = escape(text);
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(target: TARGET, Level::$level, plugin, handler, channel, context, "{text}")
            };
        }
        match level {
            Level::TRACE => event!(TRACE),
            Level::DEBUG => event!(DEBUG),
            Level::INFO => event!(INFO),
            Level::WARN => event!(WARN),
            Level::ERROR => event!(ERROR),
        }
    }

    pub(super) fn stdout(&self) -> Stdio {
        Stdio { call: self.call.clone(), which: 0 }
    }

    pub(super) fn stderr(&self) -> Stdio {
        Stdio { call: self.call.clone(), which: 1 }
    }
}

/// A guest's standard output or standard error.
#[derive(Clone)]
pub(super) struct Stdio {
    call: Arc<Call>,
    which: usize,
}

impl Stdio {
    fn take(&self, bytes: &[u8]) {
        if self.call.is_full() {
            return;
        }
        // Lines are counted as such, so that a flood of line ends is a flood.
        let cost = |byte: u8| if byte == b'\n' { 1 + LINE } else { 1 };
        let mut left = self.call.take(bytes.iter().map(|&byte| cost(byte)).sum());
        let fits = bytes.iter().take_while(|&&byte| {
            let fits = cost(byte) <= left;
            left = left.saturating_sub(cost(byte));
            fits
        });
        let kept = &bytes[..fits.count()];
        if !kept.is_empty() {
            self.call.waiting()[self.which].extend_from_slice(kept);
            self.call.pending.store(true, Relaxed);
        }
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}

impl tokio::io::AsyncWrite for Stdio {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.take(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

/// Whether the daemon's filter wants guests' lines of this level.
fn enabled(level: Level) -> bool {
    match level {
        Level::TRACE => tracing::enabled!(target: TARGET, Level::TRACE),
        Level::DEBUG => tracing::enabled!(target: TARGET, Level::DEBUG),
        Level::INFO => tracing::enabled!(target: TARGET, Level::INFO),
        Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
        Level::ERROR => tracing::enabled!(target: TARGET, Level::ERROR),
    }
}

/// A guest's text for the log: one line, without anything that moves a terminal's cursor or turns
/// the direction of writing.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if harmful(c) => {
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}
