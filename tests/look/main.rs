//! Looking into a running daemon: `tap`, `status`, `top`, and the socket that they use.

mod clients;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value as Json;
use support::handlerd::Running;
use support::{Handlerd, Redis, Run, Watcher, wait_for, wait_until};

/// A machine that is busy with other things loses nothing here either: there is room and time.
const CHANNELS: &str = r#"
    [handlers.redact]
    config = { words = "foo, bar" }
    [handlers.misbehave]
    timeout = "30s"
    [channels.chat]
    handlers = ["redact", "announce"]
    publish = "chat.out"
    log = true
    [channels.work]
    subscribe = "in"
    handlers = ["misbehave"]
    publish = "out"
    queue = "200MiB"
"#;

/// A daemon of these channels that has subscribed.
fn start(redis: &Redis) -> Handlerd {
    let mut daemon = Handlerd::start(redis, CHANNELS);
    daemon.wait_log(&["subscribed to 2 of 2 names"]);
    socket(&daemon);
    daemon
}

/// The sockets in a daemon's folder.
fn sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some()).collect()
}

/// The socket of a daemon, once it is there.
fn socket(daemon: &Handlerd) -> PathBuf {
    let folder = daemon.dir().join("handlerd");
    wait_for("the control socket", || {
        sockets(&folder).pop().filter(|path| UnixStream::connect(path).is_ok())
    })
}

/// A tap that looks on.
fn tap(daemon: &Handlerd, args: &[&str]) -> Running {
    let tap = daemon.verb(&[&["tap"], args].concat()).spawn();
    wait_until("the tap to look on", || tap.stderr().contains("looking at"));
    tap
}

/// The JSON objects that a verb has printed, a line each.
fn objects(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_tap_shows_what_came_each_hop_and_where_it_went_or_why_it_failed() {
    let redis = Redis::start();
    let daemon = start(&redis);
    let text = tap(&daemon, &["chat", "--count", "1"]);
    let json = tap(&daemon, &["work", "--count", "2", "--json", "--bytes", "40"]);
    redis.client().publish("chat", "say foo\x1b[2J");
    redis.client().publish("in", [b"hex ff00 \xff".as_slice(), &[b'x'; 100]].concat());
    redis.client().publish("in", "reject never");

    let text = text.wait().expect(0).text();
    let words = [
        " chat\n",
        "in                  say foo\\u{1b}[2J\n",
        "say ***\\u{1b}[2J\n",
        "Received message 'say ***\\u{1b}[2J' from channel 'chat'\n",
        "-> publish chat.out, log\n",
    ];
    for word in words {
        assert!(text.contains(word), "{word:?} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "colours and escapes are for terminals only");

    let samples = objects(&json.wait().expect(0).text());
    let [sent, failed] = &samples[..] else { panic!("two samples: {samples:?}") };
    assert_eq!(sent["input"]["cut_from"], 110, "{sent}");
    assert_eq!(sent["input"]["payload_hex"].as_str().map(str::len), Some(80), "{sent}");
    assert_eq!(failed["hops"][0]["handler"], "misbehave");
    assert!(failed["hops"][0]["micros"].is_u64());
    assert_eq!(failed["failure"]["kind"], "reject");
    assert_eq!(failed["failure"]["then"], "dropped");
    assert_eq!(failed["failure"]["reason"], "never");
    assert!(failed.get("outputs").is_none());
}

#[test]
fn a_tap_goes_on_over_a_reload() {
    let redis = Redis::start();
    let mut daemon = start(&redis);
    let chat = tap(&daemon, &["chat", "--count", "2", "--json"]);
    redis.client().publish("chat", "before");
    chat.wait_stdout("before");
    reload(&mut daemon, |text| text.replace(r#"["redact", "announce"]"#, r#"["redact"]"#));
    redis.client().publish("chat", "after");
    let samples = objects(&chat.wait().expect(0).text());
    let hops = |sample: &Json| sample["hops"].as_array().map(Vec::len);
    let [before, after] = &samples[..] else { panic!("two samples: {samples:?}") };
    assert_eq!((hops(before), hops(after)), (Some(2), Some(1)), "{samples:?}");
    assert_eq!(after["input"]["payload"], "after", "{after}");
}

/// Have the daemon read its configuration again, changed by this.
fn reload(daemon: &mut Handlerd, change: impl Fn(&str) -> String) {
    let config = daemon.dir().join("config.toml");
    let text = std::fs::read_to_string(&config).expect("the config is there");
    let changed = change(&text);
    assert_ne!(changed, text);
    std::fs::write(&config, changed).expect("it is written");
    let before = daemon.log_lines(&["reloaded: "]).len();
    daemon.signal(Signal::HUP);
    wait_until("it is reloaded", || daemon.log_lines(&["reloaded: "]).len() > before);
}

#[test]
fn a_tap_goes_on_with_another_source_and_ends_with_its_channel_or_its_name() {
    let redis = Redis::start();
    let mut daemon = start(&redis);
    let chat = tap(&daemon, &["chat", "--json"]);
    let work = tap(&daemon, &["work", "--json"]);
    // Another source is another channel, and has the same NAME.
    reload(&mut daemon, |text| {
        text.replace("[channels.chat]", "[channels.chat]\nsubscribe = \"b\"")
    });
    redis.wait_subscribed("b", 1);
    redis.client().publish("b", "elsewhere");
    chat.wait_stdout("elsewhere");

    reload(&mut daemon, |text| text.replace("[channels.chat]", "[channels.talk]"));
    let renamed = chat.wait().expect(66).stderr;
    assert!(renamed.contains("channel chat is called talk now"), "{renamed}");

    // What it has in hand is still seen.
    redis.client().publish_all("in", ["sleep 1000", "echo last"]);
    wait_until("both have come", || {
        let json = daemon.verb(&["status", "--json"]).output().expect(0).text();
        let json: Json = serde_json::from_str(&json).expect("JSON");
        json["channels"][1]["received"] == 2
    });
    reload(&mut daemon, |text| {
        let at = text.find("[channels.work]").expect("it is there");
        text[..at].to_owned() + "[http]\nlisten = false\n"
    });
    let gone = work.wait().expect(66);
    assert!(gone.text().contains("echo last"), "{}", gone.text());
    assert!(
        gone.stderr.contains("channel work is no more: a reload has taken it out"),
        "{}",
        gone.stderr
    );
    daemon.verb(&["tap", "work"]).output().expect(64);
    assert_eq!(daemon.stop().number("lost"), 0);
}

#[test]
fn a_tap_of_a_stream_shows_entries_tries_and_dead_letters() {
    let redis = Redis::start();
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [channels.orders]
        stream = "orders"
        group = "g"
        start = "oldest"
        handlers = ["misbehave"]
        retries = 1
        append = "done"
        "#,
    );
    daemon.wait_log(&["the group g was made"]);
    socket(&daemon);
    let all = tap(&daemon, &["orders", "--count", "3", "--json"]);
    let failures = tap(&daemon, &["orders", "--count", "2", "--json", "--failures"]);
    let add = |payload: &str| -> String {
        redis.client().run(&["XADD", "orders", "*", "payload", payload, "lang", "en"])
    };
    let (good, bad) = (add("hello"), add("trap"));

    let samples = objects(&all.wait().expect(0).text());
    assert_eq!(samples[0]["id"], good);
    assert_eq!(samples[0]["input"]["headers"], serde_json::json!([["lang", "en"]]));
    assert_eq!(samples[0]["outputs"][0]["to"], serde_json::json!(["append done"]));
    let tries = |samples: &[Json]| -> Vec<(Json, Json, Json)> {
        let of = |s: &Json| (s["id"].clone(), s["attempt"].clone(), s["failure"]["then"].clone());
        samples.iter().map(of).collect()
    };
    let expected = [
        (bad.clone().into(), 1.into(), "again".into()),
        (bad.into(), 2.into(), "dead_letter".into()),
    ];
    assert_eq!(tries(&samples[1..]), expected);
    let samples = objects(&failures.wait().expect(0).text());
    assert_eq!(tries(&samples), expected);
    assert_eq!(samples[0]["input"]["payload"], "trap");
}

#[test]
fn failures_are_seen_among_any_number_of_messages_that_go_through() {
    let redis = Redis::start();
    let daemon = start(&redis);
    let failures = tap(&daemon, &["work", "--failures", "--count", "2", "--json"]);
    let good = || (0..3000).map(|n| format!("echo {n}"));
    redis.client().publish_all("in", good());
    redis.client().publish_all("in", ["reject one"]);
    redis.client().publish_all("in", good());
    redis.client().publish_all("in", ["reject two"]);
    let samples = objects(&failures.wait().expect(0).text());
    let inputs: Vec<&Json> = samples.iter().map(|sample| &sample["input"]["payload"]).collect();
    assert_eq!(inputs, ["reject one", "reject two"]);
    assert!(samples.iter().all(|sample| sample["missed"] == 0));
}

/// Ask for a path, and leave what comes unread.
fn ask(socket: &Path, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("it reads");
    stream
}

#[test]
fn a_tap_says_which_channels_there_are_and_ends_with_the_daemon() {
    let redis = Redis::start();
    let mut daemon = start(&redis);
    let wrong = daemon.verb(&["tap", "wrok"]).output().expect(64).stderr;
    assert!(wrong.contains("no channel \"wrok\" (did you mean \"work\"?); it has chat, work"));
    let none = daemon.verb(&["tap", "a/b?c"]).output().expect(64).stderr;
    assert!(none.contains("no channel \"a/b?c\"; it has chat, work"), "{none}");
    daemon.verb(&["tap", "work", "--rate", "0"]).output().expect(64);
    let waiting = tap(&daemon, &["work"]);
    let socket = socket(&daemon);
    daemon.stop();
    let ended = waiting.wait().expect(69).stderr;
    assert!(ended.contains("handlerd has stopped"), "{ended}");
    assert!(!socket.exists(), "it is removed at the end");
}

#[test]
fn status_says_what_is_wrong_and_counts() {
    let redis = Redis::start();
    let daemon = start(&redis);
    redis.client().publish("in", "reject never");
    redis.client().publish("in", "hello");
    let text = wait_for("both to be counted", || {
        let text = daemon.verb(&["status"]).output().expect(0).text();
        text.contains("channel work lost 1: failed 1").then_some(text)
    });
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("handlerd ") && first.ends_with(": running"), "{text}");
    assert!(first.contains(&format!("process {}", daemon.pid())), "{text}");
    assert_eq!(lines.next(), Some("! channel work lost 1: failed 1"));
    let work = text.lines().find(|line| line.starts_with("work ")).expect("a line for it");
    assert!(work.ends_with("subscribe \"in\""), "{work}");
    assert!(text.contains("misbehave") && text.contains("(reject 1)"), "{text}");

    let json = daemon.verb(&["status", "--json"]).output().expect(0).text();
    let json: Json = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["pid"], daemon.pid());
    assert_eq!(json["state"], "running");
    assert_eq!(json["channels"][1]["name"], "work");
    assert_eq!(json["channels"][1]["received"], 2);
    assert_eq!(json["channels"][1]["dropped"]["failed"], 1);

    let stream = ask(&socket(&daemon), "/nothing");
    assert!(answer(stream).starts_with("HTTP/1.1 404 "));
    let stream = ask(&socket(&daemon), "/tap/work?bytes=1000000");
    assert!(answer(stream).contains("bytes may be 65536 at most"));
}

/// What comes, as far as the first read gets it.
fn answer(mut stream: UnixStream) -> String {
    let mut text = vec![0; 4096];
    let n = stream.read(&mut text).expect("it answers");
    String::from_utf8_lossy(&text[..n]).into_owned()
}

#[test]
fn without_a_daemon_or_a_terminal_there_is_a_sentence() {
    let redis = Redis::start();
    let mut daemon = start(&redis);
    let top = daemon.verb(&["top"]).output().expect(64).stderr;
    assert!(top.contains("handlerd status"), "{top}");
    let pid = daemon.pid().to_string();
    daemon.verb(&["status", "--pid", &pid]).output().expect(0);
    daemon.stop();
    for verb in [&["status"][..], &["tap", "work"], &["status", "--pid", &pid]] {
        let gone = daemon.verb(verb).output().expect(69).stderr;
        assert!(gone.contains("no handlerd runs"), "{gone}");
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn only_its_user_may_look_inside_and_under_systemd_its_group_too() {
    let redis = Redis::start();
    let daemon = start(&redis);
    let socket = socket(&daemon);
    wait_until("its rights", || mode(&socket) == 0o600);
    assert_eq!(mode(socket.parent().expect("a folder")), 0o700);

    let run = tempfile::tempdir().expect("a folder");
    let folder = run.path().display().to_string();
    let config = format!("[redis]\nurl = \"{}\"\n{CHANNELS}", redis.url());
    let mut service =
        Handlerd::start_in(Handlerd::folder(), &config, &[("RUNTIME_DIRECTORY", &folder)]);
    let socket = wait_for("the control socket", || sockets(run.path()).pop());
    wait_until("its rights", || mode(&socket) == 0o660);
    let status = service.verb(&["status"]).env("RUNTIME_DIRECTORY", &folder).output();
    assert!(status.expect(0).text().contains(&format!("process {}", service.pid())));
    service.stop();
    assert!(!socket.exists());
}

#[test]
fn a_dead_daemons_socket_is_no_daemon_and_goes_and_several_are_told_apart() {
    let redis = Redis::start();
    let mut dead = start(&redis);
    let left_over = socket(&dead);
    dead.kill();
    assert!(left_over.exists());
    let gone = dead.verb(&["status"]).output().expect(69).stderr;
    assert!(gone.contains("no handlerd runs with"), "{gone}");

    let one = dead.verb(&["run"]).spawn();
    wait_until("a daemon", || dead.verb(&["status"]).output().code == 0);
    assert!(!left_over.exists(), "the next one removes it");
    let two = dead.verb(&["run"]).spawn();
    let several = wait_for("another one", || {
        let output = dead.verb(&["status"]).output();
        (output.code == 64).then_some(output.stderr)
    });
    let (_, pids) = several.split_once("say which is meant: ").expect("they are listed");
    let pids: Vec<&str> = pids.trim().split(", ").collect();
    assert_eq!(pids.len(), 2, "{several}");
    for pid in pids {
        let pid = pid.trim_start_matches("--pid ");
        let text = dead.verb(&["status", "--pid", pid]).output().expect(0).text();
        assert!(text.contains(&format!("process {pid}")), "{text}");
    }
    one.signal(Signal::TERM);
    one.wait().expect(0);
    dead.verb(&["status"]).output().expect(0);
    two.signal(Signal::TERM);
    two.wait().expect(0);
}

#[test]
fn a_daemon_is_found_by_the_link_that_it_was_started_with_wherever_that_leads_now() {
    let redis = Redis::start();
    let daemon = start(&redis);
    let [link, other] = ["link.toml", "other.toml"].map(|name| daemon.dir().join(name));
    std::os::unix::fs::symlink(daemon.dir().join("config.toml"), &link).expect("a link");
    std::fs::copy(daemon.dir().join("config.toml"), &other).expect("a copy");
    let folder = daemon.dir().display().to_string();
    let verb = |verb: &str| Run::new(&[verb]).config(&link).env("XDG_RUNTIME_DIR", &folder);
    let process = |pid: u32| format!("process {pid}");
    // One that was started with the file is found by a link to it, too.
    assert!(verb("status").output().expect(0).text().contains(&process(daemon.pid())));
    std::fs::remove_file(&link).expect("it is removed");
    verb("status").output().expect(69);

    std::os::unix::fs::symlink(&other, &link).expect("a link");
    let linked = verb("run").spawn();
    wait_until("a daemon", || verb("status").output().code == 0);
    std::fs::remove_file(&link).expect("it is removed");
    verb("status").output().expect(0);
    std::os::unix::fs::symlink(daemon.dir().join("elsewhere.toml"), &link).expect("a link");
    verb("status").output().expect(0);
    linked.signal(Signal::TERM);
    linked.wait().expect(0);
}

#[test]
fn without_a_folder_for_the_socket_it_works_says_so_and_tries_again() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let dir = Handlerd::folder();
    // Where its folder should be is a file.
    std::fs::write(dir.path().join("handlerd"), "").expect("a file is written");
    let config = format!("[redis]\nurl = \"{}\"\n{CHANNELS}", redis.url());
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    let warning = daemon.wait_log(&["WARN", "no control socket"]);
    assert!(warning.contains("XDG_RUNTIME_DIR"), "{warning}");
    redis.wait_subscribed("in", 1);
    redis.client().publish("in", "hello");
    out.wait_payload("hello");
    std::fs::remove_file(daemon.dir().join("handlerd")).expect("a file is removed");
    daemon.wait_log(&["the control socket is there now"]);
    daemon.verb(&["status"]).output().expect(0);
    assert_eq!(daemon.log_lines(&["no control socket"]).len(), 1, "it is said once");

    // Somebody tidies up.
    std::fs::remove_file(socket(&daemon)).expect("the socket is removed");
    socket(&daemon);
    daemon.verb(&["status"]).output().expect(0);
}

#[test]
fn the_verbs_explain_themselves() {
    for verb in ["tap", "top", "status", "reload"] {
        let help = Run::new(&[verb, "--help"]).output().expect(0).text();
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}
