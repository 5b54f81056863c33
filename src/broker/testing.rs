//! A Redis of a test's own, for the tests of the subscription and of streams.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::config::{Address, Connection, Password, TlsFiles};

/// Nothing in these tests takes longer unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Wait until it holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A redis-server on a unix socket in a folder of its own, and on a port where that is wished; killed when
/// dropped.
pub(super) struct Redis {
    dir: TempDir,
    /// Zero: none.
    pub(super) port: u16,
    config: String,
    server: Option<Child>,
}

impl Redis {
    /// Start one with these lines in its configuration.
    pub(super) fn start(config: &[&str]) -> Self {
        Redis::prepare(0, config).started()
    }

    /// The same on a port, too.
    pub(super) fn start_on_port(config: &[&str]) -> Self {
        Redis::prepare_on_port(config).started()
    }

    /// All but start it.
    pub(super) fn prepare_on_port(config: &[&str]) -> Self {
        Redis::prepare(free_port(), config)
    }

    fn prepare(port: u16, config: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Redis { dir, port, config: config.join("\n"), server: None }
    }

    fn started(mut self) -> Self {
        self.start_again();
        self
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn start_again(&mut self) {
        let config = format!(
            "port {}\nbind 127.0.0.1\nunixsocket {}\ndir {}\nsave \"\"\n{}\n",
            self.port,
            self.file("socket").display(),
            self.dir.path().display(),
            self.config
        );
        std::fs::write(self.file("redis.conf"), config).unwrap();
        let server = Command::new("redis-server")
            .arg(self.file("redis.conf"))
            .stdout(Stdio::null())
            .spawn()
            .expect("these tests need redis-server");
        self.server = Some(server);
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.file("socket")).is_err() {
            assert!(begin.elapsed() < PATIENCE, "redis-server doesn't start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.server.as_ref().unwrap()), signal).unwrap();
    }

    /// kill -9, but between two system calls: it is stopped first. Killed within a write, Redis can
    /// leave half a transaction in its file, of which a restart cuts off only the last command; what
    /// is left of it is carried out at the restart after that, a second time for all the world
    /// (measured, 7.0.15).
    pub(super) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            kill_process(Pid::from_child(&server), Signal::STOP).unwrap();
            let stat = format!("/proc/{}/stat", server.id());
            let stopped = || {
                let stat = std::fs::read_to_string(&stat).unwrap();
                // The state is behind the name, which is in brackets.
                let state = stat.rsplit_once(") ").unwrap().1.chars().next();
                matches!(state, Some('T' | 'Z'))
            };
            while !stopped() {
                std::thread::sleep(Duration::from_millis(1));
            }
            server.kill().unwrap();
            server.wait().unwrap();
        }
        let _ = std::fs::remove_file(self.file("socket"));
    }

    pub(super) fn client(&self) -> redis::Connection {
        let url = format!("unix://{}", self.file("socket").display());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    /// Ask it something, as the administrator.
    pub(super) fn try_ask<T: redis::FromRedisValue>(
        &self,
        command: &[&[u8]],
    ) -> redis::RedisResult<T> {
        let mut cmd = redis::Cmd::new();
        command.iter().for_each(|part| {
            cmd.arg(*part);
        });
        cmd.query(&mut self.client())
    }

    /// Ask it something written as in a shell.
    pub(super) fn cli<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let parts: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.try_ask(&parts).unwrap()
    }

    /// The way to its socket.
    pub(super) fn unix(&self) -> Connection {
        to(Address::Unix(self.file("socket")))
    }

    /// The way to its port.
    pub(super) fn tcp(&self) -> Connection {
        tcp(self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The way to a port of this machine.
pub(super) fn tcp(port: u16) -> Connection {
    to(Address::Tcp { host: "127.0.0.1".into(), port })
}

fn to(address: Address) -> Connection {
    Connection {
        name: "redis".into(),
        address,
        database: 0,
        username: None,
        password: Password::None,
        tls: TlsFiles::default(),
    }
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 97) as u16 * 100;
    loop {
        let port = 10_000 + start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
