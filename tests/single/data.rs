//! What happens to the data that daemons tell each other by: it is deleted by hand, or Redis goes back to
//! what it saved.

use rustix::process::Signal;

use super::pair::Pair;
use super::support::{Client, Handlerd, wait_until};
use super::{LEADS, STANDS_BY, daemon, each_once, handled, redis, times, wait_again};

/// The place is deleted by hand as soon as all is done, and who takes over hasn't seen it.
fn delete_the_place(command: &[&str]) {
    let Pair { mut redis, leader: (_, one), standby: (_, other) } = Pair::start();
    redis.client().publish_all("in", (0..1_000).map(|n| n.to_string()));
    each_once(&mut redis.client(), 1_000);
    let led = [times(&one, LEADS), times(&other, LEADS)];
    let stood_by = [times(&one, STANDS_BY), times(&other, STANDS_BY)];
    redis.kill();
    redis.restart();
    let leads = |daemon: &Handlerd, before| times(daemon, LEADS) > before;
    wait_until("one to lead again", || leads(&one, led[0]) || leads(&other, led[1]));
    let (mut leader, mut standby, stood_by) =
        if leads(&one, led[0]) { (one, other, stood_by[1]) } else { (other, one, stood_by[0]) };
    let mut client = redis.client();
    client.publish("in", "0");
    each_once(&mut client, 1);
    wait_again(&mut standby, STANDS_BY, stood_by);
    let led = times(&standby, LEADS);
    standby.signal(Signal::STOP);
    client.publish_all("in", (1..1_000).map(|n| n.to_string()));
    each_once(&mut client, 1_000);
    leader.signal(Signal::KILL);
    leader.wait_end();
    client.run::<u64>(command);
    client.run::<u64>(&["DEL", "handlerd:single:orders"]);
    standby.signal(Signal::CONT);
    wait_again(&mut standby, LEADS, led);
    client.publish_all("in", (1_000..2_000).map(|n| n.to_string()));
    each_once(&mut client, 2_000);
    assert_eq!(standby.stop().code, 0);
}

#[test]
fn nothing_is_doubled_where_the_key_is_deleted_by_hand() {
    delete_the_place(&["DEL", "handlerd:single:orders:at"]);
}

#[test]
fn nothing_is_doubled_where_the_place_is_deleted_by_hand() {
    delete_the_place(&["HDEL", "handlerd:single:orders:at", "at"]);
}

#[test]
fn nothing_is_doubled_where_the_place_and_its_time_are_deleted_by_hand() {
    delete_the_place(&["HDEL", "handlerd:single:orders:at", "at", "time"]);
}

/// Redis goes back to data that it saved earlier, and what is published then is told by marks that a
/// daemon doesn't know which has heard others after that.
#[test]
fn nothing_is_doubled_when_redis_goes_back_in_time() {
    let Pair { mut redis, leader: (_, mut one), standby: (_, mut other) } = Pair::start();
    let mut client = redis.client();
    client.publish_all("in", (0..100).map(|n| n.to_string()));
    each_once(&mut client, 100);
    client.run::<String>(&["SAVE"]);
    // One that the first hears too, and two thousand behind it.
    let mark =
        |client: &mut Client| -> u64 { client.run(&["HGET", "handlerd:single:orders:at", "mark"]) };
    let (before, stood_by) = (mark(&mut client), times(&other, STANDS_BY));
    client.run::<u64>(&["CLIENT", "KILL", "USER", "b"]);
    wait_again(&mut other, STANDS_BY, stood_by);
    assert!(mark(&mut client) > before);
    client.publish_all("in", (100..2_100).map(|n| n.to_string()));
    each_once(&mut client, 2_100);
    // It hears what was, and then nothing until the other leads.
    one.signal(Signal::STOP);
    redis.kill();
    let (led, stood_by) = (times(&other, LEADS), times(&one, STANDS_BY));
    redis.restart();
    let mut client = redis.client();
    wait_again(&mut other, LEADS, led);
    // What Redis has forgotten with its outputs may be handled again; nothing else.
    let publish = |client: &mut Client, from: u64| {
        client.publish_all("in", (from..from + 100).map(|n| n.to_string()));
        wait_until("the last one", || {
            handled(client).last().is_some_and(|(number, _)| *number == from + 99)
        });
    };
    publish(&mut client, 2_100);
    one.signal(Signal::CONT);
    wait_again(&mut one, STANDS_BY, stood_by);
    one.signal(Signal::STOP);
    publish(&mut client, 2_200);
    other.signal(Signal::KILL);
    other.wait_end();
    client.run::<u64>(&["DEL", "handlerd:single:orders"]);
    let led = times(&one, LEADS);
    one.signal(Signal::CONT);
    wait_again(&mut one, LEADS, led);
    publish(&mut client, 2_300);
    let mut numbers: Vec<u64> = handled(&mut client).into_iter().map(|(n, _)| n).collect();
    assert!(numbers.is_sorted());
    let length = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), length, "doubled");
    assert_eq!(numbers[length - 300..], (2_100..2_400).collect::<Vec<u64>>());
    assert_eq!(one.stop().code, 0);
}

#[test]
fn a_key_of_another_type_is_named_and_to_be_deleted() {
    for key in ["handlerd:single:orders", "handlerd:single:orders:at"] {
        let redis = redis();
        let mut client = redis.client();
        client.run::<u64>(&["RPUSH", key, "a list"]);
        let mut daemon = daemon(&redis, "a");
        let line = daemon.wait_log(&["of another type than handlerd's: delete it"]);
        assert!(line.contains(key) && !line.contains("script"), "{line}");
        client.run::<u64>(&["DEL", key]);
        daemon.wait_log(&[LEADS]);
        assert_eq!(daemon.stop().code, 0);
    }
}
