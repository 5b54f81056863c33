//! The finish step: once, whole, or not at all.

use super::support::*;
use crate::broker::stream::{AppendError, Finish, Outcome, Settings, Start, WhenDone};
use crate::message::Message;
use crate::telemetry::DropReason;

#[tokio::test]
async fn outputs_of_each_kind_and_the_acknowledgement_are_one_step() {
    let redis = Redis::start(&[]);
    redis.add("in", ["a"]);
    let running = Running::start(&redis.unix(), settings("me"));
    let (received, entry) = running.messages(1).await.remove(0);
    assert_eq!(received.delivery.id.as_deref(), Some(&*entry.id().to_string()));
    let mut finish = Finish::new();
    let headers = vec![("lang".to_owned(), vec![0, 255]), ("lang".to_owned(), b"en".to_vec())];
    let message = Message { payload: b"\xff\r\n".to_vec(), headers, route: None };
    finish.append("out", &"body".into(), message, None).unwrap();
    finish.push("list", b"1".to_vec());
    finish.push("list", b"2".to_vec());
    finish.publish("nobody", b"3".to_vec());
    assert_eq!(entry.finish_and_tell(finish).await, Ok(Outcome::Done));
    let out: Vec<(String, Vec<Vec<u8>>)> = redis.cli("XRANGE out - +");
    let expected: [&[u8]; 6] = [b"body", b"\xff\r\n", b"lang", &[0, 255], b"lang", b"en"];
    assert_eq!(out[0].1, expected);
    assert_eq!(redis.cli::<Vec<String>>("LRANGE list 0 -1"), ["1", "2"]);
    assert_eq!(redis.pending("in"), 0);
    assert_eq!(running.metrics.delivered.get(), 4);
    running.stop().await;
}

#[tokio::test]
async fn a_second_finish_of_an_entry_does_nothing() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..3));
    let slow = Running::start(&redis.unix(), settings("slow"));
    let mut in_hand = slow.messages(3).await;
    // Another has claimed and finished the second while this one was away.
    let id = in_hand[1].1.id();
    redis.cli::<redis::Value>(&format!("XCLAIM in g other 0 {id}"));
    assert_eq!(redis.cli::<u64>(&format!("XACK in g {id}")), 1);
    let mut outcomes = Vec::new();
    for (received, entry) in in_hand.drain(..) {
        outcomes.push(entry.finish_and_tell(to_out(received.message)).await.unwrap());
    }
    assert_eq!(outcomes, [Outcome::Done, Outcome::Gone, Outcome::Done]);
    assert_eq!(redis.payloads("out"), ["0", "2"]);
    assert_eq!(slow.metrics.stream.finished_elsewhere.get(), 1);
    slow.stop().await;
}

#[tokio::test]
async fn handled_is_what_its_handlers_have_done_with_when_it_is_finished_here() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..4));
    let running = Running::start(&redis.unix(), settings("me"));
    let mut in_hand = running.messages(4).await;
    let elsewhere = in_hand[1].1.id();
    assert_eq!(redis.cli::<u64>(&format!("XACK in g {elsewhere}")), 1);
    // In line, and Redis takes nothing: not handled yet.
    redis.cli::<()>("SET out something");
    let told = in_hand.remove(0).1.finish_and_tell({
        let mut finish = Finish::handled();
        finish.append("out", &"payload".into(), Message::default(), None).unwrap();
        finish
    });
    until("it is refused", || running.state("wrong_type") > 0).await;
    assert_eq!(running.metrics.handled.get(), 0);
    redis.cli::<u64>("DEL out");
    assert_eq!(told.await, Ok(Outcome::Done));
    assert_eq!(running.metrics.handled.get(), 1);
    // Finished elsewhere; given up; filtered.
    let mut outcomes = Vec::new();
    for ((_, entry), finish) in
        in_hand.drain(..).zip([Finish::handled(), Finish::new(), Finish::handled()])
    {
        outcomes.push(entry.finish_and_tell(finish).await.unwrap());
    }
    assert_eq!(outcomes, [Outcome::Gone, Outcome::Done, Outcome::Done]);
    assert_eq!(running.metrics.handled.get(), 2);
    running.stop().await;
}

#[tokio::test]
async fn an_output_key_of_another_type_leaves_all_pending_until_it_is_gone() {
    let redis = Redis::start(&[]);
    redis.cli::<()>("SET out something");
    redis.add("in", numbers(0..300));
    let running = Running::copying(&redis.unix(), settings("me"));
    until("the state is counted", || running.state("wrong_type") > 2).await;
    assert!(redis.pending("in") >= 128, "{}", redis.pending("in"));
    redis.cli::<u64>("DEL out");
    until("all is out", || redis.cli::<usize>("XLEN out") == 300).await;
    assert_eq!(redis.payloads("out"), numbers(0..300));
    until("all is acknowledged", || redis.pending("in") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn what_was_written_of_an_entry_is_undone_when_the_rest_is_refused() {
    let redis = Redis::start(&[]);
    redis.cli::<()>("SET bad something");
    let last = "18446744073709551615-18446744073709551615";
    redis.cli::<String>(&format!("XADD full {last} a b"));
    for (second, state) in [("bad", "wrong_type"), ("full", "exhausted")] {
        redis.add("in", ["1", "2"]);
        let running = Running::handling(&redis.unix(), settings("me"), move |message| {
            let mut finish = to_out(message.clone());
            if message.payload == b"2" {
                finish.push("list", b"x".to_vec());
                finish.append(second, &"payload".into(), message, None).unwrap();
            }
            finish
        });
        until("refused", || running.state(state) > 3).await;
        assert_eq!(redis.payloads("out"), ["1"]);
        assert_eq!(redis.cli::<usize>("LLEN list"), 0);
        assert_eq!(redis.pending("in"), 1);
        running.kill().await;
        redis.cli::<redis::Value>("DEL in out");
    }
    // The check can't see it: two entries where one id is left. So the writes are undone.
    redis.cli::<u64>("DEL full");
    redis.cli::<String>("XADD full 18446744073709551615-18446744073709551614 a b");
    redis.add("in", ["1"]);
    let running = Running::handling(&redis.unix(), settings("me"), |message| {
        let mut finish = to_out(message.clone());
        finish.push("list", b"x".to_vec());
        finish.append("full", &"payload".into(), message.clone(), None).unwrap();
        finish.append("full", &"payload".into(), message, None).unwrap();
        finish
    });
    until("refused", || running.state("exhausted") > 3).await;
    assert_eq!(redis.cli::<usize>("XLEN out") + redis.cli::<usize>("LLEN list"), 0);
    assert_eq!(redis.pending("in"), 1);
    running.kill().await;
}

#[tokio::test]
async fn an_exhausted_output_stream_stops_the_rest_in_order() {
    let redis = Redis::start(&[]);
    redis.cli::<String>("XADD out 18446744073709551615-18446744073709551613 payload x");
    redis.add("in", numbers(0..5));
    let running = Running::copying(&redis.unix(), settings("me"));
    until("refused", || running.state("exhausted") > 2).await;
    assert_eq!(redis.payloads("out"), ["x", "0", "1"]);
    assert_eq!(redis.pending("in"), 3);
    redis.cli::<u64>("DEL out");
    until("the rest came", || redis.cli::<usize>("XLEN out") == 3).await;
    assert_eq!(redis.payloads("out"), ["2", "3", "4"]);
    running.stop().await;
}

#[tokio::test]
async fn a_publish_that_the_acl_refuses_is_counted_and_not_tried_again() {
    let redis = Redis::start(&["user limited on nopass allkeys allcommands resetchannels &good"]);
    redis.add("in", numbers(0..4));
    let running = Running::handling(&redis.connection_of("limited"), settings("me"), |message| {
        let channel = if message.payload == b"1" { "good" } else { "bad" };
        let payload = message.payload.clone();
        let mut finish = to_out(message);
        finish.publish(channel, payload);
        finish
    });
    until("all is acknowledged", || running.metrics.dropped(DropReason::Refused) == 3).await;
    assert_eq!(redis.payloads("out"), numbers(0..4));
    assert_eq!(redis.pending("in"), 0);
    assert_eq!(running.metrics.delivered.get(), 5);
    running.stop().await;
}

#[tokio::test]
async fn a_forbidden_output_key_or_acknowledgement_leaves_entries_pending_and_nothing_twice() {
    let redis = Redis::start(&["user limited on nopass ~in ~handlerd:* ~out allcommands"]);
    redis.add("in", ["1", "2", "3"]);
    let running = Running::handling(&redis.connection_of("limited"), settings("me"), |message| {
        let key = if message.payload == b"2" { "secret" } else { "out" };
        let mut finish = Finish::new();
        finish.append(key, &"payload".into(), message, None).unwrap();
        finish
    });
    until("refused", || running.state("no_permission") > 3).await;
    assert_eq!(redis.payloads("out"), ["1"]);
    redis.cli::<()>("ACL SETUSER limited ~secret");
    until("all is out", || redis.pending("in") == 0 && redis.cli::<usize>("XLEN out") == 2).await;
    assert_eq!(redis.payloads("secret"), ["2"]);

    redis.cli::<()>("ACL SETUSER limited -xack");
    let tries = running.state("no_permission");
    redis.add("in", ["4"]);
    until("refused", || running.state("no_permission") > tries + 3).await;
    assert_eq!(redis.payloads("out"), ["1", "3"]);
    // It was written and undone once: the next id of "out" would be 4 places on otherwise.
    redis.cli::<()>("ACL SETUSER limited +xack");
    until("all is out", || redis.payloads("out") == ["1", "3", "4"]).await;
    until("acknowledged", || redis.pending("in") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn without_memory_nothing_is_written_and_what_needs_none_is_acknowledged() {
    let redis = Redis::start(&["maxmemory-policy noeviction"]);
    redis.add("in", numbers(0..3));
    let running = Running::handling(&redis.unix(), settings("me"), |message| {
        if message.payload == b"0" { Finish::new() } else { to_out(message) }
    });
    until("all came", || redis.pending("in") == 0 && redis.cli::<usize>("XLEN out") == 2).await;
    redis.add("in", numbers(0..3));
    until("all came", || redis.cli::<usize>("XLEN out") == 4).await;
    running.stop().await;

    redis.add("in", ["0", "1", "0"]);
    let running = Running::start(&redis.unix(), settings("me"));
    let in_hand = running.messages(3).await;
    redis.cli::<()>("CONFIG SET maxmemory 1");
    for (received, entry) in in_hand {
        let nothing = received.message.payload == b"0";
        entry.finish(if nothing { Finish::new() } else { to_out(received.message) });
    }
    until("refused", || running.state("out_of_memory") > 2).await;
    assert_eq!(redis.pending("in"), 2);
    assert_eq!(redis.cli::<usize>("XLEN out"), 4);
    redis.cli::<()>("CONFIG SET maxmemory 0");
    until("all came", || redis.pending("in") == 0).await;
    assert_eq!(redis.cli::<usize>("XLEN out"), 5);
    running.stop().await;
}

#[tokio::test]
async fn what_is_done_is_deleted_unless_another_group_reads_it() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..5));
    let delete = Settings { when_done: WhenDone::Delete, ..settings("me") };
    let running = Running::copying(&redis.unix(), delete);
    until("all is deleted", || redis.cli::<usize>("XLEN in") == 0).await;
    assert_eq!(redis.payloads("out"), numbers(0..5));
    redis.cli::<()>("XGROUP CREATE in other 0");
    redis.add("in", ["5"]);
    until("refused", || running.state("other_group") > 2).await;
    assert_eq!((redis.cli::<usize>("XLEN in"), redis.pending("in")), (1, 1));
    assert_eq!(redis.cli::<usize>("XLEN out"), 5);
    redis.cli::<u64>("XGROUP DESTROY in other");
    until("all is deleted", || redis.cli::<usize>("XLEN in") == 0).await;
    assert_eq!(redis.payloads("out"), numbers(0..6));
    running.stop().await;
}

#[tokio::test]
async fn appends_keep_to_their_length() {
    let redis = Redis::start(&["stream-node-max-entries 10"]);
    redis.add("in", numbers(0..500));
    let running = Running::handling(&redis.unix(), settings("me"), |message| {
        let mut finish = Finish::new();
        finish.append("out", &"payload".into(), message.clone(), Some(50)).unwrap();
        finish.dead_letter("dead", vec![(b"payload".to_vec(), message.payload)], Some(20));
        finish
    });
    until("all is done", || running.metrics.dead_letters.get() == 500).await;
    let (out, dead): (usize, usize) = (redis.cli("XLEN out"), redis.cli("XLEN dead"));
    assert!((50..70).contains(&out) && (20..40).contains(&dead), "{out} {dead}");
    assert_eq!(redis.payloads("out").last().unwrap(), "499");
    assert_eq!(running.metrics.delivered.get(), 500);
    running.stop().await;
}

#[test]
fn a_header_of_the_payloads_name_is_an_error() {
    let header = |name: &str, n| Message {
        headers: vec![(name.to_owned(), Vec::new()); n],
        ..Message::new("x")
    };
    let append = |message| Finish::new().append("out", &"payload".into(), message, None);
    assert_eq!(append(header("payload", 1)), Err(AppendError::PayloadName("payload".into())));
    assert_eq!(append(header("x", 3_901)), Err(AppendError::TooMany(3_901)));
    assert_eq!(append(header("x", 3_900)), Ok(()));
}

#[tokio::test]
async fn as_many_headers_as_are_let_through_can_be_written_and_scripts_that_were_flushed_load_again()
 {
    let redis = Redis::start(&[]);
    let running = Running::handling(&redis.unix(), settings("me"), |message| {
        let headers = vec![("x".to_owned(), b"y".to_vec()); 3_900];
        to_out(Message { headers, ..message })
    });
    for n in 1..4 {
        redis.add("in", ["1"]);
        until("it is out", || redis.cli::<usize>("XLEN out") == n).await;
        redis.cli::<()>("SCRIPT FLUSH");
    }
    assert_eq!(redis.entries("out")[0].len(), 2 * 3_901);
    assert_eq!(running.metrics.stream.states(), Default::default());
    running.stop().await;
}

#[tokio::test]
async fn start_says_where_a_new_group_begins() {
    let redis = Redis::start(&[]);
    let after = Start::After(crate::config::EntryId { ms: 1, seq: 1 });
    for (start, expected) in
        [(Start::New, vec!["c"]), (after, vec!["b", "c"]), (Start::Oldest, vec!["a", "b", "c"])]
    {
        redis.cli::<String>("XADD in 1-1 payload a");
        redis.cli::<String>("XADD in 1-2 payload b");
        let one = Settings { start: Some(start), ..settings("me") };
        let running = Running::copying(&redis.unix(), one);
        until("the group is there", || {
            redis.cli::<Vec<redis::Value>>("XINFO GROUPS in").len() == 1
        })
        .await;
        redis.cli::<String>("XADD in 2-1 payload c");
        until("the last is out", || {
            redis.cli::<usize>("XLEN out") > 0 && redis.payloads("out").last().unwrap() == "c"
        })
        .await;
        assert_eq!(redis.payloads("out"), expected);
        running.stop().await;
        redis.cli::<redis::Value>("DEL in out handlerd:{in}:g:cursor");
    }
}

#[tokio::test]
async fn entries_that_are_alike_and_others_between_them_each_get_their_own() {
    let redis = Redis::start(&[]);
    redis.add("in", numbers(0..300));
    let set = settings("me");
    // So that they are finished together, whatever the pace.
    let reading = Running::start(&redis.unix(), set);
    let mut in_hand = reading.messages(300).await;
    let gone = in_hand[20].1.id();
    assert_eq!(redis.cli::<u64>(&format!("XACK in g {gone}")), 1);
    let mut told = Vec::new();
    let last = in_hand.len() - 1;
    for (n, (received, entry)) in in_hand.drain(..).enumerate() {
        let message = received.message;
        let append = |key: &str, field: &str, maxlen, message: Message| {
            let mut finish = Finish::new();
            finish.append(key, &field.into(), message, maxlen).unwrap();
            finish
        };
        let finish = match n % 10 {
            3 => append("other", "payload", None, message),
            4 => append("out", "body", None, message),
            5 => append("out", "payload", Some(1_000_000), message),
            6 => Finish::new(),
            7 => {
                let headers = vec![("n".to_owned(), b"7".to_vec())];
                append("out", "payload", None, Message { headers, ..message })
            }
            8 => {
                let mut finish = append("out", "payload", None, message.clone());
                finish.push("list", message.payload);
                finish
            }
            _ => append("out", "payload", None, message),
        };
        match n == last {
            true => told.push(entry.finish_and_tell(finish)),
            false => entry.finish(finish),
        }
    }
    assert_eq!(told.remove(0).await, Ok(Outcome::Done));
    let fields = |key: &str| -> Vec<Vec<String>> {
        let range: Vec<(String, Vec<String>)> = redis.cli(&format!("XRANGE {key} - +"));
        range.into_iter().map(|(_, fields)| fields).collect()
    };
    let tens = |digit: usize| (0..300).filter(move |n| n % 10 == digit).map(|n| n.to_string());
    let expected: Vec<Vec<String>> = (0..300)
        .filter(|n| ![3, 6].contains(&(n % 10)) && *n != 20)
        .map(|n: usize| {
            let field = if n % 10 == 4 { "body" } else { "payload" };
            let mut fields = vec![field.to_owned(), n.to_string()];
            if n % 10 == 7 {
                fields.extend(["n".to_owned(), "7".to_owned()]);
            }
            fields
        })
        .collect();
    assert_eq!(fields("out"), expected);
    assert_eq!(redis.payloads("other"), tens(3).collect::<Vec<_>>());
    assert_eq!(redis.cli::<Vec<String>>("LRANGE list 0 -1"), tens(8).collect::<Vec<_>>());
    assert_eq!(redis.pending("in"), 0);
    reading.stop().await;
}
