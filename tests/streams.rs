//! Entries of streams through the real daemon: each once, whatever happens; failures, dead letters.

mod support;

use std::collections::BTreeMap;

use support::{Handlerd, Redis, wait_until};

const ORDERS: &str = r#"
    [channels.orders]
    stream = "orders"
    group = "billing"
    start = "oldest"
    claim_idle = "1s"
    handlers = ["misbehave"]
    append = "orders.done"
    retry_for = "10s"
"#;

/// An append-only file that is written at once: what this Redis has said, it keeps.
fn safe_redis() -> Redis {
    Redis::with("appendonly yes\nappendfsync always")
}

fn add<'p>(redis: &Redis, key: &str, payloads: impl Iterator<Item = &'p str>) {
    let mut pipe = redis::pipe();
    for payload in payloads {
        pipe.cmd("XADD").arg(key).arg("*").arg("payload").arg(payload).ignore();
    }
    pipe.query::<()>(redis.client().raw()).expect("pipelined XADD");
}

fn entries(redis: &Redis, key: &str) -> Vec<BTreeMap<String, String>> {
    let range: Vec<(String, BTreeMap<String, String>)> = redis.run(&["XRANGE", key, "-", "+"]);
    range.into_iter().map(|(_, fields)| fields).collect()
}

fn payloads(redis: &Redis, key: &str) -> Vec<String> {
    entries(redis, key).into_iter().map(|entry| entry["payload"].clone()).collect()
}

fn pending(redis: &Redis, key: &str, group: &str) -> u64 {
    redis.run::<(u64, redis::Value, redis::Value, redis::Value)>(&["XPENDING", key, group]).0
}

#[test]
fn what_was_there_before_and_what_comes_is_handled_in_order() {
    let redis = Redis::start();
    let before: Vec<String> = (0..1000).map(|n| format!("echo {n}")).collect();
    add(&redis, "orders", before.iter().map(String::as_str));
    let mut daemon = Handlerd::start(&redis, ORDERS);
    let after: Vec<String> = (1000..5000).map(|n| format!("echo {n}")).collect();
    add(&redis, "orders", after.iter().map(String::as_str));
    wait_until("all entries", || redis.run::<u64>(&["XLEN", "orders.done"]) >= 5000);
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&redis, "orders.done"), expected);
    assert_eq!(pending(&redis, "orders", "billing"), 0);
    let stopped = daemon.stop();
    assert_eq!(stopped.number("handled"), 5000, "{}", stopped.last);
    assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
}

#[test]
fn headers_come_along_and_outputs_of_every_kind_are_written() {
    let redis = Redis::start();
    let out = support::Watcher::subscribe(&redis, &["orders.said"]);
    let config = r#"
        [channels.orders]
        stream = "orders"
        group = "billing"
        handlers = []
        append = "orders.done"
        push = "orders.list"
        publish = "orders.said"
    "#;
    let mut daemon = Handlerd::start(&redis, config);
    daemon.wait_log(&["the group billing was made"]);
    let add = ["XADD", "orders", "*", "lang", "en", "payload", "p", "tag", "a"];
    redis.run::<String>(&add);
    assert_eq!(out.wait_texts(1), ["p"]);
    let range: redis::Value = redis.run(&["XRANGE", "orders.done", "-", "+"]);
    let shown = format!("{range:?}");
    let order = ["payload", "lang", "en", "tag"].map(|word| shown.find(word).expect("a field"));
    assert!(order.is_sorted(), "{shown}");
    assert_eq!(redis.client().list("orders.list"), [b"p".to_vec()]);
    wait_until("nothing pending", || pending(&redis, "orders", "billing") == 0);
}

#[test]
fn what_fails_is_tried_again_or_becomes_a_dead_letter() {
    let redis = Redis::start();
    let mut daemon =
        Handlerd::start(&redis, &ORDERS.replace("retry_for", "retries = 1\nretry_for"));
    add(&redis, "orders", ["echo 1", "reject no way", "trap", "echo 2"].into_iter());
    redis.run::<String>(&["XADD", "orders", "*", "other", "field"]);
    wait_until("the dead letters", || redis.run::<u64>(&["XLEN", "orders.dead"]) == 3);
    wait_until("nothing pending", || pending(&redis, "orders", "billing") == 0);
    assert_eq!(payloads(&redis, "orders.done"), ["1", "2"]);
    let dead = entries(&redis, "orders.dead");
    let of = |kind: &str| {
        let found = dead.iter().find(|letter| letter["handlerd-kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {dead:?}"))
    };
    let rejected = of("reject");
    assert_eq!(rejected["payload"], "reject no way");
    assert_eq!((&*rejected["handlerd-reason"], &*rejected["handlerd-attempts"]), ("no way", "1"));
    assert_eq!(
        (&*rejected["handlerd-channel"], &*rejected["handlerd-handler"]),
        ("orders", "misbehave")
    );
    assert_eq!((&*of("trap")["payload"], &*of("trap")["handlerd-attempts"]), ("trap", "2"));
    assert_eq!(of("no_payload")["other"], "field");
    let stopped = daemon.stop();
    assert!(stopped.last.contains(", 3 dead letters, 0 lost"), "{}", stopped.last);
}

#[test]
fn a_pubsub_channel_keeps_dead_letters_too_when_asked() {
    let redis = Redis::start();
    let config = r#"
        [channels.work]
        subscribe = "in"
        handlers = ["misbehave"]
        append = "out"
        dead_letter = "work.dead"
        retries = 1
    "#;
    let _daemon = Handlerd::start(&redis, config);
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["reject no", "header lang en", "trap"]);
    wait_until("dead letters", || redis.run::<u64>(&["XLEN", "work.dead"]) == 2);
    assert_eq!(payloads(&redis, "work.dead"), ["reject no", "trap"]);
    assert_eq!(entries(&redis, "work.dead")[0]["handlerd-redis-channel"], "in");
    assert_eq!(entries(&redis, "out")[0]["lang"], "en");
}

#[test]
fn a_daemon_that_is_killed_loses_and_doubles_nothing() {
    let redis = safe_redis();
    let all: Vec<String> = (0..20_000).map(|n| format!("echo {n}")).collect();
    add(&redis, "orders", all.iter().map(String::as_str));
    for round in 1.. {
        // Killed when it is dropped, somewhere in the middle.
        let _daemon = Handlerd::start(&redis, ORDERS);
        let done = |least: u64| redis.run::<u64>(&["XLEN", "orders.done"]) >= least;
        wait_until("some entries", || done((round * 3_000).min(20_000)));
        if done(20_000) {
            wait_until("nothing pending", || pending(&redis, "orders", "billing") == 0);
            break;
        }
    }
    let mut done: Vec<u32> =
        payloads(&redis, "orders.done").iter().map(|n| n.parse().expect("a number")).collect();
    assert_eq!(done.len(), 20_000);
    done.sort_unstable();
    assert!(done.iter().copied().eq(0..20_000));
}

#[test]
fn a_redis_that_is_killed_loses_and_doubles_nothing() {
    let mut redis = safe_redis();
    let _daemon = Handlerd::start(&redis, ORDERS);
    let all: Vec<String> = (0..10_000).map(|n| format!("echo {n}")).collect();
    add(&redis, "orders", all.iter().map(String::as_str));
    for round in 1..=3 {
        wait_until("some entries", || redis.run::<u64>(&["XLEN", "orders.done"]) >= round * 1_000);
        redis.kill();
        redis.restart();
    }
    wait_until("all entries", || redis.run::<u64>(&["XLEN", "orders.done"]) >= 10_000);
    wait_until("nothing pending", || pending(&redis, "orders", "billing") == 0);
    let expected: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&redis, "orders.done"), expected);
}

#[test]
fn what_was_trimmed_off_a_stream_is_logged_without_any_pubsub_channel() {
    let redis = Redis::start();
    redis.run::<()>(&["XGROUP", "CREATE", "orders", "billing", "0", "MKSTREAM"]);
    add(&redis, "orders", ["echo 1", "echo 2", "echo 3"].into_iter());
    redis.run::<redis::Value>(&[
        "XREADGROUP",
        "GROUP",
        "billing",
        "gone",
        "STREAMS",
        "orders",
        ">",
    ]);
    redis.run::<u64>(&["XTRIM", "orders", "MAXLEN", "1"]);
    let mut daemon = Handlerd::start(&redis, ORDERS);
    daemon.wait_log(&["channel orders: 2 messages dropped: trimmed"]);
    wait_until("the rest", || payloads(&redis, "orders.done") == ["3"]);
    let stopped = daemon.stop();
    assert_eq!((stopped.number("handled"), stopped.number("trimmed")), (1, 2), "{}", stopped.last);
}

#[test]
fn two_daemons_share_a_group() {
    let redis = Redis::start();
    // What one of them has in hand stays its own, however long it stands still.
    let config = ORDERS.replace("claim_idle = \"1s\"", "claim_idle = \"5m\"");
    let mut first = Handlerd::start(&redis, &config);
    let mut second = Handlerd::start(&redis, &config);
    // Who waits longest is given the first entry, and the other one the second.
    wait_until("both to wait for entries", || {
        redis.run::<String>(&["INFO", "clients"]).contains("blocked_clients:2\r\n")
    });
    for n in 0..200 {
        let some: Vec<String> = (n * 50..(n + 1) * 50).map(|n| format!("echo {n}")).collect();
        add(&redis, "orders", some.iter().map(String::as_str));
    }
    wait_until("all entries", || redis.run::<u64>(&["XLEN", "orders.done"]) >= 10_000);
    let (first, second) = (first.stop().number("handled"), second.stop().number("handled"));
    assert_eq!(first + second, 10_000);
    assert!(first > 0 && second > 0, "{first} and {second}");
    assert_eq!(redis.run::<u64>(&["XLEN", "orders.done"]), 10_000);
}

#[test]
fn an_orderly_stop_gives_back_what_is_not_begun() {
    let redis = Redis::start();
    let config =
        ORDERS.replace("handlers = [\"misbehave\"]", "handlers = [\"misbehave\"]\nbatch = 50");
    let times = "[daemon]\ndrain_timeout = \"5s\"\n[handlers.misbehave]\ntimeout = \"60s\"\n";
    let config = format!("{times}{config}");
    add(&redis, "orders", std::iter::repeat_n("loop", 20));
    let mut daemon = Handlerd::start(&redis, &config);
    daemon.wait_log(&["the group billing was made"]);
    wait_until("something in hand", || pending(&redis, "orders", "billing") > 0);
    daemon.stop();
    // Nobody counted their delivery: the next daemon has them as new.
    let rows: Vec<(String, String, u64, u64)> =
        redis.run(&["XPENDING", "orders", "billing", "-", "+", "100"]);
    let begun = rows.iter().filter(|(.., deliveries)| *deliveries > 0).count();
    assert!(begun <= 1, "{rows:?}");
}

#[test]
fn what_goes_to_another_redis_is_there_before_the_entry_is_done() {
    let redis = Redis::start();
    let mut far = safe_redis();
    let config = format!(
        r#"
        [connections.far]
        url = "{}"
        [channels.orders]
        stream = "orders"
        group = "billing"
        start = "oldest"
        handlers = ["misbehave"]
        append = ["orders.done", {{ to = "far", stream = "orders.copy" }}]
        "#,
        far.url()
    );
    let _daemon = Handlerd::start(&redis, &config);
    let some: Vec<String> = (0..500).map(|n| format!("echo {n}")).collect();
    for half in [&some[..250], &some[250..]] {
        add(&redis, "orders", half.iter().map(String::as_str));
        wait_until("some entries", || far.run::<u64>(&["XLEN", "orders.copy"]) > 10);
        far.kill();
        far.restart();
    }
    wait_until("all entries", || redis.run::<u64>(&["XLEN", "orders.done"]) == 500);
    wait_until("nothing pending", || pending(&redis, "orders", "billing") == 0);
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&redis, "orders.done"), expected);
    // At least once there: some may have come twice, none is missing.
    let mut copied = payloads(&far, "orders.copy");
    copied.sort_by_key(|n| n.parse::<u32>().expect("a number"));
    copied.dedup();
    assert_eq!(copied, expected);
}

#[test]
fn several_workers_keep_the_order_of_what_is_alike() {
    let redis = Redis::start();
    let config = r#"
        [channels.orders]
        stream = "orders"
        group = "billing"
        start = "oldest"
        workers = 4
        order_by = "customer"
        handlers = ["misbehave"]
        append = "orders.done"
    "#;
    let mut pipe = redis::pipe();
    for n in 0..3000 {
        let customer = format!("c{}", n % 7);
        let fields = ["customer", &customer, "payload", &format!("echo {n}")];
        pipe.cmd("XADD").arg("orders").arg("*").arg(&fields).ignore();
    }
    pipe.query::<()>(redis.client().raw()).expect("pipelined XADD");
    let _daemon = Handlerd::start(&redis, config);
    wait_until("all entries", || redis.run::<u64>(&["XLEN", "orders.done"]) == 3000);
    let done: Vec<u32> =
        payloads(&redis, "orders.done").iter().map(|n| n.parse().expect("a number")).collect();
    for customer in 0..7 {
        let own: Vec<u32> = done.iter().copied().filter(|n| n % 7 == customer).collect();
        assert!(own.is_sorted(), "customer {customer}: {own:?}");
    }
}
