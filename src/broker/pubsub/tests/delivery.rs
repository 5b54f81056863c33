//! What is published arrives, exactly as it was sent, where it belongs.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::support::*;
use crate::telemetry::DropReason;

/// Redis with and without HELLO.
const PROTOCOLS: [&[&str]; 2] = [&[], &["rename-command HELLO \"\""]];

#[tokio::test]
async fn messages_come_byte_for_byte_and_in_order() {
    for config in PROTOCOLS {
        let redis = Redis::start_on_port(config);
        for connection in [redis.tcp(), redis.unix()] {
            let running = Running::one(&connection, subscribe(&["chat", "ünï\r\n"]));
            until("subscribed", || redis.subscribers("chat") == 1).await;
            let every_byte: Vec<u8> = (0..=255).collect();
            let payloads: [&[u8]; 5] =
                [b"hello", b"", b"\r\n$3\r\n\x00\xff", &every_byte, &[7; 300_000]];
            let mut sent = Vec::new();
            for channel in ["chat", "ünï\r\n"] {
                for payload in payloads {
                    assert_eq!(redis.publish(channel, payload), 1);
                    sent.push((channel, payload));
                }
            }
            let seen = running.channels[0].take(sent.len()).await;
            for (seen, (channel, payload)) in seen.iter().zip(sent) {
                assert_eq!(seen.message.payload, payload);
                assert_eq!(&*seen.delivery.redis_channel, channel);
                assert_eq!(&*seen.delivery.table, "table0");
                assert_eq!(seen.delivery.pattern, None);
                assert_eq!(seen.delivery.attempt, 1);
            }
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
            assert!(seen.iter().all(|m| (now - 60_000..=now).contains(&m.delivery.received_at)));
            running.stop().await;
            assert_eq!(redis.subscribers("chat"), 0);
        }
    }
}

#[tokio::test]
async fn patterns_bring_the_name_and_drop_one_that_is_not_utf8() {
    for config in PROTOCOLS {
        let redis = Redis::start_on_port(config);
        let running = Running::one(&redis.tcp(), pattern(&["room.*", "r[ao]om.1"]));
        until("subscribed", || redis.cli::<i64>("PUBSUB NUMPAT") == 2).await;
        redis.publish(b"room.\xff", "lost");
        redis.publish("room.2", "one");
        redis.publish("room.1", "both");
        let seen = running.channels[0].take(3).await;
        let what = |m: &crate::queue::Received| {
            let payload = String::from_utf8(m.message.payload.clone()).unwrap();
            (payload, m.delivery.redis_channel.to_string(), m.delivery.pattern.clone().unwrap())
        };
        let mut seen: Vec<_> = seen.iter().map(what).collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                ("both".into(), "room.1".into(), "r[ao]om.1".into()),
                ("both".into(), "room.1".into(), "room.*".into()),
                ("one".into(), "room.2".into(), "room.*".into()),
            ]
        );
        let [channel] = &running.stop().await[..] else { unreachable!() };
        assert_eq!(channel.dropped(DropReason::Name), 1);
        assert_eq!(channel.metrics.received.get(), 4);
    }
}

#[tokio::test]
async fn two_channels_of_one_name_each_get_every_message_over_one_subscription() {
    let redis = Redis::start_on_port(&[]);
    let sources = vec![
        (subscribe(&["a", "b"]), 1 << 20),
        (subscribe(&["b"]), 1 << 20),
        (pattern(&["b"]), 1 << 20),
    ];
    let running = Running::start(&redis.tcp(), sources);
    until("subscribed", || redis.cli::<i64>("PUBSUB NUMPAT") == 1).await;
    assert_eq!(redis.subscribers("b"), 1);
    redis.publish("a", "1");
    redis.publish("b", "2");
    let channels = running.stop().await;
    assert_eq!(channels[0].texts(2).await, ["1", "2"]);
    assert_eq!(channels[1].texts(1).await, ["2"]);
    assert_eq!(channels[2].texts(1).await, ["2"]);
    assert_eq!(channels[0].metrics.received.get(), 2);
}

#[tokio::test]
async fn ten_thousand_names_are_subscribed_at_once() {
    let mut taken = Vec::new();
    for config in PROTOCOLS {
        let redis = Redis::start_on_port(config);
        let names: Vec<String> = (0..10_000).map(|n| format!("name.{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let begin = Instant::now();
        let running = Running::one(&redis.tcp(), subscribe(&names));
        until("subscribed", || redis.subscribers("name.9999") == 1).await;
        taken.push(begin.elapsed());
        redis.publish("name.0", "first");
        redis.publish("name.9999", "last");
        let [channel] = &running.stop().await[..] else { unreachable!() };
        assert_eq!(channel.texts(2).await, ["first", "last"]);
        assert_eq!(redis.cli::<Vec<String>>("PUBSUB CHANNELS").len(), 0);
    }
    // A round trip for each would be 0.5 s even without any other load; usually this is 0.1 s. Once the
    // machine may stand still.
    assert!(taken.iter().any(|taken| *taken < Duration::from_secs(3)), "{taken:?}");
}

#[tokio::test]
async fn a_payload_too_large_for_one_channel_is_dropped_for_that_one() {
    let redis = Redis::start_on_port(&[]);
    let sources = vec![(subscribe(&["a"]), 10), (subscribe(&["a"]), 100_000)];
    let running = Running::start(&redis.tcp(), sources);
    until("subscribed", || redis.subscribers("a") == 1).await;
    for size in [10, 11, 100_000, 100_001] {
        redis.publish("a", vec![b'x'; size]);
    }
    let channels = running.stop().await;
    let sizes = |seen: Vec<String>| seen.iter().map(String::len).collect::<Vec<_>>();
    assert_eq!(sizes(channels[0].texts(1).await), [10]);
    assert_eq!(sizes(channels[1].texts(3).await), [10, 11, 100_000]);
    for (channel, dropped) in channels.iter().zip([3, 1]) {
        assert_eq!(channel.dropped(DropReason::TooLarge), dropped);
        assert_eq!(channel.metrics.received.get(), 4);
    }
}

#[tokio::test]
async fn a_payload_that_nobody_takes_costs_no_memory() {
    let redis = Redis::start_on_port(&["client-output-buffer-limit pubsub 0 0 0"]);
    let running = Running::one(&redis.tcp(), subscribe(&["a"]));
    until("subscribed", || redis.subscribers("a") == 1).await;
    let before = resident();
    let publish = "return redis.call('PUBLISH', 'a', string.rep('x', 256 * 1024 * 1024))";
    assert_eq!(redis.try_ask::<i64>(&[b"EVAL", publish.as_bytes(), b"0"]).unwrap(), 1);
    let channel = &running.channels[0];
    let mut most = 0;
    until("dropped", || {
        most = most.max(resident());
        channel.dropped(DropReason::TooLarge) == 1
    })
    .await;
    redis.publish("a", "small");
    until("handed on", || {
        most = most.max(resident());
        channel.queue.bytes() > 0
    })
    .await;
    // The other tests run in this process too.
    assert!(most < before + (200 << 20), "{} MiB more", (most - before) >> 20);
    assert_eq!(running.metrics.reconnects.get(), 0);
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_takes_everything_that_was_sent_before() {
    static PUBLISHING: AtomicBool = AtomicBool::new(true);
    for config in PROTOCOLS {
        let redis = Redis::start_on_port(config);
        let running = Running::start(
            &redis.tcp(),
            vec![(subscribe(&["a", "b"]), 1 << 20), (pattern(&["p*"]), 1 << 20)],
        );
        until("subscribed", || redis.cli::<i64>("PUBSUB NUMPAT") == 1).await;
        PUBLISHING.store(true, Relaxed);
        let mut client = redis.client();
        // Redis itself says how many it sent each message to.
        let publisher = std::thread::spawn(move || {
            let mut sent = [0i64; 2];
            let mut batch = redis::pipe();
            for _ in 0..100 {
                batch.cmd("PUBLISH").arg("a").arg("payload");
                batch.cmd("PUBLISH").arg("pat").arg("payload");
            }
            while PUBLISHING.load(Relaxed) {
                let receivers: Vec<i64> = batch.query(&mut client).unwrap();
                sent[0] += receivers.iter().step_by(2).sum::<i64>();
                sent[1] += receivers.iter().skip(1).step_by(2).sum::<i64>();
            }
            sent
        });
        let received = |i: usize| running.channels[i].metrics.received.get();
        until("messages flow", || received(0) > 1000 && received(1) > 1000).await;
        let channels = running.stop().await;
        PUBLISHING.store(false, Relaxed);
        let sent = publisher.join().unwrap();
        assert!(sent[0] > 1000, "{sent:?}");
        let received = [0, 1].map(|i: usize| channels[i].metrics.received.get() as i64);
        assert_eq!(received, sent);
        for channel in &channels {
            channel.queue.abandon();
        }
    }
}
