//! What is wrong has a name, is counted, is waited out, and is over when it is over.

use std::time::{Duration, Instant};

use super::support::*;
use crate::broker::stream::Settings;

#[tokio::test]
async fn a_new_group_of_a_stream_with_entries_needs_a_start() {
    let redis = Redis::start(&[]);
    redis.add("in", ["0"]);
    let running = Running::copying(&redis.unix(), Settings { start: None, ..settings("me") });
    until("it is refused", || running.state("start") > 2).await;
    redis.cli::<()>("XGROUP CREATE in g 0");
    until("it is out", || redis.cli::<usize>("XLEN out") == 1).await;
    running.stop().await;

    // One of an empty stream, or of none, needs nothing said.
    let two = Settings { start: None, keys: vec!["none".into()], ..settings("me") };
    let running = Running::copying(&redis.unix(), two);
    until("the group is there", || redis.cli::<usize>("EXISTS none") == 1).await;
    redis.add("none", ["1"]);
    until("it is out", || redis.cli::<usize>("XLEN out") == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_key_that_is_no_stream_is_waited_for_with_pauses() {
    let redis = Redis::start(&[]);
    redis.cli::<()>("SET in text");
    let running = Running::copying(&redis.unix(), settings("me"));
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    until("it is tried again", || running.state("wrong_type") >= 3).await;
    let (tries, seconds) = (running.state("wrong_type"), began.elapsed().as_secs());
    assert!(tries <= 10 * seconds, "{tries} in {seconds} s");
    redis.cli::<u64>("DEL in");
    redis.add("in", ["0"]);
    until("it is out", || redis.cli::<usize>("XLEN out") == 1).await;

    redis.cli::<u64>("DEL in");
    redis.cli::<()>("SET in text");
    let before = running.state("wrong_type");
    until("it is counted", || running.state("wrong_type") > before).await;
    redis.cli::<u64>("DEL in");
    redis.add("in", ["1"]);
    until("it is out", || redis.cli::<usize>("XLEN out") == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_right_to_read_that_is_missing_is_waited_for_and_the_cursor_is_not_needed() {
    let redis = Redis::start(&["user limited on nopass ~in ~out allcommands -xreadgroup"]);
    redis.add("in", ["0"]);
    let running = Running::copying(&redis.connection_of("limited"), settings("me"));
    until("it is refused", || running.state("no_permission") > 2).await;
    redis.cli::<()>("ACL SETUSER limited +xreadgroup");
    until("it is out", || redis.cli::<usize>("XLEN out") == 1).await;
    assert_eq!(redis.cli::<usize>("DBSIZE"), 2);
    // Without a cursor a vanished group begins at the beginning: nothing is lost.
    redis.add("in", ["1"]);
    until("it is out", || redis.cli::<usize>("XLEN out") == 2).await;
    redis.cli::<u64>("XGROUP DESTROY in g");
    until("they came again", || redis.payloads("out") == ["0", "1", "0", "1"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_right_to_the_cursor_that_is_taken_away_and_given_back_stops_nothing() {
    let redis = Redis::start(&["user limited on nopass ~* allcommands"]);
    let cursor = || redis.cli::<Option<String>>("GET handlerd:{in}:g:cursor");
    let last = || {
        format!("f{}", redis.cli::<Vec<(String, redis::Value)>>("XRANGE in - +").pop().unwrap().0)
    };
    redis.add("in", ["0"]);
    let running = Running::copying(&redis.connection_of("limited"), settings("me"));
    until("it is out", || redis.cli::<usize>("XLEN out") == 1).await;
    until("the cursor is there", || cursor() == Some(last())).await;
    redis.cli::<()>("ACL SETUSER limited resetkeys ~in ~out");
    redis.add("in", numbers(1..300));
    until("all are out", || redis.payloads("out") == numbers(0..300)).await;
    running.finisher.idle().await;
    assert_ne!(cursor(), Some(last()));
    assert_eq!(redis.pending("in"), 0);
    redis.cli::<()>("ACL SETUSER limited allkeys");
    until("the cursor is kept again", || {
        let kept = cursor() == Some(last());
        // The next finish may write it.
        if !kept && redis.cli::<usize>("XLEN in") == redis.cli::<usize>("XLEN out") {
            redis.add("in", ["more"]);
        }
        kept
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_replica_is_waited_out() {
    let redis = Redis::start(&[]);
    redis.add("in", ["0"]);
    let running = Running::copying(&redis.unix(), settings("me"));
    until("it is out", || redis.cli::<usize>("XLEN out") == 1).await;
    // Of a master that isn't there.
    redis.cli::<()>("REPLICAOF 127.0.0.1 1");
    until("it is counted", || running.state("read_only") + running.state("master_down") > 2).await;
    redis.cli::<()>("REPLICAOF NO ONE");
    redis.add("in", ["1"]);
    until("it is out", || redis.cli::<usize>("XLEN out") == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_cursor_key_that_holds_something_else_hinders_nothing() {
    let redis = Redis::start(&[]);
    redis.cli::<usize>("RPUSH handlerd:{in}:g:cursor x");
    redis.add("in", numbers(0..3));
    let running = Running::copying(&redis.unix(), settings("me"));
    until("all is out", || redis.payloads("out") == numbers(0..3)).await;
    running.finisher.idle().await;
    assert_eq!(redis.pending("in"), 0);
    running.stop().await;
}
