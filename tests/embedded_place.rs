//! Where the embedded broker listens, and how `send` and `listen` find it there: beside a real Redis
//! on its port, beside other daemons, and after it has gone.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use support::handlerd::folder_with;
use support::redis_server::{free_port, free_ports};
use support::{Handlerd, PATIENCE, Redis, Run};

/// Ports that are tried behind the configured one.
const FURTHER: u16 = 20;

fn config(listen: &str, output: &str) -> String {
    format!(
        "[redis]\nurl = \"embedded\"\nlisten = \"{listen}\"\n[channels.chat]\n\
         handlers = [\"announce\"]\npublish = \"{output}\"\n"
    )
}

fn start(listen: &str, output: &str) -> Handlerd {
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config(listen, output), &[]);
    daemon.wait_log(&["subscribed to 1 of 1 names"]);
    daemon
}

fn file(dir: &Path) -> String {
    dir.join("config.toml").to_str().expect("a path in UTF-8").to_owned()
}

/// Send a message with the configuration in this folder, and see what comes out.
#[track_caller]
fn exchange(dir: &Path, output: &str) {
    let file = file(dir);
    let listen = Run::new(&["listen", "--config", &file, output, "--count", "1"]).spawn();
    support::wait_until("somebody to listen", || {
        let sent = Run::new(&["send", "--config", &file, output, "are you there?"]).output();
        sent.expect(0).text() == "1 subscriber\n"
    });
    let heard = listen.wait().expect(0).text();
    assert_eq!(heard, format!("{output} are you there?\n"));
    let listen = Run::new(&["listen", "--config", &file, output, "--count", "1"]).spawn();
    support::wait_until("the message to come out of the chain", || {
        Run::new(&["send", "--config", &file, "chat", "hello"]).output().expect(0);
        listen.stdout().contains("Received message 'hello' from channel 'chat'")
    });
}

#[test]
fn beside_a_redis_on_its_port_it_takes_the_next_and_is_found_there() {
    let redis = Redis::start();
    let address = format!("127.0.0.1:{}", redis.port());
    let mut daemon = start(&address, "chat.out");
    let line = daemon.wait_log(&["listens at", &format!("because port {} is taken", redis.port())]);
    assert!(!line.contains(&format!("listens at {address}")), "{line}");
    let (_, port) = line.split_once("listens at 127.0.0.1:").expect("an address");
    let (port, _) = port.split_once(',').expect("a port");
    let hint = daemon.wait_log(&["try, in two other terminals"]);
    assert!(hint.contains(&format!("redis-cli -p {port} subscribe chat.out")), "{hint}");
    assert!(hint.ends_with(&format!("--config {} send chat 'hello'", file(daemon.dir()))));

    let connections = || -> String {
        let stats: String = redis.run(&["INFO", "stats"]);
        let line = stats.lines().find(|line| line.starts_with("total_connections_received"));
        line.expect("a statistic").to_owned()
    };
    let before = connections();
    exchange(daemon.dir(), "chat.out");
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0));
    // After its end, too, the Redis is left alone: the one connection more is the one that asks.
    let file = file(daemon.dir());
    for verb in [&["send", "chat", "x"][..], &["listen", "chat"]] {
        let refused = Run::new(&[&["--config", &file], verb].concat()).output().expect(69);
        assert!(refused.stderr.contains("no handlerd runs with"), "{}", refused.stderr);
        assert!(refused.stderr.contains(&format!("handlerd --config {file}")));
    }
    let number = |line: &str| -> u64 {
        line.rsplit(':').next().and_then(|n| n.trim().parse().ok()).expect("a number")
    };
    assert_eq!(number(&connections()), number(&before) + 1);
}

#[test]
fn each_daemon_is_found_by_its_own_configuration() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let (first, second) = (start(&address, "first.out"), start(&address, "second.out"));
    exchange(second.dir(), "second.out");
    exchange(first.dir(), "first.out");
    // By another name of the file, too, and whatever the environment is.
    let link = second.dir().join("link.toml");
    std::os::unix::fs::symlink(second.dir().join("config.toml"), &link).expect("a link");
    let link = link.to_str().expect("a path in UTF-8");
    let send = Run::new(&["send", "--config", link, "chat", "x"]).env("XDG_RUNTIME_DIR", "/none");
    assert_eq!(send.output().expect(0).text(), "1 subscriber\n");
}

#[test]
fn a_second_daemon_of_one_configuration_says_who_is_found() {
    let first = start(&format!("127.0.0.1:{}", free_port()), "out");
    let path = file(first.dir());
    let second = Run::new(&["run", "--config", &path]).spawn();
    let said = ["subscribed to 1 of 1", "another handlerd runs with this config", "redis-cli -p"];
    let began = Instant::now();
    while let Some(missing) = said.into_iter().find(|words| !second.stderr().contains(words)) {
        // What it said instead is worth seeing.
        assert!(began.elapsed() < PATIENCE, "no {missing} in {}", second.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    second.signal(rustix::process::Signal::TERM);
    second.wait().expect(0);
    exchange(first.dir(), "out");
}

#[test]
fn all_ports_taken_is_a_sentence_and_exit_code_69() {
    // Those that somebody else has are taken as well. The brokers of other tests, which take one of
    // the ports behind theirs, have as many before these to choose from.
    let first = free_ports(2 * FURTHER + 1) + FURTHER;
    let last = first + FURTHER;
    let _taken: Vec<_> =
        (first..=last).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
    let (_dir, file) = folder_with(&config(&format!("127.0.0.1:{first}"), "out"));
    let file = file.to_str().expect("a path in UTF-8");
    let refused = Run::new(&["run", "--config", file]).output().expect(69);
    let expected = format!("127.0.0.1:{first} and those up to {last} are taken");
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    assert!(refused.stderr.contains("write another `listen` into [redis]"), "{}", refused.stderr);
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let (_dir, file) = folder_with(&config("192.0.2.1:20000", "out"));
    let file = file.to_str().expect("a path in UTF-8");
    let refused = Run::new(&["run", "--config", file]).output().expect(69);
    assert!(refused.stderr.contains("can't listen at 192.0.2.1:20000"), "{}", refused.stderr);
    assert!(refused.stderr.contains("an address of this machine"), "{}", refused.stderr);
}

#[test]
fn for_other_machines_it_listens_when_told_so_and_warns() {
    let mut daemon = start(&format!("0.0.0.0:{}", free_port()), "out");
    daemon.wait_log(&["WARN", "there is no password"]);
    exchange(daemon.dir(), "out");
    let mut daemon = start(&format!("127.0.0.1:{}", free_port()), "out");
    assert!(daemon.log_lines(&["password"]).is_empty());
    assert!(daemon.runs());
}

#[test]
fn check_and_try_need_no_running_broker() {
    let (_dir, file) = folder_with(&config("127.0.0.1:6379", "chat.out"));
    let file = file.to_str().expect("a path in UTF-8");
    let check = Run::new(&["check", "--connect", "--config", file]).output().expect(0).text();
    assert!(check.contains("redis: embedded, so there is nothing to connect to"), "{check}");
    assert!(check.ends_with("ok: 1 channel, 1 handler\n"), "{check}");
    let tried = Run::new(&["try", "--config", file, "chat", "hello"]).output().expect(0).text();
    assert!(tried.contains("publish chat.out"), "{tried}");
}
