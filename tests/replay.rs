//! `handlerd replay`: what a stream's past would become, without effects. The real binary, a real
//! Redis, real plugins.

mod support;

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use support::handlerd::folder_with;
use support::{Output, Redis, Run};
use tempfile::TempDir;

/// A configuration with the channel `orders`, in a folder of its own.
fn config(redis: &Redis, channel: &str) -> (TempDir, PathBuf) {
    let url = redis.url();
    folder_with(&format!(
        "[redis]\nurl = \"{url}\"\n[channels.orders]\nstream = \"orders\"\ngroup = \"billing\"\n{channel}"
    ))
}

/// `handlerd replay orders ARGUMENTS`
#[track_caller]
fn replay(config: &(TempDir, PathBuf), arguments: &[&str]) -> Output {
    let file = config.1.display().to_string();
    Run::new(&[&["replay", "orders", "--config", &file], arguments].concat()).output()
}

fn add(redis: &Redis, id: &str, payload: &[u8]) {
    let mut command = redis::cmd("XADD");
    command.arg("orders").arg(id).arg("payload").arg(payload).arg("lang").arg("en");
    command.query::<String>(redis.client().raw()).expect("XADD");
}

#[test]
fn what_would_come_out_is_printed_and_nothing_is_done() {
    let redis = Redis::start();
    let here = config(
        &redis,
        "handlers = [\"misbehave\"]\nappend = \"done\"\npublish = \"said.{channel}\"\n\
         routes = { push = [\"vip\"] }",
    );
    for (id, payload) in [
        ("1-1", b"echo one\x1b".as_slice()),
        ("2-0", b"drop"),
        ("3-0", b"route vip two"),
        ("4-0", b"reject no way"),
        ("5-0", b"\0\xff"),
        ("6-0", b"header payload x"),
    ] {
        add(&redis, id, payload);
    }
    redis.run::<String>(&["XADD", "orders", "7-0", "other", "field"]);
    let all = || {
        let mut keys: Vec<String> = redis.run(&["KEYS", "*"]);
        keys.sort();
        let dump = |key: String| (redis.run::<Vec<u8>>(&["DUMP", &key]), key);
        keys.into_iter().map(dump).collect::<Vec<_>>()
    };
    let before = all();
    let watcher = support::Watcher::psubscribe(&redis, &["*"]);

    let output = replay(&here, &[]).expect(1);
    let text = output.text();
    let expected = [
        "1-1",
        "  -> publish said.orders, append done",
        "     one\\u{1b}",
        "         header lang: en",
        "2-0",
        "  (nothing: its way ends here)",
        "3-0",
        "  -> push vip",
        "     two",
        "         header lang: en",
        "         route vip",
        "4-0",
        "  failed: handler misbehave: reject: no way",
        "5-0",
        "  -> publish said.orders, append done",
        "     \\u{0}\\xff",
        "         header lang: en",
        "6-0",
        "  failed: output: it can't be appended to a stream: a header has the name \"payload\", which \
         is the payload's",
        "7-0",
        "  failed: no_payload: it has no field \"payload\"",
        "7 entries: 3 failed",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);

    assert_eq!(all(), before);
    assert_eq!(redis.run::<Vec<redis::Value>>(&["XINFO", "GROUPS", "orders"]), []);
    redis.client().publish("last", "");
    assert_eq!(watcher.wait_count(1)[0].channel, "last");

    let json = replay(&here, &["--json", "--from", "3-0", "--to", "5"]).expect(1).text();
    let json: Vec<Json> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let to = json!([
        { "command": "publish", "connection": "redis", "name": "said.orders" },
        { "command": "append", "connection": "redis", "name": "done" },
    ]);
    let headers = json!([["lang", "en"]]);
    assert_eq!(
        json,
        [
            json!({ "stream": "orders", "id": "3-0", "outputs": [{ "payload": "two", "route": "vip",
                "headers": headers,
                "to": [{ "command": "push", "connection": "redis", "name": "vip" }] }] }),
            json!({ "stream": "orders", "id": "4-0", "failure":
                { "handler": "misbehave", "kind": "reject", "reason": "no way" } }),
            json!({ "stream": "orders", "id": "5-0", "outputs":
                [{ "payload_hex": "00ff", "headers": headers, "to": to }] }),
            json!({ "entries": 3, "failed": 1 }),
        ]
    );
}

#[test]
fn only_what_differs_from_another_configuration_is_shown() {
    let redis = Redis::start();
    let masked =
        "append = \"done\"\nhandlers = [\"mask\"]\n[handlers.mask]\nplugin = \"redact.wasm\"\n";
    let here = config(&redis, &format!("{masked}config = {{ words = \"foo, bar\" }}"));
    let same = config(&redis, &format!("{masked}config = {{ words = \"bar, foo\" }}"));
    let there = config(&redis, &format!("{masked}config = {{ words = \"foo\" }}"));
    for n in 1..=300 {
        add(&redis, &format!("{n}-0"), format!("say foo {n}").as_bytes());
    }
    add(&redis, "301-0", b"say bar");
    redis.run::<String>(&["XADD", "orders", "302-0", "other", "field"]);
    let against = |file: &PathBuf| file.display().to_string();

    let output = replay(&here, &["--to", "301", "--against", &against(&same.1)]).expect(0);
    assert_eq!(output.text(), "301 entries: 301 the same, 0 differ, 0 failed in both\n");

    let output = replay(&here, &["--against", &against(&there.1)]).expect(1);
    let expected = format!(
        "301-0\n  by {}:\n  -> append done\n     say bar\n         header lang: en\n  by {}:\n  -> \
         append done\n     say ***\n         header lang: en\n302 entries: 300 the same, 1 differ, 1 \
         failed in both\n",
        there.1.display(),
        here.1.display()
    );
    assert_eq!(output.text(), expected);

    let json = replay(&here, &["--json", "--against", &against(&there.1)]).expect(1).text();
    let json: Vec<Json> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [differs, sums] = &json[..] else { panic!("{json:?}") };
    assert_eq!(differs["id"], "301-0");
    assert_eq!(differs["outputs"][0]["payload"], "say ***");
    assert_eq!(differs["against"]["outputs"][0]["payload"], "say bar");
    assert_eq!(*sums, json!({ "entries": 302, "same": 300, "differ": 1, "failed": 1 }));

    // A byte is enough, and a failure is no output.
    let here = config(&redis, "append = \"done\"\nhandlers = [\"misbehave\"]");
    redis.run::<()>(&["DEL", "orders"]);
    add(&redis, "1-0", b"reject 1");
    add(&redis, "2-0", b"echo \xff");
    add(&redis, "3-0", b"plain");
    let none = config(&redis, "append = \"done\"");
    let output = replay(&here, &["--against", &against(&none.1)]).expect(1);
    let text = output.text();
    assert!(text.contains("failed: handler misbehave: reject: 1"), "{text}");
    // `misbehave` takes what isn't UTF-8 for no command.
    assert!(text.ends_with("3 entries: 2 the same, 1 differ, 0 failed in both\n"), "{text}");
}

#[test]
fn a_range_is_ids_or_times_and_may_be_long() {
    let redis = Redis::start();
    let here = config(&redis, "append = \"done\"");
    let new_year: u64 = 1_767_225_600_000;
    let mut pipe = redis::pipe();
    for n in 0..2500 {
        let id = format!("{}-{}", new_year + n / 2 * 1000, n % 2);
        pipe.cmd("XADD").arg("orders").arg(id).arg("payload").arg(n).ignore();
    }
    pipe.query::<()>(redis.client().raw()).expect("pipelined XADD");
    let found = |arguments: &[&str]| -> Vec<u64> {
        let text = replay(&here, &[&["--json"], arguments].concat()).expect(0).text();
        let lines = text.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
        let payload = |line: Json| line["outputs"][0]["payload"].as_str()?.parse().ok();
        lines.filter_map(payload).collect()
    };
    let second = |n: u64| (new_year + n * 1000).to_string();
    assert_eq!(found(&[]), (0..2500).collect::<Vec<_>>());
    assert_eq!(found(&["--limit", "777"]), (0..777).collect::<Vec<_>>());
    assert_eq!(found(&["--from", &second(1), "--to", &second(2)]), [2, 3, 4, 5]);
    assert_eq!(found(&["--from", &format!("{}-1", second(1)), "--to", &second(1)]), [3]);
    assert_eq!(found(&["--from", "2026-01-01T00:00:01Z", "--to", "2026-01-01T00:00:02Z"]), [2, 3]);
    assert_eq!(found(&["--to", "100years"]), Vec::<u64>::new());
    assert_eq!(found(&["--from", "9999-12-31"]), Vec::<u64>::new());
}

#[test]
fn several_streams_of_a_channel_are_named() {
    let redis = Redis::start();
    let url = redis.url();
    let here = folder_with(&format!(
        "[redis]\nurl = \"{url}\"\n[channels.orders]\nstream = [\"a\", \"b c\"]\ngroup = \"g\"\n\
         append = \"out\"\npayload_field = \"body\""
    ));
    redis.run::<String>(&["XADD", "a", "1-0", "body", "x"]);
    redis.run::<String>(&["XADD", "b c", "1-0", "body", "y"]);
    let text = replay(&here, &[]).expect(0).text();
    assert_eq!(
        text,
        "1-0 a\n  -> append out\n     x\n1-0 b c\n  -> append out\n     y\n2 entries: 0 failed\n"
    );
    assert_eq!(
        replay(&here, &["--hex", "--limit", "1"]).expect(0).text().lines().nth(2),
        Some("     78")
    );
}

#[test]
fn what_can_not_be_replayed_is_said() {
    let redis = Redis::with("user blind on nopass ~other resetchannels +@all");
    let here = config(&redis, "append = \"done\"\n[channels.chat]\npublish = \"out\"");
    let missing = replay(&here, &[]).expect(66);
    assert!(missing.stderr.contains("there is no stream \"orders\""), "{}", missing.stderr);
    redis.run::<()>(&["RPUSH", "orders", "x"]);
    let list = replay(&here, &[]).expect(65);
    assert!(list.stderr.contains("\"orders\" is not a stream"), "{}", list.stderr);
    let url = redis.url().replace("//", "//blind:x@");
    let refused = replay(&here, &["--url", &url]).expect(69);
    assert!(refused.stderr.contains("\"orders\" was refused: NOPERM"), "{}", refused.stderr);
    let away = replay(&here, &["--url", "redis://127.0.0.1:1"]).expect(69);
    assert!(away.stderr.contains("127.0.0.1:1"), "{}", away.stderr);
    let time = replay(&here, &["--from", "yesterday"]).expect(64);
    assert!(time.stderr.contains("or an id like"), "{}", time.stderr);
    let file = here.1.display().to_string();
    let other = |name: &str| Run::new(&["replay", name, "--config", &file]).output().expect(64);
    let chat = other("chat").stderr;
    assert!(chat.contains("channel chat has no past") && chat.contains("subscribe chat"), "{chat}");
    let typo = other("oders").stderr;
    assert!(typo.contains("did you mean \"orders\"?"), "{typo}");
    let no_file = replay(&here, &["--against", "/nowhere.toml"]).expect(78);
    assert!(no_file.stderr.contains("/nowhere.toml"), "{}", no_file.stderr);
}
