//! The connection ends, and Redis with it or not.

use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::support::*;

/// The promise: messages flow again so soon after Redis is back.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn it_starts_with_redis_away() {
    let log = Log::capture();
    let mut redis = Redis::prepare_on_port(&[]);
    let begin = Instant::now();
    let running = Running::one(&redis.tcp(), subscribe(&["a"]));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let channel = &running.channels[0].metrics;
    // Counted at each attempt, a second apart at most.
    until("it is counted", || channel.gap_ms.get() >= 400).await;
    let most = begin.elapsed().as_millis() as u64;
    assert!(channel.gap_ms.get() <= most, "{} ms of {most}", channel.gap_ms.get());
    redis.start_again();
    until("subscribed", || redis.subscribers("a") == 1).await;
    redis.publish("a", "1");
    assert_eq!(running.channels[0].texts(1).await, ["1"]);
    assert_eq!(running.metrics.reconnects.get(), 0);
    assert_eq!(log.count("can't be reached"), 1);
    assert_eq!(log.count("subscribed to 1 of 1 names"), 1);
    let gap = channel.gap_ms.get();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(channel.gap_ms.get(), gap);
    running.stop().await;
}

#[tokio::test]
async fn it_stops_with_redis_away() {
    let redis = Redis::prepare_on_port(&[]);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let running = Running::one(&redis.tcp(), subscribe(&["a"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begin = Instant::now();
        running.stop().await;
        taken.push(begin.elapsed());
    }
    mostly_within(Duration::from_millis(500), &taken);
}

#[tokio::test]
async fn redis_killed_and_started_again_delivers_soon() {
    let log = Log::capture();
    let mut redis = Redis::start_on_port(&[]);
    let running =
        Running::start(&redis.tcp(), vec![(subscribe(&["a", "b"]), 100), (pattern(&["p"]), 100)]);
    let mut taken = Vec::new();
    for round in 1..=4u64 {
        until("subscribed", || redis.cli::<i64>("PUBSUB NUMPAT") == 1).await;
        let gap = running.channels[1].metrics.gap_ms.get();
        let begin = Instant::now();
        redis.kill();
        let away = Duration::from_millis(300 * round);
        tokio::time::sleep(away).await;
        redis.start_again();
        let back = Instant::now();
        until("subscribed again", || redis.cli::<i64>("PUBSUB NUMPAT") == 1).await;
        taken.push(back.elapsed());
        redis.publish("b", "1");
        redis.publish("p", "2");
        assert_eq!(running.channels[0].texts(1).await, ["1"]);
        assert_eq!(running.channels[1].texts(1).await, ["2"]);
        assert_eq!(running.metrics.reconnects.get(), round);
        let gap = running.channels[1].metrics.gap_ms.get() - gap;
        let least = away.as_millis() as u64;
        // With what was not heard before the end was noticed.
        let most = begin.elapsed().as_millis() as u64 + 1000;
        assert!((least..=most).contains(&gap), "{gap} ms, {least} at least and {most} at most");
    }
    mostly_within(SOON, &taken);
    assert_eq!(log.count("the connection is lost"), 4);
    assert_eq!(log.count("Redis is back"), 4);
    running.stop().await;
}

#[tokio::test]
async fn a_killed_connection_comes_back_every_time() {
    let redis = Redis::start_on_port(&[]);
    let running = Running::one(&redis.unix(), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    let mut taken = Vec::new();
    for _ in 1..=20 {
        let begin = Instant::now();
        assert_eq!(redis.cli::<i64>("CLIENT KILL TYPE pubsub"), 1);
        until("back", || redis.publish("a", "1") == 1).await;
        taken.push(begin.elapsed());
        assert_eq!(running.channels[0].texts(1).await, ["1"]);
    }
    mostly_within(SOON, &taken);
    assert_eq!(running.metrics.reconnects.get(), 20);
    running.stop().await;
}

#[tokio::test]
async fn what_was_sent_before_the_end_is_read() {
    let mut redis = Redis::start_on_port(&[]);
    let running = Running::one(&redis.tcp(), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    let mut batch = redis::pipe();
    (0..20_000).for_each(|n| {
        batch.cmd("PUBLISH").arg("a").arg(n);
    });
    // Nothing is read meanwhile: this test has one thread.
    let mut client = redis.client();
    let sent: Vec<i64> = batch.query(&mut client).unwrap();
    // What Redis itself still holds when it is killed is lost; the kernel delivers what it has.
    let held_by_redis = |list: String| !(list.contains(" obl=0 ") && list.contains(" oll=0 "));
    while held_by_redis(
        redis::cmd("CLIENT").arg(&["LIST", "TYPE", "pubsub"]).query(&mut client).unwrap(),
    ) {
        std::thread::sleep(Duration::from_millis(1));
    }
    redis.kill();
    assert_eq!(running.channels[0].texts(sent.len()).await.last().unwrap(), "19999");
}

#[tokio::test]
async fn a_connection_cut_on_its_way_is_replaced() {
    let redis = Redis::start_on_port(&[]);
    let proxy = Proxy::start(redis.port).await;
    let running = Running::one(&tcp(proxy.port), subscribe(&["a"]));
    let mut taken = Vec::new();
    for round in 1..=5 {
        until("subscribed", || redis.subscribers("a") == 1).await;
        proxy.cut();
        let begin = Instant::now();
        until("back", || running.metrics.reconnects.get() == round).await;
        until("back", || redis.subscribers("a") == 1).await;
        taken.push(begin.elapsed());
        redis.publish("a", "1");
        assert_eq!(running.channels[0].texts(1).await, ["1"]);
    }
    mostly_within(SOON, &taken);
    running.stop().await;
}
