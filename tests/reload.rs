//! Reloads: the new is built beside the old and exchanged between two messages, or refused.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use handlerd::status::Status;
use rustix::process::Signal;
use support::changing::{Changing, put};
use support::endpoints::{Page, fetch, wait_code};
use support::plugins::{misbehave, variant};
use support::redis_server::free_port;
use support::{Redis, Watcher, wait_for, wait_until};

/// Stops whoever looks at it, also when the test fails.
struct StopsOnDrop<'a>(&'a AtomicBool);

impl Drop for StopsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Sends numbers to these Redis channels until it is stopped, some 20,000 messages a second.
fn publish_numbers(redis: &Redis, channels: &[&str], stop: &AtomicBool, sent: &AtomicU64) {
    let mut client = redis.client();
    let started = Instant::now();
    let mut next = 0_u64;
    while !stop.load(Relaxed) {
        let mut pipe = redis::pipe();
        for _ in 0..50 {
            for channel in channels {
                pipe.cmd("PUBLISH").arg(channel).arg(next).ignore();
            }
            next += 1;
        }
        pipe.query::<()>(client.raw()).expect("pipelined PUBLISH");
        sent.store(next, Relaxed);
        let due = started + Duration::from_micros(next * channels.len() as u64 * 50);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Two channels. No call is given up because the machine is busy with other things, and there is room
/// for what comes while it stands still.
fn kept(name: &str) -> String {
    format!(
        r#"
        [handlers.changing]
        timeout = "30s"
        [handlers.announce]
        timeout = "30s"
        [channels.chain]
        subscribe = "one"
        handlers = ["changing", "announce"]
        publish = "one.out"
        queue = "64MiB"
        [channels.{name}]
        pattern = "two.*"
        handlers = ["changing"]
        publish = "pair"
        queue = "64MiB"
        "#
    )
}

#[test]
fn a_hundred_reloads_under_load_lose_double_and_disorder_nothing() {
    let redis = Redis::start();
    let one = Watcher::subscribe(&redis, &["one.out"]);
    let two = Watcher::subscribe(&redis, &["pair"]);
    let mut daemon = Changing::start_with(&redis, &kept("named"), &[], |dir| {
        put(&dir.join("plugins/changing.wasm"), variant(0));
    });
    redis.wait_subscribed("one", 1);
    redis.wait_patterns(1);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut files, mut memory) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| publish_numbers(&redis, &["one", "two.x"], &stop, &sent));
        let _stops = StopsOnDrop(&stop);
        for round in 0..100_u32 {
            let name = if round % 3 == 0 { "renamed" } else { "named" };
            let extra = format!(
                "[channels.extra{round}]\nsubscribe = [\"e{round}\", \"two.x\"]\n\
                 handlers = [\"announce\"]\npublish = \"nowhere\"\nqueue = \"64MiB\"\n"
            );
            daemon.write(&(kept(name) + if round % 2 == 0 { &extra } else { "" }));
            let is_broken = round % 10 == 5;
            if is_broken {
                put(&daemon.plugin("changing"), &variant(round)[..200]);
            } else if round % 4 == 0 {
                put(&daemon.plugin("changing"), variant(round % 8));
            }
            let told = daemon.reload();
            assert_eq!(told.contains("refused"), is_broken, "{round}: {told}");
            if is_broken {
                put(&daemon.plugin("changing"), variant(0));
            }
            if round == 20 {
                (files, memory) = (daemon.daemon.open_files(), daemon.daemon.rss());
            }
            // Each under load.
            let before = sent.load(Relaxed);
            wait_until("more is sent", || sent.load(Relaxed) >= before + 500);
        }
    });
    let sent = sent.load(Relaxed);
    let got = one.wait_texts(sent as usize);
    for (number, text) in got.iter().enumerate() {
        assert!(text.contains(&format!("'Received message '{number}' from")), "{number}: {text}");
    }
    let got = two.wait_texts(sent as usize);
    for (number, text) in got.iter().enumerate() {
        assert!(text.starts_with(&format!("Received message '{number}' from")), "{number}: {text}");
    }
    let open = daemon.daemon.open_files();
    assert!(open <= files + 3, "{files} files were open after 20 reloads, {open} after 100");
    let rss = daemon.daemon.rss();
    assert!(
        rss < memory + (32 << 20),
        "{memory} bytes of memory after 20 reloads, {rss} after 100"
    );
    let stopped = daemon.daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    assert_eq!((one.count(), two.count()), (sent as usize, sent as usize));
}

const PLAIN: &str = r#"
    [channels.plain]
    subscribe = "in"
    handlers = ["changing"]
    publish = "out"
"#;

/// One message through, and what comes out.
#[track_caller]
fn passed(redis: &Redis, out: &Watcher, payload: &str) -> String {
    redis.client().publish("in", payload);
    let got = out.wait_until(&format!("{payload} comes out"), |got| {
        got.iter().any(|got| got.text().contains(payload))
    });
    got.last().expect("something came").text()
}

/// A plugin that lets such payloads pass as they are.
fn passing() -> Vec<u8> {
    fs::read(misbehave()).expect("the plugin is there")
}

#[test]
fn a_changed_plugin_is_taken_by_itself_and_a_broken_one_is_not() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Changing::start_with(&redis, PLAIN, &[], |dir| {
        put(&dir.join("plugins/changing.wasm"), passing());
    });
    redis.wait_subscribed("in", 1);
    assert_eq!(passed(&redis, &out, "first"), "first");
    put(&daemon.plugin("changing"), variant(1));
    assert!(daemon.wait_told().contains("new or changed handlers changing"));
    assert_eq!(passed(&redis, &out, "second"), "Received message 'second' from channel 'in'");
    // What is subscribed to has nothing to do with it.
    let subscriptions = ["the subscriptions have changed"];
    assert_eq!(daemon.daemon.log_lines(&subscriptions), [""; 0]);
    // Broken: the old one stays, and the log says why.
    put(&daemon.plugin("changing"), "this is no plugin");
    assert!(daemon.wait_told().contains("refused"));
    daemon.daemon.wait_log(&["ERROR", "handler changing", "changing.wasm"]);
    assert!(passed(&redis, &out, "third").contains("Received"));
    // The same bytes as run, under a new time: nothing to be done.
    put(&daemon.plugin("changing"), variant(1));
    put(&daemon.plugin("unused"), "this is none either, and nobody uses it");
    daemon.daemon.wait_log(&["WARN", "unused.wasm"]);
    assert_eq!(daemon.outcomes().len(), daemon.told);
    // Gone: it goes on as it was.
    fs::remove_file(daemon.plugin("changing")).expect("it is removed");
    daemon.daemon.wait_log(&["WARN", "changing.wasm is gone", "handler changing goes on"]);
    assert!(passed(&redis, &out, "fourth").contains("Received"));
    // Nor is another configuration held up by that.
    daemon.write(&PLAIN.replace("\"in\"", "[\"in\", \"more\"]"));
    assert!(daemon.reload().contains("reloaded"));
    redis.wait_subscribed("more", 1);
    daemon.daemon.wait_log(&subscriptions);
    assert!(passed(&redis, &out, "fifth").contains("Received"));
    assert_eq!(daemon.daemon.stop().number("lost"), 0);
}

#[test]
fn a_wrong_configuration_is_refused_and_said() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Changing::start_with(&redis, PLAIN, &[], |dir| {
        put(&dir.join("plugins/changing.wasm"), passing());
    });
    redis.wait_subscribed("in", 1);
    daemon.write("[channels.plain]\nhandlers = [\"absent\"]\npublsh = \"out\"\n");
    assert!(daemon.reload().contains("everything goes on as it was"));
    daemon.daemon.wait_log(&["ERROR", "publsh"]);
    assert_eq!(passed(&redis, &out, "still"), "still");
    // What needs a restart is said, and the rest is taken.
    let other = PLAIN.replace("\"in\"", "[\"in\", \"more\"]");
    put(&daemon.config, format!("[redis]\nurl = \"redis://127.0.0.1:1\"\n{other}"));
    assert!(daemon.reload().contains("reloaded"));
    daemon.daemon.wait_log(&["WARN", "[redis] has changed", "started again"]);
    redis.wait_subscribed("more", 1);
    assert_eq!(passed(&redis, &out, "again"), "again");
    assert_eq!(daemon.daemon.stop().number("lost"), 0);
}

fn status(port: u16) -> Status {
    serde_json::from_str(&fetch(port, "/status").body).expect("the status as JSON")
}

#[test]
fn what_is_shown_goes_along_with_reloads() {
    const STAYS: &str =
        "[channels.stays]\nsubscribe = \"in\"\nhandlers = [\"announce\"]\nlog = true\n";
    const OLD: &str =
        "[channels.old]\nsubscribe = \"old\"\nhandlers = [\"misbehave\"]\nlog = true\n";
    const NEW: &str = "[channels.new]\nstream = \"new\"\ngroup = \"g\"\nstart = \"oldest\"\nhandlers = []\nlog = true\n";
    let redis = Redis::start();
    let port = free_port();
    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut daemon = Changing::start(&redis, &format!("{http}{STAYS}{OLD}"));
    wait_code(port, "/readyz", 200);
    let received = |page: &Page, channel| {
        page.find("handlerd_messages_received_total", &[("channel", channel)])
    };
    let reloads = |page: &Page, result| page.value("handlerd_reloads_total", &[("result", result)]);
    redis.client().publish_all("old", ["trap"]);
    redis.client().publish_all("in", ["one"]);
    wait_until("both have come", || {
        let page = Page::fetch(port);
        page.sum("handlerd_messages_received_total") == 2.0
            && page.sum("handlerd_handler_failures_total") == 1.0
    });
    let shown = status(port);
    assert_eq!(shown.reload.last.map(|last| last.message), None);

    // Refused: what is shown stays, and how the reload went is there.
    daemon.write(&format!("{http}{STAYS}{OLD}publsh = \"out\"\n"));
    assert!(daemon.reload().contains("refused"));
    let shown = status(port);
    let last = shown.reload.last.expect("it is said how it went");
    assert!(!last.ok && last.message.contains("publsh"), "{}", last.message);
    assert_eq!(shown.channels.len(), 2);

    // Taken: of the channel that is gone nothing is shown any more, and of its handler neither.
    let elsewhere = "[http]\nlisten = \"127.0.0.1:1\"\n";
    daemon.write(&format!("{elsewhere}{}{NEW}", STAYS.replace("\"in\"", "[\"in\", \"more\"]")));
    assert!(daemon.reload().contains("new channels new; ended old"));
    let page = wait_for("the channel and the handler that are gone not to be shown", || {
        Some(Page::fetch(port)).filter(|page| {
            !page.values_of("handler").contains("misbehave")
                && page.values_of("channel").into_iter().eq(["new", "stays"])
        })
    });
    assert_eq!(received(&page, "stays"), Some(1.0));
    assert_eq!((reloads(&page, "ok"), reloads(&page, "failed")), (1.0, 1.0));
    wait_code(port, "/readyz", 200);
    let shown = status(port);
    let last = shown.reload.last.expect("it is said how it went");
    assert!(last.ok && last.message.contains("ended old"), "{}", last.message);
    let [warning] = &shown.warnings[..] else { panic!("one warning: {:?}", shown.warnings) };
    assert!(warning.contains("[http] has changed"), "{warning}");
    let sources: Vec<(&str, &str)> =
        shown.channels.iter().map(|channel| (&*channel.name, &*channel.source)).collect();
    let expected = [("stays", "subscribe \"in\", \"more\""), ("new", "stream \"new\" group \"g\"")];
    assert_eq!(sources, expected);

    // A stream in place of that: its messages and states are those of what runs now.
    redis.run::<String>(&["XADD", "new", "*", "payload", "two"]);
    redis.client().publish_all("more", ["three"]);
    wait_until("both have come", || {
        let page = Page::fetch(port);
        received(&page, "new") == Some(1.0) && received(&page, "stays") == Some(2.0)
    });
    daemon.write(&format!("{http}{STAYS}"));
    assert!(daemon.reload().contains("ended new"));
    // It is shown as long as it is ending.
    wait_until("nothing but what stays is shown", || {
        Page::fetch(port).values_of("channel").into_iter().eq(["stays"])
    });
    assert_eq!(daemon.daemon.stop().number("received"), 4);
}

#[test]
fn the_configuration_is_read_again_by_itself_with_watch() {
    let redis = Redis::start();
    let first = "[channels.first]\nsubscribe = \"first\"\nhandlers = []\npublish = \"out\"\n";
    let mut daemon = Changing::start_with(&redis, first, &["--watch"], |_| {});
    redis.wait_subscribed("first", 1);
    daemon.write("[channels.late]\nsubscribe = \"in\"\nhandlers = []\npublish = \"out\"\n");
    assert!(daemon.wait_told().contains("1 channel; new channels late; ended first"));
    redis.wait_subscribed("in", 1);
    daemon.write("");
    assert!(daemon.wait_told().contains("0 channels; ended late"));
    redis.wait_subscribed("in", 0);
    assert_eq!(daemon.daemon.stop().code, 0);
}

#[test]
fn names_that_another_channel_takes_over_keep_their_order() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let channel = |name: &str, names: &str| {
        format!(
            "[channels.{name}]\nsubscribe = {names}\nhandlers = [\"slow\"]\npublish = \"out\"\n\
             [handlers.slow]\nplugin = \"misbehave.wasm\"\ntimeout = \"20s\"\n"
        )
    };
    let second = "[channels.second]\nsubscribe = \"b\"\nhandlers = []\npublish = \"out\"\n";
    let mut daemon = Changing::start(&redis, &channel("first", "[\"a\", \"b\"]"));
    redis.wait_subscribed("b", 1);
    redis.client().publish("a", "sleep 1500");
    redis.client().publish_all("b", ["echo b1", "echo b2"]);
    daemon.write(&(channel("first", "\"a\"") + second));
    assert!(daemon.reload().contains("new channels second"));
    redis.client().publish_all("b", ["b3", "b4"]);
    let got = out.wait_texts(5);
    assert_eq!(&got[1..], ["b1", "b2", "b3", "b4"]);
    assert_eq!(daemon.daemon.stop().number("lost"), 0);
}

const ENDING: &str = r#"
    [handlers.slow]
    plugin = "misbehave.wasm"
    timeout = "20s"
    [channels.ending]
    subscribe = "in"
    handlers = ["slow"]
    publish = "out"
"#;

#[test]
fn while_the_daemon_ends_nothing_is_reloaded_and_that_is_said() {
    let redis = Redis::start();
    let mut daemon = Changing::start(&redis, ENDING).daemon;
    redis.wait_subscribed("in", 1);
    redis.client().publish("in", "sleep 8000");
    daemon.signal(Signal::TERM);
    daemon.wait_log(&["no more messages are taken"]);
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["WARN", "SIGHUP", "the end has begun"]);
    let stopped = daemon.wait_end();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 1), "{}", stopped.last);
}

#[test]
fn a_channel_that_ends_finishes_what_it_has() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Changing::start(&redis, ENDING);
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["sleep 1000", "echo one", "echo two"]);
    daemon.write("");
    assert!(daemon.reload().contains("ended ending"));
    redis.wait_subscribed("in", 0);
    assert_eq!(&out.wait_texts(3)[1..], ["one", "two"]);
    let stopped = daemon.daemon.stop();
    assert_eq!((stopped.number("handled"), stopped.number("lost")), (3, 0), "{}", stopped.last);
}

fn streams(name: &str, claim_idle: &str, rest: &str) -> String {
    format!(
        r#"
        [channels.{name}]
        stream = "jobs"
        group = "g"
        start = "oldest"
        claim_idle = "{claim_idle}"
        handlers = ["announce"]
        append = "done"
        {rest}
        "#
    )
}

#[test]
fn streams_are_renamed_changed_ended_and_begun_again_without_a_loss() {
    let redis = Redis::start();
    let mut daemon = Changing::start(&redis, &streams("work", "30s", ""));
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut client = redis.client();
            let mut next = 0_u64;
            while !stop.load(Relaxed) {
                let mut pipe = redis::pipe();
                for _ in 0..20 {
                    pipe.cmd("XADD").arg("jobs").arg("*").arg("payload").arg(next).ignore();
                    next += 1;
                }
                pipe.query::<()>(client.raw()).expect("pipelined XADD");
                std::thread::sleep(Duration::from_millis(5));
            }
            next
        });
        let stops = StopsOnDrop(&stop);
        for round in 0..24 {
            let name = if round % 2 == 0 { "renamed" } else { "work" };
            let idle = if round % 3 == 0 { "20s" } else { "30s" };
            let text = if round % 8 == 7 { String::new() } else { streams(name, idle, "") };
            daemon.write(&text);
            assert!(daemon.reload().contains("reloaded"));
        }
        daemon.write(&streams("last", "30s", ""));
        assert!(daemon.reload().contains("reloaded"));
        drop(stops);
        sender.join().expect("the sender ends")
    });
    let length = || redis.run::<u64>(&["XLEN", "done"]);
    wait_until("all is done", || length() >= sent);
    let stopped = daemon.daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    // What was given back at a reload and came again counts once.
    assert_eq!((stopped.number("received"), stopped.number("handled")), (sent, sent));
    let done: Vec<(String, Vec<String>)> = redis.run(&["XRANGE", "done", "-", "+"]);
    for (number, (_, fields)) in done.iter().enumerate() {
        assert!(fields[1].contains(&format!("'{number}'")), "{number}: {fields:?}");
    }
    assert_eq!(done.len() as u64, sent);
    let pending: Vec<redis::Value> = redis.run(&["XPENDING", "jobs", "g"]);
    assert_eq!(pending[0], redis::Value::Int(0));
}

/// As systemd does it: whoever asks hears how it went.
#[test]
fn who_asks_for_a_reload_hears_when_it_is_done_or_why_it_is_refused() {
    let redis = Redis::start();
    let channel =
        "[channels.chat]\nsubscribe = \"in\"\nhandlers = [\"announce\"]\npublish = \"out\"\n";
    let mut daemon = Changing::start(&redis, channel);
    let pid = daemon.daemon.pid().to_string();
    let ask = |daemon: &Changing| daemon.daemon.verb(&["reload", "--pid", &pid]).output();
    let status = |daemon: &Changing| -> Status {
        let json = daemon.daemon.verb(&["status", "--json"]).output().expect(0).text();
        serde_json::from_str(&json).expect("a status")
    };
    wait_until("the daemon can be asked", || daemon.daemon.verb(&["status"]).output().code == 0);
    for (round, source) in (1..).zip(["other", "in"]) {
        daemon.write(&channel.replace("\"in\"", &format!("\"{source}\"")));
        assert!(ask(&daemon).expect(0).text().contains("reloaded: 1 channel"));
        // It isn't to be waited for any more.
        let now = status(&daemon);
        assert_eq!((now.reload.ok, now.reload.asked), (round, round));
        assert!(now.channels[0].source.contains(source), "{now:?}");
    }
    daemon.write(&channel.replace("announce", "nowhere"));
    let refused = ask(&daemon).expect(78).stderr;
    assert!(
        refused.contains("everything goes on as it was") && refused.contains("nowhere"),
        "{refused}"
    );
    assert_eq!(daemon.daemon.stop().code, 0);
    let gone = ask(&daemon).expect(69).stderr;
    assert!(gone.contains("no handlerd runs"), "{gone}");
}
