//! Files that change by themselves: written slowly, behind links, and in any order.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

use handlerd::status::Status;
use rustix::process::{Pid, Signal, kill_process};
use support::changing::{Changing, put};
use support::endpoints::{fetch, wait_code};
use support::plugins::{bundled, variant, with_section};
use support::process::{compilers_of, is_gone};
use support::redis_server::free_port;
use support::{Handlerd, Redis, Watcher, wait_for, wait_until};

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

#[test]
fn a_plugin_file_outside_the_plugin_folder_is_watched_and_nothing_else_beside_it() {
    let redis = Redis::start();
    let text = |more: &str| {
        format!(
            "[handlers.far]\nplugin = \"elsewhere/far.wasm\"\n[handlers.linked]\nplugin = \
             \"elsewhere/linked.wasm\"\n[channels.chat]\nsubscribe = \"in\"\nhandlers = [\"far\", \
             \"linked\"]\npublish = \"out\"\n{more}"
        )
    };
    let mut daemon = Changing::start_with(&redis, &text(""), &["--watch"], |dir| {
        for name in ["elsewhere", "library"] {
            fs::create_dir(dir.join(name)).expect("a folder");
        }
        put(&dir.join("elsewhere/far.wasm"), variant(0));
        put(&dir.join("library/1.wasm"), variant(1));
        symlink("../library/1.wasm", dir.join("elsewhere/linked.wasm")).expect("a link");
    });
    redis.wait_subscribed("in", 1);
    let elsewhere = daemon.daemon.dir().join("elsewhere");
    let library = daemon.daemon.dir().join("library");
    let far = elsewhere.join("far.wasm");
    put(&elsewhere.join("other.wasm"), variant(2));
    put(&far, variant(3));
    assert!(daemon.wait_told().contains("new or changed handlers far"));
    assert_eq!(daemon.daemon.log_lines(&["other.wasm"]), [""; 0]);
    put(&library.join("1.wasm"), variant(4));
    assert!(daemon.wait_told().contains("new or changed handlers linked"));
    put(&library.join("2.wasm"), variant(5));
    let aside = elsewhere.join("aside");
    symlink("../library/2.wasm", &aside).expect("a link");
    fs::rename(&aside, elsewhere.join("linked.wasm")).expect("it is renamed");
    assert!(daemon.wait_told().contains("new or changed handlers linked"));
    // One that is written slowly is waited for.
    let whole = variant(6);
    let (half, rest) = whole.split_at(whole.len() / 2);
    let mut slow = fs::File::create(&far).expect("it is emptied");
    slow.write_all(half).expect("it is written");
    daemon.daemon.wait_log(&["INFO", "far.wasm is being written: it is looked at when"]);
    slow.write_all(rest).expect("it is written");
    drop(slow);
    assert!(daemon.wait_told().contains("new or changed handlers far"));
    fs::remove_file(&far).expect("it is removed");
    daemon.daemon.wait_log(&["WARN", "far.wasm is gone; handler far goes on"]);
    assert!(daemon.wait_told().contains("reloaded: 1 channel"));
    put(&far, variant(7));
    assert!(daemon.wait_told().contains("new or changed handlers far"));
    // One that a new configuration wants and that comes later, first broken.
    daemon.write(&text("[handlers.late]\nplugin = \"library/late.wasm\"\n"));
    assert!(daemon.wait_told().contains("the reload was refused"));
    daemon.daemon.wait_log(&["library/late.wasm doesn't exist"]);
    put(&library.join("late.wasm"), "no plugin");
    daemon.daemon.wait_log(&["ERROR", "handler late", "late.wasm"]);
    put(&library.join("late.wasm"), variant(8));
    assert!(daemon.wait_told().contains("new or changed handlers late"));
    put(&library.join("late.wasm"), variant(9));
    assert!(daemon.wait_told().contains("new or changed handlers late"));
    // And no longer when nobody uses it.
    daemon.write(&text(""));
    assert!(daemon.wait_told().contains("reloaded: 1 channel"));
    put(&library.join("late.wasm"), variant(10));
    put(&far, variant(11));
    assert!(daemon.wait_told().contains("new or changed handlers far"));
    let stopped = daemon.daemon.stop();
    let looked = stopped.log.iter().filter(|line| line.contains("plugin files have changed"));
    assert_eq!(looked.count(), 10, "{}", stopped.log.join("\n"));
    assert_eq!(stopped.number("lost"), 0);
}

#[test]
fn a_plugin_file_that_comes_while_it_is_found_missing_is_taken() {
    let redis = Redis::start();
    let text = |more: &str| {
        format!("{more}[channels.chat]\nsubscribe = \"in\"\nhandlers = []\npublish = \"out\"\n")
    };
    let mut daemon = Changing::start_with(&redis, &text(""), &["--watch"], |dir| {
        fs::create_dir(dir.join("library")).expect("a folder");
    });
    redis.wait_subscribed("in", 1);
    let library = daemon.daemon.dir().join("library");
    let plugin = variant(0);
    for n in 0..24 {
        let name = format!("late-{n}");
        daemon.write(&text(&format!("[handlers.{name}]\nplugin = \"library/{name}.wasm\"\n")));
        let looks = || daemon.daemon.log_lines(&["the configuration has changed"]).len() > n;
        wait_until("it is looked at", looks);
        std::thread::sleep(Duration::from_micros(250) * n as u32);
        put(&library.join(format!("{name}.wasm")), &plugin);
        daemon.daemon.wait_log(&[&format!("new or changed handlers {name}")]);
    }
    assert_eq!(daemon.daemon.stop().number("lost"), 0);
}

fn status(port: u16) -> Status {
    serde_json::from_str(&fetch(port, "/status").body).expect("the status as JSON")
}

#[test]
fn a_configuration_that_is_refused_is_not_forgotten_and_taken_when_its_plugins_come() {
    let redis = Redis::start();
    let port = free_port();
    let text = |handlers: &str| {
        format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n[channels.chat]\nsubscribe = \"in\"\n\
             handlers = [{handlers}]\npublish = \"out\"\n"
        )
    };
    let first = text("\"quick\"");
    let mut daemon = Changing::start_with(&redis, &first, &["--watch"], |dir| {
        put(&dir.join("plugins/quick.wasm"), variant(0));
    });
    wait_code(port, "/readyz", 200);
    daemon.write(&text("\"quick\", \"late\""));
    assert!(daemon.wait_told().contains("the reload was refused"));
    // Meanwhile what runs is exchanged as ever, and what is wrong is still seen.
    put(&daemon.plugin("quick"), variant(1));
    assert!(daemon.wait_told().contains("new or changed handlers quick"));
    let shown = status(port);
    assert!(shown.reload.last.is_some_and(|last| last.ok));
    let [warning] = &shown.warnings[..] else { panic!("one warning: {:?}", shown.warnings) };
    assert!(warning.contains("it was refused when it was read last: there is no handler `late`"));
    put(&daemon.plugin("late"), variant(2));
    assert!(daemon.wait_told().contains("new or changed handlers late"));
    assert_eq!(status(port).warnings, [""; 0]);
    let stopped = daemon.daemon.stop();
    let said = stopped.log.iter().filter(|line| line.contains("there is no handler")).count();
    assert_eq!(said, 1, "{}", stopped.log.join("\n"));
}

#[test]
fn a_plugin_file_that_was_gone_and_is_there_again_is_no_warning_any_more() {
    let redis = Redis::start();
    let port = free_port();
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\n[channels.chat]\nsubscribe = \"in\"\n\
         handlers = [\"here\"]\npublish = \"out\"\n"
    );
    let mut daemon = Changing::start_with(&redis, &config, &[], |dir| {
        put(&dir.join("plugins/here.wasm"), variant(0));
    });
    wait_code(port, "/readyz", 200);
    fs::remove_file(daemon.plugin("here")).expect("it is removed");
    daemon.daemon.wait_log(&["WARN", "here.wasm is gone"]);
    let warnings = status(port).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("here.wasm is gone"), "{warnings:?}");
    // Others come and go: that is said once.
    put(&daemon.plugin("unused"), variant(1));
    daemon.daemon.wait_log(&["INFO", "unused.wasm is there, and no channel uses it"]);
    assert_eq!(daemon.daemon.log_lines(&["here.wasm is gone"]).len(), 1);
    // The same bytes as run.
    put(&daemon.plugin("here"), variant(0));
    wait_until("nothing is warned of", || status(port).warnings.is_empty());
    assert_eq!(daemon.daemon.stop().number("lost"), 0);
}

#[test]
fn a_stream_that_a_reload_changes_does_not_wait_for_plugins_that_nobody_uses() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let config = |batch: u32| {
        format!(
            "[http]\nlisten = false\n[redis]\nurl = \"{}\"\n[channels.chat]\nstream = \"in\"\n\
             group = \"g\"\nstart = \"oldest\"\nbatch = {batch}\nhandlers = []\npublish = \"out\"\n",
            redis.url()
        )
    };
    let dir = Handlerd::folder();
    // Nothing is compiled before.
    let cache = dir.path().join("cache").display().to_string();
    let mut daemon = Handlerd::start_in(dir, &config(10), &[("XDG_CACHE_HOME", &cache)]);
    let add = |payload| redis.run::<String>(&["XADD", "in", "*", "payload", payload]);
    add("before");
    out.wait_count(1);
    // Each takes seconds.
    let plugin = fs::read(bundled("redact")).expect("a plugin");
    let file = |number: u32| daemon.dir().join(format!("plugins/unused{number}.wasm"));
    for number in 0..5 {
        put(&file(number), with_section(&plugin, number));
    }
    put(&daemon.dir().join("config.toml"), config(11));
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "reloaded: 1 channel"]);
    add("after");
    out.wait_count(2);
    let compiled = daemon.log_lines(&["compiled ", "unused"]);
    assert!(compiled.len() < 5, "it came before all were compiled: {compiled:?}");
    assert_eq!(daemon.stop().number("left pending"), 0);
}

/// The process that compiles a plugin for this daemon, which stands still from now on.
#[track_caller]
fn held_compiler(daemon: &Handlerd) -> u32 {
    let compiler = wait_for("a plugin is compiled", || {
        let compiler = compilers_of(daemon.pid()).pop()?;
        // Before that it is on its way only.
        let limits = fs::read_to_string(format!("/proc/{compiler}/limits")).unwrap_or_default();
        let has_limits = |line: &str| line.starts_with("Max cpu time") && line.contains("240");
        limits.lines().any(has_limits).then_some(compiler)
    });
    let pid = Pid::from_raw(compiler.cast_signed()).expect("a process id");
    kill_process(pid, Signal::STOP).expect("it takes seconds");
    compiler
}

#[test]
fn a_reload_and_an_end_do_not_wait_for_the_compiling_of_a_plugin_that_nobody_uses() {
    let redis = Redis::start();
    let text = |rest: &str| {
        format!(
            "[http]\nlisten = false\n[redis]\nurl = \"{}\"\n[channels.chat]\nsubscribe = \"in\"\n\
             handlers = []\npublish = \"out\"\n{rest}",
            redis.url()
        )
    };
    let dir = Handlerd::folder();
    // Nothing is compiled before.
    let cache = dir.path().join("cache").display().to_string();
    let mut daemon = Handlerd::start_in(dir, &text(""), &[("XDG_CACHE_HOME", &cache)]);
    redis.wait_subscribed("in", 1);
    let plugin = fs::read(bundled("redact")).expect("a plugin");
    let unused = daemon.dir().join("plugins/unused.wasm");
    put(&unused, with_section(&plugin, 0));
    let held = held_compiler(&daemon);
    put(&daemon.dir().join("config.toml"), text("log = true\n"));
    daemon.signal(Signal::HUP);
    daemon.wait_log(&["INFO", "reloaded: 1 channel"]);
    wait_until("the compiler has given way", || is_gone(held));
    assert_eq!(daemon.log_lines(&["unused.wasm"]), [""; 0]);
    // It is begun again by itself.
    daemon.wait_log(&["INFO", "unused.wasm is there, and no channel uses it"]);
    put(&unused, with_section(&plugin, 1));
    let held = held_compiler(&daemon);
    assert_eq!(daemon.stop().code, 0);
    wait_until("nothing is left of the compiler", || is_gone(held));
}

#[test]
fn a_daemon_that_is_killed_leaves_no_compiler_behind() {
    let redis = Redis::start();
    let config = format!(
        "[http]\nlisten = false\n[redis]\nurl = \"{}\"\n[channels.chat]\nhandlers = [\"redact\"]\n\
         publish = \"out\"\n",
        redis.url()
    );
    let dir = Handlerd::folder();
    let cache = dir.path().join("cache").display().to_string();
    let mut daemon = Handlerd::start_in(dir, &config, &[("XDG_CACHE_HOME", &cache)]);
    let held = held_compiler(&daemon);
    daemon.kill();
    wait_until("nothing is left of the compiler", || is_gone(held));
}
