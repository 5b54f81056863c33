//! How it starts: with Redis or without, quickly when it has compiled before, and not at all with a
//! configuration that is wrong.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use support::handlerd::folder_with;
use support::{Handlerd, Redis, Run, Watcher, wait_until};

const CHANNEL: &str = r#"
    [channels.chat]
    handlers = ["announce"]
    publish = "out"
"#;

#[test]
fn redis_may_come_later() {
    let mut redis = Redis::start();
    redis.kill();
    let mut daemon = Handlerd::start(&redis, CHANNEL);
    daemon.wait_log(&[&format!("127.0.0.1:{}", redis.port())]);
    assert!(daemon.runs());
    redis.restart();
    redis.wait_subscribed("chat", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    redis.client().publish("chat", "at last");
    out.wait_payload("Received message 'at last' from channel 'chat'");
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn over_a_unix_socket() {
    let redis = Redis::start();
    let url = format!("unix://{}", redis.socket().display());
    let _daemon = Handlerd::start_at(&url, CHANNEL);
    redis.wait_subscribed("chat", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    redis.client().publish("chat", "hello");
    out.wait_count(1);
}

#[test]
fn a_missing_password_is_said_with_what_to_do() {
    let redis = Redis::with("requirepass sesame");
    let mut daemon = Handlerd::start(&redis, CHANNEL);
    daemon.wait_log(&["NOAUTH", "password_file"]);
    redis.client().run::<()>(&["CONFIG", "SET", "requirepass", ""]);
    redis.wait_subscribed("chat", 1);
}

#[test]
fn the_password_in_the_url_stays_secret() {
    let redis = Redis::with("requirepass sesame");
    let url = format!("redis://:sesame@127.0.0.1:{}", redis.port());
    let dir = Handlerd::folder();
    let config = format!("[redis]\nurl = \"{url}\"\n[log]\nlevel = \"trace\"\n{CHANNEL}");
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    redis.wait_subscribed("chat", 1);
    let log = daemon.stop().log.join("\n");
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn environment_variables_fill_in() {
    let redis = Redis::start();
    let dir = Handlerd::folder();
    let config = "[redis]\nurl = \"redis://127.0.0.1:${TEST_REDIS_PORT}\"\n[channels.chat]\n\
                  subscribe = \"$${literal}\"\nhandlers = []\npublish = \"out\"\n";
    let port = redis.port().to_string();
    let _daemon = Handlerd::start_in(dir, config, &[("TEST_REDIS_PORT", port.as_str())]);
    redis.wait_subscribed("${literal}", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    redis.client().publish("${literal}", "hello");
    out.wait_payload("hello");
}

/// The files below a folder, and what tells each from one that was written anew in its place.
fn written(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let inode = path.metadata().expect("a file").ino();
                    found.insert(path.display().to_string(), inode);
                }
            }
        }
    }
    found
}

#[test]
fn a_warm_start_compiles_nothing() {
    let redis = Redis::start();
    let cache = tempfile::tempdir().expect("a temporary folder");
    let path = cache.path().display().to_string();
    let start = || {
        let dir = Handlerd::folder();
        let config = format!("[redis]\nurl = \"{}\"\n{CHANNEL}", redis.url());
        let mut daemon = Handlerd::start_in(dir, &config, &[("XDG_CACHE_HOME", &path)]);
        redis.wait_subscribed("chat", 1);
        assert_eq!(daemon.stop().code, 0);
        written(cache.path())
    };
    let first = start();
    assert!(!first.is_empty(), "nothing was kept");
    assert_eq!(start(), first);
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let redis = Redis::start();
    let cache = tempfile::tempdir().expect("a temporary folder");
    let path = cache.path().display().to_string();
    for round in 0..3 {
        let dir = Handlerd::folder();
        let config = format!("[redis]\nurl = \"{}\"\n{CHANNEL}", redis.url());
        let mut daemon = Handlerd::start_in(dir, &config, &[("XDG_CACHE_HOME", &path)]);
        redis.wait_subscribed("chat", 1);
        let out = Watcher::subscribe(&redis, &["out"]);
        redis.client().publish("chat", "hello");
        out.wait_count(1);
        assert_eq!(daemon.stop().code, 0, "round {round}");
        let mut client = redis.client();
        wait_until("the subscription to end", || client.subscribers("chat") == 0);
        for file in written(cache.path()).into_keys() {
            // Replaced, as a broken disk or a half-finished copy would leave it.
            std::fs::remove_file(&file).expect("a file is removed");
            std::fs::write(&file, if round == 0 { &b""[..] } else { b"not native code" })
                .expect("a file is written");
        }
    }
}

#[test]
fn a_wrong_config_ends_the_start_with_all_its_errors() {
    let (_dir, file) = folder_with(
        "[redis]\nurll = \"redis://127.0.0.1\"\n\n[channels.chat]\nhandler = [\"announce\"]\n\
         publish = 7\nqueue = \"16 bananas\"\n",
    );
    for verb in ["run", "check"] {
        let output = Run::new(&[verb, "--config", &file.display().to_string()]).output().expect(78);
        for (place, words) in [
            ("config.toml:2:1", &["urll", "url"][..]),
            ("config.toml:5:1", &["handler", "handlers"]),
            ("config.toml:6:11", &["publish"]),
            ("config.toml:7:9", &["16 bananas"]),
        ] {
            assert!(output.stderr.contains(place), "{verb}: no {place} in\n{}", output.stderr);
            for word in words {
                assert!(output.stderr.contains(word), "{verb}: no {word} in\n{}", output.stderr);
            }
        }
        assert!(output.stdout.is_empty(), "results only on standard output: {}", output.text());
    }
}

#[test]
fn a_circle_is_refused_and_shown() {
    let (_dir, file) = folder_with(
        "[channels.there]\nsubscribe = \"a\"\nhandlers = []\npublish = \"b\"\n\
         [channels.back]\npattern = \"b*\"\nhandlers = []\npublish = \"a\"\n",
    );
    let output = Run::new(&["run", "--config", &file.display().to_string()]).output().expect(78);
    assert!(output.stderr.contains("there") && output.stderr.contains("back"), "{}", output.stderr);
    assert!(output.stderr.contains("loops"), "{}", output.stderr);
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    let (_dir, file) =
        folder_with("[channels.chat]\nhandlers = [\"anounce\"]\npublish = \"out\"\n");
    let output = Run::new(&["run", "--config", &file.display().to_string()]).output().expect(78);
    assert!(output.stderr.contains("anounce"), "{}", output.stderr);
}

#[test]
fn a_setup_that_refuses_its_config_ends_the_start() {
    let (_dir, file) = folder_with(
        "[handlers.redact]\nconfig = { patterns = [\"(unclosed\"] }\n\
         [channels.chat]\nhandlers = [\"redact\"]\npublish = \"out\"\n",
    );
    let output = Run::new(&["run", "--config", &file.display().to_string()]).output().expect(78);
    assert!(output.stderr.contains("redact"), "{}", output.stderr);
    assert!(output.stderr.contains("(unclosed"), "{}", output.stderr);
}

#[test]
fn no_config_at_all() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let output = Run::new(&["run"]).dir(empty.path()).output();
    assert_eq!(output.code, 78, "{}", output.stderr);
    assert!(output.stderr.contains("--config"), "{}", output.stderr);
    let named = Run::new(&["run", "--config", "nowhere.toml"]).dir(empty.path()).output();
    assert!([66, 78].contains(&named.code), "{}: {}", named.code, named.stderr);
    assert!(named.stderr.contains("nowhere.toml"), "{}", named.stderr);
}

#[test]
fn an_unknown_verb_or_option() {
    for arguments in [&["dance"][..], &["run", "--fast"], &["try"]] {
        let output = Run::new(arguments).output().expect(64);
        assert!(output.stderr.contains("--help"), "{}", output.stderr);
    }
    let help = Run::new(&["--help"]).output().expect(0);
    assert!(help.text().contains("Examples"), "{}", help.text());
    Run::new(&["--version"]).output().expect(0);
}

#[test]
fn what_the_machine_did_to_the_compiler_is_tried_again_and_a_bad_file_is_not() {
    let (dir, file) = folder_with(CHANNEL);
    let program = env!("CARGO_BIN_EXE_handlerd");
    let shell = |script: &str| {
        let cold = tempfile::tempdir().expect("a cache folder");
        let config = file.display().to_string();
        let run = Run::program("sh", &["-c", script, program, &config]).dir(dir.path());
        run.env("XDG_CACHE_HOME", &cold.path().display().to_string()).output()
    };
    // What compiles is ended like this by the kernel, when memory is short.
    let kill = "until kill -KILL $(cat /proc/$pid/task/*/children) 2>/dev/null; do :; done";
    let script = format!("\"$0\" run --config \"$1\" & pid=$!; {kill}; wait $pid");
    let ended = shell(&script).expect(70);
    assert!(ended.stderr.contains("handler announce: can't compile"), "{}", ended.stderr);
    assert!(ended.stderr.contains("SIGKILL"), "{}", ended.stderr);

    let full = shell("\"$0\" compile-plugin <plugins/announce.wasm >/dev/full").expect(71);
    assert!(full.stderr.contains("can't write the result"), "{}", full.stderr);

    std::fs::write(dir.path().join("plugins/announce.wasm"), b"\0asm\x0d\0\x01\0\xff")
        .expect("a file");
    shell("exec \"$0\" run --config \"$1\"").expect(78);
}
