//! What a standby has no room for.

use std::time::Duration;

use handlerd::status::Status;
use rustix::process::Signal;

use super::pair::Pair;
use super::support::wait_until;
use super::{
    CHANNEL, FAILING, LEADS, STANDS_BY, adds_up, daemon_with, each_once, handled, redis, times,
    wait_again,
};

#[test]
fn what_a_standby_has_no_room_for_is_counted_when_it_takes_over() {
    let slow = r#"
        [channels.orders]
        subscribe = "in"
        handlers = []
        append = "out"
        queue = "16KiB"
        max_payload = "1KiB"
        single = true
    "#;
    let mut pair = Pair::start_with(slow);
    let mut client = pair.redis.client();
    client.publish("in", "0");
    each_once(&mut client, 1);
    pair.leader.1.signal(Signal::STOP);
    client.publish_all("in", (1..=1_000).map(|n| n.to_string()));
    pair.standby.1.wait_log(&[LEADS]);
    pair.standby.1.wait_log(&["had no room"]);
    wait_until("the last message", || {
        handled(&mut client).last().is_some_and(|(number, _)| *number == 1_000)
    });
    let numbers: Vec<u64> = handled(&mut client).into_iter().map(|(number, _)| number).collect();
    let stopped = pair.standby.1.stop();
    assert_eq!(stopped.number("overflow") + numbers.len() as u64, 1_001, "{}", stopped.last);
    assert_eq!(stopped.number("received"), 1_000, "{}", stopped.last);
    assert!(numbers.len() > 10 && numbers.is_sorted(), "{numbers:?}");
}

/// Two channels whose messages fit into the queue of each, and not into what both may hold together.
#[test]
fn what_a_standby_holds_is_counted_in_the_memory_of_all() {
    let more = CHANNEL.replace("orders", "more").replace("\"in\"", "\"in2\"");
    let channels = format!("[limits]\nmemory = \"1MiB\"\n{CHANNEL}{more}");
    let mut pair = Pair::start_with(&channels);
    let mut client = pair.redis.client();
    wait_until("both to be held", || times(&pair.standby.1, STANDS_BY) >= 2);
    pair.leader.1.signal(Signal::STOP);
    for (channel, first) in [("in", 0), ("in2", 600)] {
        client.publish_all(channel, (first..first + 600).map(|n| format!("{n:01000}")));
    }
    wait_until("both to be taken over", || times(&pair.standby.1, LEADS) >= 2);
    wait_until("the last messages", || {
        let numbers: Vec<u64> = handled(&mut client).into_iter().map(|(n, _)| n).collect();
        numbers.contains(&599) && numbers.contains(&1_199)
    });
    assert_ne!(times(&pair.standby.1, "had no room here"), 0);
    let numbers: Vec<u64> = handled(&mut client).into_iter().map(|(number, _)| number).collect();
    let stopped = pair.standby.1.stop();
    assert_eq!(stopped.number("memory") + numbers.len() as u64, 1_200, "{}", stopped.last);
    assert_eq!(stopped.number("received"), 1_200, "{}", stopped.last);
    // A megabyte, with what holding each costs.
    assert!((600..1_000).contains(&numbers.len()), "{}", numbers.len());
    // Of each channel the last ones.
    for last in [600, 1_200] {
        let of_one: Vec<u64> =
            numbers.iter().copied().filter(|n| n / 600 == last / 600 - 1).collect();
        assert_eq!(of_one, (last - of_one.len() as u64..last).collect::<Vec<u64>>());
    }
}

#[test]
fn what_a_standby_holds_is_seen_in_its_queue() {
    let channels = FAILING.replace("single = true", "retry_for = \"10m\"\nsingle = true");
    let channels = channels.replace("dead_letter =", "retries = \"forever\"\ndead_letter =");
    let pair = Pair::start_with(&channels);
    let waits = || {
        let json = pair.standby.1.verb(&["status", "--json"]).output().expect(0).text();
        let status: Status = serde_json::from_str(&json).expect("a status");
        status.channels[0].queue_bytes
    };
    assert_eq!(waits(), 0);
    // The leader won't be done with the first.
    let mut client = pair.redis.client();
    client.publish_all("in", ["retry it", "fine"].map(|text| text.to_owned()));
    wait_until("them to be held", || waits() > 0);
    assert_eq!(client.run::<u64>(&["XLEN", "out"]), 0);
}

#[test]
fn what_is_too_large_is_counted_by_who_handles_what_comes_behind_it() {
    let channels = CHANNEL.replace("single = true", "max_payload = \"1KiB\"\nsingle = true");
    // It is given to no handler.
    let channels = channels.replace("handlers = []", "handlers = [\"misbehave\"]");
    let mut pair = Pair::start_with(&channels);
    let mut client = pair.redis.client();
    let large = "1".repeat(2_000);
    // The leader has counted these two, and the last one is not handed over.
    client.publish_all("in", [large.clone(), "0".to_owned(), large.clone()]);
    each_once(&mut client, 1);
    // In one line, or one each.
    let count = |line: &String| -> Option<u64> {
        line.split("channel orders: ").nth(1)?.split(' ').next()?.parse().ok()
    };
    wait_until("them to be counted", || {
        let lines = pair.leader.1.log_lines(&["dropped: too_large"]);
        lines.iter().filter_map(count).sum::<u64>() == 2
    });
    pair.leader.1.signal(Signal::STOP);
    client.publish_all("in", [large.clone(), "1".to_owned(), large.clone(), large]);
    pair.standby.1.wait_log(&[LEADS]);
    wait_until("what the first didn't hear", || {
        handled(&mut client).last().is_some_and(|(number, _)| *number == 1)
    });
    pair.leader.1.signal(Signal::CONT);
    pair.leader.1.wait_log(&["another daemon handles"]);
    let stopped = pair.standby.1.stop();
    assert_eq!(stopped.number("too_large"), 3, "{}", stopped.last);
    assert_eq!((stopped.number("received"), stopped.number("handled")), (4, 1), "{}", stopped.last);
    let stopped = pair.leader.1.stop();
    assert_eq!(stopped.number("too_large"), 2, "{}", stopped.last);
    assert_eq!(stopped.number("handled"), 1, "{}", stopped.last);
    adds_up(&stopped);
}

#[test]
fn what_fails_where_another_leads_meanwhile_is_counted_by_that_one() {
    let channels = FAILING.replace("dead_letter = \"dead\"", "");
    let channels = format!("[handlers.misbehave]\ntimeout = \"1s\"\n{channels}");
    let mut pair = Pair::start_with(&channels);
    let mut client = pair.redis.client();
    let stood_by = times(&pair.leader.1, STANDS_BY);
    client.publish("in", "sleep 60000");
    // It is in hand then, or comes into it later.
    std::thread::sleep(Duration::from_millis(200));
    pair.leader.1.signal(Signal::STOP);
    pair.standby.1.wait_log(&[LEADS]);
    pair.standby.1.wait_log(&["a message was dropped, its handler failed"]);
    client.publish("in", "fine");
    wait_until("what comes behind it", || client.run::<u64>(&["XLEN", "out"]) == 1);
    pair.leader.1.signal(Signal::CONT);
    pair.leader.1.wait_log(&["another daemon handles"]);
    wait_again(&mut pair.leader.1, STANDS_BY, stood_by);
    let [other, first] = [pair.standby.1.stop(), pair.leader.1.stop()];
    assert_eq!((other.number("failed"), first.number("failed")), (1, 0), "{other:?} {first:?}");
    [first, other].iter().for_each(adds_up);
}

#[test]
fn what_could_not_be_written_in_time_is_counted_when_it_stops() {
    let redis = redis();
    let channels = format!("[daemon]\ndrain_timeout = \"1s\"\n{CHANNEL}");
    let mut daemon = daemon_with(&redis, "a", &channels);
    daemon.wait_log(&[LEADS]);
    let mut client = redis.client();
    client.run::<String>(&["CONFIG", "SET", "maxmemory", "1"]);
    client.publish_all("in", (0..3).map(|n| n.to_string()));
    daemon.wait_log(&["maxmemory"]);
    let stopped = daemon.stop();
    assert!(stopped.number("received") > 0, "{}", stopped.last);
    assert_eq!(stopped.number("handled"), 0, "{}", stopped.last);
    assert_eq!(stopped.number("shutdown"), stopped.number("received"), "{}", stopped.last);
    adds_up(&stopped);
}
