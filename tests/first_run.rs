//! A newcomer's first run: the repository's own config.toml and what README.md shows beside it.
//!
//! The port that the embedded broker listens on is the first free one from 6379, as it is for a
//! newcomer, so nothing here relies on which one that is.

mod support;

use std::path::Path;

use support::handlerd::Running;
use support::{Handlerd, Run, committed, plugins, wait_until};
use tempfile::TempDir;

fn readme() -> String {
    std::fs::read_to_string(plugins::root().join("README.md")).expect("it is there")
}

/// The repository's config.toml and plugins, at a place of their own.
fn repository() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let config = committed::text("config.toml");
    std::fs::write(dir.path().join("config.toml"), config).expect("a file");
    let there = plugins::root().join("plugins");
    std::os::unix::fs::symlink(there, dir.path().join("plugins")).expect("a link");
    dir
}

/// The daemon as it is started there, and the port of its broker.
fn start() -> (Handlerd, u16) {
    let dir = repository();
    let config = std::fs::read_to_string(dir.path().join("config.toml")).expect("it is there");
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    let line = daemon.wait_log(&["subscribed to 1 of 1 names", "127.0.0.1:"]);
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    (daemon, port.expect("a port"))
}

fn listen(dir: &Path, channel: &str) -> Running {
    let listening = Run::new(&["listen", channel]).dir(dir).interactive().spawn();
    wait_until("listening", || listening.stderr().contains("listening to"));
    listening
}

#[test]
fn what_is_sent_comes_out_as_the_readme_shows() {
    let (daemon, _) = start();
    let listening = listen(daemon.dir(), "chat.out");
    let sent = Run::new(&["send", "chat", "what the heck"]).dir(daemon.dir()).output().expect(0);
    assert_eq!(sent.text(), "1 subscriber\n");
    let seen = listening.wait_stdout("'chat'");
    assert_eq!(seen, "chat.out Received message 'what the ****' from channel 'chat'\n");

    let readme = readme();
    for shown in ["$ handlerd send chat \"what the heck\"\n1 subscriber\n", &seen] {
        assert!(readme.contains(shown), "README.md doesn't show {shown:?}");
    }
}

#[test]
fn the_python_program_of_the_readme_works_with_it() {
    let (daemon, port) = start();
    let readme = readme();
    let (_, rest) = readme.split_once("```python\n").expect("README.md has a Python program");
    let (program, rest) = rest.split_once("```").expect("it ends");
    let (_, rest) =
        rest.split_once("$ venv/bin/python chat.py\n").expect("README.md shows how it is run");
    let (expected, _) = rest.split_once("```").expect("it ends");
    assert!(program.contains("port=6379"), "{program}");
    let file = daemon.dir().join("chat.py");
    std::fs::write(&file, program.replace("6379", &port.to_string())).expect("a file");
    let output = Run::python(file.to_str().expect("text"), &[]).output().expect(0);
    assert_eq!(output.text(), expected);
}

#[test]
fn the_configurations_of_the_readme_are_valid() {
    let readme = readme();
    let blocks: Vec<&str> = readme.split("```toml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let (text, _) = block.split_once("```").expect("it ends");
        let dir = repository();
        std::fs::write(dir.path().join("redis-password"), "secret").expect("a file");
        let text = text.replace("/etc/handlerd/redis-password", "redis-password");
        std::fs::write(dir.path().join("config.toml"), text).expect("a file");
        Run::new(&["check"]).dir(dir.path()).output().expect(0);
    }
}

#[test]
fn the_commands_to_a_plugin_of_ones_own_are_those_that_are_printed() {
    let readme = readme();
    let (_, section) = readme.split_once("### With a plugin of your own").expect("a section");
    let (_, block) = section.split_once("```console\n").expect("it has commands");
    let (block, _) = block.split_once("```").expect("it ends");
    let shown = block.lines().filter_map(|line| line.strip_prefix("$ "));
    let shown: Vec<&str> =
        shown.map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
    let new = shown.iter().position(|line| line.starts_with("handlerd plugin new "));
    let (first, rest) = shown[new.expect("it is shown")..].split_first().expect("that one");

    let dir = repository();
    let arguments: Vec<&str> = first.split(' ').skip(1).collect();
    let printed = Run::new(&arguments).dir(dir.path()).output().expect(0).text();
    assert_eq!(rest.len(), 4, "{rest:?}");
    for command in rest {
        let arguments = command.strip_prefix("handlerd").unwrap_or(command);
        let is_printed = printed.lines().any(|line| line.ends_with(arguments));
        assert!(is_printed, "{command} isn't among\n{printed}");
    }
}
