//! Entries that come again: after a restart, a lost connection, or from a consumer that is gone.

use std::time::Duration;

use super::support::*;
use crate::broker::stream::{Finish, Settings, Taken, UnfitKind};
use crate::telemetry::DropReason;

#[tokio::test]
async fn own_pending_entries_come_first_when_a_consumer_comes_back() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..5));
    let running = Running::start(&redis.unix(), settings("me"));
    let in_hand = running.messages(5).await;
    running.kill().await;
    drop(in_hand);
    redis.add("in", numbers(5..7));
    let long = Settings { claim_idle: Duration::from_secs(60), ..settings("me") };
    let running = Running::start(&redis.unix(), long);
    let again = running.messages(7).await;
    assert_eq!(again.iter().map(text).collect::<Vec<_>>(), numbers(0..7));
    let attempts: Vec<u32> = again.iter().map(|(_, entry)| entry.attempt()).collect();
    assert_eq!(attempts, [2, 2, 2, 2, 2, 1, 1]);
    assert_eq!(running.metrics.stream.redelivered.get(), 5);
    running.kill().await;
}

#[tokio::test]
async fn what_was_in_hand_when_the_connections_were_cut_is_finished_once_and_not_delivered_again() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..10));
    let running = Running::start(&redis.unix(), settings("me"));
    let in_hand = running.messages(10).await;
    for _ in 0..3 {
        let cuts = running.metrics.stream.reconnects.get();
        redis.cli::<redis::Value>("CLIENT KILL TYPE normal SKIPME yes");
        until("back", || running.metrics.stream.reconnects.get() > cuts).await;
    }
    // An entry of which the answer was lost on its way here.
    redis.add("in", ["10"]);
    redis.cli::<redis::Value>("XREADGROUP GROUP g me STREAMS in >");
    redis.cli::<redis::Value>("CLIENT KILL TYPE normal SKIPME yes");
    let late = running.messages(1).await.remove(0);
    assert_eq!((text(&late), late.1.attempt()), ("10".to_owned(), 1));
    for (received, entry) in in_hand.into_iter().chain([late]) {
        assert_eq!(entry.attempt(), 1);
        entry.finish(to_out(received.message));
    }
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), numbers(0..11));
    assert_eq!((running.waiting(), redis.pending("in")), (0, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_take_up_whose_answer_was_lost_is_one_delivery() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..250));
    redis.cli::<()>("XGROUP CREATE in g 0");
    redis.cli::<redis::Value>("XREADGROUP GROUP g me STREAMS in >");
    // The first answer that holds an entry is the first batch of what is taken up.
    let cutter = Cutter::before(&redis, "payload");
    let running = Running::start(&cutter.connection(), settings("me"));
    let taken = running.messages(250).await;
    assert_eq!(taken.iter().map(text).collect::<Vec<_>>(), numbers(0..250));
    assert!(cutter.has_cut());
    let wrong = taken.iter().filter(|(_, entry)| entry.attempt() != 2).count();
    assert_eq!(wrong, 0, "{taken:?}");
    let deliveries = redis.cli::<Vec<(String, String, u64, u64)>>("XPENDING in g - + 300");
    assert!(deliveries.iter().all(|row| row.3 == 2));
    running.kill().await;
}

#[tokio::test]
async fn a_dead_consumers_entries_are_claimed_and_a_living_ones_are_not() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..300));
    // Longer than this test's thread, in which the living one lives, stands still.
    let claim_idle = Duration::from_secs(3);
    let few = |name: &str| Settings { batch: 25, claim_idle, ..settings(name) };
    let living = Running::start(&redis.unix(), few("living"));
    let dead = Running::start(&redis.unix(), few("dead"));
    let kept = living.messages(100).await;
    let lost = dead.messages(100).await;
    dead.kill().await;
    let lost_texts: Vec<String> = lost.iter().map(text).collect();
    drop(lost);
    // The third has its hands full of new entries at first.
    let third = Running::start(&redis.unix(), few("third"));
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let (received, entry) = third.messages(1).await.remove(0);
        seen.push((String::from_utf8(received.message.payload.clone()).unwrap(), entry.attempt()));
        entry.finish(to_out(received.message));
    }
    let claimed: Vec<String> =
        seen.iter().filter(|(_, attempt)| *attempt == 2).map(|(text, _)| text.clone()).collect();
    assert_eq!(claimed, lost_texts);
    assert_eq!(third.metrics.stream.claimed.get(), 100);
    // More than claim_idle has gone by, and the living one's are still its own.
    tokio::time::sleep(2 * claim_idle).await;
    assert_eq!(third.waiting(), 0);
    for (received, entry) in kept {
        entry.finish(to_out(received.message));
    }
    living.finisher.idle().await;
    third.finisher.idle().await;
    let mut out: Vec<usize> = redis.payloads("out").iter().map(|n| n.parse().unwrap()).collect();
    out.sort_unstable();
    assert_eq!(out, (0..300).collect::<Vec<_>>());
    living.stop().await;
    third.stop().await;
}

#[tokio::test]
async fn trimmed_entries_are_counted_pending_or_not_read_yet_and_what_is_in_hand_still_goes_out() {
    let redis = Redis::start(&["stream-node-max-entries 1"]);
    redis.add("in", numbers(0..100));
    let few = |name: &str| Settings { batch: 5, ..settings(name) };
    let dead = Running::start(&redis.unix(), few("dead"));
    drop(dead.messages(20).await);
    dead.kill().await;
    // 20 are pending and 80 unread: of these 30 go, too.
    redis.cli::<u64>("XTRIM in MAXLEN 50");
    let running = Running::start(&redis.unix(), few("me"));
    let trimmed = || running.metrics.dropped(DropReason::Trimmed);
    let in_hand = running.messages(20).await;
    assert_eq!(in_hand.iter().map(text).collect::<Vec<_>>(), numbers(50..70));
    // Redis 6.2 doesn't count what was ever added, so nobody can tell what went unread.
    let counts = redis.says("XINFO STREAM in", "entries-added");
    let unread = |n: u64| if counts { n } else { 0 };
    assert_eq!(trimmed(), unread(30));
    // Trimmed while in hand, and renewed several times since.
    redis.cli::<u64>("XTRIM in MAXLEN 1");
    tokio::time::sleep(Duration::from_millis(250)).await;
    for (received, entry) in in_hand {
        entry.finish(to_out(received.message));
    }
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), numbers(50..70));
    assert_eq!(text(&running.messages(1).await[0]), "99");
    until("all are counted", || trimmed() == unread(30 + 29) + 20).await;
    running.stop().await;
}

#[tokio::test]
async fn deliveries_of_an_orderly_stop_dont_count_and_others_get_the_rest_at_once() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..4));
    let long = |name: &str| Settings { claim_idle: Duration::from_secs(60), ..settings(name) };
    let running = Running::start(&redis.unix(), long("me"));
    running.messages(1).await.remove(0).1.finish(Finish::new());
    until("three are left", || redis.pending("in") == 3).await;
    let metrics = running.stop().await;
    assert_eq!(metrics.stream.given_back.get(), 3);
    for _ in 0..3 {
        let running = Running::start(&redis.unix(), long("me"));
        until("they came", || running.waiting() == 3).await;
        running.stop().await;
    }
    let other = Running::start(&redis.unix(), long("other"));
    let taken = other.messages(3).await;
    assert!(taken.iter().all(|(_, entry)| entry.attempt() == 1), "{taken:?}");
    for (received, entry) in taken {
        entry.finish(to_out(received.message));
    }
    other.finisher.idle().await;
    assert_eq!(redis.payloads("out"), numbers(1..4));
    other.stop().await;
}

#[tokio::test]
async fn an_entry_that_ends_the_daemon_again_and_again_is_handled_alone_and_then_not_any_more() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..3));
    let strict =
        || Settings { max_deliveries: 2, claim_idle: Duration::from_secs(60), ..settings("me") };
    for attempt in 1..=2 {
        let running = Running::start(&redis.unix(), strict());
        let taken = running.messages(3).await;
        assert!(taken.iter().all(|(_, entry)| entry.attempt() == attempt));
        running.kill().await;
    }
    // The third time each goes alone, and nothing new beside it. The first is finished, the second
    // ends the daemon once more.
    redis.add("in", ["3"]);
    let running = Running::start(&redis.unix(), strict());
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!((received.message.payload.as_slice(), entry.attempt()), (b"0".as_slice(), 3));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(running.waiting(), 0);
    entry.finish(Finish::new());
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!(received.message.payload, b"1");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(running.waiting(), 0);
    running.kill().await;
    drop(entry);

    let running = Running::start(&redis.unix(), strict());
    // What only waited behind it has ended nobody: its turn comes.
    let taken = running.take(1).await.remove(0);
    let Taken::Unfit(unfit) = taken else { panic!("{taken:?}") };
    assert_eq!(unfit.kind, UnfitKind::Crash);
    unfit.entry.finish(Finish::new());
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!((received.message.payload.as_slice(), entry.attempt()), (b"2".as_slice(), 3));
    entry.finish(Finish::new());
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!(received.message.payload, b"3");
    entry.finish(Finish::new());
    until("nothing is left", || redis.pending("in") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn consumers_long_gone_are_removed_only_with_nothing_pending() {
    let redis = Redis::start(&[]);
    redis.add("in", ["0"]);
    redis.cli::<()>("XGROUP CREATE in g 0");
    redis.cli::<redis::Value>("XREADGROUP GROUP g holds STREAMS in >");
    redis.cli::<redis::Value>("XGROUP CREATECONSUMER in g empty");
    tokio::time::sleep(Duration::from_millis(60)).await;
    let short = Settings {
        forget: Duration::from_millis(50),
        claim_idle: Duration::from_secs(60),
        ..settings("me")
    };
    let running = Running::start(&redis.unix(), short);
    let names = || {
        let consumers: Vec<std::collections::HashMap<String, redis::Value>> =
            redis.cli("XINFO CONSUMERS in g");
        let name = |c: &std::collections::HashMap<String, redis::Value>| {
            redis::from_redis_value::<String>(c["name"].clone()).unwrap()
        };
        consumers.iter().map(name).collect::<Vec<_>>()
    };
    until("it is gone", || !names().contains(&"empty".to_owned())).await;
    assert!(names().contains(&"holds".to_owned()));
    assert_eq!(redis.pending("in"), 1);
    running.stop().await;
}
