//! A disk that doesn't answer any more, with a plugin on it: what is handled goes on, and so does
//! whatever doesn't need that disk.

mod support;

use std::fs;

use rustix::process::Signal;
use support::disk::{Answers, Disk, FILE};
use support::plugins::variant;
use support::{Handlerd, Redis, Watcher};

/// A daemon that uses a plugin on the disk, and the channel that one is for.
fn start(redis: &Redis) -> (Handlerd, Disk) {
    let config = format!(
        "[http]\nlisten = false\n[redis]\nurl = \"{}\"\n[handlers.far]\nplugin = \"disk/{FILE}\"\n\
         timeout = \"30s\"\n[channels.chat]\nsubscribe = \"in\"\nhandlers = [\"far\"]\npublish = \"out\"\n",
        redis.url()
    );
    let started = Disk::start(Handlerd::folder(), &config, variant(0));
    redis.wait_subscribed("in", 1);
    started
}

#[test]
fn a_plugin_of_which_nothing_comes_is_refused_at_a_reload_and_nothing_waits_for_it() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let (mut daemon, disk) = start(&redis);
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
