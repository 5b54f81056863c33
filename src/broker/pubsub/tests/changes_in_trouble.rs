//! Other subscriptions while Redis is away, busy or refuses.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::*;
use crate::config::{Connection, Password, Secret};

/// As a user that the test gives rights to.
fn limited(redis: &Redis) -> Connection {
    let (username, password) = (Some("limited".into()), Password::Url(Secret::new("any")));
    Connection { username, password, ..redis.tcp() }
}

fn names(channel: &Channel) -> Vec<String> {
    channel.metrics.unsubscribed.names().iter().map(|name| name.to_string()).collect()
}

#[tokio::test]
async fn redis_killed_in_the_middle_ends_the_change() {
    let mut redis = Redis::start_on_port(&[]);
    let running = Running::one(&redis.tcp(), subscribe(&["kept", "gone"]));
    let channel = &running.channels[0];
    until("subscribed", || redis.subscribers("gone") == 1).await;
    until("noted", || names(channel).is_empty()).await;
    let new = running.channel("new");
    redis.signal(Signal::STOP);
    let begin = Instant::now();
    let change = running.begin_change(vec![
        channel.wants(subscribe(&["kept"]), 100),
        new.wants(subscribe(&["come"]), 100),
    ]);
    // Taken, and not done: Redis has answered nothing.
    until("taken", || names(&new) == ["come"]).await;
    assert!(!change.is_finished() && names(channel).is_empty());
    redis.kill();
    tokio::time::timeout(PATIENCE, change).await.expect("the change is done").unwrap();
    until("noted", || names(channel) == ["kept"]).await;
    assert_eq!(names(&new), ["come"]);
    // While Redis is away it is done at once.
    let other = running.channel("other");
    let wanted = ["kept", "other"].map(|name| subscribe(&[name]));
    let [kept, come] = wanted;
    running.change(vec![channel.wants(kept, 100), other.wants(come, 100)]).await;
    assert!(names(&new).is_empty());
    let wanted_for = begin.elapsed().as_millis() as u64;
    redis.start_again();
    until("back", || redis.subscribers("other") == 1).await;
    assert_eq!(redis.subscribers("gone") + redis.subscribers("come"), 0);
    redis.publish("kept", "1");
    redis.publish("other", "2");
    assert_eq!(channel.texts(1).await, ["1"]);
    assert_eq!(other.texts(1).await, ["2"]);
    assert!(names(channel).is_empty() && names(&other).is_empty());
    assert!(new.metrics.gap_ms.get() <= wanted_for + 1000, "it was wanted for {wanted_for} ms");
    running.stop().await;
}

#[tokio::test]
async fn a_new_name_that_is_refused_holds_nothing_up() {
    let log = Log::capture();
    let redis =
        Redis::start_on_port(&["user limited on nopass +@all resetchannels &kept &gone &come"]);
    let running = Running::start(
        &limited(&redis),
        vec![(subscribe(&["kept", "no"]), 100), (subscribe(&["gone"]), 100)],
    );
    let [kept, gone] = &running.channels[..] else { unreachable!() };
    until("subscribed", || redis.subscribers("gone") == 1).await;
    until("refused", || log.has("Redis refuses SUBSCRIBE \"no\": NOPERM")).await;
    let new = running.channel("new");
    let wanted = vec![
        kept.wants(subscribe(&["kept", "no"]), 100),
        new.wants(subscribe(&["come", "forbidden"]), 100),
    ];
    running.change(wanted).await;
    assert_eq!(redis.subscribers("come"), 1);
    assert_eq!(redis.publish("gone", "nobody's"), 0);
    redis.publish("kept", "1");
    assert_eq!(kept.texts(1).await, ["1"]);
    assert_eq!((names(kept), names(&new)), (vec!["no".into()], vec!["forbidden".into()]));
    // The clocks of those that lack a name go on, that of the channel that went has ended.
    let gap = |channel: &Channel| channel.metrics.gap_ms.get();
    let (before, ended) = ([gap(kept), gap(&new)], gap(gone));
    until("the gaps grow", || gap(kept) > before[0] + 200 && gap(&new) > before[1] + 200).await;
    assert_eq!(gap(gone), ended);
    redis.cli::<()>("ACL SETUSER limited &forbidden &no");
    until("granted", || names(kept).is_empty() && names(&new).is_empty()).await;
    redis.publish("forbidden", "2");
    redis.publish("no", "3");
    assert_eq!(new.texts(1).await, ["2"]);
    assert_eq!(kept.texts(1).await, ["3"]);
    assert_eq!(running.metrics.reconnects.get(), 0);
    // Each is told once, over the change too.
    assert_eq!(log.count("Redis refuses"), 2);
    assert_eq!(gone.metrics.received.get(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_name_that_may_not_be_unsubscribed_is_nobodys() {
    let log = Log::capture();
    let redis = Redis::start_on_port(&["user limited on nopass +@all -unsubscribe allchannels"]);
    let running = Running::one(&limited(&redis), subscribe(&["kept", "gone"]));
    let channel = &running.channels[0];
    until("subscribed", || redis.subscribers("gone") == 1).await;
    running.change(vec![channel.wants(subscribe(&["kept"]), 100)]).await;
    assert!(log.has("Redis refuses to end subscriptions"));
    assert_eq!(redis.publish("gone", "nobody's"), 1);
    redis.publish("kept", "1");
    assert_eq!(channel.texts(1).await, ["1"]);
    // Several probes go by, and Redis's count is the right one.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!log.has("Redis counts"));
    assert_eq!(running.metrics.reconnects.get(), 0);
    // It may be wanted again,
    running.change(vec![channel.wants(subscribe(&["gone", "kept"]), 100)]).await;
    redis.publish("gone", "2");
    assert_eq!(channel.texts(1).await, ["2"]);
    // and ends with a later change, once that is permitted.
    running.change(vec![channel.wants(subscribe(&["kept"]), 100)]).await;
    redis.cli::<()>("ACL SETUSER limited +unsubscribe");
    assert_eq!(redis.subscribers("gone"), 1);
    running.change(vec![channel.wants(subscribe(&["kept"]), 200)]).await;
    assert_eq!(redis.subscribers("gone"), 0);
    assert_eq!(running.metrics.reconnects.get(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_busy_redis_is_asked_again_to_end_a_subscription() {
    let log = Log::capture();
    let redis = Redis::start_on_port(&["busy-reply-threshold 50"]);
    let running = Running::one(&redis.tcp(), subscribe(&["kept", "gone"]));
    let channel = &running.channels[0];
    until("subscribed", || names(channel).is_empty()).await;
    let mut client = redis.client();
    let script = std::thread::spawn(move || {
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut client)
    });
    let busy = || redis::cmd("PING").query::<String>(&mut redis.client()).is_err();
    until("busy", busy).await;
    let change = running.begin_change(vec![channel.wants(subscribe(&["kept", "come"]), 100)]);
    until("refused", || log.has("Redis refuses SUBSCRIBE \"come\": BUSY")).await;
    // Of those that wait, only the last is made.
    let (skipped, last) = (running.channel("skipped"), running.channel("last"));
    let wanted = |other: &Channel, name| {
        vec![channel.wants(subscribe(&["kept", "come"]), 100), other.wants(subscribe(&[name]), 100)]
    };
    let waiting = running.begin_change(wanted(&skipped, "skipped"));
    tokio::task::yield_now().await;
    let changes = [change, waiting, running.begin_change(wanted(&last, "last"))];
    assert!(changes.iter().all(|change| !change.is_finished()));
    redis.cli::<()>("SCRIPT KILL");
    assert!(script.join().unwrap().is_err());
    for change in changes {
        tokio::time::timeout(PATIENCE, change).await.expect("the change is done").unwrap();
    }
    assert_eq!(redis.publish("skipped", "nobody's"), 0);
    redis.publish("last", "0");
    assert_eq!(last.texts(1).await, ["0"]);
    assert_eq!(redis.publish("gone", "nobody's"), 0);
    until("permitted", || names(channel).is_empty()).await;
    redis.publish("come", "1");
    assert_eq!(channel.texts(1).await, ["1"]);
    assert_eq!(running.metrics.reconnects.get(), 0);
    running.stop().await;
}
