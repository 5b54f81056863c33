//! Redis goes, and comes back.

use std::time::{Duration, Instant};

use super::support::*;
use crate::broker::stream::{Finish, Settings};

#[tokio::test]
async fn redis_killed_while_entries_are_in_flight_gets_each_of_them_once() {
    let mut redis = Redis::start(&["appendonly yes", "appendfsync always"]);
    redis.add("in", numbers(0..20_000));
    let running = Running::copying(&redis.unix(), settings("me"));
    for part in 1..=5 {
        until("some are out", || redis.cli::<usize>("XLEN out") >= part * 3_000).await;
        redis.kill();
        redis.start_again();
        loaded(&redis).await;
    }
    until("all are out", || redis.cli::<usize>("XLEN out") >= 20_000).await;
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), numbers(0..20_000));
    assert_eq!(redis.pending("in"), 0);
    assert!(running.metrics.stream.reconnects.get() >= 5);
    running.stop().await;
}

/// A Redis that reads its data answers, but not yet.
async fn loaded(redis: &Redis) {
    until("it has read its data", || redis.try_ask::<usize>(&[b"XLEN", b"out"]).is_ok()).await;
}

#[tokio::test]
async fn a_redis_that_was_stopped_goes_on_where_it_was() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..3000));
    let running = Running::copying(&redis.unix(), settings("me"));
    until("some are out", || redis.cli::<usize>("XLEN out") >= 300).await;
    redis.signal(rustix::process::Signal::STOP);
    // Longer than any answer is waited for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.signal(rustix::process::Signal::CONT);
    let begin = Instant::now();
    until("all are out", || redis.cli::<usize>("XLEN out") >= 3000).await;
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), numbers(0..3000));
    running.stop().await;
}

#[tokio::test]
async fn starting_and_stopping_with_redis_away_is_no_error() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    let running = Running::start(&redis.unix(), settings("me"));
    until("it is counted", || running.state("redis_away") > 2).await;
    redis.start_again();
    redis.add("in", ["0"]);
    let (_, entry) = running.messages(1).await.remove(0);
    redis.kill();
    drop(entry);
    let begin = Instant::now();
    running.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_group_that_was_destroyed_is_made_again_at_the_lowest_unfinished_id() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..6));
    let running = Running::start(&redis.unix(), settings("me"));
    let mut in_hand = running.messages(6).await;
    // 0, 1 and 3 are finished; 2 is the lowest that isn't.
    for place in [3, 1, 0] {
        let (received, entry) = in_hand.remove(place);
        entry.finish(to_out(received.message));
    }
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), ["3", "1", "0"]);
    redis.cli::<u64>("XGROUP DESTROY in g");
    // What was in hand is not written any more, for it comes again.
    let (received, entry) = in_hand.remove(0);
    let told = entry.finish_and_tell(to_out(received.message));
    assert_eq!(told.await, Ok(crate::broker::stream::Outcome::Gone));
    let again = running.messages(4).await;
    assert_eq!(again.iter().map(text).collect::<Vec<_>>(), ["2", "3", "4", "5"]);
    for (received, entry) in again {
        entry.finish(to_out(received.message));
    }
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), ["3", "1", "0", "2", "3", "4", "5"]);
    drop(in_hand);
    assert_eq!(running.metrics.stream.groups_remade.get(), 1);
    assert_eq!(running.metrics.stream.redelivered.get(), 4);
    redis.add("in", ["6"]);
    assert_eq!(text(&running.messages(1).await[0]), "6");
    running.kill().await;

    // Gone while nobody ran: the same.
    redis.cli::<u64>("XGROUP DESTROY in g");
    let running = Running::start(&redis.unix(), Settings { start: None, ..settings("me") });
    assert_eq!(text(&running.messages(1).await[0]), "6");
    running.stop().await;
}

#[tokio::test]
async fn a_group_destroyed_with_all_hands_full_is_no_deadlock() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..100));
    let few = Settings { batch: 5, ..settings("me") };
    let running = Running::start(&redis.unix(), few);
    let mut in_hand = running.messages(20).await;
    redis.cli::<u64>("XGROUP DESTROY in g");
    let mut seen = 0;
    while redis.payloads("out") != numbers(0..100) {
        assert!(seen < 200, "{:?}", redis.payloads("out"));
        for (received, entry) in in_hand {
            entry.finish(to_out(received.message));
            seen += 1;
        }
        running.finisher.idle().await;
        in_hand = match redis.cli::<usize>("XLEN out") {
            100 => Vec::new(),
            _ => running.messages(1).await,
        };
    }
    running.stop().await;
}

#[tokio::test]
async fn a_stream_that_was_deleted_begins_anew() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..3));
    let running = Running::start(&redis.unix(), settings("me"));
    let in_hand = running.messages(3).await;
    redis.cli::<u64>("DEL in");
    until("the group is there again", || running.metrics.stream.groups_remade.get() == 1).await;
    // Nobody can finish them: they are as lost as if they were trimmed.
    assert_eq!(running.metrics.dropped(crate::telemetry::DropReason::Trimmed), 3);
    drop(in_hand);
    // Ids below those that there were.
    redis.cli::<String>("XADD in 1-1 payload new");
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!(received.message.payload, b"new");
    entry.finish(Finish::new());
    until("it is acknowledged", || redis.pending("in") == 0).await;
    running.stop().await;
}
