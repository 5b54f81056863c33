//! A daemon that ends, or whose channel does, while it holds messages of which it isn't known yet whether
//! another handles them.

use std::time::Duration;

use rustix::process::Signal;

use super::pair::Pair;
use super::support::changing::{Changing, put};
use super::support::{Client, Handlerd, wait_until};
use super::{CHANNEL, LEADS, SLOW, daemon, each_once, handled, redis, times};

/// Publish the numbers from the one on, up to the other.
fn publish(client: &mut Client, from: u64, to: u64) {
    client.publish_all("in", (from..to).map(|number| number.to_string()));
}

/// Each of these came out once, in whatever order.
#[track_caller]
fn all_came(client: &mut Client, sent: u64) {
    wait_until("all messages", || client.run::<u64>(&["XLEN", "out"]) >= sent);
    let mut numbers: Vec<u64> = handled(client).into_iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..sent), "{} of {sent}", numbers.len());
}

/// Have it read its file with another text again.
#[track_caller]
fn change(daemon: &mut Handlerd, from: &str, to: &str) {
    let file = daemon.dir().join("config.toml");
    let text = std::fs::read_to_string(&file).expect("its configuration");
    assert!(text.contains(from), "{text}");
    let before = times(daemon, "reloaded: ");
    put(&file, text.replace(from, to));
    daemon.signal(Signal::HUP);
    wait_until("the reload", || times(daemon, "reloaded: ") > before);
}

/// A pair whose leader has handled the first hundred and is dead, and whose standby has heard another
/// hundred.
fn bereaved() -> (Pair, Client) {
    let mut pair = Pair::start();
    let mut client = pair.redis.client();
    publish(&mut client, 0, 100);
    each_once(&mut client, 100);
    pair.leader.1.signal(Signal::KILL);
    pair.leader.1.wait_end();
    publish(&mut client, 100, 200);
    // Until it has read them: the leader's lease lasts longer.
    std::thread::sleep(Duration::from_millis(100));
    (pair, client)
}

#[test]
fn what_a_standby_holds_of_a_dead_leader_is_handled_when_single_is_turned_off() {
    let (mut pair, mut client) = bereaved();
    change(&mut pair.standby.1, "single = true", "single = false");
    publish(&mut client, 200, 300);
    all_came(&mut client, 300);
    let stopped = pair.standby.1.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 200), "{}", stopped.last);
    assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
    assert_eq!(client.run::<u64>(&["EXISTS", "handlerd:single:orders"]), 0);
}

#[test]
fn what_a_standby_holds_of_a_dead_leader_is_handled_when_the_channel_is_removed() {
    let (mut pair, mut client) = bereaved();
    change(
        &mut pair.standby.1,
        CHANNEL,
        "[channels.other]\nsubscribe = \"other\"\nhandlers = []\nlog = true\n",
    );
    all_came(&mut client, 200);
}

#[test]
fn what_a_standby_holds_of_a_dead_leader_is_handled_before_it_stops() {
    let (mut pair, mut client) = bereaved();
    let stopped = pair.standby.1.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 100), "{}", stopped.last);
    assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
    all_came(&mut client, 200);
    assert!(!stopped.log.join("\n").contains("may be missing"), "{}", stopped.log.join("\n"));
    // Nobody takes it for its own, or for missing.
    let mut next = daemon(&pair.redis, "c");
    next.wait_log(&[LEADS]);
    publish(&mut client, 200, 300);
    all_came(&mut client, 300);
    assert_eq!(next.stop().number("handled"), 100);
}

#[test]
fn what_a_standby_holds_is_lost_where_redis_can_not_say_whose_it_is() {
    let (mut pair, _) = bereaved();
    pair.redis.kill();
    let stopped = pair.standby.1.stop();
    let [received, unknown] = ["received", "unknown"].map(|what| stopped.number(what));
    // It may not have heard that the first ones were handled.
    assert!(stopped.code == 0 && received == unknown && unknown >= 100, "{}", stopped.last);
    assert!(stopped.log.join("\n").contains("can't be told whether another daemon handles"));
}

#[test]
fn what_a_standby_holds_stays_with_a_leader_that_lives() {
    let mut pair = Pair::start_with(SLOW);
    let mut client = pair.redis.client();
    client.publish_all("in", ["sleep 4000", "a", "b"].map(str::to_owned));
    let stopped = pair.standby.1.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 0), "{}", stopped.last);
    assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
    assert_eq!(times(&pair.leader.1, "another daemon"), 0);
    wait_until("all three", || client.run::<u64>(&["XLEN", "out"]) >= 3);
    assert_eq!(pair.leader.1.stop().number("handled"), 3);
}

#[test]
fn what_comes_while_single_is_turned_on_and_off_again_is_handled() {
    let redis = redis();
    let plain = CHANNEL.replace("single = true", "single = false");
    let mut changing = Changing::start(&redis, &plain);
    redis.wait_subscribed("in", 1);
    let (mut client, mut sent) = (redis.client(), 0);
    // From the second time on a place is stored.
    for _ in 0..4 {
        for channels in [CHANNEL, &plain] {
            changing.write(channels);
            changing.reload();
            publish(&mut client, sent, sent + 100);
            sent += 100;
        }
    }
    all_came(&mut client, sent);
    let stopped = changing.daemon.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, sent), "{}", stopped.last);
}

#[test]
fn what_a_lone_daemon_hears_just_before_it_stops_is_handled() {
    let redis = redis();
    let mut client = redis.client();
    for round in 0..4 {
        let mut daemon = daemon(&redis, "a");
        redis.wait_subscribed("handlerd:single:orders:mark", 1);
        publish(&mut client, round * 100, round * 100 + 100);
        let stopped = daemon.stop();
        assert_eq!((stopped.code, stopped.number("handled")), (0, 100), "{}", stopped.last);
        assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
    }
    all_came(&mut client, 400);
}
