//! What handlerd knows of itself: metrics, and later the logs' subscriber.
//!
//! Owns the metric names of the contract and the set of reasons. Everybody may count; nobody else
//! names a metric. Counting is an atomic addition, never a lock, on the way of a message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::chain::FailureKind;

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
}

impl DropReason {
    /// All of them, in the order of the enum.
    pub const ALL: [DropReason; 9] = [
        DropReason::Overflow,
        DropReason::Memory,
        DropReason::RedisAway,
        DropReason::TooLarge,
        DropReason::Name,
        DropReason::Failed,
        DropReason::Refused,
        DropReason::Unknown,
        DropReason::Shutdown,
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

/// The counters of one `[channels.NAME]`.
#[derive(Debug, Default)]
pub struct ChannelMetrics {
    /// `handlerd_messages_received_total`: what the source delivered, dropped ones included.
    pub received: Count,
    /// Input messages whose run through the chain succeeded (filtered ones included).
    pub handled: Count,
    /// `handlerd_messages_delivered_total`: writes that Redis acknowledged, and log lines.
    pub delivered: Count,
    /// Milliseconds without a confirmed subscription, for `handlerd_subscription_gap_seconds_total`.
    pub gap_ms: Count,
    dropped: [Count; DropReason::ALL.len()],
}

impl ChannelMetrics {
    /// Count `n` messages (or, for `refused` and `unknown`, writes) as lost for this reason.
    pub fn lost(&self, reason: DropReason, n: u64) {
        self.dropped[reason as usize].add(n);
    }

    /// How many were lost for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].get()
    }
}

/// All counters of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    channels: Mutex<BTreeMap<Arc<str>, Arc<ChannelMetrics>>>,
    failures: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
    /// `handlerd_redis_reconnects_total`.
    pub reconnects: Count,
}

impl Metrics {
    /// The counters of a channel, made when it is named first.
    pub fn channel(&self, name: &Arc<str>) -> Arc<ChannelMetrics> {
        lock(&self.channels).entry(name.clone()).or_default().clone()
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
        let mut totals = Totals::default();
        for channel in lock(&self.channels).values() {
            totals.received += channel.received.get();
            totals.handled += channel.handled.get();
            totals.delivered += channel.delivered.get();
            for reason in DropReason::ALL {
                let n = channel.dropped(reason);
                if n > 0 {
                    *totals.dropped.entry(reason).or_default() += n;
                }
            }
        }
        totals
    }
}

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
    /// Losses by reason; a reason without any is absent.
    pub dropped: BTreeMap<DropReason, u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
