//! Plugins that do what they shouldn't: it costs the message in hand, never the daemon or a
//! neighbour. Files that are no plugins are refused with a sentence.

mod support;

use std::time::{Duration, Instant};

use support::{Client, Handlerd, Redis, Run, Watcher, wait_until};

/// The timeout for what never ends by itself.
const SHORT: &str = "1s";

/// The one for what ends otherwise, on a busy machine too.
const LONG: &str = "60s";

fn channels(timeout: &str) -> String {
    format!(
        r#"
        [handlers.misbehave]
        memory = "64MiB"
        timeout = "{timeout}"
        [channels.bad]
        handlers = ["misbehave"]
        publish = "bad.out"
        [channels.good]
        handlers = ["announce"]
        publish = "good.out"
        "#
    )
}

/// One daemon, one bad plugin, and a neighbour whose messages go on.
struct Scene {
    redis: Redis,
    daemon: Handlerd,
    bad: Watcher,
    good: Watcher,
    client: Client,
}

impl Scene {
    fn new(timeout: &str) -> Scene {
        let redis = Redis::start();
        let daemon = Handlerd::start(&redis, &channels(timeout));
        redis.wait_subscribed("bad", 1);
        redis.wait_subscribed("good", 1);
        let bad = Watcher::subscribe(&redis, &["bad.out"]);
        let good = Watcher::subscribe(&redis, &["good.out"]);
        let client = redis.client();
        Scene { redis, daemon, bad, good, client }
    }

    /// Send a command; it must fail while the neighbour's messages go on, and the next message must
    /// find a working plugin.
    #[track_caller]
    fn fails(&mut self, command: &str) {
        let (bad, good) = (self.bad.count(), self.good.count());
        self.client.publish("bad", command);
        for n in 0..20 {
            self.client.publish("good", n.to_string());
        }
        self.good.wait_count(good + 20);
        self.client.publish("bad", "well again");
        let seen = self.bad.wait_count(bad + 1);
        assert_eq!(seen[bad].text(), "well again", "{command} came out");
    }

    /// The end: as many failures as there were commands, nothing else lost.
    #[track_caller]
    fn ends(mut self, failures: u64) {
        let stopped = self.daemon.stop();
        assert_eq!(stopped.code, 0, "{}", stopped.last);
        assert_eq!(stopped.number("failed"), failures, "{}", stopped.last);
        assert_eq!(stopped.number("lost"), failures, "{}", stopped.last);
        drop(self.redis);
    }
}

macro_rules! misbehaviour {
    ($($name:ident: $command:expr, $kind:expr, $reason:expr;)*) => {$(
        #[test]
        fn $name() {
            let mut scene = Scene::new(if $kind == "timeout" { SHORT } else { LONG });
            scene.fails($command);
            scene.daemon.wait_log(&["bad", "misbehave", concat!("kind=\"", $kind, "\""), $reason]);
            scene.ends(1);
        }
    )*};
}

misbehaviour! {
    it_loops_for_ever: "loop", "timeout", "longer than 1s";
    it_sleeps_for_a_minute: "sleep 60000", "timeout", "longer than 1s";
    it_allocates_too_much: "alloc 1000000000", "memory", "memory";
    it_recurses_for_ever: "recurse", "trap", "recurse";
    it_traps: "trap", "trap", "";
    it_panics: "panic out of words", "trap", "";
    it_returns_a_gigabyte: "gigabyte", "output", "max_output";
    it_returns_a_million_messages: "million", "output", "max_output";
    it_rejects: "reject not for me", "reject", "not for me";
}

#[test]
fn it_logs_for_ever() {
    let mut scene = Scene::new(SHORT);
    let good = scene.good.count();
    // More than max_log is cut; without end it is out of time.
    scene.client.publish("bad", "log 10000000");
    scene.client.publish("bad", "logforever");
    scene.client.publish("bad", "well again");
    scene.client.publish("good", "as well");
    scene.good.wait_count(good + 1);
    scene.bad.wait_payload("well again");
    let logged: usize = scene.daemon.log().iter().map(String::len).sum();
    assert!(logged < 512 << 10, "{logged} bytes of log");
    let stopped = scene.daemon.stop();
    assert_eq!(stopped.code, 0);
}

#[test]
fn memory_of_the_host_is_bounded_too() {
    let mut scene = Scene::new(LONG);
    let before = scene.daemon.rss();
    for _ in 0..5 {
        scene.fails("gigabyte");
        scene.fails("million");
        scene.fails("alloc 1000000000");
    }
    let grown = scene.daemon.peak_rss().saturating_sub(before) >> 20;
    // 64 MiB of guest memory, 16 MiB of outputs, and what allocators keep.
    assert!(grown < 160, "resident memory grew by {grown} MiB");
    scene.ends(15);
}

#[test]
fn two_that_loop_do_not_starve_a_neighbour() {
    let redis = Redis::start();
    let good = Watcher::subscribe(&redis, &["good.out"]);
    let _daemon = Handlerd::start(
        &redis,
        r#"
        [handlers.misbehave]
        timeout = "3s"
        [channels.one]
        handlers = ["misbehave"]
        publish = "one.out"
        [channels.two]
        handlers = ["misbehave"]
        publish = "two.out"
        [channels.good]
        handlers = ["announce"]
        publish = "good.out"
        "#,
    );
    for channel in ["one", "two", "good"] {
        redis.wait_subscribed(channel, 1);
    }
    let mut client = redis.client();
    for _ in 0..10 {
        client.publish("one", "loop");
        client.publish("two", "loop");
    }
    // Half a minute of looping lies ahead on each side; meanwhile calls go to and fro. Each would take
    // three seconds if it had to wait for one that loops.
    let begin = Instant::now();
    let mut calls = 0;
    while calls < 25 && begin.elapsed() < Duration::from_secs(20) {
        client.publish("good", "in between");
        calls += 1;
        good.wait_count(calls);
    }
    assert_eq!(calls, 25, "in {:?}", begin.elapsed());
}

#[test]
fn a_message_that_fails_takes_nothing_of_its_branches_along() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [handlers.misbehave]
        timeout = "10s"
        max_outputs = 10
        [handlers.again]
        plugin = "misbehave.wasm"
        [channels.work]
        subscribe = "in"
        handlers = ["misbehave", "again"]
        publish = "out"
        "#,
    );
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["fan 11", "reject no", "end"]);
    assert_eq!(out.wait_texts(1), ["end"]);
    daemon.wait_log(&["misbehave", "output", "10"]);
    assert_eq!(daemon.stop().number("failed"), 2);
}

/// What `handlerd check` says of a plugin file with these bytes.
#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let dir = Handlerd::folder();
    std::fs::write(dir.path().join("plugins/odd.wasm"), bytes).expect("a file is written");
    std::fs::write(
        dir.path().join("config.toml"),
        "[channels.chat]\nhandlers = [\"odd\"]\npublish = \"out\"\n",
    )
    .expect("a config is written");
    let output = Run::new(&["check"]).dir(dir.path()).output().expect(78);
    let text = format!("{}{}", output.text(), output.stderr);
    assert!(text.contains("odd.wasm"), "it names the file: {text}");
    // The daemon refuses to start, too.
    Run::new(&["run"]).dir(dir.path()).output().expect(78);
    text
}

#[test]
fn a_file_that_is_not_webassembly_is_refused() {
    for bytes in [&b"#!/bin/sh\necho no plugin\n"[..], b"", b"\0asm", &support::noise(3, 5000)] {
        let text = refusal(bytes);
        assert!(text.contains("WebAssembly"), "{text}");
    }
}

/// The bytes of `tests/plugins/NAME.wat`.
fn wat(name: &str) -> Vec<u8> {
    let file = support::plugins::root().join(format!("tests/plugins/{name}.wat"));
    wat::parse_file(file).expect("the text makes a file")
}

#[test]
fn a_module_without_the_handler_is_refused() {
    for bytes in [wat("empty"), b"\0asm\x0d\0\x01\0".to_vec()] {
        let text = refusal(&bytes);
        assert!(text.contains("handlerd:plugin"), "{text}");
    }
}

#[test]
fn an_export_of_the_wrong_type_is_refused() {
    let text = refusal(&wat("wrong-type"));
    assert!(text.contains("handle-message"), "{text}");
}

#[test]
fn a_newer_interface_is_refused_with_both_versions() {
    let text = refusal(&wat("future-version"));
    assert!(text.contains("made for handlerd:plugin 0.3"), "{text}");
    assert!(text.contains("knows 0.1"), "{text}");
}

#[test]
fn an_import_that_is_not_allowed_is_refused_by_name() {
    let text = refusal(&wat("wants-http"));
    assert!(text.contains("wasi:http/outgoing-handler"), "{text}");
}

#[test]
fn a_pinned_file_with_other_bytes_is_refused() {
    let dir = Handlerd::folder();
    let config = format!(
        "[handlers.announce]\nsha256 = \"{}\"\n[channels.chat]\nhandlers = [\"announce\"]\n\
         publish = \"out\"\n",
        "0".repeat(64)
    );
    std::fs::write(dir.path().join("config.toml"), config).expect("a config is written");
    let output = Run::new(&["check"]).dir(dir.path()).output().expect(78);
    let text = format!("{}{}", output.text(), output.stderr);
    assert!(text.contains("announce") && text.contains("sha256"), "{text}");
}

#[test]
fn a_plugin_that_changes_its_mind_costs_one_message_at_a_time() {
    let mut scene = Scene::new(SHORT);
    let bad = scene.bad.count();
    let commands = ["trap", "fine 1", "loop", "fine 2", "recurse", "fine 3"];
    scene.client.publish_all("bad", commands);
    let seen = scene.bad.wait_count(bad + 3);
    let texts: Vec<String> = seen.iter().map(support::Got::text).collect();
    assert_eq!(texts, ["fine 1", "fine 2", "fine 3"]);
    wait_until("the neighbour", || {
        scene.client.publish("good", "still");
        scene.good.count() > 0
    });
    scene.ends(3);
}
