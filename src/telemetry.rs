//! What handlerd knows of itself: metrics, and where logs go.
//!
//! Owns the metric names of the contract and the set of reasons. Everybody may count; nobody else
//! names a metric. Counting is an atomic addition, never a lock, on the way of a message.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::chain::FailureKind;
use crate::config::{Log, LogFormat};
use crate::status;

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

    /// Whether a message of a stream (else of pub/sub) can be lost for it: streams wait instead.
    pub fn may_be_of(self, stream: bool) -> bool {
        match self {
            DropReason::TooLarge | DropReason::Name | DropReason::Failed | DropReason::Refused => {
                true
            }
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

/// By what a message went out. The words are the values of the metric label `output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputKind {
    /// PUBLISH.
    Publish,
    /// XADD.
    Append,
    /// RPUSH.
    Push,
    /// A line of the log.
    Log,
}

impl OutputKind {
    /// All of them, in the order of the enum.
    pub const ALL: [OutputKind; 4] =
        [OutputKind::Publish, OutputKind::Append, OutputKind::Push, OutputKind::Log];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            OutputKind::Publish => "publish",
            OutputKind::Append => "append",
            OutputKind::Push => "push",
            OutputKind::Log => "log",
        }
    }
}

/// What went out, by kind.
#[derive(Debug, Default)]
pub struct Delivered([Count; OutputKind::ALL.len()]);

impl Delivered {
    /// Count `n` that went out by this.
    pub fn add(&self, by: OutputKind, n: u64) {
        self.0[by as usize].add(n);
    }

    /// How many went out by this.
    pub fn by(&self, kind: OutputKind) -> u64 {
        self.0[kind as usize].get()
    }

    /// All of them.
    pub fn get(&self) -> u64 {
        self.0.iter().map(Count::get).sum()
    }
}

/// Something that is so or not.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// It is so from now on, or isn't.
    pub fn set(&self, on: bool) {
        self.0.store(on, Relaxed);
    }

    /// Whether it is so.
    pub fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What is wrong with one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTrouble {
    /// Whether there is no connection to its Redis, or none yet.
    pub away: bool,
    /// A sentence without the stream's name: `can't read: …`.
    pub text: String,
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
    /// What is wrong now, by the stream and by what can't be done.
    troubles: Mutex<BTreeMap<(Arc<str>, &'static str), StreamTrouble>>,
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

    /// What is wrong with one stream now, of what is to be done with it ("read", "finish entries");
    /// `None` when nothing is.
    pub fn trouble(&self, stream: &Arc<str>, doing: &'static str, trouble: Option<StreamTrouble>) {
        let mut troubles = lock(&self.troubles);
        match trouble {
            Some(trouble) => troubles.insert((stream.clone(), doing), trouble),
            None => troubles.remove(&(stream.clone(), doing)),
        };
    }

    /// What is wrong now, each with its stream.
    pub fn troubles(&self) -> Vec<(Arc<str>, StreamTrouble)> {
        let troubles = lock(&self.troubles);
        troubles.iter().map(|((stream, _), trouble)| (stream.clone(), trouble.clone())).collect()
    }

    /// The channel has these streams only: nothing is known of others any more.
    pub fn retain(&self, streams: &[Arc<str>]) {
        lock(&self.lag).retain(|stream, _| streams.contains(stream));
        lock(&self.pending).retain(|stream, _| streams.contains(stream));
        lock(&self.troubles).retain(|(stream, _), _| streams.contains(stream));
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

    /// Entries not read, over all streams of the channel; `None` where Redis doesn't say it of each.
    pub fn lag(&self) -> Option<u64> {
        let streams = lock(&self.pending).len();
        let lag = lock(&self.lag);
        (streams > 0 && lag.len() == streams).then(|| lag.values().sum())
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
    pub delivered: Delivered,
    /// `handlerd_dead_letters_total`: messages that were given up and handed to their stream.
    pub dead_letters: Count,
    /// Milliseconds without a confirmed subscription, for `handlerd_subscription_gap_seconds_total`.
    pub gap_ms: Count,
    /// Of a pub/sub source; empty for a stream's.
    pub unsubscribed: Unsubscribed,
    /// Of a stream source.
    pub stream: StreamMetrics,
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
    /// Connections made again, those of streams left out: see [`Totals::reconnects`].
    pub reconnects: Count,
    /// Whether the connection of all subscriptions stands.
    pub subscription: Flag,
    reloads: Mutex<status::Reload>,
}

#[derive(Debug, Default)]
struct Channels {
    present: BTreeMap<Arc<str>, Arc<ChannelMetrics>>,
    /// Of channels that are no more, as long as somebody may still count in them.
    former: Vec<Arc<ChannelMetrics>>,
    /// What those have counted in which nobody counts any more, failures of handlers included.
    past: Totals,
}

impl Metrics {
    /// The counters of a channel, made when it is named first.
    pub fn channel(&self, name: &Arc<str>) -> Arc<ChannelMetrics> {
        lock(&self.channels).present.entry(name.clone()).or_default().clone()
    }

    /// Only the channels of these names are left: what was counted of the others is in the
    /// [`Self::totals`] only from now on.
    pub fn retain_channels(&self, names: &[Arc<str>]) {
        let mut channels = lock(&self.channels);
        let Channels { present, former, past } = &mut *channels;
        former.extend(present.extract_if(.., |name, _| !names.contains(name)).map(|(_, m)| m));
        former.retain(|metrics| {
            let in_use = Arc::strong_count(metrics) > 1;
            if !in_use {
                past.add(metrics);
            }
            in_use
        });
    }

    /// Only the handlers of these names are left.
    pub fn retain_handlers(&self, names: &[Arc<str>]) {
        let is_left = |handler: &Arc<str>| names.contains(handler) || **handler == *OUTPUTS;
        let gone: Vec<_> =
            lock(&self.failures).extract_if(.., |(handler, _), _| !is_left(handler)).collect();
        let past = &mut lock(&self.channels).past.failures;
        gone.into_iter().for_each(|((_, kind), n)| *past.entry(kind).or_default() += n);
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

    /// The reloads so far.
    pub fn reloads(&self) -> status::Reload {
        lock(&self.reloads).clone()
    }

    /// The numbers of all channels together, those that are no more included.
    pub fn totals(&self) -> Totals {
        let failures = self.failures();
        let channels = lock(&self.channels);
        let mut totals = channels.past.clone();
        totals.reconnects += self.reconnects.get();
        for ((_, kind), n) in failures {
            *totals.failures.entry(kind).or_default() += n;
        }
        channels.present.values().chain(&channels.former).for_each(|metrics| totals.add(metrics));
        totals
    }
}

/// The name under which failures are counted that are no handler's.
pub const OUTPUTS: &str = "outputs";

/// Says in the log what was dropped: one line a channel and reason every 5 s at most, with the number.
pub struct DropLog {
    channels: Vec<(Arc<str>, Arc<ChannelMetrics>, [u64; DropReason::ALL.len()])>,
}

impl DropLog {
    /// How often, at most.
    const EVERY: Duration = Duration::from_secs(5);

    /// For these channels: NAME and counters. What they have counted already is not said again.
    pub fn new(channels: Vec<(Arc<str>, Arc<ChannelMetrics>)>) -> Self {
        let known = |metrics: &ChannelMetrics| DropReason::ALL.map(|r| metrics.dropped(r));
        let channels = channels.into_iter().map(|(name, m)| {
            let told = known(&m);
            (name, m, told)
        });
        DropLog { channels: channels.collect() }
    }

    /// Report for ever.
    pub async fn run(&mut self) {
        loop {
            tokio::time::sleep(Self::EVERY).await;
            self.report();
        }
    }

    /// Say what was dropped since the last time.
    pub fn report(&mut self) {
        for (channel, metrics, told) in &mut self.channels {
            for reason in DropReason::ALL {
                let dropped = metrics.dropped(reason);
                let new = dropped - std::mem::replace(&mut told[reason as usize], dropped);
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

    #[test]
    fn a_channel_that_is_no_more_is_in_the_totals_only() {
        let metrics = Metrics::default();
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        metrics.channel(&a).received.add(1);
        let held = metrics.channel(&b);
        held.received.add(10);
        metrics.failure(&b, FailureKind::Trap);
        metrics.retain_channels(std::slice::from_ref(&a));
        metrics.retain_handlers(std::slice::from_ref(&a));
        assert!(metrics.failures().is_empty());
        assert_eq!(metrics.totals().failures["trap"], 1);
        // It is still being written to.
        held.received.add(100);
        drop(held);
        assert_eq!(metrics.totals().received, 111);
        metrics.retain_channels(&[a]);
        assert!(lock(&metrics.channels).former.is_empty());
        assert_eq!(metrics.totals().received, 111);
        assert_eq!(metrics.channel(&b).received.get(), 0);
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
