//! Dead letters of pub/sub messages: each is counted once, as what became of it, and one that can't
//! be stored is said so that its message can be found elsewhere.

mod support;

use support::{Handlerd, Proxy, Redis, Watcher, wait_until};

/// What the plugin rejects, and its hash: `printf 'reject so' | sha256sum`.
const REJECTED: &str = "reject so";
const HASH: &str = "efe56f899e916c22557f89cadc904001d3f551539192ab0bb9b2ea9574d464e0";

const CHANNEL: &str = r#"
    [channels.bad]
    handlers = ["misbehave"]
    publish = "bad.out"
    dead_letter = "bad.dead"
"#;

/// The numbers of the last line: dead letters, delivered, lost, and lost for this reason.
#[track_caller]
fn ends(mut daemon: Handlerd, letters: u64, delivered: u64, reason: &str, lost: u64) {
    let stopped = daemon.stop();
    let number = |name| stopped.number(name);
    assert_eq!(
        (number("dead"), number("delivered"), number("lost"), number(reason)),
        (letters, delivered, lost, lost),
        "{}",
        stopped.last
    );
}

/// The line about a letter that could not be stored.
#[track_caller]
fn said(daemon: &mut Handlerd, reason: &str, why: &str) -> String {
    let reason = format!("reason=\"{reason}\"");
    daemon.wait_log(&["a dead letter could not be stored", &reason, why, "stream=bad.dead"])
}

#[test]
fn one_that_is_stored_is_a_dead_letter_and_nothing_else() {
    let redis = Redis::start();
    let daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("bad", 1);
    redis.client().publish("bad", REJECTED);
    redis.client().publish("bad", "fine");
    wait_until("the letter", || redis.run::<u64>(&["XLEN", "bad.dead"]) == 1);
    ends(daemon, 1, 1, "refused", 0);
}

#[test]
fn one_that_redis_refuses_is_lost_once_and_said() {
    let redis = Redis::start();
    redis.run::<String>(&["SET", "bad.dead", "no stream"]);
    let mut daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("bad", 1);
    redis.client().publish("bad", REJECTED);
    let line = said(&mut daemon, "refused", "Redis says WRONGTYPE");
    for word in
        ["channel=\"bad\"", "handler=\"misbehave\"", "kind=\"reject\"", "size=9", HASH, "up: so"]
    {
        assert!(line.contains(word), "no {word} in {line}");
    }
    ends(daemon, 0, 0, "refused", 1);
}

#[test]
fn one_that_the_acl_forbids_is_lost_once_and_said() {
    let redis = Redis::start();
    redis.run::<String>(&["ACL", "SETUSER", "default", "resetkeys", "~other"]);
    let mut daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("bad", 1);
    redis.client().publish("bad", REJECTED);
    said(&mut daemon, "refused", "Redis says NOPERM");
    ends(daemon, 0, 0, "refused", 1);
}

#[test]
fn one_whose_answer_is_lost_is_unknown() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let mut daemon = Handlerd::start_at(&proxy.url(), CHANNEL);
    redis.wait_subscribed("bad", 1);
    // In one step with the message Redis begins to hold writes back, the letter among them.
    let mut step = redis::pipe();
    step.atomic().cmd("PUBLISH").arg("bad").arg(REJECTED).ignore();
    step.cmd("CLIENT").arg(&["PAUSE", "300000", "WRITE"]).ignore();
    step.query::<()>(redis.client().raw()).expect("PUBLISH and CLIENT PAUSE");
    wait_until("the letter to be held back", || {
        redis.run::<String>(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    proxy.cut();
    said(&mut daemon, "unknown", "may have been stored");
    redis.run::<String>(&["CLIENT", "UNPAUSE"]);
    ends(daemon, 0, 0, "unknown", 1);
}

#[test]
fn one_that_could_not_be_sent_before_the_end_is_lost_at_the_end() {
    let mut redis = Redis::start();
    // There is time to end Redis while the handler is at work.
    let times = "[daemon]\ndrain_timeout = \"1s\"\n[handlers.misbehave]\ntimeout = \"10s\"\n";
    let mut daemon = Handlerd::start(&redis, &format!("{times}{CHANNEL}"));
    redis.wait_subscribed("bad", 1);
    redis.client().publish("bad", "sleep 60000");
    // The publisher's answer may be written before the subscriber's message.
    wait_until("the message to be in hand", || {
        let status = daemon.verb(&["status", "--json"]).output().expect(0).text();
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["channels"][0]["received"] == 1
    });
    redis.kill();
    daemon.wait_log(&["a message becomes a dead letter", "timeout"]);
    let stopped = daemon.stop();
    let number = |name| stopped.number(name);
    assert_eq!((number("dead"), number("lost"), number("shutdown")), (0, 1, 1), "{}", stopped.last);
    let line = stopped.log.iter().find(|line| line.contains("a dead letter could not be stored"));
    let line = line.unwrap_or_else(|| panic!("nothing is said: {}", stopped.log.join("\n")));
    assert!(line.contains("handlerd stopped") && line.contains("size=11"), "{line}");
}

#[test]
fn a_flood_of_them_is_a_few_lines_and_each_is_counted() {
    const MANY: u64 = 20_000;
    let redis = Redis::start();
    redis.run::<String>(&["SET", "bad.dead", "no stream"]);
    let daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("bad", 1);
    let out = Watcher::subscribe(&redis, &["bad.out"]);
    redis.client().publish_all("bad", (0..MANY).map(|_| REJECTED));
    redis.client().publish("bad", "the last");
    out.wait_payload("the last");
    let lines = daemon.log_lines(&["a dead letter could not be stored"]).len();
    assert!((1..60).contains(&lines), "{lines} lines");
    ends(daemon, 0, 1, "refused", MANY);
}
