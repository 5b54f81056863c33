//! What a network does without either end being told: it stands still and brings late what was sent, or
//! loses answers, or one connection of several is dead.

use rustix::process::Signal;

use super::support::{Client, Handlerd, Hole, Proxy, Redis, wait_until};
use super::{CHANNEL, LEADS, OTHER, Publisher, STANDS_BY};
use super::{daemon, each_once, redis, times, wait_again};

/// In every request that writes outputs, and in no other: their key.
const OUTPUTS: &[u8] = b"\r\nout\r\n";

/// Wait until a thousand more were handled.
#[track_caller]
fn flow(client: &mut Client) {
    let length: u64 = client.run(&["XLEN", "out"]);
    wait_until("messages to flow", || client.run::<u64>(&["XLEN", "out"]) > length + 1_000);
}

/// A daemon of this user whose way to Redis is the proxy.
fn daemon_behind(proxy: &Proxy, user: &str) -> Handlerd {
    Handlerd::start_at(&proxy.url().replace("://", &format!("://{user}:any@")), CHANNEL)
}

/// Messages flow, and one daemon leads whose way to Redis is the proxy.
struct Begun {
    proxy: Proxy,
    leader: Handlerd,
    /// How often that one has said that it stands by: for a moment, before it took the lease.
    stood_by: usize,
    standby: Handlerd,
    publisher: Publisher,
    client: Client,
}

fn begin(redis: &Redis) -> Begun {
    let proxy = Proxy::to(redis.port());
    let mut leader = daemon_behind(&proxy, "a");
    leader.wait_log(&[LEADS]);
    let stood_by = times(&leader, STANDS_BY);
    let mut standby = daemon(redis, "b");
    standby.wait_log(&[STANDS_BY]);
    let publisher = Publisher::start(redis);
    let mut client = redis.client();
    flow(&mut client);
    Begun { proxy, leader, stood_by, standby, publisher, client }
}

/// The network between the leader and Redis fails and neither is told, with outputs on their way; what
/// was on its way arrives when another has led meanwhile, or this one leads again.
fn cut_off(hole: Hole) {
    let redis = redis();
    let Begun { proxy, leader: mut first, stood_by, standby: mut other, publisher, mut client } =
        begin(&redis);
    let (led, led_too) = (times(&first, LEADS), times(&other, LEADS));
    proxy.snare(OUTPUTS, hole);
    wait_until("outputs to be on their way", || proxy.has_snapped());
    wait_again(&mut other, LEADS, led_too);
    flow(&mut client);
    if hole != Hole::FrozenOld {
        proxy.thaw();
    }
    wait_again(&mut first, OTHER, 0);
    wait_again(&mut first, STANDS_BY, stood_by);
    let stopped = other.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    wait_again(&mut first, LEADS, led);
    flow(&mut client);
    proxy.thaw();
    wait_until("what was on its way", || hole == Hole::Mute || proxy.has_come_late(OUTPUTS));
    flow(&mut client);
    let sent = publisher.stop();
    each_once(&mut client, sent);
    assert_eq!(first.log_lines(&["may be missing"]), [""; 0]);
    let stopped = first.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
}

#[test]
fn outputs_that_arrive_when_another_leads_are_refused() {
    cut_off(Hole::Frozen);
}

#[test]
fn outputs_that_arrive_when_their_daemon_leads_again_are_refused() {
    cut_off(Hole::FrozenOld);
}

#[test]
fn outputs_whose_answer_was_lost_are_not_written_again() {
    cut_off(Hole::Mute);
}

/// Nobody takes over, and the lease is the same daemon's when they arrive: what it has asked over a
/// new connection meanwhile stands.
#[test]
fn outputs_that_arrive_after_they_were_asked_for_again_are_refused() {
    let redis = redis();
    let proxy = Proxy::to(redis.port());
    let mut daemon = daemon_behind(&proxy, "a");
    daemon.wait_log(&[LEADS]);
    let mut client = redis.client();
    proxy.snare(OUTPUTS, Hole::FrozenOld);
    client.publish("in", "0");
    wait_until("its output to be asked for again", || client.run::<u64>(&["XLEN", "out"]) == 1);
    // The old one is still there for Redis.
    redis.wait_subscribed("in", 2);
    client.publish_all("in", (1..100).map(|n| n.to_string()));
    each_once(&mut client, 100);
    proxy.thaw();
    wait_until("what was on its way", || proxy.has_come_late(OUTPUTS));
    client.publish("in", "100");
    each_once(&mut client, 101);
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again_and_nothing_is_written_twice() {
    let redis = redis();
    let proxy = Proxy::to(redis.port());
    let mut daemon = daemon_behind(&proxy, "a");
    daemon.wait_log(&[LEADS]);
    let mut client = redis.client();
    let subscribed = times(&daemon, "subscribed to");
    proxy.snare(OUTPUTS, Hole::Mute);
    client.publish("in", "0");
    wait_until("its output", || client.run::<u64>(&["XLEN", "out"]) == 1);
    proxy.thaw();
    wait_again(&mut daemon, "subscribed to", subscribed);
    client.publish_all("in", (1..100).map(|n| n.to_string()));
    each_once(&mut client, 100);
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 100), "{}", stopped.last);
    assert_eq!(stopped.number("delivered"), 100, "{}", stopped.last);
}

/// What another handles meanwhile is not what comes over the new one.
#[test]
fn a_standby_whose_subscription_was_dead_holds_what_comes_over_the_next_one() {
    let redis = redis();
    let mut leader = daemon(&redis, "a");
    leader.wait_log(&[LEADS]);
    let proxy = Proxy::to(redis.port());
    let mut standby = daemon_behind(&proxy, "b");
    standby.wait_log(&[STANDS_BY]);
    let publisher = Publisher::start(&redis);
    let mut client = redis.client();
    flow(&mut client);
    let [subscribed, stood_by] = ["subscribed to", STANDS_BY].map(|what| times(&standby, what));
    proxy.begin(Hole::Deaf);
    wait_again(&mut standby, "subscribed to", subscribed);
    wait_again(&mut standby, STANDS_BY, stood_by);
    leader.signal(Signal::KILL);
    wait_again(&mut standby, LEADS, 0);
    flow(&mut client);
    let sent = publisher.stop();
    each_once(&mut client, sent);
    let stopped = standby.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
}

#[test]
fn a_leader_whose_subscription_is_dead_hands_over_when_it_finds_out() {
    let redis = redis();
    let Begun { proxy, mut leader, stood_by, mut standby, publisher, mut client } = begin(&redis);
    proxy.begin(Hole::Deaf);
    wait_again(&mut standby, LEADS, 0);
    flow(&mut client);
    wait_again(&mut leader, STANDS_BY, stood_by);
    let sent = publisher.stop();
    each_once(&mut client, sent);
    assert_eq!(standby.log_lines(&["may be missing"]), [""; 0]);
    for mut daemon in [leader, standby] {
        let stopped = daemon.stop();
        assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    }
}
