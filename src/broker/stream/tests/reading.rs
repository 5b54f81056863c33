//! What is read, in which order, and how much of it is in hand.

use super::support::*;
use crate::broker::stream::{Finish, Settings, Taken, UnfitKind};

#[tokio::test]
async fn entries_come_in_order_with_their_headers_and_go_out_in_order() {
    let redis = Redis::start(&[]);
    redis.cli::<String>("XADD in * lang en payload hello lang de payload again");
    redis.add("in", numbers(0..1000));
    let running = Running::start(&redis.unix(), settings("me"));
    let first = running.messages(1).await.remove(0);
    assert_eq!(text(&first), "hello");
    let headers: Vec<(&str, &[u8])> =
        first.0.message.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
    let expected: [(&str, &[u8]); 3] = [("lang", b"en"), ("lang", b"de"), ("payload", b"again")];
    assert_eq!(headers, expected);
    assert_eq!((&*first.0.delivery.table, &*first.0.delivery.redis_channel), ("orders", "in"));
    assert_eq!(first.0.delivery.attempt, 1);
    first.1.finish(Finish::new());
    for n in 0..1000 {
        let (received, entry) = running.messages(1).await.remove(0);
        assert_eq!(received.message.payload, n.to_string().as_bytes());
        entry.finish(to_out(received.message));
    }
    running.finisher.idle().await;
    assert_eq!(redis.payloads("out"), numbers(0..1000));
    assert_eq!(redis.pending("in"), 0);
    running.stop().await;
}

#[tokio::test]
async fn bytes_of_any_value_and_an_answer_in_resp2_are_read() {
    let redis = Redis::start(&["rename-command HELLO \"\""]);
    let payload: Vec<u8> = (0..=255).collect();
    redis.try_ask::<String>(&[b"XADD", b"in", b"*", b"payload", &payload]).unwrap();
    let running = Running::start(&redis.unix(), settings("me"));
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!(received.message.payload, payload);
    drop(entry);
    // It was let go by a fault: it comes again, once its time is over.
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!((received.message.payload, entry.attempt()), (payload, 2));
    entry.finish(Finish::new());
    until("it is acknowledged", || redis.pending("in") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn what_cant_be_handled_is_handed_on_with_the_reason() {
    let redis = Redis::start(&[]);
    redis.cli::<String>("XADD in * other x");
    redis.try_ask::<String>(&[b"XADD", b"in", b"*", b"payload", b"a", b"\xff", b"b"]).unwrap();
    redis.cli::<String>("XADD in * payload toolarge x y");
    redis.cli::<String>("XADD in * payload good");
    let small = Settings { max_payload: 5, ..settings("me") };
    let running = Running::start(&redis.unix(), small);
    let mut taken = running.take(4).await;
    assert!(matches!(taken.pop(), Some(Taken::Message(..))));
    let unfit: Vec<_> = taken
        .into_iter()
        .map(|taken| match taken {
            Taken::Unfit(unfit) => unfit,
            Taken::Message(message, ..) => panic!("{message:?}"),
        })
        .collect();
    let kinds: Vec<UnfitKind> = unfit.iter().map(|unfit| unfit.kind).collect();
    assert_eq!(kinds, [UnfitKind::NoPayload, UnfitKind::Name, UnfitKind::TooLarge]);
    assert_eq!(unfit[0].headers, [(b"other".to_vec(), b"x".to_vec())]);
    assert_eq!(unfit[1].headers, [(b"\xff".to_vec(), b"b".to_vec())]);
    assert_eq!(unfit[2].payload, b"toolarge");
    assert_eq!(unfit[2].reason, "8 bytes, max_payload is 5");
    for unfit in unfit {
        let mut finish = Finish::new();
        finish.dead_letter("dead", vec![(b"payload".to_vec(), unfit.payload)], None);
        unfit.entry.finish(finish);
    }
    until("they are dead letters", || redis.cli::<usize>("XLEN dead") == 3).await;
    assert_eq!(running.metrics.dead_letters.get(), 3);
    running.stop().await;
}

#[tokio::test]
async fn no_more_is_read_than_there_is_room_for() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..1000));
    let few = Settings { batch: 10, ..settings("me") };
    let running = Running::start(&redis.unix(), few);
    until("it is full", || running.waiting() == 40).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!((running.waiting(), running.source.in_hand()), (40, 40));
    running.kill().await;
}

#[tokio::test]
async fn large_entries_are_bounded_by_bytes() {
    let redis = Redis::start(&[]);
    let large = "x".repeat(100_000);
    redis.add("in", std::iter::repeat_n(&large, 200));
    let small = Settings { hold: 1 << 20, ..settings("me") };
    let running = Running::start(&redis.unix(), small);
    until("it is full", || running.waiting() >= 10).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let in_hand = running.source.in_hand();
    assert!(in_hand <= 11, "{in_hand}");
    let mut seen = 0;
    while seen < 200 {
        for (_, entry) in running.messages(1).await {
            entry.finish(Finish::new());
            seen += 1;
        }
        assert!(running.source.in_hand() <= 11);
    }
    until("all is acknowledged", || redis.pending("in") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn large_entries_after_thousands_of_small_ones_are_bounded_too_read_taken_up_or_claimed() {
    const HOLD: usize = 8 << 20;
    const LARGE: usize = 1_000_000;
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..5000));
    let large = "x".repeat(LARGE);
    redis.add("in", std::iter::repeat_n(&large, 40));
    let eight = |name: &str| Settings { hold: HOLD, ..settings(name) };
    // One entry may go beyond.
    let most = HOLD / LARGE + 1;
    let full = |running: &Running| {
        let bytes = running.source.bytes();
        assert!(bytes <= HOLD + LARGE + 1000, "{bytes}");
        bytes >= HOLD - (1 << 20) && running.source.in_hand() <= most
    };
    let running = Running::start(&redis.unix(), eight("me"));
    for _ in 0..5000 {
        let (received, entry) = running.messages(1).await.remove(0);
        assert!(received.message.payload.len() < 5);
        entry.finish(Finish::new());
        assert!(running.source.bytes() <= HOLD + LARGE);
    }
    until("it is full of large ones", || full(&running)).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(full(&running));
    running.kill().await;

    // Left pending in this consumer's name, and then, all of them, in another's.
    redis.cli::<redis::Value>("XREADGROUP GROUP g me STREAMS in >");
    let running = Running::start(&redis.unix(), eight("me"));
    until("it is full of its own", || full(&running)).await;
    running.kill().await;
    let running = Running::start(&redis.unix(), eight("other"));
    until("it is full of what was claimed", || full(&running)).await;
    let mut seen = 0;
    while seen < 40 {
        for (_, entry) in running.messages(1).await {
            entry.finish(Finish::new());
            seen += 1;
        }
        assert!(running.source.bytes() <= HOLD + LARGE + 1000);
    }
    until("all is acknowledged", || redis.pending("in") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn several_streams_of_a_source_each_keep_their_order() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..200));
    redis.add("in2", numbers(200..400));
    let two = Settings { keys: vec!["in".into(), "in2".into()], ..settings("me") };
    let running = Running::copying(&redis.unix(), two);
    until("all is out", || redis.cli::<usize>("XLEN out") == 400).await;
    let out = redis.payloads("out");
    let of = |low: bool| {
        let mine = out.iter().filter(|n| (n.parse::<usize>().unwrap() < 200) == low);
        mine.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(true), numbers(0..200));
    assert_eq!(of(false), numbers(200..400));
    running.stop().await;
}

#[tokio::test]
async fn gauges_tell_what_is_pending_and_what_is_behind() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..100));
    let few = Settings { batch: 5, ..settings("me") };
    let running = Running::start(&redis.unix(), few);
    until("it is seen", || running.metrics.stream.pending() == 20).await;
    // Redis 6.2 doesn't say it.
    let lag = redis.says("XINFO GROUPS in", "lag").then_some(80);
    until("it is seen", || running.metrics.stream.lag() == lag).await;
    running.stop().await;
}
