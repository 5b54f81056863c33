//! What handlerd knows of itself: metrics; and, in `log`, where logs go.
//!
//! Owns the metric names of the contract and the set of reasons. Everybody may count; nobody else
//! names a metric. Counting is an atomic addition, never a lock, on the way of a message.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::chain::FailureKind;
use crate::status;

mod channel;
pub mod log;

pub use channel::{
    ChannelMetrics, Count, Delivered, Flag, OutputKind, SingleMetrics, StreamMetrics,
    StreamTrouble, Unsubscribed, Written,
};

/// Why a message was dropped, or what was sent of it is unsure. The words are the values of the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The channel's queue was full.
    Overflow,
    /// All queues together reached `[limits] memory`, and this one was the fullest.
    Memory,
    /// The queue was full because Redis could not be written to.
    RedisAway,
    /// Larger than `max_payload`.
    TooLarge,
    /// The Redis channel's name isn't UTF-8.
    Name,
    /// A handler failed and the message has no dead letter.
    Failed,
    /// Redis answered an output, or a dead letter, with an error.
    Refused,
    /// An output or a dead letter was sent and the connection ended before its reply: it may have arrived.
    Unknown,
    /// Left over when the time for stopping was up.
    Shutdown,
    /// Trimmed off its stream before it was finished.
    Trimmed,
    /// Only its line of the log: there was no room for it, or it could not be written.
    LogFull,
}

impl DropReason {
    /// All of them, in the order of the enum.
    pub const ALL: [DropReason; 11] = [
        DropReason::Overflow,
        DropReason::Memory,
        DropReason::RedisAway,
        DropReason::TooLarge,
        DropReason::Name,
        DropReason::Failed,
        DropReason::Refused,
        DropReason::Unknown,
        DropReason::Shutdown,
        DropReason::Trimmed,
        DropReason::LogFull,
    ];

    /// Whether a message of a stream (else of pub/sub) can be lost for it: streams wait instead.
    pub fn may_be_of(self, stream: bool) -> bool {
        match self {
            DropReason::TooLarge
            | DropReason::Name
            | DropReason::Failed
            | DropReason::Refused
            | DropReason::LogFull => true,
            DropReason::Trimmed => stream,
            DropReason::Overflow
            | DropReason::Memory
            | DropReason::RedisAway
            | DropReason::Unknown
            | DropReason::Shutdown => !stream,
        }
    }

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Overflow => "overflow",
            DropReason::Memory => "memory",
            DropReason::RedisAway => "redis_away",
            DropReason::TooLarge => "too_large",
            DropReason::Name => "name",
            DropReason::Failed => "failed",
            DropReason::Refused => "refused",
            DropReason::Unknown => "unknown",
            DropReason::Shutdown => "shutdown",
            DropReason::Trimmed => "trimmed",
            DropReason::LogFull => "log_full",
        }
    }
}

/// All counters of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    channels: Mutex<Channels>,
    failures: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
    /// Connections made again, those of streams left out: see [`Totals::reconnects`].
    pub reconnects: Count,
    /// Whether the connection of all subscriptions stands.
    pub subscription: Flag,
    reloads: Mutex<status::Reload>,
    refused: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Channels {
    by_name: BTreeMap<Arc<str>, Arc<ChannelMetrics>>,
    /// Of channels that are no longer in the configuration, while something of them is left.
    leaving: Vec<(Arc<str>, Arc<ChannelMetrics>)>,
    /// Of those of which nothing is left.
    gone: Totals,
}

impl Metrics {
    /// The counters of a channel, made when it is named first.
    pub fn channel(&self, name: &Arc<str>) -> Arc<ChannelMetrics> {
        lock(&self.channels).by_name.entry(name.clone()).or_default().clone()
    }

    /// The channels are these from now on. What the others have counted stays in the totals.
    pub fn set_channels(&self, by_name: BTreeMap<Arc<str>, Arc<ChannelMetrics>>) {
        let mut channels = lock(&self.channels);
        let before = std::mem::take(&mut channels.by_name);
        let kept: HashSet<*const ChannelMetrics> = by_name.values().map(Arc::as_ptr).collect();
        channels.leaving.extend(before);
        channels.leaving.retain(|(_, old)| !kept.contains(&Arc::as_ptr(old)));
        channels.by_name = by_name;
        let Channels { leaving, gone, .. } = &mut *channels;
        let ended = leaving.extract_if(.., |(_, metrics)| Arc::strong_count(metrics) == 1);
        for (name, metrics) in ended {
            metrics.tell(&name);
            gone.add(&metrics);
        }
    }

    /// The counters of all channels, by name.
    pub fn channels(&self) -> BTreeMap<Arc<str>, Arc<ChannelMetrics>> {
        lock(&self.channels).by_name.clone()
    }

    /// The counters of channels that are no longer in the configuration, by name, while something of
    /// them is left. One that gets such a name again goes on with them: what a name has counted never
    /// becomes less.
    pub fn leaving(&self) -> HashMap<Arc<str>, Arc<ChannelMetrics>> {
        lock(&self.channels).leaving.iter().cloned().collect()
    }

    /// Only the handlers of these names are left. The failures of the others stay in the totals.
    pub fn retain_handlers(&self, is_left: impl Fn(&str) -> bool) {
        let is_gone = |handler: &str| !is_left(handler) && handler != OUTPUTS;
        let ended: Vec<_> =
            lock(&self.failures).extract_if(.., |(handler, _), _| is_gone(handler)).collect();
        let gone = &mut lock(&self.channels).gone.failures;
        ended.into_iter().for_each(|((_, kind), n)| *gone.entry(kind).or_default() += n);
    }

    /// `handlerd_handler_failures_total`: count one.
    pub fn failure(&self, handler: &Arc<str>, kind: FailureKind) {
        *lock(&self.failures).entry((handler.clone(), kind.as_str())).or_default() += 1;
    }

    /// All failures by handler and kind.
    pub fn failures(&self) -> BTreeMap<(Arc<str>, &'static str), u64> {
        lock(&self.failures).clone()
    }

    /// The configuration and the plugins were read again, and taken over or not; a sentence that
    /// says what changed, or why not.
    pub fn reloaded(&self, ok: bool, message: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = since.as_millis().try_into().unwrap_or(u64::MAX);
        let mut reloads = lock(&self.reloads);
        *(if ok { &mut reloads.ok } else { &mut reloads.failed }) += 1;
        reloads.last = Some(status::LastReload { at_ms, ok, message: message.to_owned() });
    }

    /// The configuration was refused when it was read last, for this reason, or it is what runs.
    pub fn refused(&self, why: Option<String>) {
        *lock(&self.refused) = why;
    }

    /// Why the configuration in its file is not what runs, as far as that was read.
    pub fn why_refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    /// The last reload was one that a signal asked for.
    pub fn reload_was_asked(&self) {
        lock(&self.reloads).asked += 1;
    }

    /// The reloads so far.
    pub fn reloads(&self) -> status::Reload {
        lock(&self.reloads).clone()
    }

    /// The numbers of all channels together, those that are no more included.
    pub fn totals(&self) -> Totals {
        let failures = self.failures();
        let channels = lock(&self.channels);
        let Channels { by_name, leaving, gone } = &*channels;
        let mut totals = gone.clone();
        totals.reconnects += self.reconnects.get();
        for ((_, kind), n) in failures {
            *totals.failures.entry(kind).or_default() += n;
        }
        let leaving = leaving.iter().map(|(_, metrics)| metrics);
        by_name.values().chain(leaving).for_each(|channel| totals.add(channel));
        totals
    }
}

/// The name under which failures are counted that are no handler's.
pub const OUTPUTS: &str = "outputs";

/// Says in the log what was dropped: one line a channel and reason every 5 s at most, with the number.
pub struct DropLog {
    metrics: Arc<Metrics>,
}

impl DropLog {
    /// How often, at most.
    const EVERY: Duration = Duration::from_secs(5);

    /// For all channels, those that come later included.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        DropLog { metrics: metrics.clone() }
    }

    /// Report for ever.
    pub async fn run(&self) -> Infallible {
        loop {
            tokio::time::sleep(Self::EVERY).await;
            self.report();
        }
    }

    /// Say what was dropped since the last time.
    pub fn report(&self) {
        let channels = lock(&self.metrics.channels);
        let Channels { by_name, leaving, .. } = &*channels;
        let leaving = leaving.iter().map(|(name, metrics)| (name, metrics));
        by_name.iter().chain(leaving).for_each(|(name, metrics)| metrics.tell(name));
    }
}

/// Sums over all channels, as the last log line says them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that came.
    pub received: u64,
    /// Messages that went through their chain.
    pub handled: u64,
    /// Writes that Redis acknowledged, and log lines.
    pub delivered: u64,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Messages of channels that are single which were left to another daemon.
    pub left: u64,
    /// Times that messages may be missing which came before this daemon began to handle such a channel's.
    pub takeover_gaps: u64,
    /// Entries of streams that were read and stay pending.
    pub pending: u64,
    /// Losses by reason; a reason without any is absent.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Handlers' failures by kind; a kind without any is absent.
    pub failures: BTreeMap<&'static str, u64>,
    /// Connections made again: for subscriptions, for outputs, and for reading streams.
    pub reconnects: u64,
    /// The longest time that a channel was without all its subscriptions, in milliseconds' steps.
    pub gap: Duration,
}

impl Totals {
    fn add(&mut self, channel: &ChannelMetrics) {
        self.received += channel.received.get();
        self.handled += channel.handled.get();
        self.delivered += channel.delivered.get();
        self.dead_letters += channel.dead_letters.get();
        self.left += channel.single.left.get();
        self.takeover_gaps += channel.single.gaps.get();
        self.pending += channel.stream.given_back.get();
        self.reconnects += channel.stream.reconnects.get();
        self.gap = self.gap.max(Duration::from_millis(channel.gap_ms.get()));
        for reason in DropReason::ALL {
            let n = channel.dropped(reason);
            if n > 0 {
                *self.dropped.entry(reason).or_default() += n;
            }
        }
    }
}

/// Lets one line through in a while, and tells how many it held back.
#[derive(Debug)]
pub struct RateLimit {
    started: Instant,
    every: Duration,
    /// Milliseconds after `started` when the next line may pass.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl RateLimit {
    /// One line in this time at most.
    pub fn new(every: Duration) -> Self {
        RateLimit {
            started: Instant::now(),
            every,
            next: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// `None`: hold this line back. `Some(n)`: write it; `n` were held back since the last one.
    pub fn admit(&self) -> Option<u64> {
        let now = self.started.elapsed().as_millis() as u64;
        let next = self.next.load(Relaxed);
        let after = now + self.every.as_millis() as u64;
        if now < next || self.next.compare_exchange(next, after, Relaxed, Relaxed).is_err() {
            self.held_back.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Relaxed))
    }
}

/// Bytes as text for a log line or a terminal: at most `limit` bytes of them, with everything
/// escaped that could forge a line or move a cursor; what isn't UTF-8 as `\\xNN`.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let shown = &bytes[..bytes.len().min(limit)];
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() || is_format_character(c) {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if shown.len() < bytes.len() {
        text.push_str(&format!("… ({} bytes in all)", bytes.len()));
    }
    text
}

/// An error and its causes in one line. Some errors name their cause themselves: it is not
/// repeated.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in anyhow::Chain::new(error).skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Characters that change the order or the place of what is shown around them: bidirectional
/// controls, zero-width characters, line and paragraph separators, tags.
fn is_format_character(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_can_not_forge_a_line() {
        assert_eq!(printable(b"a\n\x1b[2J\xff\\", 99), r"a\n\u{1b}[2J\xff\\");
        assert_eq!(printable("é\u{202e}".as_bytes(), 99), r"é\u{202e}");
        assert_eq!(printable(b"abcdef", 3), "abc… (6 bytes in all)");
        assert_eq!(printable("é".as_bytes(), 1), r"\xc3… (2 bytes in all)");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("redis://here: {source}")]
    struct NamesItsCause {
        source: std::io::Error,
    }

    #[test]
    fn every_cause_is_said_once() {
        let source = std::io::Error::other("refused");
        let error = anyhow::Error::new(NamesItsCause { source }).context("can't send");
        assert_eq!(with_causes(error.as_ref()), "can't send: redis://here: refused");
    }

    #[test]
    fn a_channel_that_is_no_more_is_in_the_totals_only() {
        let metrics = Metrics::default();
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        let only_a = || BTreeMap::from([(a.clone(), metrics.channel(&a))]);
        metrics.channel(&a).received.add(1);
        let held = metrics.channel(&b);
        held.received.add(10);
        metrics.failure(&b, FailureKind::Trap);
        metrics.set_channels(only_a());
        metrics.retain_handlers(|handler| handler == "a");
        assert!(metrics.failures().is_empty());
        assert_eq!(metrics.totals().failures["trap"], 1);
        // It is still being written to.
        held.received.add(100);
        drop(held);
        assert_eq!(metrics.totals().received, 111);
        metrics.set_channels(only_a());
        assert!(lock(&metrics.channels).leaving.is_empty());
        assert_eq!(metrics.totals().received, 111);
        assert_eq!(metrics.channel(&b).received.get(), 0);
    }

    #[test]
    fn a_rate_limit_tells_what_it_held_back() {
        let limit = RateLimit::new(Duration::from_secs(3600));
        assert_eq!(limit.admit(), Some(0));
        assert_eq!(limit.admit(), None);
        assert_eq!(limit.admit(), None);
        // The hour is over.
        limit.next.store(0, Relaxed);
        assert_eq!(limit.admit(), Some(2));
    }
}
