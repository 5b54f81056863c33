//! Other subscriptions while messages flow: nothing is lost, doubled or out of order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::support::*;
use crate::broker::pubsub::plan::Plan;

const LARGEST: usize = 1 << 20;

/// Exactly these names and so many patterns are subscribed to, over one connection.
fn assert_subscribed(redis: &Redis, names: &[&str], patterns: usize) {
    let is: BTreeSet<String> = redis.cli("PUBSUB CHANNELS");
    assert_eq!(is, names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(redis.cli::<usize>("PUBSUB NUMPAT"), patterns);
    let clients: String = redis.cli("CLIENT LIST TYPE pubsub");
    assert_eq!(clients.lines().count(), 1);
    assert!(clients.contains(&format!(" sub={} psub={patterns} ", names.len())), "{clients}");
}

/// Publishes numbers on all of these channels, in one step for each number, until it is told to end.
struct Publisher {
    publishing: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<Vec<i64>>>,
}

impl Publisher {
    fn start(redis: &Redis, channels: &[&str]) -> Self {
        let publishing = Arc::new(AtomicBool::new(true));
        let (go_on, mut client) = (publishing.clone(), redis.client());
        let sent_so_far = Arc::new(AtomicUsize::new(0));
        let count = sent_so_far.clone();
        let channels: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            while go_on.load(Relaxed) {
                let mut step = redis::pipe();
                step.atomic();
                for channel in &channels {
                    step.cmd("PUBLISH").arg(channel).arg(sent.len());
                }
                sent.push(step.query(&mut client).unwrap());
                count.store(sent.len(), Relaxed);
            }
            sent
        });
        Publisher { publishing, sent: sent_so_far, thread }
    }

    /// Wait until so many more are sent.
    async fn go_on(&self, more: usize) {
        let until = self.sent.load(Relaxed) + more;
        super::support::until("more is sent", || self.sent.load(Relaxed) >= until).await;
    }

    /// For each number, how many Redis sent it to on each channel.
    fn end(self) -> Vec<Vec<i64>> {
        self.publishing.store(false, Relaxed);
        self.thread.join().unwrap()
    }
}

fn numbers(n: usize) -> Vec<String> {
    (0..n).map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_changes_lose_double_and_reorder_nothing() {
    for hello in ["", "rename-command HELLO \"\""] {
        let redis = Redis::start_on_port(&[hello]);
        let sources = vec![(subscribe(&["kept"]), LARGEST), (pattern(&["room.*"]), LARGEST)];
        let begin = Instant::now();
        let mut running = Running::start(&redis.tcp(), sources);
        until("subscribed", || redis.cli::<i64>("PUBSUB NUMPAT") == 1).await;
        let publisher = Publisher::start(&redis, &["kept", "room.1"]);
        let extra = running.channel("extra");
        // Where `kept` and `room.*` went, one after the other.
        let mut ways = [vec![running.channels.remove(0)], vec![running.channels.remove(0)]];
        let begun = begin.elapsed().as_millis();
        let mut gaps = 0;
        for round in 0..50 {
            // Sometimes another queue, under another NAME; sometimes both the same as before.
            for (i, way) in ways.iter_mut().enumerate() {
                if round % (3 + i) == 0 {
                    way.push(running.channel(&format!("way{i}.{}", way.len())));
                }
            }
            let names = [format!("e{round}"), format!("e{}", round + 1)];
            let mut wanted = vec![
                ways[1].last().unwrap().wants(pattern(&["room.*"]), LARGEST),
                ways[0].last().unwrap().wants(subscribe(&["kept"]), LARGEST + round),
            ];
            if round % 7 != 6 {
                let names = names.each_ref().map(String::as_str);
                wanted.insert(round % 3, extra.wants(subscribe(&names), 100));
            }
            running.change(wanted).await;
            publisher.go_on(10).await;
            let old = format!("e{}", round.wrapping_sub(1));
            assert_eq!(redis.publish(&old, "nobody's"), 0);
            if round % 7 == 6 {
                assert_subscribed(&redis, &["kept"], 1);
                continue;
            }
            assert_subscribed(&redis, &["kept", &names[0], &names[1]], 1);
            redis.publish(&names[1], round.to_string());
            assert_eq!(extra.texts(1).await, [round.to_string()]);
            if round == 0 {
                gaps = running.metrics.totals().gap.as_millis();
            }
        }
        assert_eq!(running.metrics.reconnects.get(), 0);
        assert!(extra.metrics.unsubscribed.is_empty());
        let sent = publisher.end();
        let not_to_one = sent.iter().enumerate().find(|(_, n)| **n != [1, 1]);
        assert_eq!(not_to_one, None, "of {}", sent.len());
        running.stop().await;
        for way in ways {
            let seen: Vec<String> = way.iter().flat_map(Channel::rest).collect();
            assert_eq!(seen, numbers(sent.len()));
            let ways = &way[1..];
            assert!(ways.len() > 10 && ways.iter().all(|way| way.metrics.gap_ms.get() == 0));
        }
        // Only before it was subscribed.
        assert!(gaps <= begun + 200, "{gaps} ms of {begun}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_goes_delivers_until_the_one_that_comes_is_there() {
    let redis = Redis::start_on_port(&[]);
    let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut running = Running::one(&redis.tcp(), subscribe(&names[..1]));
    until("subscribed", || redis.subscribers("n0") == 1).await;
    let publisher = Publisher::start(&redis, &names);
    let mut channels = vec![running.channels.remove(0)];
    for name in &names[1..] {
        let channel = running.channel(name);
        running.change(vec![channel.wants(subscribe(&[name]), LARGEST)]).await;
        assert_subscribed(&redis, &[name], 0);
        channels.push(channel);
    }
    let sent = publisher.end();
    running.stop().await;
    // Redis always had somebody to send to, and everything that it sent is in the right queue.
    assert!(sent.iter().all(|receivers| receivers.iter().sum::<i64>() >= 1));
    for (i, channel) in channels.iter().enumerate() {
        let numbered = sent.iter().enumerate();
        let sent = numbered.filter(|(_, to)| to[i] == 1).map(|(n, _)| n.to_string());
        assert_eq!(channel.rest(), sent.collect::<Vec<_>>(), "{i}");
    }
}

#[tokio::test]
async fn a_payload_that_is_half_here_goes_where_its_name_goes_now() {
    let redis = Redis::start_on_port(&[]);
    let proxy = Proxy::start(redis.port).await;
    let running = Running::one(&tcp(proxy.port), subscribe(&["b", "a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    let (old, new) = (&running.channels[0], running.channel("new"));
    proxy.let_through(100_000);
    redis.publish("a", vec![b'x'; 300_000]);
    until("half of it came", || proxy.is_full()).await;
    // The change is done before the rest comes: no name is new, and none goes.
    running.change(vec![new.wants(subscribe(&["a", "b"]), LARGEST)]).await;
    proxy.flow();
    assert_eq!(new.texts(1).await, ["x".repeat(300_000)]);
    assert_eq!(old.metrics.received.get(), 0);
    // And one whose connection is cut there comes to nobody.
    proxy.let_through(100_000);
    redis.publish("a", vec![b'y'; 300_000]);
    until("half of it came", || proxy.is_full()).await;
    let change = running.begin_change(vec![new.wants(subscribe(&["a", "c"]), LARGEST)]);
    proxy.cut();
    change.await.unwrap();
    until("back", || redis.subscribers("c") == 1).await;
    assert_eq!(redis.subscribers("b"), 0);
    redis.publish("a", "z");
    assert_eq!(new.texts(1).await, ["z"]);
    assert_eq!(running.metrics.reconnects.get(), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_is_on_its_way_is_waited_for() {
    let redis = Redis::start_on_port(&[]);
    let proxy = Proxy::start(redis.port).await;
    let running = Running::one(&tcp(proxy.port), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    let received = || running.channels[0].metrics.received.get();
    running.begin_passed().await.unwrap();
    proxy.let_through(100_000);
    redis.publish("a", vec![b'x'; 300_000]);
    until("half of it came", || proxy.is_full()).await;
    let passed = running.begin_passed();
    assert_eq!(received(), 0);
    proxy.flow();
    passed.await.unwrap();
    assert_eq!(received(), 1);
    // With a connection that has ended nothing is on its way.
    proxy.let_through(100_000);
    redis.publish("a", vec![b'y'; 300_000]);
    until("half of it came", || proxy.is_full()).await;
    let passed = running.begin_passed();
    proxy.cut();
    passed.await.unwrap();
    assert_eq!(received(), 1);
    running.stop().await;
}

#[tokio::test]
async fn nothing_may_be_wanted_for_a_while() {
    let log = Log::capture();
    let redis = Redis::start_on_port(&[]);
    let running = Running::start(&redis.tcp(), Vec::new());
    let channel = running.channel("now and then");
    until("said", || log.has("there is no connection for that")).await;
    for round in 1..=3 {
        running.change(vec![channel.wants(subscribe(&["a"]), 100)]).await;
        until("subscribed", || redis.subscribers("a") == 1).await;
        redis.publish("a", "1");
        assert_eq!(channel.texts(1).await, ["1"]);
        running.change(Vec::new()).await;
        assert_eq!(redis.publish("a", "nobody's"), 0);
        until("the connection is closed", || {
            redis.cli::<String>("CLIENT LIST TYPE pubsub").is_empty()
        })
        .await;
        until("said", || log.count("there is no connection for that") == round + 1).await;
    }
    assert_eq!(running.metrics.reconnects.get(), 0);
    running.stop().await;
    assert!(!log.has("lost"));
}

#[tokio::test]
async fn started_again_it_takes_up_what_was_wanted_last() {
    let redis = Redis::start_on_port(&[]);
    let mut running = Running::one(&redis.tcp(), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    running.break_off().await;
    // Nothing more can come.
    running.change(vec![running.channels[0].wants(subscribe(&["b"]), 100)]).await;
    running.run_again();
    until("subscribed", || redis.subscribers("b") == 1).await;
    until("the old connection is gone", || redis.subscribers("a") == 0).await;
    running.change(vec![running.channels[0].wants(subscribe(&["c"]), 100)]).await;
    assert_subscribed(&redis, &["c"], 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_ten_thousand_channels_is_changed_in_a_moment() {
    let redis = Redis::start_on_port(&[]);
    let sources: Vec<_> = (0..10_000).map(|n| (subscribe(&[&format!("name.{n}")]), 100)).collect();
    let running = Running::start(&redis.tcp(), sources.clone());
    until("subscribed", || redis.subscribers("name.9999") == 1).await;
    let wanted = |changed: &str| {
        let mut wanted: Vec<_> = running.channels.iter().zip(&sources).collect::<Vec<_>>();
        let (channel, _) = wanted.pop().unwrap();
        let all = wanted
            .into_iter()
            .map(|(channel, (source, most))| channel.wants(source.clone(), *most));
        all.chain([channel.wants(subscribe(&[changed]), 100)]).collect::<Vec<_>>()
    };
    let publisher = Publisher::start(&redis, &["name.0"]);
    let mut took = Vec::new();
    for round in 0..10 {
        let wanted = wanted(&format!("other.{round}"));
        let begin = Instant::now();
        running.change(wanted).await;
        took.push(begin.elapsed());
        assert_eq!(redis.subscribers(&format!("other.{round}")), 1);
    }
    let sent = publisher.end();
    assert_eq!(running.channels[0].texts(sent.len()).await, numbers(sent.len()));
    took.sort();
    let mut plan = Plan::new(wanted("a").into(), Instant::now());
    let begin = Instant::now();
    plan.begin(wanted("b").into(), Instant::now());
    let begun = begin.elapsed();
    plan.settle(Instant::now());
    println!("changes {took:?}; begin {begun:?}, settle {:?}", begin.elapsed() - begun);
    assert!(took[5] < Duration::from_secs(2), "{took:?}");
    running.stop().await;
}
