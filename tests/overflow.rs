//! Handlers slower than Redis: memory stays bounded, what doesn't fit is dropped by the channel's
//! policy, and each drop is counted by its reason.

mod support;

use support::{Got, Handlerd, Redis, Stopped, Watcher, wait_until};

/// Everything that came is either out or counted as lost for this reason.
#[track_caller]
fn accounts(stopped: &Stopped, reason: &str) {
    let last = &stopped.last;
    assert_eq!(stopped.code, 0, "{last}");
    assert!(stopped.number(reason) > 0, "{last}");
    assert_eq!(stopped.number("lost"), stopped.number(reason), "{last}");
    assert_eq!(stopped.number("received"), stopped.number("handled") + stopped.number("lost"));
    assert_eq!(stopped.number("handled"), stopped.number("delivered"), "{last}");
}

/// The numbers of the messages that came out, after `sent` of them met a handler that is held up
/// by the first one.
fn survivors(overflow: &str, sent: usize) -> Vec<usize> {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(
        &redis,
        &format!(
            r#"
            [handlers.misbehave]
            timeout = "30s"
            [channels.slow]
            subscribe = "in"
            handlers = ["misbehave"]
            publish = "out"
            queue = "64KiB"
            overflow = "{overflow}"
            "#
        ),
    );
    redis.wait_subscribed("in", 1);
    let mut client = redis.client();
    // What overflows before the outputs have a connection counts as redis_away.
    client.publish("in", "ready");
    out.wait_count(1);
    client.publish("in", "sleep 8000");
    client.publish_all("in", (0..sent).map(|n| format!("number {n}")));
    out.wait_count(2);
    let stopped = daemon.stop();
    accounts(&stopped, "overflow");
    let delivered = usize::try_from(stopped.number("delivered")).expect("a count");
    let seen: Vec<Got> = out.wait_count(delivered);
    let numbers = seen.iter().filter_map(|got| got.text().strip_prefix("number ")?.parse().ok());
    numbers.collect()
}

#[test]
fn drop_oldest_keeps_the_last() {
    let numbers = survivors("drop-oldest", 5000);
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&4999));
    // A few may be in the worker's hands already; behind them is a gap, and then only the end.
    let tail = numbers.len() - numbers.windows(2).rposition(|w| w[1] != w[0] + 1).unwrap_or(0) - 1;
    assert!(tail > 50, "{numbers:?}");
    assert!(numbers.len() < 4000);
}

#[test]
fn drop_newest_keeps_the_first() {
    let numbers = survivors("drop-newest", 5000);
    assert!(numbers.is_sorted(), "{numbers:?}");
    // The first read may fill the queue before the worker takes its batch out of it, and then there
    // is room once more: one gap, and nothing of the end.
    let first: Vec<usize> = (0..200).collect();
    assert_eq!(numbers[..200], first, "what was there first stays, without a gap");
    let gaps = numbers.windows(2).filter(|w| w[1] != w[0] + 1).count();
    assert!(gaps <= 1, "{numbers:?}");
    assert!(numbers.last() < Some(&4999) && numbers.len() < 4000, "{}", numbers.len());
}

#[test]
fn channels_whose_handlers_compute_hold_up_neither_reading_nor_a_neighbour() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["quick.out"]);
    let busy = |n: usize| {
        format!(
            "[channels.busy-{n}]\nsubscribe = \"in\"\nhandlers = [\"misbehave\"]\npublish = \"out\"\n\
             queue = \"1MiB\"\n"
        )
    };
    let quick = "[handlers.misbehave]\ntimeout = \"30s\"\ninstances = 6\n[channels.quick]\nsubscribe = \"quick\"\n\
                 handlers = []\npublish = \"quick.out\"\n";
    let text = format!("{quick}{}", (0..6).map(busy).collect::<String>());
    let mut daemon = Handlerd::start(&redis, &text);
    redis.wait_subscribed("in", 1);
    redis.wait_subscribed("quick", 1);
    let mut client = redis.client();
    // Ten milliseconds of work for each message and each of six channels.
    let payload = format!("busy {:010000}", 10_000);
    for _ in 0..40 {
        client.publish_all("in", (0..100).map(|_| &payload));
        client.publish_all("quick", (0..500).map(|n| n.to_string()));
    }
    assert_eq!(out.wait_texts(20_000).len(), 20_000);
    let stopped = daemon.stop();
    assert_eq!(stopped.number("received"), 6 * 4000 + 20_000, "{}", stopped.last);
    // What there was no room for was read all the same, and not left to Redis's patience.
    assert!(stopped.number("lost") > 4_000, "{}", stopped.last);
}

#[test]
fn memory_stays_bounded_while_a_handler_is_slow() {
    let redis = Redis::start();
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [handlers.misbehave]
        timeout = "30s"
        [channels.slow]
        subscribe = "in"
        handlers = ["misbehave"]
        publish = "out"
        queue = "8MiB"
        [channels.wide]
        pattern = "in*"
        handlers = ["misbehave"]
        publish = "out"
        queue = "8MiB"
        overflow = "drop-newest"
        "#,
    );
    redis.wait_subscribed("in", 1);
    redis.wait_patterns(1);
    let before = daemon.rss();
    let mut client = redis.client();
    // A quarter of a gigabyte for each, many times what the queues hold. A millisecond of work for
    // each message, written with many digits: slow and large.
    let payload = format!("busy {:010000}", 1000);
    for _ in 0..25 {
        client.publish_all("in", (0..1000).map(|_| &payload));
    }
    wait_until("all of it to be read", || {
        let clients: String = client.run(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        clients.contains(" omem=0 ")
    });
    let peak = daemon.peak_rss();
    let grown = (peak - before) >> 20;
    assert!(grown < 120, "resident memory grew by {grown} MiB, from {} MiB", before >> 20);
    let stopped = daemon.stop();
    assert!(stopped.number("overflow") > 1000, "{}", stopped.last);
    let (received, handled) = (stopped.number("received"), stopped.number("handled"));
    assert_eq!(received, 50_000, "{}", stopped.last);
    assert_eq!(received, handled + stopped.number("lost"), "{}", stopped.last);
}

#[test]
fn all_queues_together_are_bounded_and_the_fullest_pays() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out.small"]);
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [limits]
        memory = "2MiB"
        [handlers.misbehave]
        timeout = "30s"
        instances = 4
        [channels.full]
        subscribe = "full"
        handlers = ["misbehave"]
        publish = "out.full"
        [channels.small]
        subscribe = "small"
        handlers = ["misbehave"]
        publish = "out.small"
        "#,
    );
    redis.wait_subscribed("full", 1);
    redis.wait_subscribed("small", 1);
    let mut client = redis.client();
    client.publish("full", "sleep 8000");
    client.publish("small", "sleep 8000");
    client.publish_all("small", (0..100).map(|n| format!("small {n}")));
    client.publish_all("full", (0..2000).map(|_| "x".repeat(10_000)));
    // The small queue is whole, though it has the older messages.
    let seen = out.wait_count(101);
    assert_eq!(seen[100].text(), "small 99");
    let stopped = daemon.stop();
    let lost = stopped.number("memory") + stopped.number("overflow");
    assert!(stopped.number("memory") > 0, "{}", stopped.last);
    assert_eq!(stopped.number("lost"), lost, "{}", stopped.last);
    assert_eq!(stopped.number("received"), stopped.number("delivered") + lost);
    assert_eq!(stopped.log.iter().filter(|line| line.contains("channel small:")).count(), 0);
}

#[test]
fn what_has_to_be_sent_while_redis_is_away_waits_and_then_overflows() {
    let source = Redis::start();
    let mut target = Redis::start();
    let mut daemon = Handlerd::start(
        &source,
        &format!(
            r#"
            [connections.other]
            url = "{}"
            [channels.relay]
            subscribe = "in"
            handlers = []
            publish = {{ to = "other", channel = "out" }}
            queue = "256KiB"
            "#,
            target.url()
        ),
    );
    source.wait_subscribed("in", 1);
    let mut client = source.client();
    let first = Watcher::subscribe(&target, &["out"]);
    client.publish("in", "before");
    first.wait_payload("before");

    target.kill();
    daemon.wait_log(&["outputs wait", "other"]);
    // More than queue and writer hold together.
    client.publish_all("in", (0..20_000).map(|n| format!("{n:>8} {}", "x".repeat(1000))));
    target.restart();
    let again = Watcher::subscribe(&target, &["out"]);
    wait_until("the way to be free", || {
        client.publish("in", "after");
        again.all().iter().any(|got| got.payload == b"after")
    });
    let stopped = daemon.stop();
    let last = &stopped.last;
    assert!(stopped.number("redis_away") > 0, "{last}");
    let (received, lost) = (stopped.number("received"), stopped.number("lost"));
    assert_eq!(received, stopped.number("delivered") + lost, "{last}");
}
