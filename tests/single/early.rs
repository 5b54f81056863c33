//! A leader that ends just when another daemon has come, with messages in hand that were published
//! before: of which of them that one can't know anything is said, and counted where they came to it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::pair::Pair;
use super::support::{Client, Handlerd, Redis, wait_until};
use super::{LEADS, Publisher, SLOW, STANDS_BY};
use super::{daemon, daemon_with, each_once, redis, times, wait_again};

/// In the log of who goes on and may not have heard everything.
const GAP: &str = "may be missing";

/// The payloads that were handled.
fn payloads(client: &mut Client) -> Vec<String> {
    let entries: Vec<(String, Vec<(String, String)>)> = client.run(&["XRANGE", "out", "-", "+"]);
    entries.into_iter().map(|(_, fields)| fields[0].1.clone()).collect()
}

fn stored(client: &mut Client) -> Option<String> {
    client.run(&["HGET", "handlerd:single:orders:at", "at"])
}

/// One that leads and has handled a message.
fn leader(redis: &Redis) -> Handlerd {
    let mut daemon = daemon_with(redis, "a", SLOW);
    daemon.wait_log(&[LEADS]);
    let mut client = redis.client();
    client.publish("in", "first");
    wait_until("it to be handled", || payloads(&mut client) == ["first"]);
    daemon
}

/// Another one that is subscribed, has no mark yet, and has heard five messages, `mine 0` and so on.
fn newcomer(redis: &Redis) -> Handlerd {
    let mut client = redis.client();
    client.run::<String>(&["ACL", "SETUSER", "b", "resetchannels", "&in"]);
    let daemon = daemon_with(redis, "b", SLOW);
    redis.wait_subscribed("in", 2);
    client.publish_all("in", (0..5).map(|n| format!("mine {n}")));
    daemon
}

/// Now it may have one.
fn allow_marks(client: &mut Client) {
    client.run::<String>(&["ACL", "SETUSER", "b", "allchannels"]);
}

#[test]
fn what_the_first_leader_had_in_hand_is_a_gap_for_who_came_later() {
    let redis = redis();
    let mut first = daemon_with(&redis, "a", SLOW);
    first.wait_log(&[LEADS]);
    let mut client = redis.client();
    client.publish_all("in", ["sleep 600000".to_owned(), "lost".to_owned()]);
    let mut second = daemon_with(&redis, "b", SLOW);
    redis.wait_subscribed("handlerd:single:orders:mark", 2);
    client.publish("in", "heard");
    // Twice as long as a standby takes to look.
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(second.log_lines(&[STANDS_BY]), [""; 0], "it doesn't hold all");
    first.signal(Signal::KILL);
    second.wait_log(&[LEADS]);
    wait_until("what it heard", || payloads(&mut client) == ["heard"]);
    second.wait_log(&[GAP]);
    assert_eq!(second.stop().code, 0);
}

#[test]
fn what_came_before_the_first_mark_is_counted_where_the_leader_can_not_tell_of_it() {
    let redis = redis();
    let first = leader(&redis);
    let mut client = redis.client();
    let before = stored(&mut client);
    let mut second = newcomer(&redis);
    client.publish("in", "last of the first");
    wait_until("it to be handled", || {
        payloads(&mut client).last().is_some_and(|last| last == "last of the first")
    });
    assert_ne!(stored(&mut client), before);
    // It can't hear the mark any more, and has these in hand, for all that is known.
    first.signal(Signal::KILL);
    allow_marks(&mut client);
    second.wait_log(&[LEADS]);
    client.publish("in", "behind");
    wait_until("what comes then", || payloads(&mut client).last().is_some_and(|p| p == "behind"));
    assert_eq!(payloads(&mut client).len(), 8);
    second.wait_log(&[GAP]);
    let stopped = second.stop();
    assert_eq!(stopped.number("unknown"), 6, "{}", stopped.last);
    assert_eq!(stopped.number("received"), 7, "{}", stopped.last);
    assert_eq!(stopped.number("handled"), 1, "{}", stopped.last);
}

#[test]
fn what_came_before_the_first_mark_is_handled_where_the_leader_heard_that() {
    let redis = redis();
    let first = leader(&redis);
    let mut client = redis.client();
    client.publish("in", "second");
    wait_until("it to be handled", || payloads(&mut client) == ["first", "second"]);
    client.publish("in", "sleep 600000");
    let before = stored(&mut client);
    let mut second = newcomer(&redis);
    allow_marks(&mut client);
    wait_until("the leader to tell of its place by the mark", || stored(&mut client) != before);
    first.signal(Signal::KILL);
    second.wait_log(&[LEADS]);
    let expected: Vec<String> = ["first".to_owned(), "second".to_owned()]
        .into_iter()
        .chain((0..5).map(|n| format!("mine {n}")))
        .collect();
    wait_until("all that it heard", || payloads(&mut client).len() >= 7);
    assert_eq!(payloads(&mut client), expected);
    // What the first had in hand.
    second.wait_log(&[GAP]);
    let stopped = second.stop();
    assert_eq!((stopped.number("received"), stopped.number("lost")), (5, 0), "{}", stopped.last);
}

#[test]
fn a_gap_is_as_long_as_the_messages_in_hand_have_waited() {
    let redis = redis();
    let mut first = leader(&redis);
    let mut client = redis.client();
    let began = Instant::now();
    client.publish_all("in", (0..2_000).map(|_| "sleep 5".to_owned()));
    // They wait for so long before another daemon is there.
    std::thread::sleep(Duration::from_millis(1_200));
    let missed = began.elapsed();
    let mut second = daemon_with(&redis, "b", SLOW);
    redis.wait_subscribed("handlerd:single:orders:mark", 2);
    let handled: u64 = client.run(&["XLEN", "out"]);
    wait_until("it to go on", || client.run::<u64>(&["XLEN", "out"]) > handled + 50);
    first.signal(Signal::KILL);
    first.wait_end();
    wait_again(&mut second, LEADS, 0);
    second.wait_log(&[GAP]);
    let handled: u64 = client.run(&["XLEN", "out"]);
    assert!(handled < 2_001, "nothing was in hand");
    let page = second.stop().log.join("\n");
    let gap = page.split("at most ").nth(1).and_then(|rest| rest.split(' ').next());
    let gap: f32 = gap.expect("a time").parse().expect("a number");
    assert!(gap + 0.2 >= missed.as_secs_f32(), "{gap} of {missed:?}");
}

/// They look for the lease as often, and have heard less.
#[test]
fn who_comes_later_leaves_the_lease_to_who_has_heard_everything() {
    let mut pair = Pair::start();
    let publisher = Publisher::start(&pair.redis);
    let mut client = pair.redis.client();
    wait_until("messages to flow", || client.run::<u64>(&["XLEN", "out"]) >= 1_000);
    pair.leader.1.signal(Signal::KILL);
    let _newcomers: Vec<Handlerd> = (0..6).map(|_| daemon(&pair.redis, "c")).collect();
    wait_again(&mut pair.standby.1, LEADS, 0);
    let sent = publisher.stop();
    each_once(&mut client, sent);
    assert_eq!(times(&pair.standby.1, GAP), 0);
}
