//! The connection is up but delivers nothing, or not everything.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::proxy::Proxy;
use super::support::*;

#[tokio::test]
async fn a_half_open_connection_is_found_within_two_seconds() {
    let log = Log::capture();
    let redis = Redis::start_on_port(&[]);
    let proxy = Proxy::start(redis.port).await;
    let running = Running::one(&tcp(proxy.port), subscribe(&["a"]));
    let mut taken = Vec::new();
    for round in 1..=3 {
        // The old connection lives on at Redis's end.
        until("subscribed", || redis.subscribers("a") as u64 == round).await;
        redis.publish("a", "before");
        assert_eq!(running.channels[0].texts(1).await, ["before"]);
        let gap = running.channels[0].metrics.gap_ms.get();
        proxy.freeze();
        let begin = Instant::now();
        until("found", || redis.subscribers("a") as u64 == round + 1).await;
        taken.push(begin.elapsed());
        redis.publish("a", "after");
        assert_eq!(running.channels[0].texts(1).await, ["after"]);
        assert_eq!(running.metrics.reconnects.get(), round);
        // All the time without proof is in the gap.
        let gap = running.channels[0].metrics.gap_ms.get() - gap;
        let most = begin.elapsed().as_millis() as u64 + 1000;
        assert!((500..=most).contains(&gap), "{gap} ms, {most} at most");
    }
    mostly_within(Duration::from_secs(2), &taken);
    assert_eq!(log.count("up but silent"), 3);
    running.stop().await;
}

#[tokio::test]
async fn a_connection_that_stalls_for_a_moment_is_kept() {
    let redis = Redis::start_on_port(&[]);
    let proxy = Proxy::start(redis.port).await;
    let running = Running::one(&tcp(proxy.port), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    for n in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        proxy.freeze();
        redis.publish("a", n.to_string());
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.thaw();
        assert_eq!(running.channels[0].texts(1).await, [n.to_string()]);
    }
    assert_eq!(running.metrics.reconnects.get(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_stopped_redis_loses_nothing_that_it_had_buffered() {
    for hello in ["", "rename-command HELLO \"\""] {
        let log = Log::capture();
        let redis = Redis::start_on_port(&[hello]);
        let running = Running::one(&redis.tcp(), subscribe(&["a"]));
        until("subscribed", || redis.subscribers("a") == 1).await;
        let (mut sent, mut taken) = (0, Vec::new());
        for stopped in [700, 1500, 3500] {
            let mut client = redis.client();
            redis.signal(Signal::STOP);
            // Commands that Redis finds when it goes on.
            let mut batch = redis::pipe();
            (0..500).for_each(|n| {
                batch.cmd("PUBLISH").arg("a").arg(sent + n);
            });
            sent += 500;
            client.send_packed_command(&batch.get_packed_pipeline()).unwrap();
            let noticed = log.count("no answer from Redis");
            tokio::time::sleep(Duration::from_millis(stopped)).await;
            // Where the machine is busy that may take longer.
            until("it is noticed", || {
                stopped < 1000 || log.count("no answer from Redis") > noticed
            })
            .await;
            redis.signal(Signal::CONT);
            let begin = Instant::now();
            let seen = running.channels[0].texts(500).await;
            taken.push(begin.elapsed());
            let expected: Vec<String> = (sent - 500..sent).map(|n| n.to_string()).collect();
            assert_eq!(seen, expected);
        }
        mostly_within(Duration::from_secs(2), &taken);
        assert_eq!(running.metrics.reconnects.get(), 0);
        assert_eq!(redis.subscribers("a"), 1);
        assert!(log.count("Redis answers again") >= 2);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_stopped_redis_that_is_killed_is_waited_for() {
    let mut redis = Redis::start_on_port(&[]);
    let running = Running::one(&redis.tcp(), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    redis.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    redis.kill();
    redis.start_again();
    until("back", || redis.subscribers("a") == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_subscription_ended_behind_our_back_is_mended() {
    let mut taken = Vec::new();
    for hello in ["", "rename-command HELLO \"\""] {
        for (hidden, told) in [
            (false, "Redis ended the subscription to \"b\""),
            (true, "lost subscriptions to SUBSCRIBE \"b\":"),
        ] {
            let log = Log::capture();
            let redis = Redis::start_on_port(&[hello]);
            let proxy = Proxy::start(redis.port).await;
            let sources = vec![(subscribe(&["a", "b"]), 100), (pattern(&["p"]), 100)];
            let running = Running::start(&tcp(proxy.port), sources);
            until("subscribed", || log.has("subscribed to 3 of 3 names")).await;
            if hidden {
                proxy.hide_unsubscribed();
            }
            let gaps: Vec<u64> = running.channels.iter().map(|c| c.metrics.gap_ms.get()).collect();
            proxy.inject("UNSUBSCRIBE b");
            let begin = Instant::now();
            until("mended", || log.has(told)).await;
            until("mended", || redis.subscribers("b") == 1).await;
            taken.push(begin.elapsed());
            redis.publish("b", "1");
            redis.publish("p", "2");
            assert_eq!(running.channels[0].texts(1).await, ["1"]);
            assert_eq!(running.channels[1].texts(1).await, ["2"]);
            assert_eq!(running.metrics.reconnects.get(), 0);
            if hidden {
                assert!(running.channels[0].metrics.gap_ms.get() > gaps[0]);
            }
            assert_eq!(running.channels[1].metrics.gap_ms.get(), gaps[1]);
            running.stop().await;
        }
    }
    mostly_within(Duration::from_secs(2), &taken);
}

#[tokio::test]
async fn a_subscription_that_is_not_ours_makes_a_new_connection() {
    let redis = Redis::start_on_port(&[]);
    let proxy = Proxy::start(redis.port).await;
    let running = Running::one(&tcp(proxy.port), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    proxy.inject("SUBSCRIBE stranger");
    until("a new connection", || running.metrics.reconnects.get() == 1).await;
    until("subscribed", || redis.subscribers("a") == 1).await;
    assert_eq!(redis.subscribers("stranger"), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_busy_redis_is_waited_for() {
    let log = Log::capture();
    let redis = Redis::start_on_port(&["lua-time-limit 100"]);
    let running = Running::one(&redis.tcp(), subscribe(&["a", "b"]));
    until("subscribed", || redis.subscribers("b") == 1).await;
    let mut client = redis.client();
    let script = std::thread::spawn(move || {
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut client)
    });
    tokio::time::sleep(Duration::from_millis(2500)).await;
    redis.cli::<()>("SCRIPT KILL");
    assert!(script.join().unwrap().is_err());
    redis.publish("b", "1");
    assert_eq!(running.channels[0].texts(1).await, ["1"]);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(running.metrics.reconnects.get(), 0);
    assert!(!log.has("refuses"));
    running.stop().await;
}
