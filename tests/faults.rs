//! Redis goes away in every way it can, twenty times in a row each; messages flow again within two
//! seconds of its being back, and handlerd is none the worse for it.

mod support;

use std::time::{Duration, Instant};

use support::{Client, Handlerd, PATIENCE, Proxy, RECOVERY, Redis, Watcher};
use support::{mostly_within, wait_until};

const ROUNDS: usize = 20;

const CHANNEL: &str = r#"
    [channels.relay]
    subscribe = "in"
    handlers = []
    publish = "out"
"#;

/// How long Redis stays away in a round: sometimes not at all, sometimes long enough for several
/// attempts to reach it.
fn outage(round: usize) {
    let milliseconds = [0, 50, 400, 1500][round % 4];
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Publish until one message has come out on the other side; answers how soon that was.
#[track_caller]
fn flows_again(redis: &Redis, back: Instant, round: usize) -> Duration {
    let out = Watcher::subscribe(redis, &["out"]);
    flows_to(&out, &mut redis.client(), back, round)
}

#[track_caller]
fn flows_to(out: &Watcher, client: &mut Client, back: Instant, round: usize) -> Duration {
    let before = out.count();
    while out.count() == before {
        assert!(back.elapsed() < PATIENCE, "round {round}: nothing flows {PATIENCE:?} after");
        client.publish("in", format!("round {round}"));
        // Not to fill the queue: what is looked at is when, not how many.
        std::thread::sleep(Duration::from_millis(5));
    }
    back.elapsed()
}

/// It still ends as it should, having lost nothing without counting it.
#[track_caller]
fn ends_well(mut daemon: Handlerd) {
    let stopped = daemon.stop();
    assert_eq!(stopped.code, 0, "{}", stopped.last);
    let number = |name| stopped.number(name);
    let lost_before = number("overflow") + number("redis_away") + number("failed");
    assert_eq!(number("received"), number("handled") + lost_before, "{}", stopped.last);
    let unsent = number("unknown") + number("refused") + number("shutdown");
    assert_eq!(number("handled"), number("delivered") + unsent, "{}", stopped.last);
    assert!(number("received") > 0, "{}", stopped.last);
}

#[test]
fn killed_and_restarted() {
    let mut redis = Redis::start();
    let daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("in", 1);
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        redis.kill();
        outage(round);
        let back = redis.restart();
        taken.push(flows_again(&redis, back, round));
    }
    mostly_within(RECOVERY, &taken);
    ends_well(daemon);
}

#[test]
fn stopped_and_continued() {
    let redis = Redis::start();
    let daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("in", 1);
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        redis.freeze();
        outage(round);
        if round % 10 == 9 {
            // Long enough to be taken for dead.
            std::thread::sleep(Duration::from_secs(5));
        }
        let back = redis.thaw();
        taken.push(flows_again(&redis, back, round));
    }
    mostly_within(RECOVERY, &taken);
    ends_well(daemon);
}

#[test]
fn subscribers_killed() {
    let redis = Redis::start();
    let daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("in", 1);
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        let killed: u64 = redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert!(killed >= 1);
        taken.push(flows_again(&redis, Instant::now(), round));
    }
    mostly_within(RECOVERY, &taken);
    ends_well(daemon);
}

#[test]
fn all_clients_killed() {
    let redis = Redis::start();
    let daemon = Handlerd::start(&redis, CHANNEL);
    redis.wait_subscribed("in", 1);
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        let _: u64 = redis.run(&["CLIENT", "KILL", "USER", "default"]);
        taken.push(flows_again(&redis, Instant::now(), round));
    }
    mostly_within(RECOVERY, &taken);
    ends_well(daemon);
}

#[test]
fn connections_cut_on_the_way() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let daemon = Handlerd::start_at(&proxy.url(), CHANNEL);
    redis.wait_subscribed("in", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut client = redis.client();
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        proxy.refuse(true);
        proxy.cut();
        outage(round);
        let back = proxy.refuse(false);
        taken.push(flows_to(&out, &mut client, back, round));
    }
    mostly_within(RECOVERY, &taken);
    ends_well(daemon);
}

#[test]
fn connections_half_open() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let daemon = Handlerd::start_at(&proxy.url(), CHANNEL);
    redis.wait_subscribed("in", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut client = redis.client();
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        proxy.silence_new(true);
        let accepted = proxy.accepted();
        proxy.half_open();
        if round % 2 == 0 {
            // It has been found out, and new attempts fall into the same hole.
            wait_until("a new attempt", || proxy.accepted() > accepted);
        }
        proxy.half_open();
        let back = proxy.silence_new(false);
        taken.push(flows_to(&out, &mut client, back, round));
    }
    mostly_within(RECOVERY, &taken);
    ends_well(daemon);
}

#[test]
fn a_slow_network_only_slows() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let mut daemon = Handlerd::start_at(&proxy.url(), CHANNEL);
    redis.wait_subscribed("in", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    proxy.rate(100_000);
    let sent: Vec<String> = (0..300).map(|n| format!("{n:03} {}", "x".repeat(1000))).collect();
    redis.client().publish_all("in", &sent);
    assert_eq!(out.wait_texts(sent.len()), sent);
    let stopped = daemon.stop();
    assert_eq!((stopped.number("delivered"), stopped.number("lost")), (300, 0), "{}", stopped.last);
}

#[test]
fn rights_revoked_and_granted() {
    let redis = Redis::with("user handlerd on nopass resetchannels &in &other &out* +@all");
    let url = format!("redis://handlerd:x@127.0.0.1:{}", redis.port());
    let config = format!(
        "{CHANNEL}\n[channels.other]\nsubscribe = \"other\"\nhandlers = []\npublish = \"out.other\"\n"
    );
    let mut daemon = Handlerd::start_at(&url, &config);
    redis.wait_subscribed("in", 1);
    redis.wait_subscribed("other", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    let other = Watcher::subscribe(&redis, &["out.other"]);
    let mut client = redis.client();
    let rights = |client: &mut Client, rights: &[&str]| {
        let command = [&["ACL", "SETUSER", "handlerd", "resetchannels"], rights].concat();
        client.run::<()>(&command);
    };
    let (mut taken, mut others) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Redis cuts whoever has subscribed to what is no longer permitted.
        rights(&mut client, &["&other", "&out*"]);
        let other_back = Instant::now();
        let before = other.count();
        wait_until("the other channel to flow on", || {
            client.publish("other", "still here");
            other.count() > before
        });
        others.push(other_back.elapsed());
        assert_eq!(client.subscribers("in"), 0);
        if round == 0 {
            daemon.wait_log(&["NOPERM", "\"in\"", "&NAME"]);
        }
        outage(round);
        rights(&mut client, &["&in", "&other", "&out*"]);
        taken.push(flows_to(&out, &mut client, Instant::now(), round));
    }
    mostly_within(RECOVERY, &taken);
    // The other channel was not held up.
    mostly_within(RECOVERY, &others);
    ends_well(daemon);
}

#[test]
fn the_right_to_publish_revoked_and_granted() {
    let redis = Redis::with("user handlerd on nopass allchannels +@all");
    let url = format!("redis://handlerd:x@127.0.0.1:{}", redis.port());
    let mut daemon = Handlerd::start_at(&url, CHANNEL);
    redis.wait_subscribed("in", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut client = redis.client();
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        client.run::<()>(&["ACL", "SETUSER", "handlerd", "-publish"]);
        for _ in 0..10 {
            client.publish("in", "refused");
        }
        if round == 0 {
            daemon.wait_log(&["NOPERM", "out"]);
        }
        client.run::<()>(&["ACL", "SETUSER", "handlerd", "+publish"]);
        taken.push(flows_to(&out, &mut client, Instant::now(), round));
    }
    mostly_within(RECOVERY, &taken);
    let stopped = daemon.stop();
    assert_eq!(stopped.code, 0);
    assert!(stopped.number("refused") > 0, "{}", stopped.last);
    let unsent = stopped.number("unknown") + stopped.number("refused");
    assert_eq!(stopped.number("handled"), stopped.number("delivered") + unsent);
}

#[test]
fn password_rotated() {
    let redis = Redis::with("user handlerd on >secret-0 allchannels +@all");
    let dir = Handlerd::folder();
    let file = dir.path().join("password");
    std::fs::write(&file, "secret-0\n").expect("a password is written");
    let config = format!(
        "[redis]\nurl = \"{}\"\nusername = \"handlerd\"\npassword_file = \"password\"\n{CHANNEL}",
        redis.url()
    );
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    redis.wait_subscribed("in", 1);
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut client = redis.client();
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        let password = format!("secret-{}", round + 1);
        client.run::<()>(&["ACL", "SETUSER", "handlerd", "resetpass", &format!(">{password}")]);
        client.run::<()>(&["CLIENT", "KILL", "USER", "handlerd"]);
        outage(round);
        if round == 2 {
            daemon.wait_log(&["WRONGPASS"]);
        }
        std::fs::write(&file, &password).expect("a password is written");
        taken.push(flows_to(&out, &mut client, Instant::now(), round));
    }
    mostly_within(RECOVERY, &taken);
    let log = daemon.log().join("\n");
    assert!(!log.contains("secret-"), "a password stands in the log:\n{log}");
    ends_well(daemon);
}

#[test]
fn a_password_file_that_is_gone_is_named_and_waited_for() {
    let redis = Redis::with("user handlerd on >secret allchannels +@all");
    let dir = Handlerd::folder();
    let file = dir.path().join("password");
    std::fs::write(&file, "secret").expect("a password is written");
    let config = format!(
        "[redis]\nurl = \"{}\"\nusername = \"handlerd\"\npassword_file = \"password\"\n{CHANNEL}",
        redis.url()
    );
    let mut daemon = Handlerd::start_in(dir, &config, &[]);
    redis.wait_subscribed("in", 1);
    std::fs::remove_file(&file).expect("it was there");
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut client = redis.client();
    client.run::<()>(&["CLIENT", "KILL", "USER", "handlerd"]);
    let name = file.display().to_string();
    daemon.wait_log(&["Redis can't be reached", &name, "the Redis password can't be read"]);
    daemon.wait_log(&["outputs wait", &name]);
    std::fs::write(&file, "secret").expect("a password is written");
    flows_to(&out, &mut client, Instant::now(), 0);
    ends_well(daemon);
}

#[test]
fn a_password_file_that_is_missing_at_the_start_is_named() {
    let config = format!("[redis]\npassword_file = \"nowhere\"\n{CHANNEL}");
    let (_dir, file) = support::handlerd::folder_with(&config);
    let refused = support::Run::new(&["run", "--config", &file.display().to_string()]).output();
    let refused = refused.expect(78);
    assert!(refused.stderr.contains("nowhere"), "{}", refused.stderr);
    assert!(refused.stderr.contains("config.toml:2:17"), "{}", refused.stderr);
}
