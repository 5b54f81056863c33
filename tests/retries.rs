//! A message that is tried again: what waits for it and what does not, and how a mended plugin ends it.

mod support;

use std::fs;
use std::path::Path;

use support::plugins::{bundled, misbehave};
use support::{Handlerd, Redis, Watcher, wait_until};

/// Fails, and isn't to be tried again before no test would wait for it: only a reload ends the pause.
const FAILS: &str = "retry-after 86400000 not yet";

const PUBSUB: &str = r#"
    [channels.work]
    subscribe = "in"
    handlers = ["misbehave"]
    publish = "out"
    retries = "forever"
"#;

const STREAM: &str = r#"
    [channels.work]
    stream = "in"
    group = "g"
    start = "oldest"
    handlers = ["misbehave"]
    append = "done"
    retries = "forever"
"#;

/// Put another plugin in the place of the one that fails, the way a careful program does.
fn exchange(daemon: &Handlerd, file: &Path, further: &[u8]) {
    let mut bytes = fs::read(file).expect("the plugin is there");
    bytes.extend(further);
    let plugin = daemon.dir().join("plugins/misbehave.wasm");
    let aside = plugin.with_extension("aside");
    fs::write(&aside, bytes).expect("it is written");
    fs::rename(&aside, plugin).expect("it is renamed");
}

/// One that does what the payload says, as before, but isn't the same: a custom section at its end.
fn exchange_in_vain(daemon: &Handlerd) {
    exchange(daemon, &misbehave(), b"\0\x06\x05other");
}

/// One that lets everything pass.
fn mend(daemon: &Handlerd) {
    exchange(daemon, &bundled("announce"), b"");
}

/// What the mended one makes of these.
fn announced(payloads: &[&str]) -> Vec<String> {
    let of = |payload: &&str| format!("Received message '{payload}' from channel 'in'");
    payloads.iter().map(of).collect()
}

/// Entries of the stream `in`: customer and payload.
fn add<'p>(redis: &Redis, entries: impl IntoIterator<Item = (&'p str, &'p str)>) {
    let mut pipe = redis::pipe();
    for (customer, payload) in entries {
        let add = pipe.cmd("XADD").arg("in").arg("*").arg("customer").arg(customer);
        add.arg("payload").arg(payload).ignore();
    }
    pipe.query::<()>(redis.client().raw()).expect("pipelined XADD");
}

/// Wait for so many entries in the stream `done`; their payloads.
#[track_caller]
fn done(redis: &Redis, count: u64) -> Vec<String> {
    let length = || redis.run::<u64>(&["XLEN", "done"]);
    wait_until(&format!("{count} entries are done"), || length() >= count);
    let range: Vec<(String, Vec<String>)> = redis.run(&["XRANGE", "done", "-", "+"]);
    let payload = |(_, fields): (String, Vec<String>)| {
        let at = fields.iter().position(|field| field == "payload").expect("it has one");
        fields[at + 1].clone()
    };
    range.into_iter().map(payload).collect()
}

#[track_caller]
fn ends(daemon: &mut Handlerd, handled: u64) {
    let stopped = daemon.stop();
    let numbers = (stopped.code, stopped.number("handled"), stopped.number("lost"));
    assert_eq!(numbers, (0, handled, 0), "{}", stopped.last);
}

#[track_caller]
fn ends_with_nothing_pending(redis: &Redis, daemon: &mut Handlerd, handled: u64) {
    ends(daemon, handled);
    let pending: Vec<redis::Value> = redis.run(&["XPENDING", "in", "g"]);
    assert_eq!(pending[0], redis::Value::Int(0));
}

#[test]
fn what_is_tried_again_is_tried_with_the_mended_plugin() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(&redis, PUBSUB);
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["first", FAILS, "echo second", "echo third"]);
    daemon.wait_log(&["is tried again", "attempt=1"]);
    assert_eq!(out.wait_texts(1), ["first"]);
    exchange_in_vain(&daemon);
    daemon.wait_log(&["is tried again", "attempt=2"]);
    redis.client().publish("in", "echo fourth");
    mend(&daemon);
    let behind = announced(&[FAILS, "echo second", "echo third", "echo fourth"]);
    assert_eq!(out.wait_texts(5)[1..], behind);
    ends(&mut daemon, 5);
}

#[test]
fn an_entry_that_is_tried_again_is_tried_with_the_mended_plugin() {
    let redis = Redis::start();
    let mut daemon = Handlerd::start(&redis, STREAM);
    let payloads = ["first", FAILS, "echo second", "echo third"];
    add(&redis, payloads.map(|payload| ("a", payload)));
    daemon.wait_log(&["is tried again", "attempt=1"]);
    assert_eq!(done(&redis, 1), ["first"]);
    exchange_in_vain(&daemon);
    daemon.wait_log(&["is tried again", "attempt=2"]);
    mend(&daemon);
    assert_eq!(done(&redis, 4)[1..], announced(&payloads[1..]));
    ends_with_nothing_pending(&redis, &mut daemon, 4);
}

#[test]
fn with_order_by_only_what_is_alike_waits_for_a_message_that_is_tried_again() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let config = format!("{PUBSUB}workers = 2\norder_by = \"/key\"\n");
    let mut daemon = Handlerd::start(&redis, &config);
    redis.wait_subscribed("in", 1);
    // What isn't JSON is alike.
    let others: Vec<String> = (0..300).map(|n| format!(r#"{{"key":"b","n":{n}}}"#)).collect();
    // More than anybody looks at in one turn.
    let behind: Vec<String> = (0..3000).map(|n| format!("behind {n}")).collect();
    // Some of the others come into one hand with it.
    let (near, far) = others.split_at(20);
    redis.client().publish_all("in", std::iter::once(FAILS).chain(near.iter().map(String::as_str)));
    redis.client().publish_all("in", behind.iter().chain(far));
    assert_eq!(out.wait_texts(300), others);
    // It is tried again all the time, and what comes later goes on too.
    redis.client().publish_all("in", ["last", r#"{"key":"c"}"#]);
    assert_eq!(out.wait_texts(301)[300..], [r#"{"key":"c"}"#]);
    daemon.wait_log(&["is tried again", "attempt=1"]);
    mend(&daemon);
    let mut alike = vec![FAILS];
    alike.extend(behind.iter().map(String::as_str).chain(["last"]));
    assert_eq!(out.wait_texts(3303)[301..], announced(&alike));
    ends(&mut daemon, 3303);
}

#[test]
fn with_order_by_only_entries_that_are_alike_wait_for_one_that_is_tried_again() {
    let redis = Redis::start();
    let others: Vec<String> = (0..300).map(|n| format!("other {n}")).collect();
    let alike = [FAILS, "echo 1", "echo 2"].map(|payload| ("a", payload));
    add(&redis, alike.into_iter().chain(others.iter().map(|payload| ("b", payload.as_str()))));
    let config = format!("{STREAM}workers = 2\norder_by = \"customer\"\n");
    let mut daemon = Handlerd::start(&redis, &config);
    assert_eq!(done(&redis, 300), others);
    add(&redis, [("a", "echo 3"), ("c", "later")]);
    assert_eq!(done(&redis, 301)[300..], ["later"]);
    daemon.wait_log(&["is tried again", "attempt=1"]);
    mend(&daemon);
    assert_eq!(done(&redis, 305)[301..], announced(&[FAILS, "echo 1", "echo 2", "echo 3"]));
    ends_with_nothing_pending(&redis, &mut daemon, 305);
}
