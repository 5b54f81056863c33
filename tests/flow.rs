//! The way of a message: order, filters, maps, fan-out, several channels, outputs of every kind.

mod support;

use support::{Got, Handlerd, Redis, Watcher, wait_until};

#[test]
fn a_channel_without_handlers_passes_messages_on_in_order() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.plain]
        subscribe = "in"
        handlers = []
        publish = "out"
        "#,
    );
    redis.wait_subscribed("in", 1);
    let sent: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    redis.client().publish_all("in", &sent);
    assert_eq!(out.wait_texts(sent.len()), sent);
}

#[test]
fn plugins_map_messages_in_order() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["chat.out"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [handlers.redact]
        config = { words = "foo, bar" }
        [channels.chat]
        handlers = ["redact", "announce"]
        publish = "chat.out"
        "#,
    );
    redis.wait_subscribed("chat", 1);
    let sent = (0..5000).map(|n| format!("say foo {n}"));
    redis.client().publish_all("chat", sent);
    let expected: Vec<String> =
        (0..5000).map(|n| format!("Received message 'say *** {n}' from channel 'chat'")).collect();
    assert_eq!(out.wait_texts(expected.len()), expected);
}

const MISBEHAVE: &str = r#"
    [channels.work]
    subscribe = "in"
    handlers = ["misbehave"]
    publish = "out"
    routes = { publish = ["vip.*"], push = ["audit", "audit.[ab]"] }
"#;

#[test]
fn a_filter_ends_a_message_and_a_fan_out_makes_several() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(&redis, MISBEHAVE);
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["first", "drop", "fan 3", "last"]);
    let texts: Vec<String> = out.wait_payload("last").iter().map(Got::text).collect();
    assert_eq!(texts.len(), 5, "{texts:?}");
    assert_eq!((texts[0].as_str(), texts[4].as_str()), ("first", "last"));
    let stopped = daemon.stop();
    let number = |name| stopped.number(name);
    assert_eq!((number("received"), number("handled"), number("delivered")), (4, 4, 5));
    assert_eq!(number("lost"), 0, "{}", stopped.last);
}

#[test]
fn every_branch_goes_through_the_rest_of_the_chain() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.work]
        subscribe = "in"
        handlers = ["misbehave", "announce"]
        publish = "out"
        "#,
    );
    redis.wait_subscribed("in", 1);
    redis.client().publish("in", "fan 4");
    for text in out.wait_texts(4) {
        assert!(text.starts_with("Received message '"), "{text}");
        assert!(text.ends_with("' from channel 'in'"), "{text}");
    }
}

#[test]
fn routes_lead_where_they_are_permitted_and_nowhere_else() {
    let redis = Redis::start();
    let out = Watcher::psubscribe(&redis, &["*"]);
    let mut daemon = Handlerd::start(&redis, MISBEHAVE);
    redis.wait_subscribed("in", 1);
    let mut client = redis.client();
    let commands = [
        "route vip.ann hello ann",
        "route audit one",
        "route audit.b two",
        "route audit.c refused",
        "route vip refused",
        "route in refused",
        "plain",
    ];
    client.publish_all("in", commands);
    out.wait_until("the last one", |seen| {
        seen.iter().any(|got| got.channel == "out" && got.payload == b"plain")
    });
    wait_until("the lists to be filled", || {
        client.list("audit").len() == 1 && client.list("audit.b").len() == 1
    });
    assert_eq!(client.list("audit"), [b"one"]);
    assert_eq!(client.list("audit.b"), [b"two"]);
    let went: Vec<(String, String)> = out
        .all()
        .iter()
        .filter(|got| got.channel != "in")
        .map(|got| (got.channel.clone(), got.text()))
        .collect();
    let to = |channel: &str, text: &str| (channel.to_owned(), text.to_owned());
    assert_eq!(went, [to("vip.ann", "hello ann"), to("out", "plain")]);
    assert_eq!(client.list("audit.c").len(), 0);
    daemon.wait_log(&["work", "misbehave", "route", "audit.c"]);
    let stopped = daemon.stop();
    assert_eq!((stopped.number("delivered"), stopped.number("failed")), (4, 3), "{}", stopped.last);
}

#[test]
fn a_route_leaves_the_chain_at_once() {
    let redis = Redis::start();
    let out = Watcher::psubscribe(&redis, &["out", "vip.*"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.work]
        subscribe = "in"
        handlers = ["misbehave", "announce"]
        publish = "out"
        routes = { publish = ["vip.*"] }
        "#,
    );
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["route vip.bob as it is", "end"]);
    let seen = out.wait_count(2);
    assert_eq!((seen[0].channel.as_str(), seen[0].text().as_str()), ("vip.bob", "as it is"));
    assert_eq!(seen[1].text(), "Received message 'end' from channel 'in'");
}

#[test]
fn every_output_gets_every_message() {
    let (redis, other) = (Redis::start(), Redis::start());
    let out = Watcher::psubscribe(&redis, &["*out*"]);
    let elsewhere = Watcher::subscribe(&other, &["copy.in"]);
    let mut daemon = Handlerd::start(
        &redis,
        &format!(
            r#"
            [connections.eu]
            url = "{}"
            [channels.all]
            subscribe = "in"
            handlers = []
            publish = ["out.1", "out.2", "{{channel}}.out", {{ to = "eu", channel = "copy.{{channel}}" }}]
            push = "list"
            log = true
            "#,
            other.url()
        ),
    );
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["a", "b\u{1b}[2J\nc"]);
    let seen = out.wait_count(6);
    for channel in ["out.1", "out.2", "in.out"] {
        let own = seen.iter().filter(|got| got.channel == channel).map(Got::text);
        assert_eq!(own.collect::<Vec<_>>(), ["a", "b\u{1b}[2J\nc"], "{channel}");
    }
    assert_eq!(elsewhere.wait_texts(2), ["a", "b\u{1b}[2J\nc"]);
    let mut client = redis.client();
    wait_until("the list", || client.list("list").len() == 2);
    assert_eq!(client.list("list"), [&b"a"[..], b"b\x1b[2J\nc"]);
    // Shown escaped: a payload can't forge a line or move a cursor.
    daemon.wait_log(&["all", "in", r"b\u{1b}[2J\nc"]);
    let stopped = daemon.stop();
    assert_eq!(stopped.number("delivered"), 12, "{}", stopped.last);
}

#[test]
fn channels_are_independent_and_may_share_a_source() {
    let redis = Redis::start();
    let out = Watcher::psubscribe(&redis, &["out.*"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.one]
        subscribe = ["a", "b"]
        handlers = []
        publish = "out.one"
        [channels.two]
        subscribe = "b"
        handlers = ["announce"]
        publish = "out.two"
        [channels.three]
        pattern = "[bc]"
        handlers = []
        publish = "out.three.{channel}"
        "#,
    );
    redis.wait_subscribed("a", 1);
    redis.wait_subscribed("b", 1);
    redis.wait_patterns(2);
    // One subscription, whoever wants it.
    assert_eq!(redis.client().subscribers("b"), 1);
    let mut client = redis.client();
    for channel in ["a", "b", "c"] {
        client.publish(channel, channel.to_uppercase());
    }
    let seen = out.wait_count(5);
    let mut seen: Vec<_> = seen.iter().map(|got| (got.channel.as_str(), got.text())).collect();
    seen.sort();
    let expected = [
        ("out.one", "A"),
        ("out.one", "B"),
        ("out.three.b", "B"),
        ("out.three.c", "C"),
        ("out.two", "Received message 'B' from channel 'b'"),
    ];
    assert_eq!(seen, expected.map(|(channel, text)| (channel, text.to_owned())));
}

#[test]
fn several_workers_handle_everything_once() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [channels.work]
        subscribe = "in"
        handlers = ["announce"]
        publish = "out"
        workers = 4
        "#,
    );
    redis.wait_subscribed("in", 1);
    let numbers: Vec<String> = (0..3000).map(|n| format!("{n:05}")).collect();
    redis.client().publish_all("in", &numbers);
    let mut seen = out.wait_texts(numbers.len());
    seen.sort();
    let expected: Vec<String> = numbers
        .iter()
        .map(|number| format!("Received message '{number}' from channel 'in'"))
        .collect();
    assert_eq!(seen, expected);
}
