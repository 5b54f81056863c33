//! What handlerd knows of itself: metrics, and where logs go.
//!
//! Owns the metric names of the contract and the set of reasons. Everybody may count; nobody else
//! names a metric. Counting is an atomic addition, never a lock, on the way of a message.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::chain::FailureKind;
use crate::config::{Log, LogFormat};

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
    /// Redis answered an output with an error.
    Refused,
    /// An output was sent and the connection ended before its reply: it may have arrived.
    Unknown,
    /// Left over when the time for stopping was up.
    Shutdown,
    /// Trimmed off its stream before it was finished.
    Trimmed,
}

impl DropReason {
    /// All of them, in the order of the enum.
    pub const ALL: [DropReason; 10] = [
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
    ];

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
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Add `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is counted of a stream source beside what is counted of every channel.
#[derive(Debug, Default)]
pub struct StreamMetrics {
    /// Entries that were claimed from a consumer that didn't finish them.
    pub claimed: Count,
    /// Entries that came again: taken up after a restart or a lost connection, claimed, or read
    /// again by a group that had vanished and was made again.
    pub redelivered: Count,
    /// Entries of which another was the first to finish them; nothing was written for them here.
    pub finished_elsewhere: Count,
    /// Entries that were given back unhandled at an orderly stop.
    pub given_back: Count,
    /// Connections for reading that were made again.
    pub reconnects: Count,
    /// Times that a vanished group was made again.
    pub groups_remade: Count,
    /// `handlerd_stream_lag`: entries that the group has not read yet, one for each stream.
    lag: Mutex<BTreeMap<Arc<str>, u64>>,
    /// `handlerd_stream_pending`: entries read by the group and not finished, one for each stream.
    pending: Mutex<BTreeMap<Arc<str>, u64>>,
    states: Mutex<BTreeMap<&'static str, u64>>,
}

impl StreamMetrics {
    /// Something could not be done, for the reason of this name: count the try.
    pub fn state(&self, name: &'static str) {
        *lock(&self.states).entry(name).or_default() += 1;
    }

    /// Tries that failed, by the reason's name.
    pub fn states(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.states).clone()
    }

    /// What was seen of one stream.
    pub fn seen(&self, stream: &Arc<str>, pending: u64, lag: Option<u64>) {
        lock(&self.pending).insert(stream.clone(), pending);
        match lag {
            Some(lag) => lock(&self.lag).insert(stream.clone(), lag),
            None => lock(&self.lag).remove(stream),
        };
    }

    /// Entries not finished, over all streams of the channel.
    pub fn pending(&self) -> u64 {
        lock(&self.pending).values().sum()
    }

    /// Entries not read, over all streams of the channel, as far as Redis says it.
    pub fn lag(&self) -> u64 {
        lock(&self.lag).values().sum()
    }
}

/// What is counted of a channel that is single.
#[derive(Debug, Default)]
pub struct SingleMetrics {
    leads: AtomicBool,
    /// Times that this daemon began to handle the channel's messages.
    pub takeovers: Count,
    /// Times that it did so and messages before may be missing: no daemon that could go on had been
    /// subscribed all the time.
    pub gaps: Count,
}

impl SingleMetrics {
    /// Whether this daemon handles the channel's messages; else it stands by.
    pub fn is_leader(&self) -> bool {
        self.leads.load(Relaxed)
    }

    /// It does from now on, or doesn't.
    pub fn leads(&self, leads: bool) {
        if !self.leads.swap(leads, Relaxed) && leads {
            self.takeovers.add(1);
        }
    }
}

/// The names and patterns of a pub/sub channel that are not subscribed on the present connection.
/// Empty: everything that is published for the channel comes. Kept by the subscription.
#[derive(Debug, Default)]
pub struct Unsubscribed(Mutex<BTreeSet<Arc<str>>>);

impl Unsubscribed {
    /// Whether every name is subscribed.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Whether every name is, except perhaps this one.
    pub fn is_only(&self, name: &str) -> bool {
        lock(&self.0).iter().all(|missing| **missing == *name)
    }

    /// Whether this one isn't.
    pub fn has(&self, name: &str) -> bool {
        lock(&self.0).contains(name)
    }

    /// The names that aren't, in order.
    pub fn names(&self) -> Vec<Arc<str>> {
        lock(&self.0).iter().cloned().collect()
    }

    /// These, and no others.
    pub fn replace(&self, names: impl Iterator<Item = Arc<str>>) {
        *lock(&self.0) = names.collect();
    }

    /// This one is not, or no longer.
    pub fn insert(&self, name: &Arc<str>) {
        lock(&self.0).insert(name.clone());
    }

    /// This one is now.
    pub fn remove(&self, name: &str) {
        lock(&self.0).remove(name);
    }
}

/// The counters of one `[channels.NAME]`.
#[derive(Debug, Default)]
pub struct ChannelMetrics {
    /// `handlerd_messages_received_total`: what the source delivered, dropped ones included.
    pub received: Count,
    /// Input messages whose run through the chain succeeded (filtered ones included).
    pub handled: Count,
    /// `handlerd_messages_delivered_total`: writes that Redis acknowledged, and log lines.
    pub delivered: Count,
    /// `handlerd_dead_letters_total`: messages that were given up and handed to their stream.
    pub dead_letters: Count,
    /// Milliseconds without a confirmed subscription, for `handlerd_subscription_gap_seconds_total`.
    pub gap_ms: Count,
    /// Of a pub/sub source; empty for a stream's.
    pub unsubscribed: Unsubscribed,
    /// Of a stream source.
    pub stream: StreamMetrics,
    /// Of a channel with `single = true`.
    pub single: SingleMetrics,
    dropped: [Count; DropReason::ALL.len()],
}

impl ChannelMetrics {
    /// Count `n` messages (or, for `refused` and `unknown`, writes) as lost for this reason.
    pub fn lost(&self, reason: DropReason, n: u64) {
        self.dropped[reason as usize].add(n);
    }

    /// Writes that Redis acknowledged, and what was lost for any reason.
    pub fn ended(&self) -> u64 {
        self.delivered.get() + self.dropped.iter().map(Count::get).sum::<u64>()
    }

    /// How many were lost for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].get()
    }
}

/// All counters of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    channels: Mutex<Channels>,
    failures: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
    /// `handlerd_redis_reconnects_total`.
    pub reconnects: Count,
}

#[derive(Debug, Default)]
struct Channels {
    by_name: BTreeMap<Arc<str>, Arc<ChannelMetrics>>,
    /// Of channels that are no longer in the configuration, while something of them is left.
    leaving: Vec<Arc<ChannelMetrics>>,
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
        channels
            .leaving
            .extend(before.into_values().filter(|old| !kept.contains(&Arc::as_ptr(old))));
        channels.by_name = by_name;
        let Channels { leaving, gone, .. } = &mut *channels;
        let ended = leaving.extract_if(.., |metrics| Arc::strong_count(metrics) == 1);
        ended.for_each(|metrics| gone.add(&metrics));
    }

    /// The counters of all channels, by name.
    pub fn channels(&self) -> BTreeMap<Arc<str>, Arc<ChannelMetrics>> {
        lock(&self.channels).by_name.clone()
    }

    /// `handlerd_handler_failures_total`: count one.
    pub fn failure(&self, handler: &Arc<str>, kind: FailureKind) {
        *lock(&self.failures).entry((handler.clone(), kind.as_str())).or_default() += 1;
    }

    /// All failures by handler and kind.
    pub fn failures(&self) -> BTreeMap<(Arc<str>, &'static str), u64> {
        lock(&self.failures).clone()
    }

    /// The numbers of all channels together.
    pub fn totals(&self) -> Totals {
        let gone = lock(&self.channels).gone.clone();
        let mut totals = Totals { reconnects: self.reconnects.get(), ..gone };
        for ((_, kind), n) in self.failures() {
            *totals.failures.entry(kind).or_default() += n;
        }
        let channels = lock(&self.channels);
        let Channels { by_name, leaving, .. } = &*channels;
        by_name.values().chain(leaving).for_each(|channel| totals.add(channel));
        totals
    }
}

/// Says in the log what was dropped: one line a channel and reason every 5 s at most, with the number.
pub struct DropLog {
    channels: BTreeMap<Arc<str>, Told>,
}

/// A channel's counters, and what of its drops was said.
struct Told {
    metrics: Arc<ChannelMetrics>,
    dropped: [u64; DropReason::ALL.len()],
}

impl DropLog {
    /// How often, at most.
    pub const EVERY: Duration = Duration::from_secs(5);

    /// For these channels: NAME and counters. What they have counted already is not said again.
    pub fn new(channels: impl Iterator<Item = (Arc<str>, Arc<ChannelMetrics>)>) -> Self {
        let mut log = DropLog { channels: BTreeMap::new() };
        log.add(channels);
        log
    }

    /// For these channels too. None is taken out: what waits in one that goes may still be dropped.
    pub fn add(&mut self, channels: impl Iterator<Item = (Arc<str>, Arc<ChannelMetrics>)>) {
        for (name, metrics) in channels {
            self.channels.entry(name).or_insert_with(|| {
                let dropped = DropReason::ALL.map(|reason| metrics.dropped(reason));
                Told { metrics, dropped }
            });
        }
    }

    /// Say what was dropped since the last time.
    pub fn report(&mut self) {
        for (channel, Told { metrics, dropped }) in &mut self.channels {
            for reason in DropReason::ALL {
                let now = metrics.dropped(reason);
                let new = now - std::mem::replace(&mut dropped[reason as usize], now);
                if new > 0 {
                    let reason = reason.as_str();
                    let messages = if new == 1 { "message" } else { "messages" };
                    tracing::warn!(%channel, reason, "channel {channel}: {new} {messages} dropped: {reason}");
                }
            }
        }
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
    /// Entries of streams that were read and stay pending.
    pub pending: u64,
    /// Losses by reason; a reason without any is absent.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Handlers' failures by kind; a kind without any is absent.
    pub failures: BTreeMap<&'static str, u64>,
    /// Connections made again, those for outputs included.
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
        self.pending += channel.stream.given_back.get();
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

/// The target of the lines that `log = true` writes.
const OUTPUT_TARGET: &str = "handlerd::output";

/// Send logs to standard error, as `[log]` says. `RUST_LOG`, where it is set, is the filter instead.
///
/// # Errors
/// When a filter can't be read, or when logs have been sent somewhere before.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => log.level.clone(),
    };
    // What `log = true` writes is an output, not a note on how things go.
    let outputs = if filter.contains(OUTPUT_TARGET) { "" } else { ",handlerd::output=info" };
    let filter = EnvFilter::try_new(format!("{filter}{outputs}"))
        .with_context(|| format!("the log level {filter:?} is not a filter of tracing"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Otherwise a log that can't be written (a full disk, a reader that went away) is told to
        // standard error, which is the same log, and that panics.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let installed = match log.format {
        LogFormat::Text => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("the log can't be set up: {error}"))
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
    fn a_rate_limit_tells_what_it_held_back() {
        let limit = RateLimit::new(Duration::from_millis(20));
        assert_eq!(limit.admit(), Some(0));
        assert_eq!(limit.admit(), None);
        assert_eq!(limit.admit(), None);
        std::thread::sleep(Duration::from_millis(21));
        assert_eq!(limit.admit(), Some(2));
    }
}
