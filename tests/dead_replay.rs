//! Dead letters sent back: what arrives, what is removed, and what stays when something is refused.

mod support;

use support::letters::{LETTER, Letter, STREAM, entries, length, of_orders, pairs, start};
use support::{Redis, Watcher, noise};

#[test]
fn a_letter_goes_back_to_its_stream_as_it_came() {
    let redis = Redis::start();
    let binary: Vec<u8> = (0..=255).collect();
    let headers: &[(&[u8], &[u8])] =
        &[(b"payload", b"a header"), (b"twice", b"1"), (b"twice", &[0, 255]), (b"\xff", b"")];
    let first = Letter { payload: &binary, payload_field: Some("body"), headers, ..LETTER };
    let first = first.write(&redis, STREAM);
    Letter { payload: b"second", ..LETTER }.write(&redis, STREAM);

    let dry = of_orders(&redis, &["replay", &first, "--dry-run"]).expect(0).text();
    assert!(dry.contains(&first), "{dry}");
    assert!(dry.ends_with("would send 1 dead letter to stream orders\n"), "{dry}");
    assert_eq!((length(&redis, "orders"), length(&redis, STREAM)), (0, 2));

    // Once, although it is named twice.
    let sent = of_orders(&redis, &["replay", &first, &first]).expect(0);
    assert_eq!(sent.text(), "sent 1 dead letter to stream orders\n");
    let expected = [
        (b"body".to_vec(), binary.clone()),
        (b"payload".to_vec(), b"a header".to_vec()),
        (b"twice".to_vec(), b"1".to_vec()),
        (b"twice".to_vec(), vec![0, 255]),
        (b"\xff".to_vec(), b"".to_vec()),
    ];
    assert_eq!(entries(&redis, "orders"), [expected]);
    assert_eq!(length(&redis, STREAM), 1);

    // An id that isn't there (any more): then nothing is sent.
    let rest: Vec<(String, Vec<(String, String)>)> = redis.run(&["XRANGE", STREAM, "-", "+"]);
    let again = of_orders(&redis, &["replay", &rest[0].0, &first]).expect(66);
    assert!(again.stderr.contains(&format!("no entry {first} in {STREAM}")), "{}", again.stderr);
    assert_eq!((length(&redis, "orders"), length(&redis, STREAM)), (1, 1));
}

#[test]
fn an_entry_that_had_no_payload_field_goes_back_without_one() {
    let redis = Redis::start();
    let headers: &[(&[u8], &[u8])] = &[(b"data", b"1"), (b"lang", b"en")];
    Letter { payload: b"", kind: "no_payload", headers, ..LETTER }.write(&redis, STREAM);
    of_orders(&redis, &["replay", "--all"]).expect(0);
    assert_eq!(entries(&redis, "orders"), [pairs(&[("data", b"1"), ("lang", b"en")])]);
}

#[test]
fn a_letter_from_pub_sub_is_published_if_somebody_hears_it() {
    let redis = Redis::start();
    let binary = b"\0\xff\r\n".as_slice();
    let headers: &[(&[u8], &[u8])] = &[(b"ignored", b"by PUBLISH")];
    let letter = Letter { payload: binary, redis_channel: "chat", id: None, headers, ..LETTER };
    letter.write(&redis, STREAM);

    let unheard = of_orders(&redis, &["replay", "--all"]).expect(1);
    assert_eq!(unheard.text(), "sent no dead letters\n");
    assert!(unheard.stderr.contains("nobody is subscribed to \"chat\""), "{}", unheard.stderr);
    assert_eq!(length(&redis, STREAM), 1);

    let watcher = Watcher::subscribe(&redis, &["chat"]);
    let sent = of_orders(&redis, &["replay", "--all"]).expect(0);
    assert_eq!(sent.text(), "sent 1 dead letter to Redis channel chat\n");
    assert_eq!(watcher.wait_count(1)[0].payload, binary);
    assert_eq!(length(&redis, STREAM), 0);
}

#[test]
fn letters_can_be_sent_elsewhere() {
    let redis = Redis::start();
    let headers: &[(&[u8], &[u8])] = &[(b"lang", b"en")];
    Letter { payload: b"1", redis_channel: "chat", id: None, headers, ..LETTER }
        .write(&redis, STREAM);
    Letter { payload: b"2", payload_field: Some("body"), headers, ..LETTER }.write(&redis, STREAM);
    let sent = of_orders(&redis, &["replay", "--all", "--to-stream", "second.try"]).expect(0);
    assert_eq!(sent.text(), "sent 2 dead letters to stream second.try\n");
    assert_eq!(
        entries(&redis, "second.try"),
        [pairs(&[("payload", b"1"), ("lang", b"en")]), pairs(&[("body", b"2"), ("lang", b"en")])]
    );

    LETTER.write(&redis, STREAM);
    let watcher = Watcher::subscribe(&redis, &["desk"]);
    of_orders(&redis, &["replay", "--all", "--to-channel", "desk"]).expect(0);
    assert_eq!(watcher.wait_count(1)[0].payload, b"hello");
    assert_eq!((length(&redis, STREAM), length(&redis, "orders")), (0, 0));
}

#[test]
fn two_replays_at_once_send_each_letter_once() {
    const LETTERS: usize = 3000;
    let redis = Redis::start();
    let payloads: Vec<String> = (0..LETTERS).map(|n| n.to_string()).collect();
    for payload in &payloads {
        Letter { payload: payload.as_bytes(), ..LETTER }.write(&redis, STREAM);
    }
    let replay = || start(&redis, "", &["replay", "--all", "--stream", STREAM]).spawn();
    let both = [replay(), replay(), replay()];
    let mut sent = 0;
    for output in both.map(|running| running.wait().expect(0)) {
        let text = output.text();
        let number = text.split_whitespace().nth(1).expect("a number");
        sent += number.parse::<usize>().unwrap_or(0);
    }
    assert_eq!(sent, LETTERS);
    assert_eq!(length(&redis, STREAM), 0);
    let mut arrived: Vec<usize> = entries(&redis, "orders")
        .iter()
        .map(|fields| String::from_utf8_lossy(&fields[0].1).parse().expect("a number"))
        .collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..LETTERS).collect::<Vec<_>>());
}

#[test]
fn letters_that_come_during_a_replay_are_left_alone() {
    let redis = Redis::start();
    // Back into a stream of dead letters: replayed for ever, if what comes were read, too.
    for _ in 0..40 {
        Letter { redis_channel: STREAM, headers: &[(b"x", b"y")], ..LETTER }.write(&redis, STREAM);
    }
    of_orders(&redis, &["replay", "--all"]).expect(0);
    assert_eq!(length(&redis, STREAM), 40);
    let same = of_orders(&redis, &["replay", "--all", "--to-stream", STREAM]).expect(64);
    assert!(same.stderr.contains("where they are already"), "{}", same.stderr);
}

#[test]
fn a_stream_that_takes_no_more_entries_keeps_the_letter() {
    let redis = Redis::start();
    let last = format!("{}-{}", u64::MAX, u64::MAX);
    redis.run::<String>(&["XADD", "orders", &last, "a", "b"]);
    LETTER.write(&redis, STREAM);
    let output = of_orders(&redis, &["replay", "--all"]).expect(69);
    assert!(output.stderr.contains("XADD \"orders\" was refused: ERR"), "{}", output.stderr);
    assert_eq!((length(&redis, STREAM), length(&redis, "orders")), (1, 1));
}

#[test]
fn a_right_that_is_missing_is_named_and_costs_no_letter() {
    let redis = Redis::with(
        "user reader on nopass ~* resetchannels +@all -xdel\n\
         user blind on nopass ~other resetchannels +@all\n\
         user dumb on nopass ~* resetchannels +@all -eval\n\
         user narrow on nopass ~orders.dead resetchannels +@all\n\
         user silent on nopass ~* resetchannels +@all",
    );
    LETTER.write(&redis, STREAM);
    Letter { redis_channel: "chat", id: None, ..LETTER }.write(&redis, STREAM);
    let _watcher = Watcher::subscribe(&redis, &["chat"]);
    for (user, arguments, words) in [
        ("blind", &["list"] as &[&str], "\"orders.dead\" was refused: NOPERM"),
        ("reader", &["delete", "--yes"], "XDEL \"orders.dead\" was refused: NOPERM"),
        ("reader", &["replay", "--all"], "XDEL \"orders.dead\" was refused: "),
        ("dumb", &["replay", "--all"], "EVAL \"orders.dead\" was refused: NOPERM"),
        ("narrow", &["replay", "--limit", "1"], "was refused: NOPERM"),
        ("silent", &["replay", "--all", "--to-channel", "chat"], "PUBLISH \"chat\" was refused: "),
    ] {
        let all = [&[arguments[0], "--stream", STREAM], &arguments[1..]].concat();
        let output = start(&redis, &format!("{user}:x@"), &all).output().expect(69);
        assert!(output.stderr.contains(words), "{user} {arguments:?}: {}", output.stderr);
        assert_eq!((length(&redis, STREAM), length(&redis, "orders")), (2, 0), "{user}");
    }
}

#[test]
fn a_replica_refuses_and_a_redis_that_is_not_there_is_named() {
    let mut redis = Redis::start();
    LETTER.write(&redis, STREAM);
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let output = of_orders(&redis, &["replay", "--all"]).expect(69);
    assert!(output.stderr.contains("READONLY"), "{}", output.stderr);
    redis.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!((length(&redis, STREAM), length(&redis, "orders")), (1, 0));
    redis.kill();
    let output = of_orders(&redis, &["list"]).expect(69);
    assert!(output.stderr.contains("127.0.0.1"), "{}", output.stderr);
}

#[test]
fn a_message_with_more_fields_than_a_script_can_hand_over_stays() {
    let redis = Redis::start();
    let header: (&[u8], &[u8]) = (b"h", b"v");
    let many = vec![header; 3499];
    Letter { headers: &many, ..LETTER }.write(&redis, STREAM);
    of_orders(&redis, &["replay", "--all"]).expect(0);
    assert_eq!(entries(&redis, "orders")[0].len(), 3500);
    let more = vec![header; 5000];
    Letter { headers: &more, ..LETTER }.write(&redis, STREAM);
    let output = of_orders(&redis, &["replay", "--all"]).expect(69);
    assert!(output.stderr.contains("a message with 5001 fields"), "{}", output.stderr);
    assert_eq!(length(&redis, STREAM), 1);
}

#[test]
fn large_letters_are_read_and_sent_whole() {
    let redis = Redis::start();
    let large = noise(3, 3 << 20);
    for _ in 0..40 {
        Letter { payload: &large, ..LETTER }.write(&redis, STREAM);
    }
    of_orders(&redis, &["replay", "--all"]).expect(0);
    let sent = entries(&redis, "orders");
    assert_eq!(sent.len(), 40);
    assert!(sent.iter().all(|fields| fields.len() == 1 && fields[0].1 == large));
}

#[test]
fn a_full_redis_lets_letters_be_worked_through() {
    let redis = Redis::start();
    LETTER.write(&redis, STREAM);
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    of_orders(&redis, &["replay", "--all"]).expect(0);
    assert_eq!((length(&redis, STREAM), length(&redis, "orders")), (0, 1));
}
