//! Looking at dead letters and removing them: the real binary and a real Redis.

mod support;

use serde_json::{Value as Json, json};
use support::letters::{
    LETTER, Letter, NEW_YEAR, STREAM, dead, entries, length, lists, of_orders, pairs,
};
use support::{PATIENCE, Redis, Run, noise};

#[test]
fn a_list_shows_what_is_asked_for() {
    let redis = Redis::start();
    let hour = 3_600_000;
    let letters = [
        Letter { payload: b"a", ..LETTER },
        Letter { payload: b"b", channel: "chat", id: None, time: NEW_YEAR + hour, ..LETTER },
        Letter {
            payload: b"c",
            handler: None,
            kind: "too_large",
            time: NEW_YEAR + 2 * hour,
            ..LETTER
        },
        Letter { payload: b"d", kind: "reject", reason: "no such word", ..LETTER },
    ];
    letters.iter().for_each(|letter| drop(letter.write(&redis, STREAM)));

    lists(&redis, &[], &["a", "b", "c", "d"]);
    lists(&redis, &["chat"], &["b"]);
    lists(&redis, &["--channel", "chat", "--channel", "orders"], &["a", "b", "c", "d"]);
    lists(&redis, &["--handler", "price"], &["a", "b", "d"]);
    lists(&redis, &["--kind", "too_large", "--kind", "reject"], &["c", "d"]);
    lists(&redis, &["--reason", "such"], &["d"]);
    lists(&redis, &["--since", "2026-01-01T01:00:00Z"], &["b", "c"]);
    lists(&redis, &["--until", "2026-01-01 01:00:00"], &["a", "d"]);
    lists(&redis, &["--since", "2026-01-01", "--until", "2026-01-01T00:00:00.001Z"], &["a", "d"]);
    lists(&redis, &["--until", "1s"], &["a", "b", "c", "d"]);
    lists(&redis, &["--since", "1s"], &[]);
    lists(&redis, &["--limit", "2"], &["a", "b"]);
    lists(&redis, &["--kind", "trap", "--handler", "price", "--limit", "1"], &["a"]);

    let table = of_orders(&redis, &["list"]).expect(0);
    assert!(table.stderr.contains("4 dead letters"), "{}", table.stderr);
    let text = table.text();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let heads = ["ID", "TIME", "CHANNEL", "HANDLER", "KIND", "TRIES", "SIZE", "PAYLOAD"];
    assert_eq!(lines[0], heads);
    assert_eq!(lines[2][1..], ["2026-01-01T01:00:00Z", "chat", "price", "trap", "4", "1", "b"]);
    assert_eq!(lines[3][1..], ["2026-01-01T02:00:00Z", "orders", "-", "too_large", "4", "1", "c"]);
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_list_of_nothing_is_empty() {
    let redis = Redis::start();
    let output = of_orders(&redis, &["list"]).expect(0);
    assert_eq!(output.text(), "");
    assert!(output.stderr.contains("there are no dead letters"), "{}", output.stderr);
    LETTER.write(&redis, STREAM);
    let output = of_orders(&redis, &["list", "--kind", "reject"]).expect(0);
    assert!(output.stderr.contains("no dead letters of this kind"), "{}", output.stderr);
    let replayed = of_orders(&redis, &["replay", "--kind", "reject"]).expect(0);
    assert_eq!(replayed.text(), "sent no dead letters\n");
}

#[test]
fn a_long_list_is_read_in_pages() {
    let redis = Redis::start();
    let numbers: Vec<String> = (0..1200).map(|n| n.to_string()).collect();
    for number in &numbers {
        Letter { payload: number.as_bytes(), ..LETTER }.write(&redis, STREAM);
    }
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    lists(&redis, &[], &numbers);
    lists(&redis, &["--limit", "777"], &numbers[..777]);
    let sent = of_orders(&redis, &["replay", "--all"]).expect(0);
    assert_eq!(sent.text(), "sent 1200 dead letters to stream orders\n");
    let replayed = entries(&redis, "orders");
    let expected: Vec<_> = numbers.iter().map(|n| pairs(&[("payload", n.as_bytes())])).collect();
    assert_eq!(replayed, expected);
    assert_eq!(length(&redis, STREAM), 0);
}

#[test]
fn what_is_shown_can_not_forge_a_line_and_raw_bytes_are_exact() {
    let redis = Redis::start();
    let binary = [&noise(7, 5000)[..], b"\n\x1b[2J\0"].concat();
    let headers: &[(&[u8], &[u8])] =
        &[(b"payload", b"no"), (b"twice", b"1"), (b"twice", b"\xff"), (b"handlerd-time", b"x")];
    let letter = Letter {
        payload: &binary,
        reason: "first\nsecond",
        payload_field: Some("body"),
        headers,
        ..LETTER
    };
    let id = letter.write(&redis, STREAM);

    let raw = of_orders(&redis, &["show", &id, "--raw"]).expect(0);
    assert!(raw.stdout == binary, "the payload's bytes are exact");

    let text = of_orders(&redis, &["show", &id]).expect(0).text();
    for line in [
        format!("id        {id} in orders.dead"),
        "time      2026-01-01T00:00:00Z".to_owned(),
        "channel   orders".to_owned(),
        "from      stream orders, entry 5-1, payload in field body".to_owned(),
        "handler   price".to_owned(),
        "kind      trap".to_owned(),
        "reason    first\\nsecond".to_owned(),
        "attempts  4".to_owned(),
        "header    payload: no".to_owned(),
        "header    twice: 1".to_owned(),
        "header    twice: \\xff".to_owned(),
        "header    handlerd-time: x".to_owned(),
        "size      5006 bytes".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }
    assert_eq!(text.lines().count(), 14);
    let listed = of_orders(&redis, &["list"]).expect(0).text();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    for shown in [&text, &listed] {
        assert!(!shown.contains(['\x1b', '\0']), "{shown:?}");
    }

    let json = of_orders(&redis, &["show", &id, "--json"]).expect(0).text();
    let json: Json = serde_json::from_str(&json).expect("JSON");
    let hex: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = json!({
        "id": id, "stream": STREAM, "time": "2026-01-01T00:00:00Z", "time_ms": NEW_YEAR,
        "channel": "orders", "redis_channel": "orders", "redis_id": "5-1", "payload_field": "body",
        "handler": "price", "kind": "trap", "reason": "first\nsecond", "attempts": 4,
        "headers": [["payload", "no"], ["twice", "1"], ["twice", { "hex": "ff" }],
                    ["handlerd-time", "x"]],
        "size": 5006, "payload_hex": hex,
    });
    assert_eq!(json, expected);
}

#[test]
fn letters_are_removed_when_it_is_said_which() {
    let redis = Redis::start();
    let ids: Vec<String> = ["trap", "reject", "reject", "retry"]
        .iter()
        .map(|kind| Letter { kind, payload: kind.as_bytes(), ..LETTER }.write(&redis, STREAM))
        .collect();
    let unsure = of_orders(&redis, &["delete", "--kind", "reject"]).expect(64);
    assert!(unsure.stderr.contains("--yes"), "{}", unsure.stderr);
    let dry = of_orders(&redis, &["delete", "--kind", "reject", "--dry-run"]).expect(0).text();
    assert!(dry.contains(&ids[1]) && dry.contains(&ids[2]) && !dry.contains(&ids[0]), "{dry}");
    assert!(dry.ends_with("would remove 2 dead letters\n"), "{dry}");
    of_orders(&redis, &["delete", &ids[0], "9-9"]).expect(66);
    of_orders(&redis, &["delete", &ids[0], "--kind", "reject"]).expect(64);
    lists(&redis, &[], &["trap", "reject", "reject", "retry"]);

    let removed = of_orders(&redis, &["delete", "--kind", "reject", "--yes"]).expect(0);
    assert_eq!(removed.text(), "removed 2 dead letters\n");
    lists(&redis, &[], &["trap", "retry"]);
    of_orders(&redis, &["delete", &ids[0]]).expect(0);
    lists(&redis, &[], &["retry"]);
    of_orders(&redis, &["delete", "--yes"]).expect(0);
    lists(&redis, &[], &[]);
}

#[test]
fn on_a_terminal_it_is_asked() {
    let redis = Redis::start();
    let url = redis.url();
    // `script` gives it a terminal.
    let on_a_terminal = |arguments: &str, answer: &str| {
        let program = env!("CARGO_BIN_EXE_handlerd");
        let line = format!("{program} dead {arguments} --stream {STREAM} --url {url}");
        let mut running = Run::program("script", &["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .interactive()
            .spawn();
        if !answer.is_empty() {
            running.wait_stdout("[y/N]");
            running.type_in(answer);
        }
        running.wait()
    };
    for kind in ["trap", "reject"] {
        Letter { kind, payload: kind.as_bytes(), ..LETTER }.write(&redis, STREAM);
    }
    let no = on_a_terminal("delete", "\n").expect(1).text();
    assert!(no.contains("remove 2 dead letters for good?"), "{no}");
    lists(&redis, &[], &["trap", "reject"]);
    let yes = on_a_terminal("delete --kind trap", "y\n").expect(0).text();
    assert!(yes.contains("removed 1 dead letter"), "{yes}");
    lists(&redis, &[], &["reject"]);
    let replayed = on_a_terminal("replay --all", "").expect(0).text();
    assert!(replayed.contains("sent 1 dead letter to stream orders"), "{replayed}");
    assert!(replayed.contains("looked at"), "there is a progress bar: {replayed:?}");
}

#[test]
fn what_is_no_dead_letter_is_told_and_left_alone() {
    let redis = Redis::start();
    let id: String = redis.run(&["XADD", STREAM, "*", "order", "7"]);
    LETTER.write(&redis, STREAM);
    let listed = of_orders(&redis, &["list"]).expect(0);
    let sentence =
        format!("entry {id} of {STREAM} is no dead letter: its first field is \"order\"");
    assert!(listed.stderr.contains(&sentence), "{}", listed.stderr);
    assert!(listed.text().contains("hello"), "{}", listed.text());
    for verb in ["show", "replay", "delete"] {
        let output = of_orders(&redis, &[verb, &id]).expect(65);
        assert!(output.stderr.contains(&sentence), "{verb}: {}", output.stderr);
    }
    of_orders(&redis, &["replay", "--all"]).expect(0);
    of_orders(&redis, &["delete", "--yes"]).expect(0);
    assert_eq!(entries(&redis, STREAM), [pairs(&[("order", b"7")])]);
    for _ in 0..5 {
        redis.run::<String>(&["XADD", STREAM, "*", "order", "8"]);
    }
    let listed = of_orders(&redis, &["list"]).expect(0);
    assert!(listed.stderr.contains("3 more entries are no dead letters"), "{}", listed.stderr);
}

#[test]
fn several_streams_are_read_one_after_the_other() {
    let redis = Redis::start();
    let shared = LETTER.write(&redis, "a.dead");
    let streams = ["--stream", "a.dead", "--stream", "b.dead"];
    dead(&redis, &[&["show", &shared], &streams[..]].concat()).expect(0);
    Letter { payload: b"of b", ..LETTER }.write(&redis, "b.dead");
    let text = dead(&redis, &[&["list"], &streams[..]].concat()).expect(0).text();
    let places = ["a.dead", "hello", "b.dead", "of b"].map(|words| text.find(words));
    assert!(places.is_sorted() && places[0].is_some(), "{text}");
    redis.run::<String>(&["XADD", "c.dead", &shared, "order", "7"]);
    let both = ["replay", &shared, "--stream", "a.dead", "--stream", "c.dead"];
    let output = dead(&redis, &both).expect(64);
    assert!(output.stderr.contains("in several streams"), "{}", output.stderr);
}

#[test]
fn a_key_that_is_no_stream_gives_a_sentence() {
    let redis = Redis::start();
    redis.run::<()>(&["RPUSH", "jobs", "1"]);
    for arguments in [
        &["list", "--stream", "jobs"] as &[&str],
        &["show", "1-1", "--stream", "jobs"],
        &["replay", "--all", "--stream", "jobs"],
        &["replay", "1-1", "--stream", "jobs"],
        &["delete", "--yes", "--stream", "jobs"],
    ] {
        let output = dead(&redis, arguments).expect(65);
        assert!(output.stderr.contains("\"jobs\" is not a stream"), "{}", output.stderr);
    }
    // As the place to replay to, it costs nothing.
    LETTER.write(&redis, STREAM);
    let output = of_orders(&redis, &["replay", "--all", "--to-stream", "jobs"]).expect(69);
    assert!(output.stderr.contains("XADD \"jobs\" was refused: WRONGTYPE"), "{}", output.stderr);
    assert!(output.stderr.contains("1 dead letter stays"), "{}", output.stderr);
    assert_eq!((length(&redis, STREAM), redis.run::<u64>(&["LLEN", "jobs"])), (1, 1));
}

#[test]
fn a_command_line_that_makes_no_sense_is_usage() {
    let redis = Redis::start();
    for (arguments, said) in [
        (&["list"] as &[&str], "--stream KEY"),
        (&["list", "--stream", "x", "--since", "yesterday"], "2026-01-31"),
        (&["list", "--stream", "x", "--limit", "0"], "1.."),
        (&["show", "--stream", "x"], "ID"),
        (&["show", "seven", "--stream", "x"], "1526919030474-55"),
        (&["replay", "--stream", "x"], "--all"),
        (&["replay", "1-1", "--stream", "x", "--all"], "ids and filters"),
        (&["replay", "--stream", "x", "--all", "--to-stream", "a", "--to-channel", "b"], "--to-"),
    ] {
        let output = dead(&redis, arguments).expect(64);
        assert!(output.stderr.contains(said), "{arguments:?}: {}", output.stderr);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let without = Run::new(&["dead", "list", "--stream", "x"]).dir(folder.path()).output();
    assert!(without.expect(78).stderr.contains("there is no configuration"));
    for (config, arguments, code, said) in [
        ("[redis]\nurl = \"embedded\"\n", &["--stream", "x"] as &[&str], 78, "by --url"),
        ("[channels.chat]\npublish = \"x\"\n", &["chta"], 64, "did you mean \"chat\"?"),
        ("[channels.chat]\npublish = \"x\"\n", &["chat"], 64, "no dead letters for channel chat"),
        ("[channels.chat]\npublish = \"x\"\n", &[], 64, "no channel that keeps dead letters"),
    ] {
        std::fs::write(folder.path().join("config.toml"), config).expect("a config is written");
        let all = [&["dead", "list"], arguments].concat();
        let output = Run::new(&all).dir(folder.path()).output().expect(code);
        assert!(output.stderr.contains(said), "{arguments:?}: {}", output.stderr);
    }
    for verb in ["list", "show", "replay", "delete"] {
        let help = dead(&redis, &[verb, "--help"]).expect(0).text();
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}

#[test]
fn a_redis_that_stops_answering_is_given_up() {
    // Bounded by the client's limits, not by the patience of the test.
    let redis = Redis::start();
    LETTER.write(&redis, STREAM);
    redis.freeze();
    let started = std::time::Instant::now();
    let output = of_orders(&redis, &["list"]).expect(69);
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert!(output.stderr.contains("no answer"), "{}", output.stderr);
    redis.thaw();
}

#[test]
fn the_dead_letters_of_a_channel_are_found_by_its_name() {
    let redis = Redis::start();
    let url = redis.url();
    let config = r#"
        [channels.orders]
        stream = "orders"
        group = "billing"
        start = "oldest"
        handlers = ["misbehave"]
        append = "orders.done"

        [channels.refunds]
        stream = "refunds"
        group = "billing"
        start = "oldest"
        append = "refunds.done"
        dead_letter = "refunds.failed"

        [channels.chat]
        publish = "chat.out"
    "#;
    let daemon = support::Handlerd::start(&redis, config);
    for payload in ["echo fine", "reject no way"] {
        redis.run::<String>(&["XADD", "orders", "*", "payload", payload]);
    }
    redis.run::<String>(&["XADD", "refunds", "*", "other", "field"]);
    support::wait_until("the dead letters", || {
        length(&redis, "orders.dead") == 1 && length(&redis, "refunds.failed") == 1
    });
    let file = daemon.dir().join("config.toml").display().to_string();
    assert!(std::fs::read_to_string(&file).expect("the config").contains(&url));
    let list = |names: &[&str]| {
        let all = [&["dead", "list", "--json", "--config", &file], names].concat();
        Run::new(&all).output()
    };
    let found = |names: &[&str]| -> Vec<(String, String, String)> {
        let text = list(names).expect(0).text();
        let lines = text.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
        let word = |line: &Json, key: &str| line[key].as_str().expect("text").to_owned();
        let of = |line: Json| (word(&line, "stream"), word(&line, "channel"), word(&line, "kind"));
        lines.map(of).collect()
    };
    let words = |stream: &str, channel: &str, kind: &str| {
        (stream.to_owned(), channel.to_owned(), kind.to_owned())
    };
    let orders = words("orders.dead", "orders", "reject");
    let refunds = words("refunds.failed", "refunds", "no_payload");
    assert_eq!(found(&["orders"]), std::slice::from_ref(&orders));
    assert_eq!(found(&["refunds"]), std::slice::from_ref(&refunds));
    assert_eq!(found(&[]), [orders, refunds]);
    let none = list(&["chat"]).expect(64).stderr;
    assert!(none.contains("no dead letters for channel chat"), "{none}");
    let typo = list(&["oders"]).expect(64).stderr;
    assert!(typo.contains("did you mean \"orders\"?"), "{typo}");
}
