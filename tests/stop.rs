//! How it ends: everything that was received is accounted for, and the last line says the numbers.

mod support;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::process::Process;
use support::{Handlerd, Redis, Watcher, wait_until};

#[test]
fn a_signal_under_load_loses_nothing_that_was_received() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [channels.load]
        subscribe = "in"
        handlers = ["announce"]
        publish = "out"
        "#,
    );
    redis.wait_subscribed("in", 1);
    let done = AtomicBool::new(false);
    // How many Redis has sent to handlerd: each publication answers how many it was sent to.
    let (sent, stopped) = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut client = redis.client();
            let mut sent = 0;
            while !done.load(Relaxed) {
                let mut pipe = redis::pipe();
                for _ in 0..50 {
                    pipe.cmd("PUBLISH").arg("in").arg("load");
                }
                let answers: Vec<u64> = pipe.query(client.raw()).expect("pipelined PUBLISH");
                sent += answers.iter().sum::<u64>();
            }
            sent
        });
        out.wait_count(5000);
        let stopped = daemon.stop();
        done.store(true, Relaxed);
        (publisher.join().expect("the publisher ends"), stopped)
    });
    assert_eq!(stopped.code, 0, "{}", stopped.last);
    let last = &stopped.last;
    assert_eq!(stopped.number("received"), sent, "{last}");
    assert_eq!(stopped.number("handled"), sent - stopped.number("overflow"), "{last}");
    assert_eq!(stopped.number("delivered"), stopped.number("handled"), "{last}");
    let delivered = usize::try_from(stopped.number("delivered")).expect("a count");
    assert_eq!(out.wait_count(delivered).len(), delivered, "{last}");
}

const SLOW: &str = r#"
    [handlers.misbehave]
    timeout = "10s"

    [channels.slow]
    subscribe = "in"
    handlers = ["misbehave"]
    publish = "out"
"#;

/// A daemon with a hundred messages that take a third of a second each.
fn slow(redis: &Redis, more: &str) -> Handlerd {
    let out = Watcher::subscribe(redis, &["out"]);
    let daemon = Handlerd::start(redis, &format!("{more}{SLOW}"));
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", (0..100).map(|_| "sleep 333"));
    out.wait_count(1);
    daemon
}

#[track_caller]
fn all_is_accounted_for(stopped: &support::Stopped) {
    let last = &stopped.last;
    assert_eq!(stopped.code, 0, "{last}");
    assert_eq!(stopped.number("received"), 100, "{last}");
    assert!(stopped.number("shutdown") > 0, "{last}");
    assert_eq!(stopped.number("lost"), stopped.number("shutdown"), "{last}");
    let reached = stopped.number("delivered");
    assert_eq!(stopped.number("received"), reached + stopped.number("lost"), "{last}");
}

#[test]
fn drain_timeout_ends_what_takes_too_long() {
    let redis = Redis::start();
    let mut daemon = slow(&redis, "[daemon]\ndrain_timeout = \"300ms\"\n");
    let stopped = daemon.stop();
    all_is_accounted_for(&stopped);
    assert!(stopped.log.iter().any(|line| line.contains("drain_timeout")), "{:?}", stopped.log);
}

#[test]
fn a_second_signal_stops_at_once() {
    let redis = Redis::start();
    let mut daemon = slow(&redis, "[daemon]\ndrain_timeout = \"10m\"\n");
    daemon.signal(Signal::TERM);
    daemon.wait_log(&["SIGTERM"]);
    assert!(daemon.runs());
    daemon.signal(Signal::INT);
    all_is_accounted_for(&daemon.wait_end());
}

#[test]
fn what_is_queued_is_finished() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(&redis, SLOW);
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", (0..20).map(|_| "sleep 20"));
    out.wait_count(1);
    let stopped = daemon.stop();
    assert_eq!(stopped.code, 0);
    assert_eq!((stopped.number("delivered"), stopped.number("lost")), (20, 0), "{}", stopped.last);
    assert_eq!(out.wait_count(20).len(), 20);
}

#[test]
fn an_interrupt_ends_it_too_and_without_redis_as_well() {
    let mut redis = Redis::start();
    let config = format!("[daemon]\ndrain_timeout = \"50s\"\n{SLOW}");
    let mut daemon = Handlerd::start(&redis, &config);
    redis.wait_subscribed("in", 1);
    redis.kill();
    daemon.signal(Signal::INT);
    let begin = Instant::now();
    let stopped = daemon.wait_end();
    assert_eq!(stopped.code, 0);
    // Nothing waits, so there is nothing to use these seconds for.
    assert!(begin.elapsed() < Duration::from_secs(45), "it waited for a Redis it has no use for");
    assert_eq!(stopped.number("received"), 0, "{}", stopped.last);
}

#[test]
fn the_subscription_ends_first() {
    let redis = Redis::start();
    let mut daemon = slow(&redis, "[daemon]\ndrain_timeout = \"10m\"\n");
    daemon.signal(Signal::TERM);
    let mut client = redis.client();
    wait_until("the subscription to end", || client.subscribers("in") == 0);
    assert!(daemon.runs(), "it has a hundred messages to finish");
    daemon.signal(Signal::TERM);
    all_is_accounted_for(&daemon.wait_end());
}

#[test]
fn a_log_that_nobody_reads_ends_nothing() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let config = format!(
        "[redis]\nurl = \"{}\"\n[channels.loud]\nsubscribe = \"in\"\nhandlers = []\n\
         publish = \"out\"\nlog = true\n",
        redis.url()
    );
    let (_dir, file) = support::handlerd::folder_with(&config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_handlerd"));
    command.arg("--config").arg(&file).stderr(Stdio::piped());
    let mut daemon = Process::spawn(&mut command).expect("handlerd starts");
    drop(daemon.child().stderr.take());
    redis.wait_subscribed("in", 1);
    let mut client = redis.client();
    for n in 0..5 {
        client.publish("in", format!("{n}"));
    }
    out.wait_count(5);
    daemon.signal(Signal::TERM);
    let ended = daemon.wait(support::handlerd::patience()).expect("it ends");
    assert_eq!(ended.code(), Some(0));
}
