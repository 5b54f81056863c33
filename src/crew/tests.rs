//! Who works when, with native handlers: nobody waits for another channel's affairs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::*;
use crate::broker::connection::Connector;
use crate::broker::embedded::Broker;
use crate::chain::{Chain, Failure, FailureKind, Handler, HandlerFuture, RunLimits, Transit};
use crate::config::{Config, Environment, Overflow};
use crate::heartbeat::Heartbeats;
use crate::message::{Delivery, Message};
use crate::output::Outputs;
use crate::policy;
use crate::queue::{Budget, Queue, Received, Workers};
use crate::tap::{Hub, Line, Refused, Wish};
use crate::telemetry::{Metrics, RateLimit};

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes its time for messages that begin with `s`, one at a time, computes as long for those that begin
/// with `c`, and panics at those that begin with `p`; wants `refused` ones to be tried again as long as it is told. Notes whose they were.
struct Native {
    name: Arc<str>,
    seen: Mutex<Vec<Arc<str>>>,
    pause: Duration,
    /// What they were, in the order in which they succeeded.
    payloads: Mutex<Vec<String>>,
    refuses: AtomicBool,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Handler for Native {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn handle<'a>(&'a self, messages: &'a mut [Transit]) -> HandlerFuture<'a> {
        Box::pin(async move {
            let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, SeqCst);
            let message = messages[0].single().expect("nothing else is handed over");
            assert!(!message.payload.starts_with(b"p"), "a fault of its own");
            if message.payload.starts_with(b"s") {
                tokio::time::sleep(self.pause).await;
            }
            if message.payload.starts_with(b"c") {
                std::thread::sleep(self.pause);
                // As a plugin is made to.
                tokio::task::yield_now().await;
            }
            self.at_once.fetch_sub(1, SeqCst);
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            if payload.contains("refused") && self.refuses.load(SeqCst) {
                let kind = FailureKind::Retry { after: None };
                let (handler, reason) = (self.name.clone(), "not yet".to_owned());
                messages[0].outcome = Err(Failure { handler, kind, reason });
                return 1;
            }
            self.payloads.lock().expect("nobody panics").push(payload);
            self.seen.lock().expect("nobody panics").push(messages[0].delivery.table.clone());
            1
        })
    }
}

fn native(pause: Duration) -> Arc<Native> {
    let (seen, payloads, refuses, at_once, most_at_once) = Default::default();
    let name = "native".into();
    Arc::new(Native { name, seen, pause, payloads, refuses, at_once, most_at_once })
}

/// Where no connection of another test can have the port meanwhile.
fn free_address() -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.2:0").expect("a port");
    free.local_addr().expect("it has one")
}

struct Bench {
    crew: Arc<Crew>,
    stop: CancellationToken,
    writers: Vec<Writer>,
    budget: Arc<Budget>,
    hub: Arc<Hub>,
}

impl Bench {
    /// One hand for these channels, each with this handler; it works when asked to.
    fn new(config: &str, handler: &Arc<Native>) -> Bench {
        let environment: Environment = [("UNUSED", "")].into_iter().collect();
        let loaded = Config::parse(config, Path::new("/test/config.toml"), &environment);
        let config = loaded.unwrap_or_else(|errors| panic!("{}", errors.render(false))).config;
        let mut writers = BTreeMap::new();
        for name in config.channels.iter().flat_map(Outputs::connections) {
            let connection = config.connections.get(name).unwrap_or(&config.redis);
            let writer = || Writer::new(Connector::new(connection));
            writers.entry(connection.name.clone()).or_insert_with(writer);
        }
        let metrics = Arc::new(Metrics::default());
        let budget = Budget::new(1 << 30);
        let hub = Arc::new(Hub::default());
        let channel = |channel: &crate::config::Channel| {
            let counts = metrics.channel(&channel.name);
            let outputs = Outputs::new(channel, &writers, counts.clone());
            let workers = Workers { most: channel.workers, order_by: channel.order_by.clone() };
            let away = outputs.away();
            let limits = RunLimits { max_outputs: 9, max_output: 1 << 30 };
            Arc::new(Channel {
                name: channel.name.clone(),
                queue: Queue::new(workers, 1 << 29, Overflow::DropOldest, &budget, counts, away),
                chain: Chain::new(vec![handler.clone()], limits, channel.routes.clone()),
                outputs,
                finisher: None,
                policy: policy::Settings { retries: channel.retries, retry_for: channel.retry_for },
                graveyard: None,
                metrics: metrics.clone(),
                failure_log: RateLimit::new(Duration::from_secs(1)),
                retired: CancellationToken::new(),
                mended: AtomicBool::new(false),
                tap: hub.tap(&channel.name),
            })
        };
        let channels = config.channels.iter().map(channel).collect();
        let writers: Vec<Writer> = writers.values().cloned().collect();
        let crew = Crew::new(1);
        crew.change(channels, Vec::new());
        Bench { crew, stop: CancellationToken::new(), writers, budget, hub }
    }

    /// One channel that publishes there, where nobody may listen yet.
    fn writing_to(address: SocketAddr) -> Bench {
        let channel = "[channels.a]\npublish = \"x\"\nhandlers = []\n";
        let config = format!("[redis]\nurl = \"redis://{address}\"\n{channel}");
        Bench::new(&config, &native(Duration::ZERO))
    }

    fn channel(&self, place: usize) -> Arc<Channel> {
        self.crew.channel(place).expect("it is there")
    }

    fn push(&self, channel: usize, messages: usize, payload: &[u8]) {
        let message = || Message::new(payload);
        self.push_each(channel, std::iter::repeat_with(message).take(messages));
    }

    fn push_each(&self, channel: usize, messages: impl Iterator<Item = Message>) {
        let channel = self.channel(channel);
        let delivery = Arc::new(Delivery {
            table: channel.name.clone(),
            redis_channel: "c".into(),
            pattern: None,
            id: None,
            attempt: 1,
            received_at: 0,
        });
        let received = |message| Received {
            message,
            delivery: delivery.clone(),
            entry: None,
            order: 0,
            number: 0,
        };
        channel.queue.push(&mut messages.map(received).collect());
    }

    fn work(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(
            self.crew.clone().work(Heartbeats::default().register("hand"), self.stop.clone()),
        )
    }

    /// Have what goes out written to a broker at this address.
    async fn start_writing(&self, address: SocketAddr) -> (Broker, TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        let broker = Broker::start(address, &dir.path().join("config.toml")).await;
        let broker = broker.unwrap_or_else(|error| panic!("{error}"));
        tokio::spawn(self.writers[0].clone().run(
            Arc::new(Metrics::default()),
            Heartbeats::default().register("writer"),
            self.stop.clone(),
        ));
        (broker, dir)
    }

    async fn until_idle(&self) {
        tokio::time::timeout(PATIENCE, self.crew.idle()).await.expect("all is done");
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const TWO: &str =
    "[channels.a]\nlog = true\nhandlers = []\n[channels.b]\nlog = true\nhandlers = []\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_channel_does_not_keep_another_from_its_turn() {
    let handler = native(Duration::ZERO);
    let bench = Bench::new(TWO, &handler);
    bench.push(0, 20_000, b"x");
    bench.push(1, 1, b"x");
    bench.work();
    bench.until_idle().await;
    let seen = handler.seen.lock().expect("nobody panics");
    let place = seen.iter().position(|table| **table == *"b").expect("it had its turn");
    assert!(place < 1000, "after {place} messages of the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_messages_of_one_channel_do_not_hold_up_another() {
    let handler = native(Duration::from_millis(20));
    let bench = Bench::new(TWO, &handler);
    bench.push(0, 100, b"s");
    bench.push(1, 1, b"x");
    bench.work();
    bench.until_idle().await;
    let seen = handler.seen.lock().expect("nobody panics");
    assert_eq!(seen.len(), 101);
    let place = seen.iter().position(|table| **table == *"b").expect("it had its turn");
    assert!(place < 5, "after {place} slow messages of the other");
}

#[tokio::test]
async fn whose_handlers_compute_leave_the_hand_to_those_who_are_quick() {
    // What may be tried again shares no turn.
    let config = "[channels.a]\nlog = true\nhandlers = []\nretries = 1\n\
                  [channels.b]\nlog = true\nhandlers = []\n";
    let handler = native(Duration::from_millis(20));
    let bench = Bench::new(config, &handler);
    // Each is a turn.
    bench.push(0, 1000, &[b'c'; 128 << 10]);
    bench.push(1, 20_000, b"x");
    bench.work();
    let [slow, quick] = [0, 1].map(|place| bench.channel(place));
    bench.until("all that is quick", || quick.queue.metrics().handled.get() == 20_000).await;
    let slow = slow.queue.metrics().handled.get();
    assert!(slow < 120, "beside {slow} that are slow");
}

#[test]
fn who_holds_up_hands_in_turn_after_turn_is_begun_by_none() {
    let record = Record::default();
    let ms = Duration::from_millis;
    // What isn't done may wait for something else, too.
    for (took, is_done) in [(20, true), (2, false), (2, true), (20, false), (0, false), (20, true)]
    {
        record.took(ms(took), is_done);
        assert!(!record.is_apart(), "the machine may have been elsewhere");
    }
    record.took(ms(1), false);
    assert!((0..APART).all(|_| record.is_apart()) && !record.is_apart(), "and then looked at anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_stops_only_those_that_write_to_it() {
    let config = r#"
        [connections.eu]
        url = "redis://127.0.0.1:1"
        [channels.a]
        publish = { to = "eu", channel = "x" }
        handlers = []
        [channels.b]
        log = true
        handlers = []
    "#;
    let handler = native(Duration::ZERO);
    let bench = Bench::new(config, &handler);
    bench.push(0, 200, &[b'x'; 64 << 10]);
    bench.push(1, 10_000, b"x");
    bench.work();
    let second = bench.channel(1);
    let metrics = second.queue.metrics();
    bench.until("all of b", || metrics.handled.get() == 10_000).await;
    assert!(bench.channel(0).queue.metrics().handled.get() < 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_of_one_channel_are_in_hand_as_it_has_workers() {
    let handler = native(Duration::from_millis(2));
    let config = "[channels.a]\nlog = true\nworkers = 3\nhandlers = []\n";
    let bench = Bench::new(config, &handler);
    for _ in 0..5 {
        bench.push(0, 100, b"s");
    }
    bench.work();
    bench.until_idle().await;
    assert_eq!(handler.most_at_once.load(SeqCst), 3);
    assert_eq!(handler.seen.lock().expect("nobody panics").len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_room_goes_out_to_the_last() {
    let address = free_address();
    let bench = Bench::writing_to(address);
    // A little more than a writer takes.
    bench.push(0, 514, &[b'x'; 8 << 10]);
    bench.work();
    let first = bench.channel(0);
    let metrics = first.queue.metrics();
    bench.until("the writer is full", || !bench.writers[0].has_room()).await;
    let _broker = bench.start_writing(address).await;
    bench.until("all is delivered", || metrics.delivered.get() == 514).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_hand_has_begun_goes_out_at_once() {
    let address = free_address();
    let bench = Bench::writing_to(address);
    let _broker = bench.start_writing(address).await;
    bench.work();
    let first = bench.channel(0);
    let metrics = first.queue.metrics();
    // Others may be quicker or slower than the turn.
    for n in 1..=100 {
        bench.crew.roll.load().record(0).apart.store(1, Relaxed);
        bench.push(0, 1, b"x");
        bench.until("it is delivered", || metrics.delivered.get() == n).await;
    }
}

#[tokio::test]
async fn what_came_out_is_not_kept_for_the_next_turn() {
    let handler = native(Duration::ZERO);
    let bench = Bench::new(TWO, &handler);
    bench.push(0, 100, &[b'x'; 1 << 10]);
    let mut desk = Desk::default();
    let channel = bench.channel(0);
    let channels: [&Channel; 1] = [&channel];
    assert_eq!(desk.begin(&channels), 1);
    assert_eq!(desk.work(&channels, || {}).await, None);
    assert_eq!((channel.queue.metrics().handled.get(), desk.held()), (100, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_on_sees_some_messages_and_is_told_of_the_others() {
    let handler = native(Duration::from_millis(6));
    let bench = Bench::new(TWO, &handler);
    let refused = bench.hub.listen("c", Wish::default()).err();
    assert_eq!(refused, Some(Refused::Unknown { names: vec!["a".into(), "b".into()] }));
    let mut few = bench.hub.listen("a", Wish { rate: 3, ..Wish::default() }).expect("it is there");
    let mut all = bench.hub.listen("a", Wish { rate: 900, ..Wish::default() }).expect("likewise");
    bench.push(1, 100, b"x");
    // Slow at first, so that some of what is in hand goes back to its queue.
    bench.push(0, 3, b"s");
    bench.push(0, 297, b"x");
    bench.work();
    bench.until_idle().await;
    assert_eq!(handler.seen.lock().expect("nobody panics").len(), 400, "each once");
    bench.hub.close();
    let (mut shown, mut missed, mut ended) = (0, 0, false);
    while let Some(line) = few.next().await {
        match line {
            Line::Sample(sample) => {
                assert_eq!((&*sample.channel, sample.hops.len()), ("a", 1));
                assert_eq!(sample.outputs.as_ref().map(Vec::len), Some(1));
                (shown, missed) = (shown + 1, missed + sample.missed);
            }
            Line::Missed { missed: more } => missed += more,
            Line::End { .. } => ended = true,
        }
    }
    assert!((1..20).contains(&shown) && ended, "{shown} shown");
    assert!(shown + missed <= 300, "{shown} shown, {missed} missed");
    // Nobody read what was kept for the other: there is not room for all of it.
    let mut shown = 0;
    while let Some(Line::Sample(_)) = all.next().await {
        shown += 1;
    }
    assert!((1..=64).contains(&shown), "{shown}");
}

/// A log that panics: with it a fault in a turn becomes one of the hand that gives the turn.
struct Broken;

impl tracing::Subscriber for Broken {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.level() == &tracing::Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        panic!("the log can't be written");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_hand_that_panics_puts_back_what_it_has_not_begun() {
    let config = r#"
        [channels.a]
        log = true
        retries = 1
        handlers = []
        [channels.b]
        log = true
        handlers = []
        [channels.c]
        log = true
        handlers = []
    "#;
    let handler = native(Duration::ZERO);
    let bench = Bench::new(config, &handler);
    // The first has turns of its own (it may try again); the others wait in the hand for theirs.
    bench.push(0, 1, b"p");
    bench.push(1, 3, b"x");
    bench.push(2, 3, b"x");
    let log = tracing::subscriber::set_default(Broken);
    let hand = AssertUnwindSafe(
        bench.crew.clone().work(Heartbeats::default().register("hand"), bench.stop.clone()),
    );
    assert!(hand.catch_unwind().await.is_err(), "the hand lives on");
    drop(log);
    assert!(handler.seen.lock().expect("nobody panics").is_empty());
    // The next hand.
    bench.work();
    bench.until_idle().await;
    let seen = handler.seen.lock().expect("nobody panics");
    assert_eq!(seen.iter().map(|table| &**table).collect::<String>(), "bbbccc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_tried_again_holds_up_its_relatives_only() {
    let config = r#"
        [channels.a]
        log = true
        workers = 2
        order_by = "/key"
        retries = "forever"
        retry_for = "1h"
        handlers = []
    "#;
    let handler = native(Duration::ZERO);
    handler.refuses.store(true, SeqCst);
    let bench = Bench::new(config, &handler);
    let message = |key: &str, n: usize| format!(r#"{{"key":"{key}","n":"{n}"}}"#);
    let refused = r#"{"key":"a","n":"refused"}"#.to_owned();
    let related = [message("a", 1), message("a", 2)];
    let others: Vec<String> = (0..40).map(|n| message("b", n)).collect();
    let all = std::iter::once(&refused).chain(&related).chain(&others);
    bench.push_each(0, all.map(|payload| Message::new(payload.as_bytes())));
    bench.work();
    let done = || handler.payloads.lock().expect("nobody panics").clone();
    bench.until("those of other keys go on", || done().len() == others.len()).await;
    assert_eq!(done(), others, "in their order, and none that is related");
    handler.refuses.store(false, SeqCst);
    bench.until_idle().await;
    assert_eq!(done()[others.len()..], [&[refused][..], &related[..]].concat());
    let queue = bench.channel(0).queue.clone();
    assert_eq!((queue.bytes(), bench.budget.used()), (0, 0));
    assert_eq!(queue.metrics().handled.get(), 43);
}
