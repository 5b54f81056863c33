//! One Redis, daemons that share a group on it through a proxy, and what is known of it all.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::feeder::{Feeder, Way};
use crate::ledger::{Counts, Ledger};
use crate::listener::Listener;
use crate::message;
use crate::support::{Handlerd, Proxy, Redis, Stopped, wait_until};

/// The stream that is read.
pub const IN: &str = "in";
/// Its group.
pub const GROUP: &str = "workers";
/// The stream, the list and the channel that everything goes to.
pub const OUT: &str = "out";
/// See [`OUT`].
pub const LIST: &str = "list";
/// See [`OUT`].
pub const SAID: &str = "said";
/// The stream of dead letters.
pub const DEAD: &str = "dead";

/// What entries may be idle before another daemon takes them over.
pub const CLAIM_IDLE: Duration = Duration::from_secs(1);

/// A channel of a stream: nothing may be lost.
pub const STREAM: &str = r#"
    [handlers.misbehave]
    timeout = "500ms"
    [channels.orders]
    stream = "in"
    group = "workers"
    start = "oldest"
    claim_idle = "1s"
    handlers = ["misbehave"]
    append = "out"
    push = "list"
    publish = "said"
    dead_letter = "dead"
    retries = 2
    retry_for = "5s"
    max_deliveries = 5
"#;

/// A channel of pub/sub, with the same output.
pub const PUBSUB: &str = r#"
    [channels.relay]
    subscribe = "in"
    handlers = []
    append = "out"
"#;

/// How many daemons share the group.
pub const DAEMONS: usize = 3;

/// See the module.
pub struct Scene {
    /// The daemons; none where one is away.
    pub daemons: Vec<Option<Handlerd>>,
    /// What they connect to.
    pub proxy: Proxy,
    /// What is behind that.
    pub redis: Redis,
    /// What comes in.
    pub feeder: Feeder,
    /// What came out.
    pub ledger: Ledger,
    /// Most resident memory that a daemon has had.
    pub rss: u64,
    listener: Listener,
    /// Where it was moved to from outputs that were to be something else.
    set_aside: Vec<(String, &'static str)>,
    /// Raised for each daemon that is to be somebody else.
    identities: [u32; DAEMONS],
    passwords: u32,
    channel: &'static str,
    folder: TempDir,
}

impl Scene {
    /// Start so many daemons with this channel, and send so many messages a second.
    pub fn start(channel: &'static str, daemons: usize, way: Way, rate: u64) -> Scene {
        let folder = TempDir::with_prefix("handlerd-endurance-").expect("a temporary folder");
        std::fs::write(folder.path().join("password"), "secret-0").expect("a password is written");
        let redis = Redis::with(
            "appendonly yes\nappendfsync always\n\
             user handlerd on >secret-0 allkeys allchannels +@all",
        );
        let mut scene = Scene {
            daemons: Vec::new(),
            proxy: Proxy::to(redis.port()),
            listener: Listener::start(&redis.socket(), SAID),
            feeder: Feeder::start(&redis.socket(), way, rate),
            redis,
            ledger: Ledger::default(),
            rss: 0,
            set_aside: Vec::new(),
            identities: [0; DAEMONS],
            passwords: 0,
            channel,
            folder,
        };
        for place in 0..daemons {
            scene.daemons.push(None);
            scene.start_daemon(place);
        }
        scene
    }

    /// Start the daemon of this place, with the state that its predecessor left.
    pub fn start_daemon(&mut self, place: usize) {
        self.start_daemon_that_dies(place, "");
    }

    /// The same, and it kills itself at a step; see `src/failpoint.rs`.
    pub fn start_daemon_that_dies(&mut self, place: usize, step: &str) {
        let state = format!("daemon-{place}-{}", self.identities[place]);
        let state = self.folder.path().join(state);
        let config = format!(
            "[redis]\nurl = \"{}\"\nusername = \"handlerd\"\npassword_file = \"{}\"\n[daemon]\n\
             drain_timeout = \"2s\"\n{}",
            self.proxy.url(),
            self.password_file().display(),
            self.channel
        );
        // A payload `die` is what kills a daemon.
        let failpoint = format!("handler:die,{step}");
        let state = state.to_str().expect("the path is text");
        let env = [("XDG_STATE_HOME", state), ("HANDLERD_FAILPOINT", &failpoint)];
        let daemon = Handlerd::start_in(Handlerd::folder(), &config, &env);
        self.daemons[place] = Some(daemon);
    }

    /// Start each daemon again that has ended.
    pub fn start_those_that_ended(&mut self) {
        for place in 0..self.daemons.len() {
            if !self.daemon(place).runs() {
                self.start_daemon(place);
            }
        }
    }

    /// Let what is started there be another consumer.
    pub fn forget_identity(&mut self, place: usize) {
        self.identities[place] += 1;
    }

    /// The daemon of this place.
    pub fn daemon(&mut self, place: usize) -> &mut Handlerd {
        self.daemons[place].as_mut().expect("this daemon runs")
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self, place: usize) {
        self.look_at_memory();
        self.daemons[place] = None;
    }

    /// SIGTERM, and what is in hand is finished or given back.
    pub fn stop_daemon(&mut self, place: usize) -> Stopped {
        self.look_at_memory();
        let stopped = self.daemon(place).stop();
        assert_eq!(stopped.code, 0, "{}", stopped.last);
        self.daemons[place] = None;
        stopped
    }

    /// A password that wasn't used before.
    pub fn next_password(&mut self) -> String {
        self.passwords += 1;
        format!("secret-{}", self.passwords)
    }

    /// The file that daemons read their password from.
    pub fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// Note the memory of the daemons, none of which may have ended.
    pub fn look_at_memory(&mut self) {
        for daemon in self.daemons.iter_mut().flatten() {
            assert!(daemon.runs(), "a daemon has ended by itself");
            self.rss = self.rss.max(daemon.peak_rss());
        }
    }

    /// Run a script over these keys.
    #[track_caller]
    pub fn eval<T: redis::FromRedisValue>(&self, script: &str, keys: &[&str], more: &[&str]) -> T {
        let count = keys.len().to_string();
        self.redis.run(&[&["EVAL", script, &count], keys, more].concat())
    }

    /// Move an output aside and put something else there, in one step: `script` does that, with the
    /// output as `KEYS[1]`.
    pub fn set_aside(&mut self, output: &'static str, script: &str) {
        let aside = format!("aside-{}", self.set_aside.len());
        let whole = format!(
            "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end \
             {script}"
        );
        self.eval::<()>(&whole, &[output, &aside], &[]);
        self.set_aside.push((aside, output));
    }

    /// Wait for the first output that comes after now; answers how long that took from `begin` on.
    pub fn wait_flow(&self, begin: Instant) -> Duration {
        let mut client = self.redis.client();
        let before: u64 = client.run(&["XLEN", OUT]);
        wait_until("messages to flow again", || client.run::<u64>(&["XLEN", OUT]) > before);
        begin.elapsed()
    }

    /// Wait until everything that has gone in by now has come out; answers how long it took from
    /// `begin` on.
    pub fn wait_caught_up(&self, begin: Instant) -> Duration {
        let fed = self.feeder.fed();
        wait_until("all messages to be done", || self.has_caught_up(fed));
        begin.elapsed()
    }

    /// Whether all numbers below this one have come out.
    pub fn has_caught_up(&self, fed: u64) -> bool {
        caught_up(&self.redis, fed)
    }

    /// Read what has come out, and remove it there.
    pub fn collect(&mut self) {
        const ENTRIES: &str = "local rows = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2000) \
            local found = {} \
            for i, row in ipairs(rows) do \
                redis.call('XDEL', KEYS[1], row[1]) \
                for n = 1, #row[2], 2 do \
                    if row[2][n] == 'payload' then found[i] = row[2][n + 1] end \
                end \
            end \
            return found";
        const ELEMENTS: &str = "return redis.call('LPOP', KEYS[1], 2000) or {}";
        let mut from =
            vec![(OUT.to_owned(), OUT), (LIST.to_owned(), LIST), (DEAD.to_owned(), DEAD)];
        from.append(&mut self.set_aside);
        for (key, output) in from {
            let script = if output == LIST { ELEMENTS } else { ENTRIES };
            loop {
                let payloads: Vec<Vec<u8>> = self.eval(script, &[&key], &[]);
                let counts = match output {
                    OUT => &mut self.ledger.appended,
                    LIST => &mut self.ledger.pushed,
                    _ => &mut self.ledger.dead,
                };
                payloads.iter().for_each(|payload| counts.add(message::number(payload)));
                if payloads.is_empty() {
                    break;
                }
            }
        }
    }

    /// What was heard of what was published.
    pub fn heard(&self) -> Counts {
        self.listener.heard()
    }
}

/// Whether the group has finished all numbers below this one.
pub fn caught_up(redis: &Redis, fed: u64) -> bool {
    let script = "local groups = redis.call('XINFO', 'GROUPS', KEYS[1]) \
        if not groups[1] then return {'0-0', '0-0'} end \
        local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1) \
        return {groups[1][8], rows[1] and rows[1][1] or ''}";
    let (delivered, pending): (String, String) = redis.run(&["EVAL", script, "1", IN, GROUP]);
    let done = |id: &str| id.is_empty() || message::number_of_id(id) >= fed;
    message::number_of_id(&delivered) + 1 >= fed && done(&pending)
}

impl Drop for Scene {
    /// Keep the logs of a failed run.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (place, daemon) in self.daemons.iter().enumerate() {
            let Some(daemon) = daemon else { continue };
            let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
                .join(format!("endurance-daemon-{place}.log"));
            let _ = std::fs::write(&file, daemon.log().join("\n"));
            eprintln!("its whole log is in {}", file.display());
        }
    }
}
