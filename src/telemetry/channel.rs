//! What is counted of one channel.
//!
//! Everybody may count in it; `telemetry` keeps it by name, and whoever shows it reads it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::{DropReason, lock};

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

    /// This stream is no longer read: nothing is known of it any more.
    pub fn forget(&self, stream: &str) {
        lock(&self.lag).remove(stream);
        lock(&self.pending).remove(stream);
        lock(&self.troubles).retain(|(of, _), _| **of != *stream);
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

/// What is counted of a channel that is single.
#[derive(Debug, Default)]
pub struct SingleMetrics {
    /// Who of this daemon does, by their tokens. Two for a moment: one that a reload has taken out, and
    /// the one that goes on with its counters.
    leaders: Mutex<BTreeSet<Box<str>>>,
    /// Times that this daemon began to handle the channel's messages.
    pub takeovers: Count,
    /// Times that it did so and messages before may be missing: no daemon that could go on had been
    /// subscribed all the time.
    pub gaps: Count,
    /// Messages that it received while it led, and that are another's to handle since.
    pub left: Count,
}

impl SingleMetrics {
    /// Whether this daemon handles the channel's messages; else it stands by.
    pub fn is_leader(&self) -> bool {
        !lock(&self.leaders).is_empty()
    }

    /// From now on it does, by the channel of this token.
    pub fn lead(&self, token: &str) {
        if lock(&self.leaders).insert(token.into()) {
            self.takeovers.add(1);
        }
    }

    /// The channel of this token doesn't, or no longer.
    pub fn resign(&self, token: &str) {
        lock(&self.leaders).remove(token);
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
        let mut names = lock(&self.0);
        names.remove(name);
        if names.is_empty() {
            // A set keeps memory for the next ones, and there may be ten thousand channels.
            *names = BTreeSet::new();
        }
    }
}

/// The counters of one `[channels.NAME]`.
#[derive(Debug, Default)]
pub struct ChannelMetrics {
    /// `handlerd_messages_received_total`: what the source delivered, dropped ones included.
    pub received: Count,
    /// Input messages whose run through the chain succeeded (filtered ones included).
    pub handled: Count,
    /// `handlerd_messages_delivered_total`: writes that Redis acknowledged, and lines that the log has
    /// written.
    pub delivered: Delivered,
    /// `handlerd_dead_letters_total`: messages that were given up and stored in their stream.
    pub dead_letters: Count,
    /// Milliseconds without a confirmed subscription, for `handlerd_subscription_gap_seconds_total`.
    pub gap_ms: Count,
    /// Of a pub/sub source; empty for a stream's.
    pub unsubscribed: Unsubscribed,
    /// Of a stream source.
    pub stream: StreamMetrics,
    /// Of a channel with `single = true`.
    pub single: SingleMetrics,
    /// Who has a [`Written`] of this.
    written: AtomicU64,
    dropped: [Count; DropReason::ALL.len()],
    /// How many of those the log has told of.
    told: [AtomicU64; DropReason::ALL.len()],
}

/// The counters of a channel for which something is being written, as long as this lives.
#[derive(Debug)]
pub struct Written(Arc<ChannelMetrics>);

impl Drop for Written {
    fn drop(&mut self) {
        self.0.written.fetch_sub(1, Relaxed);
    }
}

impl std::ops::Deref for Written {
    type Target = Arc<ChannelMetrics>;

    fn deref(&self) -> &Arc<ChannelMetrics> {
        &self.0
    }
}

impl ChannelMetrics {
    /// From now on something is being written that ends in one of these counters.
    pub fn written(self: &Arc<Self>) -> Written {
        self.written.fetch_add(1, Relaxed);
        Written(self.clone())
    }

    /// Whether something is being written that isn't counted yet.
    pub fn is_written_for(&self) -> bool {
        self.written.load(Relaxed) > 0
    }

    /// Say in the log what was dropped since the last time.
    pub(super) fn tell(&self, channel: &str) {
        for reason in DropReason::ALL {
            let dropped = self.dropped(reason);
            let new = dropped - self.told[reason as usize].swap(dropped, Relaxed);
            if new > 0 {
                let what = if reason == DropReason::LogFull { "line" } else { "message" };
                let (reason, s) = (reason.as_str(), if new == 1 { "" } else { "s" });
                tracing::warn!(%channel, reason, "channel {channel}: {new} {what}{s} dropped: {reason}");
            }
        }
    }

    /// Count `n` messages (or, for `refused`, `unknown` and `log_full`, outputs) as lost for this reason.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_one_leader_is_not_that_of_the_one_that_follows_it() {
        let single = SingleMetrics::default();
        single.lead("old");
        single.lead("new");
        single.resign("old");
        assert!(single.is_leader());
        // Who has never led ends, too.
        single.resign("other");
        single.lead("new");
        assert_eq!((single.is_leader(), single.takeovers.get()), (true, 2));
        single.resign("new");
        assert!(!single.is_leader());
    }
}
