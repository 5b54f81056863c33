//! What no event tells of: file systems that are mounted, and watchers that are used up.

mod support;

use support::changing::put;
use support::plugins::variant;
use support::{Handlerd, Redis, Run, wait_until};

/// Start a daemon with a plugin at `disk/a.wasm`, by a script that does this first in namespaces of its
/// own. `None`, with a word about it, where this machine doesn't allow it.
fn start(redis: &Redis, namespaces: &str, first: &str) -> Option<Handlerd> {
    let dir = Handlerd::folder();
    let script = |then: &str| {
        let dir = dir.path().display();
        format!("exec unshare {namespaces} sh -c 'cd {dir} && {first} && {then}' \"$0\" \"$@\"")
    };
    std::fs::create_dir(dir.path().join("disk")).expect("a folder");
    for n in 0..3 {
        put(&dir.path().join(format!("{n}.wasm")), variant(n));
    }
    let tried = Run::program("sh", &["-c", &script("true")]).output();
    if tried.code != 0 {
        eprintln!("namespaces aren't allowed: nothing is tried: {tried:?}");
        return None;
    }
    let config = format!(
        "[http]\nlisten = false\n[redis]\nurl = \"{}\"\n[handlers.a]\nplugin = \"disk/a.wasm\"\n\
         [channels.chat]\nsubscribe = \"in\"\nhandlers = [\"a\"]\npublish = \"out\"\n",
        redis.url()
    );
    let script = script("exec \"$@\"");
    let daemon = Handlerd::start_by(&script, dir, &config, &[]);
    redis.wait_subscribed("in", 1);
    Some(daemon)
}

/// Do this where the daemon is.
fn inside(daemon: &Handlerd, namespaces: &str, script: &str) {
    let (pid, dir) = (daemon.pid().to_string(), daemon.dir().display());
    let script = format!("cd {dir} && {script}");
    let mut arguments = vec!["--target", &pid, "--preserve-credentials"];
    arguments.extend(namespaces.split(' ').filter(|word| *word != "--map-root-user"));
    arguments.extend(["sh", "-c", &script]);
    Run::program("nsenter", &arguments).output().expect(0);
}

/// Wait until the plugin has been exchanged so many times.
#[track_caller]
fn wait_exchanged(daemon: &Handlerd, times: usize) {
    wait_until("the plugin is exchanged", || {
        daemon.log_lines(&["INFO", "new or changed handlers a"]).len() >= times
    });
}

#[test]
fn a_plugin_on_a_disk_that_is_mounted_again_is_taken_and_watched() {
    const NAMESPACES: &str = "--user --map-root-user --mount";
    let redis = Redis::start();
    let mounted = |n: u32| format!("mount -t tmpfs none disk && cp {n}.wasm disk/a.wasm");
    let first = format!("cp 2.wasm disk/a.wasm && {}", mounted(0));
    let Some(mut daemon) = start(&redis, NAMESPACES, &first) else { return };
    let mut times = 0;
    let mut is_taken_after = |script: &str| {
        inside(&daemon, NAMESPACES, script);
        times += 1;
        wait_exchanged(&daemon, times);
    };
    is_taken_after(&format!("umount disk && {}", mounted(1)));
    is_taken_after("cp 2.wasm disk/a.wasm");
    // Over what is there, and away again.
    is_taken_after(&mounted(0));
    is_taken_after("cp 1.wasm disk/a.wasm");
    is_taken_after("umount disk");
    is_taken_after("cp 0.wasm disk/a.wasm");
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn watching_is_tried_again_when_there_were_no_watchers_left() {
    const NAMESPACES: &str = "--user --map-root-user";
    let redis = Redis::start();
    let most = |n: u32| format!("echo {n} > /proc/sys/user/max_inotify_instances");
    let first = format!("cp 0.wasm disk/a.wasm && {}", most(0));
    let Some(mut daemon) = start(&redis, NAMESPACES, &first) else { return };
    daemon.wait_log(&["WARN", "late or not at all", "fs.inotify.max_user_instances"]);
    // What is there already is looked at nevertheless.
    inside(&daemon, NAMESPACES, "cp 1.wasm aside && mv aside disk/a.wasm");
    wait_exchanged(&daemon, 1);
    inside(&daemon, NAMESPACES, &most(100));
    daemon.wait_log(&["INFO", "changed files are noticed at once again"]);
    put(&daemon.dir().join("disk/a.wasm"), variant(2));
    wait_exchanged(&daemon, 2);
    let stopped = daemon.stop();
    let told = stopped.log.iter().filter(|line| line.contains("not at all")).count();
    assert_eq!((stopped.code, told), (0, 1), "{}", stopped.log.join("\n"));
}
