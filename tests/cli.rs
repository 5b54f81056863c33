//! The command line itself: exit codes, what goes to which stream, output that ends early, and the
//! forms that programs read.

mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use support::{Output, Redis, Run, plugins};
use tempfile::TempDir;

const CHANNELS: &str = r#"
[handlers.redact]
config = { words = "foo" }

[channels.chat]
handlers = ["redact", "announce"]
publish = ["chat.out", "copy.{channel}"]
log = true

[channels.rooms]
pattern = "room.*"
handlers = ["redact"]
push = "rooms"
max_payload = "10B"
"#;

/// A folder with the bundled plugins and this config.
fn folder(config: &str) -> TempDir {
    let dir = support::Handlerd::folder();
    std::fs::write(dir.path().join("config.toml"), config).expect("a config is written");
    dir
}

#[track_caller]
fn run(dir: &Path, arguments: &[&str]) -> Output {
    Run::new(arguments).dir(dir).output()
}

#[test]
fn the_version_is_a_result_and_a_wrong_line_is_usage() {
    let empty = tempfile::tempdir().expect("a folder");
    let version = run(empty.path(), &["--version"]).expect(0);
    assert_eq!(version.text(), format!("handlerd {}\n", env!("CARGO_PKG_VERSION")));
    for (arguments, said) in [
        (&["chekc"] as &[&str], "'check'"),
        (&["check", "--conect"], "--connect"),
        (&["try"], "NAME|FILE.wasm"),
        (&["try", "chat", "x", "--header", "nothing"], "NAME=VALUE"),
        (&["listen"], "REDIS_CHANNEL"),
        (&["listen", "x", "--count", "0"], "1.."),
        (&["send", "x"], "PAYLOAD"),
        (&["send", "x", "y", "--url", "http://x"], "redis://HOST:PORT"),
        (&["plugin"], "inspect"),
        (&["try", "--config", "x", "plugins/x.wasm", "y"], "--config"),
    ] {
        let output = run(empty.path(), arguments).expect(64);
        assert!(output.stderr.contains(said), "{arguments:?}: {}", output.stderr);
        assert_eq!(output.text(), "", "{arguments:?}");
    }
}

#[test]
fn a_password_in_a_wrong_url_is_not_repeated() {
    let empty = tempfile::tempdir().expect("a folder");
    let output = run(empty.path(), &["send", "x", "y", "--url", "rediss://:hunter2@"]).expect(64);
    assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
}

#[test]
fn without_a_configuration_each_verb_says_so() {
    let empty = tempfile::tempdir().expect("a folder");
    for arguments in
        [&[] as &[&str], &["run"], &["check"], &["try", "chat", "x"], &["send", "a", "b"]]
    {
        let output = run(empty.path(), arguments).expect(78);
        assert!(output.stderr.contains("--config FILE"), "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains("copy config.toml"), "{arguments:?}: {}", output.stderr);
    }
    let output = run(empty.path(), &["test"]).expect(66);
    assert!(output.stderr.contains("there is no folder plugins: name one"), "{}", output.stderr);
    let output = run(empty.path(), &["check", "--config", "nowhere.toml"]).expect(78);
    assert!(output.stderr.contains("nowhere.toml"), "{}", output.stderr);
}

#[test]
fn a_bad_configuration_is_refused_by_every_verb_that_needs_it() {
    let dir = folder("[channels.chat]\nhandlres = []\npublish = \"x\"\n");
    for arguments in [&["run"] as &[&str], &["check"], &["try", "chat", "x"], &["listen", "x"]] {
        let output = run(dir.path(), arguments).expect(78);
        assert!(output.stderr.contains("config.toml:2:1"), "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains("`handlers`"), "{arguments:?}: {}", output.stderr);
        assert_eq!(output.text(), "");
    }
}

#[test]
fn a_plugin_that_can_not_be_used_is_refused_and_its_channels_named() {
    let dir = folder(&CHANNELS.replace("words = \"foo\"", "words = 7"));
    std::fs::write(dir.path().join("plugins/announce.wasm"), "nonsense").expect("a file");
    let output = run(dir.path(), &["check"]).expect(78);
    assert!(output.text().contains("chat: subscribe chat -> redact -> announce"), "{output:?}");
    assert!(output.text().contains("refused"), "{output:?}");
    assert!(output.stderr.contains("handler announce"), "{}", output.stderr);
    assert!(output.stderr.contains("announce.wasm"), "{}", output.stderr);
    let output = run(dir.path(), &["run"]).expect(78);
    assert!(output.stderr.contains("announce.wasm"), "{}", output.stderr);
    // A channel that doesn't need it can be tried nevertheless.
    run(dir.path(), &["try", "chat", "x"]).expect(78);
}

#[test]
fn the_help_of_each_verb_lists_the_codes_that_it_ends_with() {
    let empty = tempfile::tempdir().expect("a folder");
    let all = run(empty.path(), &["--help"]).expect(0).text();
    assert!(
        ["64", "70", "74"].iter().all(|code| all.split_whitespace().any(|w| w == *code)),
        "{all}"
    );
    for (verb, codes) in [
        (&["run"][..], &["0", "69", "70", "78"][..]),
        (&["check"], &["0", "69", "78"]),
        (&["try"], &["0", "1", "65", "66", "78"]),
        (&["test"], &["0", "1", "65", "66"]),
        (&["send"], &["0", "64", "66", "69", "78"]),
        (&["listen"], &["0", "64", "69", "78"]),
        (&["plugin", "new"], &["0", "64", "73", "78"]),
        (&["plugin", "list"], &["0", "65", "66", "78"]),
        (&["plugin", "inspect"], &["0", "65", "66"]),
    ] {
        let help = run(empty.path(), &[verb, &["--help"]].concat()).expect(0).text();
        let (_, list) = help.split_once("Exit codes: ").expect("a list");
        for code in codes {
            let is_listed = list.split_whitespace().any(|word| word == *code);
            assert!(is_listed, "{verb:?} can end with {code}: {list}");
        }
        assert!(list.contains("of every verb"), "{verb:?}: {list}");
    }
}

#[test]
fn an_empty_plugin_folder_is_listed_with_what_to_do() {
    let empty = tempfile::tempdir().expect("a folder");
    let text = run(empty.path(), &["plugin", "list", "."]).expect(0).text();
    assert!(text.contains("no plugins in .") && text.contains("plugin new NAME"), "{text}");
}

#[test]
fn what_is_said_of_a_cache_that_can_not_be_used_helps() {
    let dir = folder(CHANNELS);
    std::fs::write(dir.path().join("file"), "").expect("a file");
    let no_folder = dir.path().join("file/cache").display().to_string();
    for variable in ["XDG_CACHE_HOME", "CACHE_DIRECTORY"] {
        let tried = Run::new(&["try", "chat", "foo"]).dir(dir.path()).env(variable, &no_folder);
        let stderr = tried.output().expect(0).stderr;
        assert!(stderr.contains(&format!("start it with {variable}=FOLDER")), "{stderr}");
    }
}

#[test]
fn colours_are_for_terminals_only() {
    let dir = folder(CHANNELS);
    for arguments in
        [&["check"] as &[&str], &["plugin", "list"], &["try", "chat", "x"], &["nonsense"]]
    {
        let output = run(dir.path(), arguments);
        let all = format!("{}{}", output.text(), output.stderr);
        assert!(!all.contains('\x1b'), "{arguments:?}: {all:?}");
    }
    let forced = Run::new(&["check"]).dir(dir.path()).env("CLICOLOR_FORCE", "1").output();
    assert!(forced.expect(0).text().contains('\x1b'));
    let asked = Run::new(&["check"]).dir(dir.path()).env("CLICOLOR_FORCE", "1");
    assert!(!asked.env("NO_COLOR", "1").output().expect(0).text().contains('\x1b'));
}

#[test]
fn a_reader_that_goes_away_ends_a_verb_without_an_error() {
    let dir = folder(CHANNELS);
    // Compiled for the first time, a plugin is worth a line in the log.
    run(dir.path(), &["check"]).expect(0);
    let lines = "hello\n".repeat(100_000);
    std::fs::write(dir.path().join("lines"), lines).expect("a file");
    let lines = std::fs::File::open(dir.path().join("lines")).expect("the file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_handlerd"))
        .args(["try", "chat"])
        .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .current_dir(dir.path())
        .stdin(lines)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut some = [0; 10];
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut some).expect("some output");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn an_output_that_is_full_is_an_error() {
    let dir = folder(CHANNELS);
    let full = std::fs::File::create("/dev/full").expect("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_handlerd"))
        .arg("check")
        .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .current_dir(dir.path())
        .stdout(full)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(74), "{output:?}");
}

#[track_caller]
fn json_lines(output: &Output) -> Vec<Json> {
    let text = output.text();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn try_tells_programs_every_hop_and_where_things_would_go() {
    let dir = folder(CHANNELS);
    let output = Run::new(&["try", "chat", "--json", "--header", "a=b=c"])
        .dir(dir.path())
        .input("say foo\nné")
        .output()
        .expect(0);
    let lines = json_lines(&output);
    let to = json!([
        { "command": "publish", "connection": "redis", "name": "chat.out" },
        { "command": "publish", "connection": "redis", "name": "copy.chat" },
        { "command": "log" },
    ]);
    let headers = json!([["a", "b=c"]]);
    let announced = "Received message 'say ***' from channel 'chat'";
    assert_eq!(
        lines[0],
        json!({
            "channel": "chat",
            "redis_channel": "chat",
            "input": { "payload": "say foo", "headers": headers },
            "hops": [
                { "handler": "redact", "outputs": [{ "payload": "say ***", "headers": headers }] },
                { "handler": "announce", "outputs": [{ "payload": announced, "headers": headers }] },
            ],
            "outputs": [{ "payload": announced, "headers": headers, "to": to }],
        })
    );
    assert_eq!(lines[1]["input"]["payload"], "né");
    assert_eq!(lines.len(), 2);
}

#[test]
fn try_takes_bytes_and_shows_them() {
    let dir = folder(CHANNELS);
    std::fs::write(dir.path().join("bytes"), b"\xff\x1b\n\x00").expect("a file");
    let output = run(dir.path(), &["try", "rooms", "--file", "bytes"]).expect(0);
    assert_eq!(
        output.text(),
        "redact\n  \\xff\\u{1b}\\n\\u{0}\n-> push rooms\n  \\xff\\u{1b}\\n\\u{0}\n"
    );
    let output = run(dir.path(), &["try", "rooms", "--file", "bytes", "--hex"]).expect(0);
    assert_eq!(output.text(), "redact\n  ff 1b 0a 00\n-> push rooms\n  ff 1b 0a 00\n");
    let output = run(dir.path(), &["try", "rooms", "--file", "bytes", "--json"]).expect(0);
    assert_eq!(json_lines(&output)[0]["outputs"][0]["payload_hex"], "ff1b0a00");
    run(dir.path(), &["try", "rooms", "--file", "nothing"]).expect(66);
}

#[test]
fn try_says_what_the_daemon_would_drop() {
    let dir = folder(CHANNELS);
    let output = run(dir.path(), &["try", "rooms", "longer than ten bytes"]).expect(1);
    assert!(output.text().contains("too_large"), "{output:?}");
    let output = run(dir.path(), &["try", "rooms", "--json", "longer than ten bytes"]).expect(1);
    assert_eq!(
        json_lines(&output)[0]["dropped"],
        json!({ "reason": "too_large", "max_payload": 10 })
    );
}

#[test]
fn try_takes_a_plausible_redis_channel_and_warns_of_another() {
    let dir = folder(CHANNELS);
    let channel = |output: &Output| json_lines(output)[0]["redis_channel"].clone();
    let output = run(dir.path(), &["try", "rooms", "--json", "x"]).expect(0);
    assert_eq!((channel(&output), output.stderr.as_str()), ("room.1".into(), ""));
    let output = run(dir.path(), &["try", "rooms", "--json", "--channel", "room.x", "x"]).expect(0);
    assert_eq!((channel(&output), output.stderr.as_str()), ("room.x".into(), ""));
    let output = run(dir.path(), &["try", "rooms", "--json", "--channel", "hall", "x"]).expect(0);
    assert_eq!(channel(&output), "hall");
    assert!(output.stderr.contains("would not get"), "{}", output.stderr);
}

#[test]
fn try_suggests_what_was_meant() {
    let dir = folder(CHANNELS);
    let output = run(dir.path(), &["try", "chta", "x"]).expect(64);
    assert!(output.stderr.contains("did you mean \"chat\"?"), "{}", output.stderr);
    let output = run(dir.path(), &["try", "redact", "x"]).expect(64);
    assert!(output.stderr.contains("plugins/redact.wasm"), "{}", output.stderr);
}

#[test]
fn a_plugin_file_is_tried_with_settings_and_its_routes_shown() {
    let dir = folder("[channels.chat]\nhandlers = [\n");
    let try_file = |arguments: &[&str]| run(dir.path(), &[&["try"], arguments].concat());
    let output = try_file(&["plugins/redact.wasm", "--set", "words=foo, bar", "foo bar baz"]);
    assert_eq!(output.expect(0).text(), "redact\n  *** *** baz\n");
    let output = try_file(&["plugins/redact.wasm", "foo"]).expect(78);
    assert!(output.stderr.contains("nothing to mask"), "{}", output.stderr);
    let output = try_file(&["plugins/misbehave.wasm", "route vip.x hi"]).expect(0);
    assert!(output.text().contains("route vip.x"), "{}", output.text());
    let output = try_file(&["plugins/misbehave.wasm", "reject no\nway"]).expect(1);
    assert_eq!(output.text(), "misbehave\n  failed: reject: no\\nway\n");
    std::fs::write(dir.path().join("nonsense.wasm"), "nonsense").expect("a file");
    let output = try_file(&["nonsense.wasm", "x"]).expect(65);
    assert!(output.stderr.contains("not WebAssembly"), "{}", output.stderr);
    let output = try_file(&["plugins/missing.wasm", "x"]).expect(66);
    assert!(output.stderr.contains("missing.wasm"), "{}", output.stderr);
}

/// A folder with announce.wasm and these cases.
fn cases(text: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(plugins::bundled("announce"), dir.path().join("announce.wasm")).expect("a copy");
    std::fs::write(dir.path().join("announce.toml"), text).expect("cases are written");
    dir
}

const GOOD: &str = r#"
[[case]]
name = "good"
in = "a"
out = ["Received message 'a' from channel 'test'"]
"#;

#[test]
fn cases_are_chosen_by_their_names() {
    let bad = GOOD.replace("good", "bad").replace("out = [\"", "out = [\"not ");
    let dir = cases(&format!("{GOOD}{bad}"));
    let output = run(dir.path(), &["test", "."]).expect(1);
    assert!(output.text().ends_with("1 passed, 1 failed\n"), "{}", output.text());
    let output = run(dir.path(), &["test", ".", "--filter", "good"]).expect(0);
    assert!(output.text().ends_with("1 passed, 0 failed\n"), "{}", output.text());
    run(dir.path(), &["test", "announce.wasm", "--filter", "good"]).expect(0);
    run(dir.path(), &["test", "announce.toml", "--filter", "bad"]).expect(1);
    let output = run(dir.path(), &["test", ".", "--filter", "ugly"]).expect(66);
    assert!(output.stderr.contains("ugly"), "{}", output.stderr);
}

#[test]
fn a_wrong_file_of_cases_is_shown_with_its_places() {
    let dir =
        cases(&format!("{GOOD}\n[[case]]\nname = \"x\"\nin = \"\"\noutt = []\nchanel = \"x\"\n"));
    let output = run(dir.path(), &["test", "."]).expect(65);
    for said in ["announce.toml:10:1", "did you mean `out`?", "announce.toml:11:1", "`channel`"] {
        assert!(output.stderr.contains(said), "no {said} in {}", output.stderr);
    }
}

#[test]
fn cases_without_a_plugin_and_plugins_without_cases_are_said() {
    let dir = cases(GOOD);
    std::fs::copy(plugins::bundled("redact"), dir.path().join("redact.wasm")).expect("a copy");
    std::fs::write(dir.path().join("Cargo.toml"), "[workspace]\n").expect("a file");
    let output = run(dir.path(), &["test", "."]).expect(0);
    assert!(output.text().contains("redact.wasm: no cases"), "{}", output.text());
    assert!(!output.text().contains("Cargo"), "{}", output.text());
    std::fs::rename(dir.path().join("announce.wasm"), dir.path().join("renamed.wasm"))
        .expect("a name");
    let output = run(dir.path(), &["test", "."]).expect(1);
    assert!(output.text().contains("announce.toml"), "{}", output.text());
    run(dir.path(), &["test", "nowhere"]).expect(66);
    run(dir.path(), &["test", "nowhere.wasm"]).expect(66);
    let empty = tempfile::tempdir().expect("a folder");
    run(empty.path(), &["test", "."]).expect(66);
}

#[test]
fn a_plugin_that_can_not_be_used_fails_all_its_cases() {
    let dir = cases(&format!("{GOOD}{GOOD}"));
    std::fs::write(dir.path().join("announce.wasm"), "nonsense").expect("a file");
    let output = run(dir.path(), &["test", "."]).expect(1);
    assert!(output.text().contains("0 passed, 2 failed"), "{}", output.text());
    assert!(output.text().contains("not WebAssembly"), "{}", output.text());
}

#[test]
fn each_case_has_an_instance_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::copy(plugins::misbehave(), dir.path().join("misbehave.wasm")).expect("a copy");
    let trap = "[[case]]\nname = \"trap\"\nin = \"panic\"\nout = []\n";
    let fine = "[[case]]\nname = \"fine\"\nin = \"route vip.x hi\"\nout = [{ payload = \"hi\", route = \"vip.x\" }]\n";
    let count = "[[case]]\nname = \"count\"\nin = \"count\"\nout = [\"1\"]\n";
    let fine = &format!("{fine}{count}{count}");
    let unsaid = "[[case]]\nname = \"unsaid\"\nin = \"reject because\"\n";
    std::fs::write(dir.path().join("misbehave.toml"), format!("{trap}{fine}{unsaid}"))
        .expect("cases");
    let output = run(dir.path(), &["test", "."]).expect(1);
    assert!(output.text().contains("3 passed, 2 failed"), "{}", output.text());
    // A trap can't be blessed; what a case doesn't say yet can.
    let output = run(dir.path(), &["test", ".", "--bless"]).expect(1);
    assert!(output.text().contains("3 passed, 1 failed, 1 blessed"), "{}", output.text());
    let blessed = std::fs::read_to_string(dir.path().join("misbehave.toml")).expect("cases");
    assert_eq!(blessed, format!("{trap}{fine}{unsaid}reject = \"because\"\n"));
}

#[test]
fn listen_prints_lines_bytes_and_objects_and_ends_by_count() {
    let redis = Redis::start();
    let url = redis.url();
    let empty = tempfile::tempdir().expect("a folder");
    let listen = |arguments: &[&str]| {
        let arguments = [&["listen", "--url", &url], arguments].concat();
        Run::new(&arguments).dir(empty.path()).spawn()
    };
    let lines = listen(&["a", "--count", "2"]);
    let raw = listen(&["a", "--raw", "-n", "2"]);
    let objects = listen(&["-p", "[a-b]", "--json", "--count", "2"]);
    redis.wait_subscribed("a", 2);
    support::wait_until("the pattern", || redis.run::<u64>(&["PUBSUB", "NUMPAT"]) == 1);
    std::fs::write(empty.path().join("bytes"), b"\xff\n\x1b").expect("a file");
    let sent = run(empty.path(), &["send", "--url", &url, "a", "--file", "bytes"]).expect(0);
    assert_eq!(sent.text(), "3 subscribers\n");
    let sent = run(empty.path(), &["send", "--url", &url, "a", "--", "--two words"]).expect(0);
    assert_eq!(sent.text(), "3 subscribers\n");
    assert_eq!(lines.wait().expect(0).text(), "a \\xff\\n\\u{1b}\na --two words\n");
    assert_eq!(raw.wait().expect(0).stdout, b"\xff\n\x1b\n--two words");
    let objects = json_lines(&objects.wait().expect(0));
    assert_eq!(objects[0], json!({ "channel": "a", "pattern": "[a-b]", "payload_hex": "ff0a1b" }));
    assert_eq!(objects[1], json!({ "channel": "a", "pattern": "[a-b]", "payload": "--two words" }));
    let sent = run(empty.path(), &["send", "--url", &url, "nobody", ""]).expect(0);
    assert_eq!(sent.text(), "0 subscribers\n");
}

#[test]
fn the_plugins_of_a_folder_are_listed_with_their_channels() {
    let dir = folder(CHANNELS);
    std::fs::write(dir.path().join("plugins/broken.wasm"), "nonsense").expect("a file");
    let output = run(dir.path(), &["plugin", "list", "--json"]).expect(65);
    let rows = json_lines(&output);
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).expect(name).clone();
    assert_eq!(row("redact")["channels"], json!(["chat", "rooms"]));
    assert_eq!(row("redact")["refusal"], Json::Null);
    assert_eq!(row("misbehave")["channels"], json!([]));
    assert!(row("broken")["refusal"].as_str().expect("why").contains("not WebAssembly"));
    let output = run(dir.path(), &["plugin", "list"]).expect(65);
    let text = output.text();
    assert!(
        text.lines().any(|l| l.starts_with("redact ") && l.ends_with("ok       chat, rooms")),
        "{text}"
    );
    // A folder is enough.
    let empty = tempfile::tempdir().expect("a folder");
    let plugins = dir.path().join("plugins");
    std::fs::remove_file(plugins.join("broken.wasm")).expect("it is gone");
    run(empty.path(), &["plugin", "list", &plugins.display().to_string()]).expect(0);
    run(empty.path(), &["plugin", "list", "nowhere"]).expect(66);
}

#[test]
fn the_interface_is_written_and_nothing_else_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = run(dir.path(), &["plugin", "wit", "--out", "my/wit"]).expect(0);
    let own = plugins::root().join("plugins/wit/0.1");
    for file in output.text().lines() {
        let name = Path::new(file).strip_prefix("my/wit").expect("its name");
        let written = std::fs::read(dir.path().join(file)).expect("it is there");
        assert_eq!(written, std::fs::read(own.join(name)).expect("the interface"));
    }
    assert!(dir.path().join("my/wit/deps/logging/logging.wit").is_file());
    run(dir.path(), &["plugin", "wit", "--out", "my/wit"]).expect(0);
    std::fs::write(dir.path().join("my/wit/plugin.wit"), "mine").expect("a file");
    let output = run(dir.path(), &["plugin", "wit", "--out", "my/wit"]).expect(73);
    assert!(output.stderr.contains("plugin.wit"), "{}", output.stderr);
    assert_eq!(std::fs::read(dir.path().join("my/wit/plugin.wit")).expect("it"), b"mine");
}
