//! A subscription at a Redis of the test's own, with what came out.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::connection::Connector;
use crate::broker::pubsub::{Subscriber, Subscription};
pub(super) use crate::broker::testing::{PATIENCE, Redis, tcp, until};
use crate::config::{Connection, Overflow, Source};
use crate::heartbeat::{Beat, Heartbeats};
use crate::queue::{Batch, Budget, Queue, Received};
use crate::telemetry::{ChannelMetrics, DropReason, Metrics};

/// Check that it took no longer than promised, but for once when the machine stood still.
#[track_caller]
pub(super) fn mostly_within(limit: Duration, taken: &[Duration]) {
    let late = taken.iter().filter(|time| **time > limit).count();
    assert!(late <= usize::from(taken.len() > 1), "{late} took longer than {limit:?}: {taken:?}");
}

impl Redis {
    pub(super) fn publish(&self, channel: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> i64 {
        self.try_ask(&[b"PUBLISH", channel.as_ref(), payload.as_ref()]).unwrap()
    }

    /// How often this name is subscribed to.
    pub(super) fn subscribers(&self, name: &str) -> i64 {
        let (_, n): (String, i64) = self.cli(&format!("PUBSUB NUMSUB {name}"));
        n
    }
}

pub(super) fn subscribe(names: &[&str]) -> Source {
    Source::Subscribe(names.iter().map(|name| (*name).into()).collect())
}

pub(super) fn pattern(names: &[&str]) -> Source {
    Source::Pattern(names.iter().map(|name| (*name).into()).collect())
}

/// A channel's queue and counters.
pub(super) struct Channel {
    table: Arc<str>,
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: Arc<ChannelMetrics>,
}

impl Channel {
    /// Of this NAME.
    fn new(table: &str, metrics: &Metrics, budget: &Arc<Budget>) -> Self {
        let table: Arc<str> = table.into();
        let metrics = metrics.channel(&table);
        let queue = Queue::new(
            1,
            1 << 30,
            Overflow::DropOldest,
            budget,
            metrics.clone(),
            Box::new(|| false),
        );
        Channel { table, queue, metrics }
    }

    /// What it wants, with this source.
    pub(super) fn wants(&self, source: Source, max_payload: usize) -> Subscription {
        let (table, queue) = (self.table.clone(), self.queue.clone());
        Subscription { source, table, max_payload, queue, single: None }
    }

    /// Everything that waits in it, as text; nothing more may come into it.
    pub(super) fn rest(&self) -> Vec<String> {
        self.queue.close();
        let (mut batch, mut seen) = (Batch::default(), Vec::new());
        while self.queue.take(&mut batch) {
            let before = seen.len();
            seen.extend(batch.drain().map(|r| String::from_utf8(r.message.payload).unwrap()));
            batch.done(seen.len() - before);
        }
        seen
    }

    /// Wait for the next so many messages.
    pub(super) async fn take(&self, n: usize) -> Vec<Received> {
        let mut batch = Batch::default();
        let mut seen = Vec::new();
        while seen.len() < n {
            let come = async {
                while !self.queue.take(&mut batch) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let come = tokio::time::timeout(PATIENCE, come).await;
            come.unwrap_or_else(|_| panic!("{} of {n} messages came", seen.len()));
            let before = seen.len();
            seen.extend(batch.drain());
            batch.done(seen.len() - before);
        }
        assert_eq!(seen.len(), n);
        seen
    }

    /// The same, payloads as text.
    pub(super) async fn texts(&self, n: usize) -> Vec<String> {
        let text = |r: Received| String::from_utf8(r.message.payload).unwrap();
        self.take(n).await.into_iter().map(text).collect()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.metrics.dropped(reason)
    }
}

/// A subscription that runs.
pub(super) struct Running {
    pub(super) channels: Vec<Channel>,
    pub(super) metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    subscriber: Subscriber,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// One channel for each source, with the largest payload it takes.
    pub(super) fn start(connection: &Connection, sources: Vec<(Source, usize)>) -> Self {
        let budget = Budget::new(1 << 30);
        let metrics = Arc::new(Metrics::default());
        let mut channels = Vec::new();
        let mut subscriptions = Vec::new();
        for (index, (source, max_payload)) in sources.into_iter().enumerate() {
            let channel = Channel::new(&format!("table{index}"), &metrics, &budget);
            subscriptions.push(channel.wants(source, max_payload));
            channels.push(channel);
        }
        let stop = CancellationToken::new();
        let subscriber =
            Subscriber::new(Connector::new(connection), subscriptions, metrics.clone());
        let task = tokio::spawn(subscriber.clone().run(beat(), stop.clone()));
        Running { channels, metrics, budget, subscriber, stop, task }
    }

    /// A further channel, without a subscription.
    pub(super) fn channel(&self, table: &str) -> Channel {
        Channel::new(table, &self.metrics, &self.budget)
    }

    /// Change the subscriptions, and wait until that is done.
    pub(super) async fn change(&self, subscriptions: Vec<Subscription>) {
        let change =
            tokio::time::timeout(PATIENCE, self.subscriber.change(subscriptions, || {}).done());
        change.await.expect("the change is done");
    }

    /// Change the subscriptions.
    pub(super) fn begin_change(&self, subscriptions: Vec<Subscription>) -> JoinHandle<()> {
        let subscriber = self.subscriber.clone();
        tokio::spawn(async move { subscriber.change(subscriptions, || {}).done().await })
    }

    /// Wait until all has come that was sent before.
    pub(super) fn begin_passed(&self) -> JoinHandle<()> {
        tokio::spawn(self.subscriber.passed().done())
    }

    /// One channel of this source.
    pub(super) fn one(connection: &Connection, source: Source) -> Self {
        Running::start(connection, vec![(source, 1 << 20)])
    }

    /// End its task where it stands, as a panic would.
    pub(super) async fn break_off(&mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    /// Start it again.
    pub(super) fn run_again(&mut self) {
        self.task = tokio::spawn(self.subscriber.clone().run(beat(), self.stop.clone()));
    }

    /// Stop it and wait for its end.
    pub(super) async fn stop(self) -> Vec<Channel> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it doesn't stop").unwrap();
        self.channels
    }
}

/// What this thread's tasks log, from now until it is dropped. For tests on one thread.
pub(super) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub(super) fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Lines(text.clone());
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Log { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// In how many lines this occurs.
    pub(super) fn count(&self, part: &str) -> usize {
        let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(part)).count()
    }

    pub(super) fn has(&self, part: &str) -> bool {
        self.count(part) > 0
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.text.lock().unwrap()));
        }
    }
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A port that nobody listens on, below the kernel's range for outgoing connections: in that range
/// a client that tries again and again where nobody listens ends up connected to itself.
/// Of a loop that nobody asks.
pub(super) fn beat() -> Beat {
    Heartbeats::default().register("the subscription")
}
