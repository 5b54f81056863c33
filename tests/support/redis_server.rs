//! A private redis-server: on a free port and a unix socket, without files that stay.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use redis::{Connection, FromRedisValue};
use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;
use super::{PATIENCE, wait_until};

/// A redis-server of one test. The user `admin` may do everything without a password, whatever
/// happens to the others, and is who the helpers in here are.
pub struct Redis {
    process: Option<Process>,
    dir: TempDir,
    port: u16,
}

impl Redis {
    /// Start one that keeps nothing, asks for no password, and cuts off no subscriber that is slow, as
    /// each is on a busy machine.
    pub fn start() -> Redis {
        Redis::with("")
    }

    /// Start one with further lines of `redis.conf`.
    pub fn with(extra: &str) -> Redis {
        // Somebody else may take a port between the look and the use: then the next one.
        for _ in 0..20 {
            let dir = TempDir::with_prefix("handlerd-redis-").expect("a temporary folder");
            let mut redis = Redis { process: None, dir, port: free_port() };
            redis.write_config(extra);
            if redis.launch() {
                return redis;
            }
        }
        panic!("redis-server would not start on any port");
    }

    fn write_config(&self, extra: &str) {
        let config = format!(
            "bind 127.0.0.1\nport {port}\nunixsocket {socket}\ndir {dir}\nsave \"\"\n\
             appendonly no\nloglevel warning\nlogfile {dir}/redis.log\n\
             client-output-buffer-limit pubsub 0 0 0\n\
             user admin on nopass ~* &* +@all\n{extra}\n",
            port = self.port,
            socket = self.socket().display(),
            dir = self.dir.path().display(),
        );
        std::fs::write(self.dir.path().join("redis.conf"), config).expect("a config is written");
    }

    /// Start the process; false when it ended before it answered.
    fn launch(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.arg(self.dir.path().join("redis.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(&mut command)
            .expect("redis-server is needed for this test: tests/run installs it");
        let start = Instant::now();
        while process.ended().is_none() {
            if self.try_client().is_some_and(|mut client| client.answers()) {
                self.process = Some(process);
                return true;
            }
            assert!(start.elapsed() < PATIENCE, "redis-server doesn't answer: {}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(self.log().contains("Address already in use"), "redis-server: {}", self.log());
        false
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("Redis runs")
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// kill -9, but between two system calls: it is stopped first. Killed within a write, Redis can
    /// leave half a transaction in its append-only file, of which a restart cuts off only the last
    /// command; the restart after that carries out what is left of it, a second time for all the
    /// world (measured, 7.0.15).
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("Redis runs");
        process.signal(Signal::STOP);
        wait_until("redis-server to stand still", || process.is_stopped());
        process.kill();
    }

    /// Start it again on the same port after [`Self::kill`]; answers when it is back, and says when.
    pub fn restart(&mut self) -> Instant {
        // The kernel may still hold the port for a moment.
        wait_until("redis-server to start again", || self.launch());
        Instant::now()
    }

    /// SIGSTOP: connections stay, nothing answers.
    pub fn freeze(&self) {
        self.running().signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Instant {
        self.running().signal(Signal::CONT);
        Instant::now()
    }

    fn try_client(&self) -> Option<Client> {
        let url = format!("redis+unix://{}?user=admin&pass=", self.socket().display());
        let client = redis::Client::open(url).expect("the url is right");
        Some(Client { connection: client.get_connection_with_timeout(PATIENCE).ok()? })
    }

    /// A connection for the test itself, over the unix socket.
    pub fn client(&self) -> Client {
        self.try_client().expect("Redis runs and answers")
    }

    /// Run one command on a new connection.
    #[track_caller]
    pub fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.client().run(command)
    }

    /// Wait until so many clients have subscribed to this very name.
    #[track_caller]
    pub fn wait_subscribed(&self, channel: &str, clients: u64) {
        let mut client = self.client();
        wait_until(&format!("{clients} subscriptions of {channel}"), || {
            client.subscribers(channel) >= clients
        });
    }

    /// Wait until so many patterns are subscribed.
    #[track_caller]
    pub fn wait_patterns(&self, patterns: u64) {
        let mut client = self.client();
        wait_until(&format!("{patterns} subscribed patterns"), || {
            client.run::<u64>(&["PUBSUB", "NUMPAT"]) >= patterns
        });
    }
}

/// A connection of the test's own.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Whether it answers (and has loaded its data).
    pub fn answers(&mut self) -> bool {
        redis::cmd("PING").query::<String>(&mut self.connection).is_ok()
    }

    /// Run a command; panics with Redis's own words when it is refused.
    #[track_caller]
    pub fn run<T: FromRedisValue>(&mut self, command: &[&str]) -> T {
        let mut cmd = redis::Cmd::new();
        for part in command {
            cmd.arg(*part);
        }
        cmd.query(&mut self.connection).unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// Publish; answers how many clients it was sent to.
    #[track_caller]
    pub fn publish(&mut self, channel: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> u64 {
        redis::cmd("PUBLISH")
            .arg(channel.as_ref())
            .arg(payload.as_ref())
            .query(&mut self.connection)
            .expect("PUBLISH")
    }

    /// Publish, and say what went wrong.
    pub fn try_publish(&mut self, channel: &str, payload: &[u8]) -> redis::RedisResult<u64> {
        redis::cmd("PUBLISH").arg(channel).arg(payload).query(&mut self.connection)
    }

    /// Publish many in pipelines of a thousand.
    #[track_caller]
    pub fn publish_all<P: AsRef<[u8]>>(
        &mut self,
        channel: &str,
        payloads: impl IntoIterator<Item = P>,
    ) {
        let mut payloads = payloads.into_iter().peekable();
        while payloads.peek().is_some() {
            let mut pipe = redis::pipe();
            for payload in payloads.by_ref().take(1000) {
                pipe.cmd("PUBLISH").arg(channel).arg(payload.as_ref()).ignore();
            }
            pipe.query::<()>(&mut self.connection).expect("pipelined PUBLISH");
        }
    }

    /// How many clients have subscribed to this very name.
    pub fn subscribers(&mut self, channel: &str) -> u64 {
        self.run::<(String, u64)>(&["PUBSUB", "NUMSUB", channel]).1
    }

    /// The elements of a list.
    #[track_caller]
    pub fn list(&mut self, key: &str) -> Vec<Vec<u8>> {
        self.run(&["LRANGE", key, "0", "-1"])
    }

    /// The connection itself.
    pub fn raw(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many consecutive ports that no other test is given. Nobody listens on it, though
/// somebody may on those behind it.
///
/// They are below the kernel's range for outgoing connections: in that range a client that tries
/// again and again to reach a port where nobody listens ends up connected to itself, and keeps the
/// port.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(count.into(), Relaxed);
        let port = 20_000 + (std::process::id() * 37 + next) % 12_000;
        let port = u16::try_from(port).expect("a port");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
