//! The verbs beside `run`: what they print, what they write, and their exit codes.

mod support;

use std::path::Path;

use rustix::process::Signal;
use support::{Handlerd, Output, Redis, Run, plugins};
use tempfile::TempDir;

const CONFIG: &str = r#"
[handlers.redact]
config = { words = "foo" }

[channels.chat]
handlers = ["redact", "announce"]
publish = "chat.out"

[channels.work]
subscribe = "in"
handlers = ["misbehave"]
publish = "out"
routes = { publish = ["vip.*"] }
"#;

/// A folder with a config for this Redis, which may not be there.
fn folder(url: &str) -> TempDir {
    let dir = Handlerd::folder();
    let config = format!("[redis]\nurl = \"{url}\"\n{CONFIG}");
    std::fs::write(dir.path().join("config.toml"), config).expect("a config is written");
    dir
}

const NOWHERE: &str = "redis://127.0.0.1:1";

#[track_caller]
fn run(dir: &Path, arguments: &[&str]) -> Output {
    Run::new(arguments).dir(dir).output()
}

#[test]
fn check_says_the_way_of_each_channel() {
    let dir = folder(NOWHERE);
    let output = run(dir.path(), &["check"]).expect(0);
    let text = output.text();
    for words in ["chat", "redact", "announce", "chat.out", "work", "misbehave", "vip.*"] {
        assert!(text.contains(words), "no {words} in\n{text}");
    }
}

#[test]
fn check_connect_looks_at_redis_and_its_rights() {
    let dir = folder(NOWHERE);
    let output = run(dir.path(), &["check", "--connect"]).expect(69);
    assert!(output.stderr.contains("127.0.0.1:1"), "{}", output.stderr);

    let redis = Redis::with("user narrow on >x resetchannels &chat +@all -publish");
    let version: String = redis.run(&["INFO", "server"]);
    let version = version.split("redis_version:").nth(1).and_then(|rest| rest.lines().next());
    let version = version.expect("a version").trim();
    let dir = folder(&redis.url());
    let output = run(dir.path(), &["check", "--connect"]).expect(0);
    assert!(output.text().contains(version), "no {version} in\n{}", output.text());

    let narrow = format!("redis://narrow:x@127.0.0.1:{}", redis.port());
    let dir = folder(&narrow);
    let output = run(dir.path(), &["check", "--connect"]);
    assert_ne!(output.code, 0, "{}", output.text());
    let all = format!("{}{}", output.text(), output.stderr);
    assert!(all.contains("ACL SETUSER narrow"), "{all}");
    // The line does what it says, and asking had no effect of its own.
    let line = all.lines().find_map(|line| line.split_once("ACL SETUSER")).expect("the line").1;
    let words: Vec<&str> = line.split_whitespace().collect();
    let command = [&["ACL", "SETUSER"], &words[..]].concat();
    redis.run::<()>(&command);
    run(dir.path(), &["check", "--connect"]).expect(0);
    assert_eq!(redis.run::<u64>(&["DBSIZE"]), 0);
}

#[test]
fn try_shows_each_hop() {
    let dir = folder(NOWHERE);
    let text = run(dir.path(), &["try", "chat", "say foo"]).expect(0).text();
    let (first, second) =
        (text.find("say ***"), text.find("Received message 'say ***' from channel"));
    assert!(first < second && first.is_some(), "{text}");

    let text = run(dir.path(), &["try", "work", "route vip.x hi"]).expect(0).text();
    assert!(text.contains("vip.x") && text.contains("hi"), "{text}");

    let failed = run(dir.path(), &["try", "work", "reject because I can"]).expect(1);
    let all = format!("{}{}", failed.text(), failed.stderr);
    assert!(all.contains("because I can"), "{all}");

    let unknown = run(dir.path(), &["try", "chatt", "x"]);
    assert_ne!(unknown.code, 0);
    assert!(unknown.stderr.contains("chat"), "{}", unknown.stderr);
}

#[test]
fn try_takes_lines_and_files() {
    let dir = folder(NOWHERE);
    let output = Run::new(&["try", "chat", "--channel", "lobby"])
        .dir(dir.path())
        .input("one\ntwo foo\n")
        .output()
        .expect(0);
    let text = output.text();
    assert!(text.contains("Received message 'one' from channel 'lobby'"), "{text}");
    assert!(text.contains("Received message 'two ***' from channel 'lobby'"), "{text}");

    // A file, without any config.
    let empty = tempfile::tempdir().expect("a temporary folder");
    let file = plugins::bundled("announce").display().to_string();
    let text = run(empty.path(), &["try", &file, "hello"]).expect(0).text();
    assert!(text.contains("Received message 'hello' from channel"), "{text}");
}

#[test]
fn the_cases_of_the_bundled_plugins_pass() {
    let dir = plugins::root().join("plugins");
    let output = Run::new(&["test", &dir.display().to_string()]).output().expect(0);
    let text = output.text();
    assert!(text.contains("announce") && text.contains("redact"), "{text}");
}

const CASES: &str = r#"
[[case]]
name = "it announces"
channel = "lobby"
in = "hello"
out = ["Received message 'hello' from channel 'lobby'"]

[[case]]
name = "it is wrong"
in = "hello"
out = ["Received message 'hallo' from channel 'test'"]
"#;

#[test]
fn a_case_that_fails_names_what_differs_and_bless_mends_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(plugins::bundled("announce"), dir.path().join("announce.wasm")).expect("a copy");
    let file = dir.path().join("announce.toml");
    std::fs::write(&file, CASES).expect("cases are written");
    let failed = run(dir.path(), &["test", "."]).expect(1);
    let all = format!("{}{}", failed.text(), failed.stderr);
    assert!(all.contains("it is wrong") && all.contains("1 passed, 1 failed"), "{all}");
    // "Received message 'h" is the same: the first other byte is number 19.
    assert!(all.contains("19"), "the place isn't named: {all}");

    run(dir.path(), &["test", ".", "--bless"]).expect(0);
    let blessed = std::fs::read_to_string(&file).expect("cases");
    assert!(blessed.contains("Received message 'hello' from channel 'test'"), "{blessed}");
    assert!(blessed.contains("it announces"), "{blessed}");
    run(dir.path(), &["test", "."]).expect(0);
}

#[test]
fn send_and_listen() {
    let redis = Redis::start();
    let dir = folder(&redis.url());
    let listener = Run::new(&["listen", "lobby", "other"]).dir(dir.path()).spawn();
    redis.wait_subscribed("lobby", 1);
    redis.wait_subscribed("other", 1);
    run(dir.path(), &["send", "lobby", "hello there"]).expect(0);
    listener.wait_stdout("hello there");
    run(dir.path(), &["send", "other", "and here"]).expect(0);
    let text = listener.wait_stdout("and here");
    assert!(text.contains("lobby") && text.contains("other"), "{text}");
    // Not an interrupt: a shell that starts the tests in the background has that one ignored.
    listener.signal(Signal::TERM);
    let output = listener.wait();
    assert!([0, 143].contains(&output.code), "{}", output.code);

    let away = folder(NOWHERE);
    let output = run(away.path(), &["send", "lobby", "x"]).expect(69);
    assert!(output.stderr.contains("127.0.0.1:1"), "{}", output.stderr);
}

#[test]
fn send_listen_and_the_daemon_between() {
    let redis = Redis::start();
    let daemon = Handlerd::start(&redis, CONFIG);
    redis.wait_subscribed("chat", 1);
    let listener = Run::new(&["listen", "chat.out"]).dir(daemon.dir()).spawn();
    redis.wait_subscribed("chat.out", 1);
    run(daemon.dir(), &["send", "chat", "hello foo"]).expect(0);
    listener.wait_stdout("Received message 'hello ***' from channel 'chat'");
}

#[test]
fn plugin_list_names_files_and_what_is_wrong_with_them() {
    let dir = folder(NOWHERE);
    std::fs::write(dir.path().join("plugins/broken.wasm"), "nonsense").expect("a file is written");
    let output = run(dir.path(), &["plugin", "list"]);
    let all = format!("{}{}", output.text(), output.stderr);
    for name in ["announce", "redact", "misbehave", "broken"] {
        assert!(all.contains(name), "no {name} in\n{all}");
    }
}

#[test]
fn plugin_inspect_shows_exports_imports_and_hash() {
    let file = plugins::bundled("announce").display().to_string();
    let output = Run::new(&["plugin", "inspect", &file]).output().expect(0);
    let text = output.text();
    assert!(text.contains("handlerd:plugin/handler@0.1.0"), "{text}");
    let sha256 = std::process::Command::new("sha256sum").arg(&file).output().expect("sha256sum");
    let sha256 = String::from_utf8_lossy(&sha256.stdout).into_owned();
    let sha256 = sha256.split_whitespace().next().expect("a hash");
    assert!(text.contains(sha256), "no {sha256} in\n{text}");

    let missing = Run::new(&["plugin", "inspect", "nowhere.wasm"]).output().expect(66);
    assert!(missing.stderr.contains("nowhere.wasm"), "{}", missing.stderr);
}

#[test]
fn plugin_wit_prints_the_interface() {
    let text = Run::new(&["plugin", "wit"]).output().expect(0).text();
    let own = plugins::root().join("plugins/wit/0.1/plugin.wit");
    let own = std::fs::read_to_string(own).expect("the interface");
    assert!(text.contains(own.trim()), "{text}");
}

#[test]
fn every_verb_has_help_with_an_example() {
    for verb in
        ["run", "check", "try", "test", "send", "listen", "plugin", "schema", "completions", "man"]
    {
        let text = Run::new(&[verb, "--help"]).output().expect(0).text();
        assert!(text.contains("Example"), "{verb}: {text}");
    }
}

#[test]
fn every_verb_has_a_manual_page_and_the_configuration_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    run(dir.path(), &["man", "pages"]).expect(0);
    let read = |page: &str| {
        let file = dir.path().join("pages").join(page);
        std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{page}: {e}"))
    };
    let help = run(dir.path(), &["--help"]).expect(0).text();
    let verbs = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let verbs: Vec<&str> = verbs
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty() && *verb != "help")
        .collect();
    assert!(verbs.contains(&"schema") && !verbs.contains(&"man"), "{help}");
    for verb in verbs {
        let page = read(&format!("handlerd-{verb}.1"));
        assert!(page.contains(".SH EXAMPLES"), "{verb}: {page}");
    }
    assert!(read("handlerd.1").contains(".SH EXIT STATUS"));
    assert!(!dir.path().join("pages/handlerd-man.1").exists());
    let keys = read("handlerd.toml.5");
    for key in ["drain_timeout", "max_payload", "password_file"] {
        assert!(keys.contains(&format!("\\fB{key}\\fR")), "{key} isn't in {keys}");
    }

    std::fs::write(dir.path().join("file"), "").expect("a file");
    let refused = run(dir.path(), &["man", "file/pages"]).expect(73);
    assert!(refused.stderr.contains("file/pages"), "{}", refused.stderr);
}

#[test]
fn shells_complete_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Run::new(&["completions", shell]).output().expect(0).text();
        for verb in ["check", "replay", "completions"] {
            assert!(script.contains(verb), "{shell} doesn't know {verb}");
        }
    }
    let refused = Run::new(&["completions", "tcsh"]).output().expect(64);
    assert!(
        refused.stderr.contains("bash") && refused.stderr.contains("fish"),
        "{}",
        refused.stderr
    );
}
