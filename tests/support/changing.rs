//! A daemon whose files are changed while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::{Handlerd, Redis, wait_for, wait_until};

/// Write a file the way a careful program does: aside, then renamed.
pub fn put(file: &Path, bytes: impl AsRef<[u8]>) {
    let aside = file.with_extension("aside");
    fs::write(&aside, bytes).expect("it is written");
    fs::rename(&aside, file).expect("it is renamed");
}

/// A daemon whose configuration is changed.
pub struct Changing {
    /// The daemon.
    pub daemon: Handlerd,
    /// Its file.
    pub config: PathBuf,
    /// What the configuration begins with.
    pub head: String,
    /// Lines that say how a reload went which have been seen.
    pub told: usize,
    /// Signals that were sent.
    hangups: usize,
}

impl Changing {
    /// Start it with these tables.
    pub fn start(redis: &Redis, channels: &str) -> Changing {
        Changing::start_with(redis, channels, &[], |_| {})
    }

    /// The same, with these arguments of `run`, and with what is put into its folder before.
    pub fn start_with(
        redis: &Redis,
        channels: &str,
        args: &[&str],
        prepare: impl FnOnce(&Path),
    ) -> Changing {
        let dir = Handlerd::folder();
        prepare(dir.path());
        let config = dir.path().join("config.toml");
        // The port of the endpoints is one: who looks at them says where.
        let quiet = if channels.contains("[http]") { "" } else { "[http]\nlisten = false\n" };
        let head = format!("{quiet}[redis]\nurl = \"{}\"\n", redis.url());
        let mut daemon = Handlerd::start_with(dir, &format!("{head}{channels}"), args, &[]);
        // Before that SIGHUP would end it.
        daemon.wait_log(&["INFO", "runs"]);
        Changing { daemon, config, head, told: 0, hangups: 0 }
    }

    /// Where a plugin is.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.daemon.dir().join("plugins").join(format!("{name}.wasm"))
    }

    /// Write other tables; nothing is said to it.
    pub fn write(&self, channels: &str) {
        put(&self.config, format!("{}{channels}", self.head));
    }

    /// Have it read again, and answer what the log says of how that went.
    #[track_caller]
    pub fn reload(&mut self) -> String {
        self.hangups += 1;
        self.daemon.signal(Signal::HUP);
        let hangups = self.hangups;
        wait_for("the log says how the reload went", || {
            // Changed plugins are noticed besides, and said too.
            let log = self.daemon.log();
            let mut lines = log.iter().filter(|line| line.contains("SIGHUP: ")).count();
            lines = lines.checked_sub(hangups)?;
            let at = log.iter().rposition(|line| line.contains("SIGHUP: "))?;
            assert_eq!(lines, 0, "one signal was sent");
            self.told = log.iter().filter(|line| is_outcome(line)).count();
            log[at..].iter().find(|line| is_outcome(line)).cloned()
        })
    }

    /// Wait for the next line that says how a reload went.
    #[track_caller]
    pub fn wait_told(&mut self) -> String {
        wait_until("the log says how the reload went", || self.outcomes().len() > self.told);
        let line = self.outcomes().swap_remove(self.told);
        self.told += 1;
        line
    }

    /// How reloads went, as the log says it.
    pub fn outcomes(&self) -> Vec<String> {
        self.daemon.log().into_iter().filter(|line| is_outcome(line)).collect()
    }
}

/// Whether a line of the log says how a reload went.
fn is_outcome(line: &str) -> bool {
    line.contains("reloaded: ") || line.contains("reload was refused")
}
