//! A disk that doesn't answer any more, with a plugin on it: what is handled goes on, and so does
//! whatever doesn't need that disk.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use support::changing::put;
use support::disk::{Answers, Disk, FILE};
use support::plugins::variant;
use support::{Handlerd, Redis, Watcher, wait_until};

/// A daemon that uses a plugin on the disk, and the channel that one is for.
fn start(redis: &Redis) -> Option<(Handlerd, Disk)> {
    let config = format!(
        "[http]\nlisten = false\n[redis]\nurl = \"{}\"\n[handlers.far]\nplugin = \"disk/{FILE}\"\n\
         timeout = \"30s\"\n[channels.chat]\nsubscribe = \"in\"\nhandlers = [\"far\"]\npublish = \"out\"\n",
        redis.url()
    );
    let started = Disk::start(Handlerd::folder(), &config, variant(0))?;
    redis.wait_subscribed("in", 1);
    Some(started)
}

#[test]
fn a_plugin_of_which_nothing_comes_is_refused_at_a_reload_and_nothing_waits_for_it() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let Some((mut daemon, disk)) = start(&redis) else { return };
    disk.set(Answers::Names);
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "SIGHUP: looking whether"]);
    redis.client().publish("in", "meanwhile");
    out.wait_count(1);
    daemon.wait_log(&["ERROR", "handler far", FILE, "its file system has not answered for 20 s"]);
    daemon.wait_log(&["ERROR", "the reload was refused: everything goes on as it was"]);
    disk.set(Answers::All);
    let config = daemon.dir().join("config.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, text.replace("publish =", "log = true\npublish =")).expect("it is written");
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "reloaded: 1 channel"]);
    redis.client().publish("in", "afterwards");
    out.wait_count(2);
    // The end waits for no read either.
    disk.set(Answers::Names);
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn plugins_of_which_nothing_comes_are_in_the_way_of_no_configuration_without_them() {
    let redis = Redis::start();
    let Some((mut daemon, disk)) = start(&redis) else { return };
    disk.set(Answers::Names);
    let config = daemon.dir().join("config.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    let many = |n| format!("[handlers.far{n}]\nplugin = \"disk/{FILE}\"\n");
    let many: String = (0..100).map(many).collect();
    fs::write(&config, format!("{text}{many}")).expect("it is written");
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["ERROR", "the reload was refused: everything goes on as it was"]);
    put(&daemon.dir().join("plugins/near.wasm"), variant(1));
    let near = text.replace(&format!("disk/{FILE}"), "near.wasm");
    fs::write(&config, near).expect("it is written");
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "reloaded: 1 channel"]);
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn a_plugin_that_nobody_uses_and_of_which_nothing_comes_is_looked_at_when_its_disk_answers() {
    let redis = Redis::start();
    let Some((mut daemon, disk)) = start(&redis) else { return };
    let config = daemon.dir().join("config.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    put(&daemon.dir().join("plugins/near.wasm"), variant(1));
    let near = text.replace(&format!("disk/{FILE}"), "near.wasm");
    fs::write(&config, near).expect("it is written");
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "reloaded: 1 channel"]);
    disk.set(Answers::Names);
    symlink(format!("../disk/{FILE}"), daemon.dir().join("plugins/unused.wasm")).expect("a link");
    daemon.wait_log(&["WARN", "no channel uses it", "unused.wasm", "has not answered for 20 s"]);
    disk.set(Answers::All);
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "unused.wasm is there, and no channel uses it"]);
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn a_disk_that_answers_nothing_holds_up_no_other_change_and_no_end() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let Some((mut daemon, disk)) = start(&redis) else { return };
    disk.set(Answers::Nothing);
    // It is looked where all the files are: one of them is on that disk.
    put(&daemon.dir().join("plugins/unused.wasm"), variant(1));
    daemon.wait_log(&["INFO", "plugin files have changed"]);
    redis.client().publish("in", "meanwhile");
    out.wait_count(1);
    daemon.wait_log(&["ERROR", "handler far", FILE, "its file system has not answered for 20 s"]);
    // Who looked has not come back. Nobody looks beside him, and what happens is told of.
    let changes = |daemon: &Handlerd| daemon.log_lines(&["plugin files have changed"]).len();
    let before = changes(&daemon);
    put(&daemon.dir().join("plugins/last.wasm"), variant(2));
    wait_until("that is told of", || changes(&daemon) > before);
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs").flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    assert_eq!(names.filter(|name| name.trim() == "handlerd-watch").count(), 1);
    redis.client().publish("in", "still");
    out.wait_count(2);
    assert_eq!(daemon.stop().code, 0);
}
