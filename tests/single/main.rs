//! `single = true`: of several daemons one handles what comes; another goes on where it ended, however
//! it ended, without losing a message or handling one twice, as long as one was subscribed.

mod data;
mod early;
mod end;
mod network;
mod pair;
mod room;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pair::Pair;
use rustix::process::Signal;
use support::endpoints::{Page, fetch, wait_code};
use support::redis_server::free_port;
use support::{Client, Handlerd, Redis, Stopped, wait_for, wait_until};

const CHANNEL: &str = r#"
    [channels.orders]
    subscribe = "in"
    handlers = []
    append = "out"
    single = true
"#;

/// A handler that takes as long as a message says.
const SLOW: &str = r#"
    [handlers.misbehave]
    timeout = "10m"
    [channels.orders]
    subscribe = "in"
    handlers = ["misbehave"]
    append = "out"
    single = true
"#;

/// What a daemon says of itself.
const STANDS_BY: &str = "this daemon stands by";
const LEADS: &str = "this daemon handles its messages now";
const OTHER: &str = "another daemon handles its messages now";
const LEAVES: &str = "this daemon leaves its messages to others";

/// A Redis with a user for each daemon, so that its connections can be told from the others'.
fn redis() -> Redis {
    Redis::with(
        "user a on nopass ~* &* +@all\nuser b on nopass ~* &* +@all\nuser c on nopass ~* &* +@all",
    )
}

fn daemon(redis: &Redis, user: &str) -> Handlerd {
    daemon_with(redis, user, CHANNEL)
}

fn daemon_with(redis: &Redis, user: &str, channels: &str) -> Handlerd {
    Handlerd::start_at(&url(redis, user), channels)
}

fn url(redis: &Redis, user: &str) -> String {
    format!("redis://{user}:any@127.0.0.1:{}", redis.port())
}

fn times(daemon: &Handlerd, what: &str) -> usize {
    daemon.log_lines(&[what]).len()
}

/// Wait until it has said so once more than `before`.
#[track_caller]
fn wait_again(daemon: &mut Handlerd, what: &str, before: usize) {
    wait_until(&format!("a further line: {what}"), || {
        assert!(daemon.runs(), "handlerd ended");
        times(daemon, what) > before
    });
}

/// Publishes the numbers from 0 on, five thousand a second.
struct Publisher {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Publisher {
    fn start(redis: &Redis) -> Publisher {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = redis.client();
        let (told, count) = (stop.clone(), Arc::new(AtomicU64::new(0)));
        let sent_so_far = count.clone();
        let thread = std::thread::spawn(move || {
            let (began, mut sent) = (Instant::now(), 0);
            while !told.load(SeqCst) {
                let due = began.elapsed().as_millis() as u64 * 5;
                client.publish_all("in", (sent..due.max(sent)).map(|n| n.to_string()));
                sent = due.max(sent);
                count.store(sent, SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Publisher { stop, sent: sent_so_far, thread }
    }

    /// Answers how many there were.
    fn stop(self) -> u64 {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("the publisher");
        self.sent.load(SeqCst)
    }
}

/// What was handled, in order, and when, in Redis's milliseconds.
fn handled(client: &mut Client) -> Vec<(u64, u64)> {
    let entries: Vec<(String, Vec<(String, String)>)> = client.run(&["XRANGE", "out", "-", "+"]);
    let number = |text: &str| text.parse().expect("a number");
    let read = |(id, fields): (String, Vec<(String, String)>)| {
        let ms = id.split('-').next().unwrap_or_default();
        (number(&fields[0].1), number(ms))
    };
    entries.into_iter().map(read).collect()
}

/// Each of these once, in order.
#[track_caller]
fn each_once(client: &mut Client, sent: u64) -> Vec<(u64, u64)> {
    wait_for("all messages", || {
        let length: u64 = client.run(&["XLEN", "out"]);
        let last: Vec<(String, Vec<(String, String)>)> =
            client.run(&["XREVRANGE", "out", "+", "-", "COUNT", "1"]);
        let is_last = last.first().is_some_and(|(_, f)| f[0].1 == (sent - 1).to_string());
        (is_last || length >= sent).then_some(())
    });
    let handled = handled(client);
    let numbers: Vec<u64> = handled.iter().map(|(number, _)| *number).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let (lost, doubled) = (sent as usize - sorted.len(), numbers.len() - sorted.len());
    assert_eq!((lost, doubled), (0, 0), "of {sent} lost and doubled");
    assert!(numbers.is_sorted(), "not in order");
    handled
}

/// Everything that a daemon received was handled, is lost, or another's.
#[track_caller]
fn adds_up(stopped: &Stopped) {
    let [received, handled, left, lost] =
        ["received", "handled", "left", "lost"].map(|what| stopped.number(what));
    assert_eq!((stopped.code, received), (0, handled + left + lost), "{}", stopped.last);
}

fn redis_ms(client: &mut Client) -> u64 {
    let (seconds, micros): (u64, u64) = client.run(&["TIME"]);
    seconds * 1000 + micros / 1000
}

#[test]
fn one_handles_what_comes_and_the_other_holds_it() {
    let mut pair = Pair::start();
    let mut client = pair.redis.client();
    client.publish_all("in", (0..5_000).map(|n| n.to_string()));
    each_once(&mut client, 5_000);
    let stopped = pair.standby.1.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 0), "{}", stopped.last);
    let stopped = pair.leader.1.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 5_000), "{}", stopped.last);
    assert_eq!(stopped.number("delivered"), 5_000, "{}", stopped.last);
    assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
    assert_eq!(client.run::<u64>(&["EXISTS", "handlerd:single:orders"]), 0);
}

#[test]
fn of_three_there_is_always_one() {
    let redis = redis();
    let mut daemons: Vec<Handlerd> = ["a", "b", "c"]
        .map(|user| {
            let mut daemon = daemon(&redis, user);
            daemon.wait_log(&[if user == "a" { LEADS } else { STANDS_BY }]);
            daemon
        })
        .into();
    let publisher = Publisher::start(&redis);
    let mut client = redis.client();
    for left in (1..3).rev() {
        wait_until("messages to flow", || client.run::<u64>(&["XLEN", "out"]) >= 1_000);
        let leader = daemons.iter().position(|d| times(d, LEADS) > 0).expect("a leader");
        daemons.remove(leader);
        assert_eq!(daemons.len(), left);
        wait_until("another leader", || daemons.iter().any(|daemon| times(daemon, LEADS) > 0));
    }
    let sent = publisher.stop();
    each_once(&mut client, sent);
}

#[test]
fn what_nobody_heard_is_a_gap_and_nothing_is_doubled() {
    let redis = redis();
    let mut first = daemon(&redis, "a");
    first.wait_log(&[LEADS]);
    let mut client = redis.client();
    client.publish_all("in", (0..1_000).map(|n| n.to_string()));
    each_once(&mut client, 1_000);
    first.signal(Signal::KILL);
    first.wait_end();
    wait_until("Redis to know it", || client.subscribers("in") == 0);
    assert_eq!(client.publish("in", "1000"), 0);
    let mut second = daemon(&redis, "b");
    second.wait_log(&[LEADS]);
    second.wait_log(&["may be missing"]);
    client.publish_all("in", (1_001..2_000).map(|n| n.to_string()));
    wait_until("the rest", || client.run::<u64>(&["XLEN", "out"]) >= 1_999);
    let expected: Vec<u64> = (0..2_000).filter(|number| *number != 1_000).collect();
    let numbers: Vec<u64> = handled(&mut client).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, expected);
    assert_eq!(second.stop().code, 0);
}

/// A handler that fails where it is told to, a dead letter for each, and an output that is refused.
const FAILING: &str = r#"
    [channels.orders]
    subscribe = "in"
    handlers = ["misbehave"]
    append = ["out", "no-stream"]
    dead_letter = "dead"
    single = true
"#;

#[test]
fn a_dead_letter_is_part_of_the_step_and_a_refused_output_is_counted() {
    let mut pair = Pair::start_with(FAILING);
    let mut client = pair.redis.client();
    client.run::<String>(&["SET", "no-stream", "a string"]);
    for round in 0..3 {
        client.publish_all("in", ["fine a", "trap", "fine b"].map(|text| text.to_owned()));
        let lengths = [2 * (round + 1), round + 1];
        wait_until("three messages to be handled", || {
            ["out", "dead"].map(|key| client.run::<u64>(&["XLEN", key])) == lengths
        });
        wait_until("the standby to know it", || times(&pair.standby.1, STANDS_BY) > 0);
    }
    assert_eq!(pair.standby.1.stop().number("dead"), 0);
    let stopped = pair.leader.1.stop();
    assert_eq!((stopped.code, stopped.number("received")), (0, 9), "{}", stopped.last);
    assert_eq!(stopped.number("delivered"), 6, "{}", stopped.last);
    assert_eq!(stopped.number("refused"), 6, "{}", stopped.last);
    assert!(stopped.last.contains("3 dead letters"), "{}", stopped.last);
}

#[test]
fn who_leads_is_to_be_seen_and_each_output_is_counted_by_its_kind() {
    const ORDERS: (&str, &str) = ("channel", "orders");
    let redis = redis();
    let mut client = redis.client();
    client.run::<String>(&["SET", "list", "a string"]);
    let channels =
        FAILING.replace("single = true", "push = \"list\"\npublish = \"p\"\nsingle = true");
    let start = |user: &str| {
        let port = free_port();
        let http = format!("{channels}\n[http]\nlisten = \"127.0.0.1:{port}\"\n");
        (daemon_with(&redis, user, &http), port)
    };
    let (mut leader, leaders) = start("a");
    leader.wait_log(&[LEADS]);
    let (mut standby, standbys) = start("b");
    standby.wait_log(&[STANDS_BY]);
    client.publish_all("in", ["fine a", "trap", "fine b"].map(|text| text.to_owned()));
    wait_until("three messages to be handled", || {
        let page = Page::fetch(leaders);
        let delivered = |kind| {
            page.value("handlerd_messages_delivered_total", &[ORDERS, ("output", kind)]) as u64
        };
        page.sum("handlerd_dead_letters_total") == 1.0
            && page.value("handlerd_messages_handled_total", &[ORDERS]) == 2.0
            && ["append", "push", "publish"].map(delivered) == [4, 0, 2]
            && page.value("handlerd_messages_dropped_total", &[ORDERS, ("reason", "refused")])
                == 2.0
    });
    let leads = |port| {
        let page = Page::fetch(port);
        let value = |name| page.value(name, &[ORDERS]) as u64;
        ["handlerd_single_leader", "handlerd_takeovers_total", "handlerd_takeover_gaps_total"]
            .map(value)
    };
    assert_eq!((leads(leaders), leads(standbys)), ([1, 1, 0], [0, 0, 0]));
    assert_eq!(Page::fetch(standbys).sum("handlerd_messages_handled_total"), 0.0);
    assert!(fetch(standbys, "/status").body.contains("\"leads\": false"));
    leader.signal(Signal::KILL);
    standby.wait_log(&[LEADS]);
    wait_until("that is counted", || leads(standbys) == [1, 1, 0]);
    wait_code(standbys, "/readyz", 200);
    assert_eq!(standby.stop().code, 0);
}

#[test]
fn what_waits_for_its_next_try_is_not_passed_by_what_comes_behind_it() {
    let channels = FAILING.replace("single = true", "retry_for = \"10s\"\nsingle = true");
    let channels = channels.replace("dead_letter =", "retries = \"forever\"\ndead_letter =");
    let mut pair = Pair::start_with(&channels);
    let mut client = pair.redis.client();
    client.publish_all("in", ["fine a", "retry it", "fine b"].map(|text| text.to_owned()));
    wait_until("the first message", || client.run::<u64>(&["XLEN", "out"]) == 1);
    pair.leader.1.signal(Signal::KILL);
    let standby = &mut pair.standby.1;
    standby.wait_log(&[LEADS]);
    wait_until("all messages", || client.run::<u64>(&["XLEN", "out"]) == 2);
    assert_eq!(client.run::<u64>(&["XLEN", "dead"]), 1);
    let [dead, last] = ["dead", "out"].map(|key| -> String {
        let entries: Vec<(String, Vec<(String, String)>)> = client.run(&["XRANGE", key, "-", "+"]);
        entries.last().expect("an entry").0.clone()
    });
    assert!(dead <= last, "{dead} {last}");
    let stopped = standby.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 1), "{}", stopped.last);
    assert!(stopped.last.contains("1 dead letter"), "{}", stopped.last);
}

#[test]
fn a_channel_becomes_single_and_ceases_to_be_without_losing_a_message() {
    let redis = redis();
    let plain = CHANNEL.replace("single = true", "");
    let mut daemon = daemon_with(&redis, "a", &plain);
    redis.wait_subscribed("in", 1);
    daemon.wait_log(&["INFO", "runs"]);
    let config = daemon.dir().join("config.toml");
    let publisher = Publisher::start(&redis);
    let mut client = redis.client();
    // The second time the place is there up to which all was done the first time.
    for (round, channels) in [CHANNEL, &plain, CHANNEL, &plain].into_iter().enumerate() {
        let length: u64 = client.run(&["XLEN", "out"]);
        wait_until("messages to flow", || client.run::<u64>(&["XLEN", "out"]) > length + 500);
        let head = format!("[redis]\nurl = \"{}\"\n", url(&redis, "a"));
        std::fs::write(&config, format!("{head}{channels}")).expect("it is written");
        daemon.signal(Signal::HUP);
        wait_until("the reload", || times(&daemon, "reloaded: ") > round);
        wait_until("the lease", || {
            client.run::<u64>(&["EXISTS", "handlerd:single:orders"]) == u64::from(round % 2 == 0)
        });
    }
    let length: u64 = client.run(&["XLEN", "out"]);
    wait_until("messages to flow", || client.run::<u64>(&["XLEN", "out"]) > length + 500);
    let sent = publisher.stop();
    wait_until("all messages", || client.run::<u64>(&["XLEN", "out"]) >= sent);
    let mut numbers: Vec<u64> = handled(&mut client).into_iter().map(|(n, _)| n).collect();
    // Across the exchange the order is not kept.
    numbers.sort_unstable();
    assert_eq!(numbers, (0..sent).collect::<Vec<u64>>());
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
}

#[test]
fn a_redis_that_lost_its_data_is_begun_with_anew() {
    let Pair { mut redis, leader: (_, mut leader), standby: (_, mut standby) } = Pair::start();
    redis.client().publish_all("in", (0..1_000).map(|n| n.to_string()));
    each_once(&mut redis.client(), 1_000);
    let (led, led_too) = (times(&leader, LEADS), times(&standby, LEADS));
    let ready = |daemon: &Handlerd| times(daemon, STANDS_BY);
    let before = ready(&leader) + ready(&standby);
    redis.kill();
    redis.restart();
    wait_until("one to lead again", || {
        times(&leader, LEADS) > led || times(&standby, LEADS) > led_too
    });
    wait_until("the other to stand by", || ready(&leader) + ready(&standby) > before);
    redis.client().publish_all("in", (0..1_000).map(|n| n.to_string()));
    each_once(&mut redis.client(), 1_000);
    let (one, other) = (leader.stop(), standby.stop());
    assert_eq!((one.code, other.code), (0, 0));
    assert_eq!(one.number("handled") + other.number("handled"), 2_000, "{one:?}\n{other:?}");
}

#[test]
fn what_comes_as_soon_as_a_redis_that_lost_its_data_is_back_is_handled() {
    let mut redis = redis();
    let mut daemon = daemon(&redis, "a");
    daemon.wait_log(&[LEADS]);
    redis.client().publish_all("in", (0..1_000).map(|n| n.to_string()));
    each_once(&mut redis.client(), 1_000);
    let led = times(&daemon, LEADS);
    redis.kill();
    redis.restart();
    let mut client = redis.client();
    let (mut number, mut heard) = (1_000, Vec::new());
    wait_until("it to lead again", || {
        for _ in 0..10 {
            if client.publish("in", number.to_string()) == 1 {
                heard.push(number);
            }
            number += 1;
        }
        heard.len() > 100 && times(&daemon, LEADS) > led
    });
    client.publish("in", number.to_string());
    heard.push(number);
    let last = |client: &mut Client| handled(client).last().map(|(number, _)| *number);
    wait_until("the last message", || last(&mut client) == heard.last().copied());
    let numbers: Vec<u64> = handled(&mut client).into_iter().map(|(number, _)| number).collect();
    assert_eq!((numbers.len(), numbers.first()), (heard.len(), heard.first()));
    assert!(numbers == heard, "not in order");
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
}
