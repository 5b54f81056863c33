//! A place for compiled plugins that can't be written to: a full file system, a limit of how long a file
//! may be, no folder at all. What is compiled is used all the same; that is said, shown and counted.

mod support;

use std::fs;
use std::path::Path;

use handlerd::status::Status;
use support::endpoints::{Page, fetch};
use support::plugins::variant;
use support::redis_server::free_port;
use support::{Handlerd, Output, Redis, Run, Watcher, wait_until};

/// A daemon whose compiled plugins have nowhere to go.
struct Cramped {
    daemon: Handlerd,
    redis: Redis,
    out: Watcher,
    port: u16,
    /// Messages so far.
    sent: usize,
}

impl Cramped {
    /// Start it behind this script, with an empty folder for compiled plugins, `$XDG_CACHE_HOME`.
    fn start(script: &str, env: &[(&str, &str)]) -> Cramped {
        let redis = Redis::start();
        let out = Watcher::subscribe(&redis, &["out"]);
        let port = free_port();
        let dir = Handlerd::folder();
        let cache = dir.path().join("cache");
        fs::create_dir(&cache).expect("a folder");
        fs::write(dir.path().join("plugins/second.wasm"), variant(0)).expect("a plugin");
        let config = format!(
            "[http]\nlisten = \"127.0.0.1:{port}\"\n[redis]\nurl = \"{}\"\n[channels.chat]\n\
             subscribe = \"in\"\nhandlers = [\"second\", \"announce\"]\npublish = \"out\"\n\
             [handlers.second]\ntimeout = \"30s\"\n[handlers.announce]\ntimeout = \"30s\"\n",
            redis.url()
        );
        let cache = cache.display().to_string();
        let env: Vec<_> = [("XDG_CACHE_HOME", &*cache)].into_iter().chain(env.to_vec()).collect();
        let daemon = Handlerd::start_by(script, dir, &config, &env);
        redis.wait_subscribed("in", 1);
        Cramped { daemon, redis, out, port, sent: 0 }
    }

    /// Messages are handled.
    #[track_caller]
    fn flows(&mut self) {
        self.redis.client().publish("in", "hello");
        self.sent += 1;
        self.out.wait_count(self.sent);
    }

    /// Exchange a plugin that is used, and wait until that has been taken.
    #[track_caller]
    fn exchange(&mut self, number: u32) {
        let reloaded = || self.daemon.log_lines(&["reloaded: ", "announce"]).len();
        let before = reloaded();
        let plugins = self.daemon.dir().join("plugins");
        fs::write(plugins.join("aside"), variant(number)).expect("a plugin");
        fs::rename(plugins.join("aside"), plugins.join("announce.wasm")).expect("a plugin");
        wait_until("it is taken", || reloaded() > before);
        self.flows();
    }

    fn warnings(&self) -> Vec<String> {
        let status = fetch(self.port, "/status").body;
        serde_json::from_str::<Status>(&status).expect("a status").warnings
    }

    fn counted(&self) -> f64 {
        Page::fetch(self.port).value("handlerd_plugin_cache_errors_total", &[])
    }

    /// It says once what is wrong, where and what to do; shows it; counts it; and works.
    #[track_caller]
    fn lives_with(&mut self, words: &[&str]) {
        self.flows();
        let mut all = vec!["WARN", "compiled plugins can't be kept in "];
        all.extend(words);
        self.daemon.wait_log(&all);
        let said = self.daemon.log_lines(&all);
        assert_eq!(said.len(), 1, "{}", self.daemon.log().join("\n"));
        let warnings = self.warnings();
        assert!(warnings.len() == 1 && said[0].contains(&warnings[0]), "{warnings:?}");
        assert_eq!(self.counted(), 2.0, "two plugins");
        self.exchange(1);
        assert_eq!(self.counted(), 3.0, "and a third");
        assert_eq!(self.daemon.log_lines(&all).len(), 1, "it is said once");
        assert_eq!(self.warnings(), warnings);
    }
}

/// A small file system of memory over the folder for compiled plugins, filled to its end.
const FULL: &str = "mount -t tmpfs -o size=16m,mode=700 none \"$XDG_CACHE_HOME\" && \
                    ! cat /dev/zero 2>/dev/null >\"$XDG_CACHE_HOME/ballast\" && exec \"$@\"";

/// In namespaces where one may mount.
fn in_namespaces(script: &str) -> String {
    format!("exec unshare --user --map-root-user --mount sh -c '{script}' \"$0\" \"$@\"")
}

fn tried(script: &str, cache: &Path) -> Output {
    let run = Run::program("sh", &["-c", script, "sh", "true"]);
    run.env("XDG_CACHE_HOME", &cache.display().to_string()).output()
}

#[test]
fn a_full_file_system_for_compiled_plugins_is_lived_with_until_there_is_room() {
    let script = in_namespaces(FULL);
    let tried = tried(&script, tempfile::tempdir().expect("a folder").path());
    if tried.code != 0 {
        return eprintln!("namespaces aren't allowed: no full disk is tried: {}", tried.stderr);
    }
    let mut cramped = Cramped::start(&script, &[]);
    cramped.lives_with(&["No space left on device", "make room there"]);

    // What the daemon sees below its folder.
    let cache = cramped.daemon.dir().join("cache");
    let inside = format!("/proc/{}/root{}", cramped.daemon.pid(), cache.display());
    fs::remove_file(Path::new(&inside).join("ballast")).expect("the ballast is thrown off");
    cramped.exchange(2);
    cramped.daemon.wait_log(&["INFO", "compiled plugins are kept in", "again"]);
    assert_eq!(cramped.warnings(), [""; 0]);
    assert_eq!(cramped.counted(), 3.0);
    let kept = fs::read_dir(Path::new(&inside).join("handlerd")).expect("a folder").count();
    assert_eq!(kept, 1);
    assert_eq!(cramped.daemon.stop().number("lost"), 0);
}

#[test]
fn a_file_system_that_became_read_only_is_lived_with() {
    let script = in_namespaces(
        "mount -t tmpfs -o mode=700 none \"$XDG_CACHE_HOME\" && mkdir -m 700 \
         \"$XDG_CACHE_HOME/handlerd\" && mount -o remount,ro \"$XDG_CACHE_HOME\" && exec \"$@\"",
    );
    let tried = tried(&script, tempfile::tempdir().expect("a folder").path());
    if tried.code != 0 {
        return eprintln!(
            "namespaces aren't allowed: no read-only disk is tried: {}",
            tried.stderr
        );
    }
    let mut cramped = Cramped::start(&script, &[]);
    cramped.lives_with(&["Read-only file system", "start it with XDG_CACHE_HOME=FOLDER"]);
    assert_eq!(cramped.daemon.stop().number("lost"), 0);
}

#[test]
fn a_limit_of_how_long_files_may_be_is_lived_with() {
    let mut cramped = Cramped::start("ulimit -f 8; exec \"$@\"", &[]);
    cramped.lives_with(&["file too large", "`ulimit -f`, or LimitFSIZE"]);
    assert_eq!(cramped.daemon.stop().number("lost"), 0);
}

#[test]
fn no_folder_at_all_is_lived_with() {
    let nowhere = [("XDG_CACHE_HOME", "/proc/self/none"), ("TMPDIR", "/proc/self/none")];
    let mut cramped = Cramped::start("exec \"$@\"", &nowhere);
    cramped.lives_with(&["/proc/self/none", "nor for now in"]);
    assert_eq!(cramped.daemon.stop().number("lost"), 0);
}
