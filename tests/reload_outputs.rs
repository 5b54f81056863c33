//! Reloads that change where outputs go: also away from a Redis that is gone.

mod support;

use std::fs;

use rustix::process::Signal;
use support::redis_server::free_port;
use support::{Handlerd, Redis, wait_until};

/// A daemon with this configuration after its connections.
fn start(redis: &Redis, connections: &str, channels: &str) -> Handlerd {
    let config = config(redis, connections, channels);
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config, &[]);
    daemon.wait_log(&["INFO", "runs"]);
    daemon
}

fn config(redis: &Redis, connections: &str, channels: &str) -> String {
    format!("[redis]\nurl = \"{}\"\n{connections}\n{channels}", redis.url())
}

fn reload(daemon: &mut Handlerd, config: String) {
    fs::write(daemon.dir().join("config.toml"), config).expect("it is written");
    let before = daemon.log_lines(&["reloaded: "]).len();
    daemon.signal(Signal::HUP);
    wait_until("it is reloaded", || daemon.log_lines(&["reloaded: "]).len() > before);
}

fn connection(name: &str, port: u16) -> String {
    format!("[connections.{name}]\nurl = \"redis://127.0.0.1:{port}\"\n")
}

fn stream(append: &str) -> String {
    format!(
        "[channels.jobs]\nstream = \"jobs\"\ngroup = \"g\"\nstart = \"oldest\"\n\
         handlers = [\"announce\"]\nappend = {append}\nretries = 0\ndead_letter = false\n"
    )
}

#[test]
fn an_output_that_is_gone_for_good_is_got_rid_of_by_a_reload() {
    let redis = Redis::start();
    // What is in hand is waited for as long.
    let short = "[daemon]\ndrain_timeout = \"3s\"\n";
    let gone = connection("gone", free_port()) + short;
    let mut daemon = start(&redis, &gone, &stream("{ to = \"gone\", stream = \"done\" }"));
    for number in 0..300 {
        redis.run::<String>(&["XADD", "jobs", "*", "payload", &number.to_string()]);
    }
    let pending = || redis.run::<Vec<redis::Value>>(&["XPENDING", "jobs", "g"]);
    wait_until("some are in hand", || match pending().first() {
        Some(redis::Value::Int(pending)) => *pending > 0,
        _ => false,
    });
    reload(&mut daemon, config(&redis, short, &stream("\"done\"")));
    wait_until("all are done", || redis.run::<u64>(&["XLEN", "done"]) >= 300);
    let done: Vec<(String, Vec<String>)> = redis.run(&["XRANGE", "done", "-", "+"]);
    for (number, (_, fields)) in done.iter().enumerate() {
        assert!(fields[1].contains(&format!("'{number}'")), "{number}: {fields:?}");
    }
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 300), "{}", stopped.last);
}

#[test]
fn outputs_go_to_the_new_redis_from_the_next_message_on() {
    let (redis, first, second) = (Redis::start(), Redis::start(), Redis::start());
    let channel = "[channels.c]\nsubscribe = \"in\"\nhandlers = []\n\
                   push = { to = \"far\", list = \"l\" }\n";
    let mut daemon = start(&redis, &connection("far", first.port()), channel);
    redis.wait_subscribed("in", 1);
    redis.client().publish("in", "one");
    wait_until("it is there", || first.run::<u64>(&["LLEN", "l"]) == 1);
    // Taken out, and brought back under the same name with another address.
    reload(
        &mut daemon,
        config(&redis, "", "[channels.c]\nsubscribe = \"in\"\nlog = true\nhandlers = []\n"),
    );
    reload(&mut daemon, config(&redis, &connection("far", second.port()), channel));
    redis.client().publish("in", "two");
    wait_until("it is there", || second.run::<u64>(&["LLEN", "l"]) == 1);
    assert_eq!(first.run::<u64>(&["LLEN", "l"]), 1);
    assert_eq!(daemon.stop().number("lost"), 0);
}

#[test]
fn a_renamed_channel_and_a_new_one_of_its_old_name_count_for_themselves() {
    let redis = Redis::start();
    let old = "[channels.a]\nsubscribe = \"x\"\nhandlers = []\npublish = \"out\"\n";
    let mut daemon = start(&redis, "", old);
    redis.wait_subscribed("x", 1);
    redis.client().publish_all("x", ["1", "2", "3"]);
    let new = "[channels.b]\nsubscribe = \"x\"\nhandlers = []\npublish = \"out\"\n\
               [channels.a]\nsubscribe = \"y\"\nhandlers = []\npublish = \"out\"\n";
    reload(&mut daemon, config(&redis, "", new));
    redis.wait_subscribed("y", 1);
    redis.client().publish_all("y", ["4", "5"]);
    let stopped = daemon.stop();
    assert_eq!((stopped.number("received"), stopped.number("handled")), (5, 5), "{}", stopped.last);
}
