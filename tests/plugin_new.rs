//! `handlerd plugin new`: from nothing to an own plugin, with what is in the program alone.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Handlerd, Output, Redis, Run, Watcher, plugins};

#[track_caller]
fn run(dir: &Path, arguments: &[&str]) -> Output {
    Run::new(arguments).dir(dir).output()
}

/// The folder's `build`, as a user's shell would start it. What it compiles is kept from one run
/// of the tests to the next.
fn build(dir: &Path) -> Command {
    let mut command = Command::new(dir.join("build"));
    // Cargo tells its own tests things that aren't for another cargo.
    let cargos = |name: &str| name.starts_with("CARGO_") && name != "CARGO_HOME";
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if cargos(&name) || ["CARGO", "LD_LIBRARY_PATH", "RUSTFLAGS", "RUSTC"].contains(&&*name) {
            command.env_remove(name);
        }
    }
    command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-new"));
    command
}

/// The commands that were printed, in their order.
fn commands(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.contains(' '))
        .collect()
}

#[test]
fn a_new_plugin_is_built_tested_tried_and_handles_a_message() {
    let redis = Redis::start();
    let config = |handlers: &str| {
        let url = redis.url();
        format!(
            "[redis]\nurl = \"{url}\"\n[channels.chat]\nhandlers = [{handlers}]\npublish = \"out\"\n"
        )
    };
    let dir = Handlerd::folder();
    let here = dir.path();
    std::fs::write(here.join("config.toml"), config("")).expect("a config");

    let made = run(here, &["plugin", "new", "shout-it"]).expect(0).text();
    let printed = commands(&made).join("\n");
    for command in [
        "test shout-it",
        "try shout-it/shout-it.wasm --channel chat hello",
        "cp shout-it/shout-it.wasm plugins/",
        "handlers = [\"shout-it\"]",
    ] {
        assert!(printed.contains(command), "no {command} in {made}");
    }

    let built = build(&here.join("shout-it")).output().expect("the shell runs it");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");

    let tested = run(here, &["test", "shout-it"]).expect(0);
    assert!(tested.text().ends_with("2 passed, 0 failed\n"), "{}", tested.text());
    let tried = run(here, &["try", "shout-it/shout-it.wasm", "--channel", "chat", "hello"]);
    assert_eq!(tried.expect(0).text(), "shout-it\n  chat: HELLO\n");

    let file = here.join("shout-it/shout-it.wasm");
    std::fs::copy(&file, here.join("plugins/shout-it.wasm")).expect("a copy");
    let _daemon = Handlerd::start_in(dir, &config("\"shout-it\""), &[]);
    redis.wait_subscribed("chat", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    redis.client().publish("chat", "hello");
    out.wait_payload("chat: HELLO");
}

#[test]
fn the_build_says_how_to_get_what_it_lacks() {
    let dir = tempfile::tempdir().expect("a folder");
    run(dir.path(), &["plugin", "new", "shout"]).expect(0);
    let tools = dir.path().join("tools");
    std::fs::create_dir(&tools).expect("a folder");
    let output = |path: &Path| {
        let output = build(&dir.path().join("shout")).env("PATH", path).output();
        let output = output.expect("the shell runs it");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = output(&tools);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("https://rustup.rs"), "{said}");

    // A Rust that can't compile for WebAssembly, and no linker for it.
    for (name, does) in [("cargo", "exit 1"), ("rustc", "echo /nowhere")] {
        let file = tools.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{does}\n")).expect("a program");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("it runs");
    }
    let (code, said) = output(&tools);
    assert_eq!(code, Some(69), "{said}");
    let readme = std::fs::read_to_string(plugins::root().join("README.md")).expect("it is there");
    for way in [
        "rustup target add wasm32-unknown-unknown",
        "sudo apt install --no-install-recommends rustc-web rust-web-src lld",
    ] {
        assert!(said.contains(way), "no {way} in {said}");
        assert!(readme.contains(way), "README.md doesn't say: {way}");
    }
}

#[test]
fn what_is_there_is_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path();
    let there = here.join("shout");
    std::fs::create_dir(&there).expect("a folder");
    let output = run(here, &["plugin", "new", "shout"]).expect(73);
    assert!(output.stderr.contains("shout is there already"), "{}", output.stderr);
    assert!(output.stderr.contains("--dir"), "{}", output.stderr);
    assert_eq!(std::fs::read_dir(&there).expect("it").count(), 0);

    let output = run(here, &["plugin", "new", "shout", "--dir", "my plugins/shout"]).expect(0);
    assert!(output.text().contains("'my plugins/shout'/build"), "{}", output.text());
    assert!(here.join("my plugins/shout/shout.toml").is_file());
    let build = here.join("my plugins/shout/build");
    let mode = build.metadata().expect("it").permissions().mode();
    assert_eq!(mode & 0o111, 0o111);

    std::fs::write(here.join("file"), "").expect("a file");
    run(here, &["plugin", "new", "shout", "--dir", "file"]).expect(73);
    let output = run(here, &["plugin", "new", "shout", "--dir", "file/x"]).expect(73);
    assert!(output.stderr.contains("file"), "{}", output.stderr);
}

#[test]
fn what_can_not_be_a_name_or_a_language_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    for (arguments, said) in [
        (&["My Plugin"] as &[&str], "\"my-plugin\" would do"),
        (&["../shout"], "\"shout\" would do"),
        (&["fn"], "keyword"),
        (&["std"], "crate"),
        (&[""], "begin with a letter"),
        (&["shout", "--language", "cobol"], "rust"),
        (&[], "NAME"),
    ] {
        let output = run(dir.path(), &[&["plugin", "new"], arguments].concat()).expect(64);
        assert!(output.stderr.contains(said), "{arguments:?}: {}", output.stderr);
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("it").count(), 0, "something was made");
}

#[test]
fn the_copied_sdk_is_that_of_the_bundled_plugins() {
    let dir = tempfile::tempdir().expect("a folder");
    run(dir.path(), &["plugin", "new", "shout"]).expect(0);
    let own = plugins::root().join("plugins/sdk/rust");
    let mut folders = vec![PathBuf::new()];
    let mut compared = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(own.join(&folder)).expect("the SDK") {
            let path = folder.join(entry.expect("an entry").file_name());
            if own.join(&path).is_dir() {
                folders.push(path);
                continue;
            }
            let copied = std::fs::read(dir.path().join("shout/sdk").join(&path));
            let copied = copied.unwrap_or_else(|e| panic!("sdk/{}: {e}", path.display()));
            assert_eq!(copied, std::fs::read(own.join(&path)).expect("the SDK"));
            compared += 1;
        }
    }
    assert!(compared > 8, "{compared}");
}
