//! Pattern sources: Redis's own patterns, each message once for each pattern that matches.

mod support;

use support::{Got, Handlerd, Redis, Watcher};

#[test]
fn patterns_are_redis_patterns() {
    let redis = Redis::start();
    let out = Watcher::psubscribe(&redis, &["out.*"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.rooms]
        pattern = ["room.*", "h[ae]llo", "h[^ae]llo", "b?b", "exact\\*"]
        handlers = []
        publish = "out.{channel}"
        "#,
    );
    redis.wait_patterns(6);
    let mut client = redis.client();
    let matching = ["room.", "room.1", "room.a.b", "hallo", "hxllo", "bob", "exact*", "room.{x}"];
    for channel in matching.iter().chain(&["room", "hllo", "boob", "exactly"]) {
        client.publish(channel, channel);
    }
    client.publish("room.end", "end");
    let seen = out.wait_payload("end");
    let seen: Vec<_> = seen.iter().map(|got| got.channel.trim_start_matches("out.")).collect();
    assert_eq!(seen, [&matching[..], &["room.end"]].concat());
}

#[test]
fn a_message_comes_once_for_each_pattern_that_matches() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["copy"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.rooms]
        pattern = ["room.*", "*.1"]
        handlers = []
        publish = "copy"
        [channels.name]
        subscribe = "room.1"
        handlers = []
        publish = "copy"
        "#,
    );
    redis.wait_patterns(2);
    redis.wait_subscribed("room.1", 1);
    let mut client = redis.client();
    client.publish("room.1", "three times");
    client.publish("room.2", "once");
    let seen = out.wait_count(4);
    let times = |text: &str| seen.iter().filter(|got| got.text() == text).count();
    assert_eq!((times("three times"), times("once")), (3, 1));
}

#[test]
fn a_channel_whose_name_is_not_text_is_dropped_and_counted() {
    let redis = Redis::start();
    let out = Watcher::psubscribe(&redis, &["out.*"]);
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [channels.rooms]
        pattern = "room.*"
        handlers = []
        publish = "out.{channel}"
        "#,
    );
    redis.wait_patterns(2);
    let mut client = redis.client();
    client.publish(b"room.\xff\xfe", "lost");
    client.publish("room.é", "found");
    let seen: Vec<Got> = out.wait_count(1);
    assert_eq!((seen[0].channel.as_str(), seen[0].text().as_str()), ("out.room.é", "found"));
    let stopped = daemon.stop();
    assert_eq!((stopped.number("name"), stopped.number("delivered")), (1, 1), "{}", stopped.last);
}
