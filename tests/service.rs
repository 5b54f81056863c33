//! What the service manager hears of the real binary, over a real notification socket.

mod support;

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use support::{Handlerd, Redis, Watcher, wait_for, wait_until};
use tempfile::TempDir;

/// The service manager's end of the socket.
struct Manager {
    heard: Arc<Mutex<Vec<String>>>,
    socket: Arc<UnixDatagram>,
    reader: Option<JoinHandle<()>>,
    _dir: TempDir,
    address: String,
}

impl Manager {
    fn start() -> Manager {
        let dir = TempDir::with_prefix("handlerd-notify-").expect("a folder");
        let path = dir.path().join("notify");
        let socket = Arc::new(UnixDatagram::bind(&path).expect("a socket"));
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let (from, to) = (socket.clone(), heard.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(length @ 1..) = from.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                to.lock().expect("a lock").push(text);
            }
        });
        let address = path.display().to_string();
        Manager { heard, socket, reader: Some(reader), _dir: dir, address }
    }

    /// The daemon with this config, told of the socket and of a watchdog of this time.
    fn daemon(&self, config: &str, watchdog: Duration, more: &[(&str, &str)]) -> Handlerd {
        let watchdog = watchdog.as_micros().to_string();
        let mut environment =
            vec![("NOTIFY_SOCKET", self.address.as_str()), ("WATCHDOG_USEC", &watchdog)];
        environment.extend_from_slice(more);
        Handlerd::start_in(Handlerd::folder(), config, &environment)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("a lock").clone()
    }

    /// Everything but what is said again and again.
    fn steps(&self) -> Vec<String> {
        let mut heard = self.heard();
        heard.retain(|text| !text.starts_with("WATCHDOG=") && !text.starts_with("STATUS="));
        heard
    }

    fn fed(&self) -> usize {
        self.heard().iter().filter(|text| *text == "WATCHDOG=1").count()
    }

    /// Wait for a datagram with all of these words in it.
    #[track_caller]
    fn wait(&self, words: &[&str]) -> String {
        wait_for(&format!("{words:?} in what the service manager hears"), || {
            let has_all = |text: &String| words.iter().all(|word| text.contains(word));
            self.heard().into_iter().find(has_all)
        })
    }

    /// Wait until the watchdog was fed so many times more.
    #[track_caller]
    fn wait_fed(&self, times: usize) {
        let before = self.fed();
        wait_until("the watchdog to be fed", || self.fed() >= before + times);
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // The reader's end.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn chat(url: &str, more: &str) -> String {
    format!(
        "[redis]\nurl = \"{url}\"\n{more}\n[channels.chat]\nhandlers = [\"misbehave\"]\n\
         publish = \"chat.out\"\n"
    )
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn its_life_is_told_in_the_right_order() {
    let redis = Redis::start();
    let manager = Manager::start();
    let out = Watcher::subscribe(&redis, &["chat.out"]);
    let drain = "[daemon]\ndrain_timeout = \"10s\"";
    let mut daemon = manager.daemon(&chat(&redis.url(), drain), SECOND, &[]);
    manager.wait(&["READY=1"]);
    manager.wait(&["STATUS=running"]);
    let first = ["STATUS=starting: loading handlers (1)", "READY=1", "STATUS=running"];
    let heard = manager.heard();
    let heard = heard.iter().filter(|text| !text.starts_with("WATCHDOG="));
    assert_eq!(heard.take(3).collect::<Vec<_>>(), first);
    redis.wait_subscribed("chat", 1);

    redis.client().publish_all("chat", (0..5000).map(|n| n.to_string()));
    out.wait_count(5000);
    let busy = wait_for("a status with a rate", || {
        let rate = |text: &String| text.contains("1 channel, ") && !text.contains(", 0 messages");
        manager.heard().into_iter().find(rate)
    });
    assert!(!busy.contains(';'), "nothing is wrong: {busy}");
    manager.wait(&["STATUS=1 channel, 0 messages a second"]);
    manager.wait_fed(2);

    daemon.signal(Signal::HUP);
    manager.wait(&["RELOADING=1\nMONOTONIC_USEC="]);
    wait_until("the end of the reload", || {
        manager.heard().iter().filter(|text| *text == "READY=1").count() == 2
    });
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("delivered")), (0, 5000), "{}", stopped.last);
    let stopping = manager.wait(&["STOPPING=1"]);
    assert!(stopping.contains("\nEXTEND_TIMEOUT_USEC=15000000"), "{stopping}");
    let steps: Vec<String> =
        manager.steps().iter().map(|text| text[..text.find('=').unwrap_or(0)].to_owned()).collect();
    assert_eq!(steps, ["READY", "RELOADING", "READY", "STOPPING"]);
}

#[test]
fn the_watchdog_is_fed_while_redis_is_away_and_the_status_says_it() {
    let mut redis = Redis::start();
    let (manager, url) = (Manager::start(), redis.url());
    redis.kill();
    let mut daemon = manager.daemon(&chat(&url, ""), SECOND, &[]);
    manager.wait(&["READY=1"]);
    manager.wait(&["STATUS=1 channel", "Redis is away for outputs: redis", "not subscribed: chat"]);
    manager.wait_fed(4);
    redis.restart();
    redis.wait_subscribed("chat", 1);
    let last_is_well = || {
        let heard = manager.heard();
        let status = heard.iter().rev().find(|text| text.starts_with("STATUS="));
        status.is_some_and(|status| !status.contains(';'))
    };
    wait_until("a status in which nothing is wrong", last_is_well);
    assert_eq!(daemon.stop().code, 0);
}

/// Longer than a loop may take to come around.
const LONG: Duration = Duration::from_secs(18);

#[test]
fn the_watchdog_is_fed_while_plugins_compute() {
    let redis = Redis::start();
    let manager = Manager::start();
    let more = "[handlers.misbehave]\ntimeout = \"2m\"\n";
    let config = format!("{}workers = 4\n", chat(&redis.url(), more));
    let mut daemon = manager.daemon(&config, SECOND, &[]);
    redis.wait_subscribed("chat", 1);
    redis.client().publish_all("chat", (0..4).map(|_| "loop"));
    manager.wait_fed(LONG.as_secs() as usize * 2);
    assert_eq!(daemon.log_lines(&["stands still"]), [""; 0]);
    assert!(daemon.runs());
}

#[test]
fn the_watchdog_is_not_fed_when_a_loop_stands_still() {
    let redis = Redis::start();
    let manager = Manager::start();
    let hang = [("HANDLERD_TEST_HANG", "the writer of redis")];
    let mut daemon = manager.daemon(&chat(&redis.url(), ""), SECOND, &hang);
    manager.wait(&["READY=1"]);
    manager.wait_fed(2);
    daemon.wait_log(&["ERROR", "the writer of redis stands still"]);
    let status = manager.wait(&["STATUS=", "stands still: the writer of redis"]);
    // Four times were due meanwhile.
    std::thread::sleep(2 * SECOND);
    let heard = manager.heard();
    let since = heard.iter().skip_while(|text| **text != status);
    let fed = since.filter(|text| *text == "WATCHDOG=1").count();
    // One may have been on its way.
    assert!(fed <= 1, "fed {fed} times more");
}

#[test]
fn a_manager_that_does_not_read_holds_nothing_up() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["chat.out"]);
    let dir = TempDir::with_prefix("handlerd-notify-").expect("a folder");
    let path = dir.path().join("notify");
    let unread = UnixDatagram::bind(&path).expect("a socket");
    let path = path.display().to_string();
    // A hundred times a second: the socket is full soon.
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "20000")];
    let config = chat(&redis.url(), "");
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config, &environment);
    redis.wait_subscribed("chat", 1);
    let full = UnixDatagram::unbound().expect("a socket");
    full.set_nonblocking(true).expect("a socket");
    wait_until("the socket to be full", || full.send_to(b"", &path).is_err());
    redis.client().publish_all("chat", ["a", "b"]);
    out.wait_count(2);
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("delivered")), (0, 2), "{}", stopped.last);
    drop(unread);
}

#[test]
fn a_manager_that_is_gone_is_named_once() {
    let redis = Redis::start();
    let environment = [("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "20000")];
    let config = chat(&redis.url(), "");
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config, &environment);
    redis.wait_subscribed("chat", 1);
    let stopped = daemon.stop();
    assert_eq!(stopped.code, 0);
    let said = stopped.log.iter().filter(|line| line.contains("NOTIFY_SOCKET"));
    assert_eq!(said.count(), 1, "{:?}", stopped.log);
}
