//! Files that change by themselves: written slowly, and behind links.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use support::changing::{Changing, put};
use support::plugins::variant;
use support::{Redis, Watcher};

#[test]
fn a_plugin_that_is_copied_slowly_holds_up_no_other_and_is_taken_when_it_is_whole() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let channel = "[channels.chat]\nsubscribe = \"in\"\nhandlers = [\"slow\", \"quick\"]\n\
                   publish = \"out\"\n";
    let mut daemon = Changing::start_with(&redis, channel, &["--watch"], |dir| {
        put(&dir.join("plugins/slow.wasm"), variant(0));
        put(&dir.join("plugins/quick.wasm"), variant(1));
    });
    redis.wait_subscribed("in", 1);
    // In place, as `scp` and `curl -o` write: first nothing, then a half.
    let whole = variant(2);
    let (half, rest) = whole.split_at(whole.len() / 2);
    let mut slow = fs::File::create(daemon.plugin("slow")).expect("it is emptied");
    put(&daemon.plugin("quick"), variant(3));
    assert!(daemon.wait_told().contains("new or changed handlers quick"));
    slow.write_all(half).expect("it is written");
    put(&daemon.plugin("quick"), variant(4));
    assert!(daemon.wait_told().contains("new or changed handlers quick"));
    daemon.daemon.wait_log(&["INFO", "slow.wasm is being written: it is looked at when"]);
    // A new configuration doesn't take half of it either.
    daemon.write(&format!("{channel}log = true\n"));
    assert!(daemon.wait_told().contains("reloaded: 1 channel"));
    // And one that wants a new file waits for it.
    let mut late = fs::File::create(daemon.plugin("late")).expect("it is made");
    late.write_all(half).expect("it is written");
    daemon.write(&channel.replace("\"quick\"", "\"quick\", \"late\""));
    assert!(daemon.wait_told().contains("the reload was refused"));
    daemon.daemon.wait_log(&["ERROR", "late.wasm is still being written"]);
    redis.client().publish("in", "by the old ones");
    out.wait_count(1);
    late.write_all(rest).expect("it is written");
    drop(late);
    let told = daemon.wait_told();
    assert!(told.contains("new or changed handlers late"), "{told}");
    slow.write_all(rest).expect("it is written");
    drop(slow);
    assert!(daemon.wait_told().contains("new or changed handlers slow"));
    let stopped = daemon.daemon.stop();
    let refused = stopped.log.iter().filter(|line| line.contains("refused")).count();
    assert_eq!((refused, stopped.number("lost")), (1, 0), "{}", stopped.log.join("\n"));
}

#[test]
fn plugins_and_configuration_behind_links_are_taken_by_themselves() {
    let redis = Redis::start();
    let channel = |rest: &str| {
        format!(
            "[channels.chat]\nsubscribe = \"in\"\nhandlers = [\"linked\"]\npublish = \"out\"\n{rest}"
        )
    };
    let mut daemon = Changing::start_with(&redis, &channel(""), &["--watch"], |dir| {
        fs::create_dir(dir.join("library")).expect("a folder");
        put(&dir.join("library/linked-1.wasm"), variant(0));
        let link = dir.join("plugins/linked.wasm");
        symlink("../library/linked-1.wasm", link).expect("a link");
    });
    redis.wait_subscribed("in", 1);
    let library = daemon.daemon.dir().join("library");
    put(&library.join("linked-1.wasm"), variant(1));
    assert!(daemon.wait_told().contains("new or changed handlers linked"));
    fs::write(library.join("linked-1.wasm"), variant(2)).expect("it is written");
    assert!(daemon.wait_told().contains("new or changed handlers linked"));
    // The configuration becomes a link, whose target is then exchanged.
    let real = library.join("config.toml");
    put(&real, format!("{}{}", daemon.head, channel("log = true\n")));
    let aside = daemon.config.with_extension("link");
    symlink(&real, &aside).expect("a link");
    fs::rename(&aside, &daemon.config).expect("it is renamed");
    assert!(daemon.wait_told().contains("reloaded: 1 channel"));
    put(&real, format!("{}{}", daemon.head, channel("")));
    assert!(daemon.wait_told().contains("reloaded: 1 channel"));
    assert_eq!(daemon.daemon.stop().number("lost"), 0);
}
