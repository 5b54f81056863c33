//! Files that are none: pipes, devices, links to nothing, and such as nobody has written into yet.

mod support;

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::changing::{Changing, put};
use support::endpoints::{fetch, wait_code};
use support::handlerd::folder_with;
use support::redis_server::free_port;
use support::{Handlerd, Redis, Run, Watcher};

const CHANNEL: &str = "[channels.chat]\nsubscribe = \"in\"\nhandlers = []\npublish = \"out\"\n";

/// A named pipe in place of whatever is there.
fn put_pipe(at: &Path) {
    let aside = at.with_extension("pipe");
    mknodat(CWD, &aside, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    fs::rename(&aside, at).expect("it is renamed");
}

#[test]
fn a_password_file_that_is_a_pipe_at_a_reconnect_holds_up_nothing() {
    let redis = Redis::with("user handlerd on >secret allchannels +@all");
    let port = free_port();
    let dir = Handlerd::folder();
    let file = dir.path().join("password");
    fs::write(&file, "secret").expect("a password is written");
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[redis]\nurl = \"{}\"\nusername = \"handlerd\"\n\
         password_file = \"password\"\n{CHANNEL}",
        redis.url()
    );
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    redis.wait_subscribed("in", 1);
    put_pipe(&file);
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut client = redis.client();
    client.run::<()>(&["CLIENT", "KILL", "USER", "handlerd"]);
    daemon.wait_log(&["Redis can't be reached", "password", "is a pipe, not a regular file"]);
    assert_eq!(fetch(port, "/healthz").code, 200);
    put(&file, "secret");
    redis.wait_subscribed("in", 1);
    client.publish("in", "again");
    out.wait_payload("again");
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn what_is_no_regular_file_is_refused_at_the_start() {
    let (dir, file) = folder_with(&format!("[redis]\npassword_file = \"odd\"\n{CHANNEL}"));
    let check = || Run::new(&["check"]).config(&file).output().expect(78).stderr;
    put_pipe(&dir.path().join("odd"));
    let said = check();
    assert!(said.contains("odd is a pipe, not a regular file"), "{said}");
    let device = format!("[redis]\npassword_file = \"/dev/zero\"\n{CHANNEL}");
    fs::write(&file, device).expect("a configuration");
    let said = check();
    assert!(said.contains("/dev/zero is a device, not a regular file"), "{said}");
    put_pipe(&dir.path().join("p.wasm"));
    let plugin = CHANNEL.replace("[]", "[\"p\"]");
    fs::write(&file, format!("[handlers.p]\nplugin = \"./p.wasm\"\n{plugin}"))
        .expect("a configuration");
    let said = check();
    assert!(said.contains("p.wasm is a pipe, not a regular file"), "{said}");
    assert!(!said.contains("plugin folder"), "{said}");
    put_pipe(&file);
    let said = check();
    assert!(said.contains("the configuration is a pipe, not a regular file"), "{said}");
    fs::remove_file(&file).expect("it was there");
    std::os::unix::fs::symlink("gone.toml", &file).expect("a link");
    let said = check();
    assert!(said.contains("is a link to gone.toml, which doesn't exist"), "{said}");
}

#[test]
fn a_configuration_may_come_by_a_pipe_that_is_open_already() {
    let config = "[channels.chat]\nhandlers = []\nlog = true\n";
    let check = Run::new(&["check", "--config", "/dev/stdin"]).input(config);
    check.output().expect(0);
    // As a shell does it for `--config <(…)`.
    let script = "\"$0\" check --config /dev/fd/5 5<&0";
    let binary = env!("CARGO_BIN_EXE_handlerd");
    Run::program("sh", &["-c", script, binary]).input(config).output().expect(0);
}

#[test]
fn pipes_and_empty_files_are_refused_at_a_reload_and_the_next_one_goes_well() {
    let redis = Redis::start();
    let port = free_port();
    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut daemon = Changing::start(&redis, &format!("{http}{CHANNEL}"));
    wait_code(port, "/readyz", 200);
    put_pipe(&daemon.config);
    assert!(daemon.reload().contains("the reload was refused"));
    daemon.daemon.wait_log(&["ERROR", "the configuration is a pipe, not a regular file"]);
    for empty in ["", "\n \n", "# channels = 1\n\t\n", "\u{feff}# x"] {
        put(&daemon.config, empty);
        assert!(daemon.reload().contains("the reload was refused"), "{empty:?}");
    }
    daemon.daemon.wait_log(&["ERROR", "nothing is written in the configuration file"]);
    // A secret of a handler.
    put_pipe(&daemon.daemon.dir().join("key"));
    let secret = "[handlers.announce]\nconfig = { key = { file = \"key\" } }\n";
    daemon.write(&format!("{http}{CHANNEL}{secret}"));
    assert!(daemon.reload().contains("the reload was refused"));
    daemon.daemon.wait_log(&["ERROR", "key is a pipe, not a regular file"]);
    assert_eq!(fetch(port, "/readyz").code, 200);
    daemon.write(&format!("{http}{CHANNEL}log = true\n"));
    assert!(daemon.reload().contains("reloaded: 1 channel"));
    // One that has no channel any more says so.
    daemon.write(&http);
    assert!(daemon.reload().contains("reloaded: 0 channels"));
    let stopped = daemon.daemon.stop();
    assert_eq!(stopped.code, 0);
    each_line_has_one_level(&stopped.log);
}

/// And not a second word for it.
fn each_line_has_one_level(log: &[String]) {
    for line in log {
        let level = [" INFO ", " WARN ", " ERROR "].iter().find_map(|level| line.split_once(level));
        let (_, text) = level.unwrap_or_else(|| panic!("no level: {line}"));
        let has_another = ["warning: ", "error: "].iter().any(|word| text.starts_with(word));
        assert!(!has_another, "{line}");
    }
}

#[test]
fn what_is_to_be_said_of_a_configuration_at_the_start_is_lines_of_the_log() {
    let redis = Redis::start();
    let mut daemon = Handlerd::start(&redis, "");
    daemon.wait_log(&["WARN", "there is no channel, so nothing will be handled"]);
    daemon.wait_log(&["WARN", "= help: add [channels.NAME]"]);
    daemon.wait_log(&["INFO", "runs"]);
    each_line_has_one_level(&daemon.stop().log);
}

#[test]
fn a_plugin_folder_that_stays_away_is_said() {
    let redis = Redis::start();
    let mut daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("in", 1);
    let folder = daemon.dir().join("plugins");
    let aside = daemon.dir().join("aside");
    fs::rename(&folder, &aside).expect("it is renamed");
    daemon.wait_log(&["WARN", "plugins are not noticed by themselves: No such file"]);
    fs::rename(&aside, &folder).expect("it is renamed");
    daemon.wait_log(&["INFO", "nothing has changed that a channel uses"]);
    assert_eq!(daemon.stop().code, 0);
}
