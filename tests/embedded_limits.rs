//! What one client of the embedded broker, or all of them, can make it do and keep: it shares the
//! daemon's processors and memory.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use support::embedded::{Raw, answers, broker};
use support::handlerd::folder_with;
use support::{Run, wait_until};

/// A command as clients send it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// How many subscriptions are confirmed before the answer to a PING, and the error among them.
fn confirmed(raw: &Raw) -> (usize, String) {
    let mut lines = BufReader::new(&raw.stream).lines().map(|line| line.expect("a line"));
    let (mut confirmed, mut refusal) = (0, String::new());
    for line in lines.by_ref().take_while(|line| line != "+PONG") {
        confirmed += usize::from(line == ">3");
        if line.starts_with('-') {
            refusal = line;
        }
    }
    (confirmed, refusal)
}

#[test]
fn thousands_of_long_patterns_and_names_hold_nobody_up() {
    let (mut daemon, port) = broker();
    let mut other = Raw::connect(port);
    // As many as fit into one command, each of what takes longest to be read.
    let patterns: Vec<Vec<u8>> =
        (0..7000).map(|n| [format!("{n:04}").as_bytes(), &b"[^a]".repeat(1023)].concat()).collect();
    let words: Vec<&[u8]> = patterns.iter().map(Vec::as_slice).collect();
    let mut subscriber = Raw::connect(port);
    subscriber.send(command(&[&[&b"PSUBSCRIBE"[..]][..], &words].concat()));
    other.ask("PING\r\n", "+PONG\r\n");
    // Those that take longest to be found out not to match.
    let mut subscriber = Raw::connect(port);
    let steps = [b"*a".repeat(2047), [&b"*"[..], &b"a".repeat(2000)].concat()].map(|mut steps| {
        steps.push(b'b');
        steps
    });
    subscriber.send(command(&[b"PSUBSCRIBE", &steps[0], &steps[1]]));
    let name = [b'a'; 4096];
    let mut publisher = Raw::connect(port);
    for _ in 0..20 {
        publisher.ask(command(&[b"PUBLISH", &name, b"x"]), ":0\r\n");
        other.ask("PING\r\nPUBLISH nobody x\r\n", "+PONG\r\n:0\r\n");
    }
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0));
}

#[test]
fn long_names_are_refused() {
    let (_daemon, port) = broker();
    let (fits, long) = (vec![b'x'; 4096], vec![b'x'; 4097]);
    let (a_name, a_pattern) =
        ("-ERR a channel's name has 4097 bytes", "-ERR a pattern has 4097 bytes");
    for (words, says) in [
        (&[&b"PUBLISH"[..], &fits, b"x"][..], ":0"),
        (&[b"PUBLISH", &long, b"x"], a_name),
        (&[b"SUBSCRIBE", &fits], "*3"),
        (&[b"SUBSCRIBE", b"a", &long], a_name),
        (&[b"PSUBSCRIBE", &long], a_pattern),
        (&[b"PUBSUB", b"CHANNELS", &long], a_pattern),
    ] {
        let answer = answers(port, &command(words));
        assert!(answer.contains(says), "{says} isn't in {:.200}", answer);
    }
}

#[test]
fn subscriptions_are_bounded_for_each_client_and_for_all() {
    let (mut daemon, port) = broker();
    let names = |start: usize| -> Vec<u8> {
        let names: Vec<Vec<u8>> =
            (start..start + 2000).map(|n| format!("{n:04000}").into_bytes()).collect();
        let words: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        command(&[&[&b"SUBSCRIBE"[..]][..], &words].concat())
    };
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::connect(port)).collect();
    let mut subscribed = 0;
    for (n, raw) in clients.iter_mut().enumerate() {
        raw.send("HELLO 3\r\n");
        raw.send(names(n * 10_000));
        raw.send("PING\r\n");
        let (confirmed, refusal) = confirmed(raw);
        let whose = if n < 2 { "a client of" } else { "all clients of" };
        assert!(refusal.contains(whose), "{n}: {confirmed} confirmed, {refusal}");
        subscribed += confirmed;
    }
    // 16 MiB, with what is kept beside the names.
    assert!((3000..4200).contains(&subscribed), "{subscribed}");
    let head = answers(port, b"PUBSUB CHANNELS *\r\n");
    assert!(head.starts_with(&format!("*{}\r\n", subscribed + 1)), "{head:.100}");
    // What is given up is there for others.
    let subscribe = command(&[b"SUBSCRIBE", &[b'x'; 4096]]);
    assert!(answers(port, &subscribe).starts_with("-ERR too many subscriptions"));
    clients[0].send("UNSUBSCRIBE\r\n");
    wait_until("room", || answers(port, &subscribe).starts_with('*'));
    assert!(daemon.runs());
}

#[test]
fn all_clients_together_are_bounded_and_who_takes_most_goes() {
    let (mut daemon, port) = broker();
    let before = daemon.rss();
    // Halves of commands, 20 MB each: more than there is room for.
    let part = vec![b'x'; 10_000_000];
    let half =
        [&b"*3\r\n$7\r\nPUBLISH\r\n$10000000\r\n"[..], &part, b"\r\n$16777216\r\n", &part].concat();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(port);
        // One that is cut off may be told so half-way.
        let _ = raw.stream.write_all(&half);
        clients.push(raw);
    }
    daemon.wait_log(&["was cut off", "256 MiB"]);
    assert!(daemon.peak_rss().saturating_sub(before) < 400 << 20);
    // Whoever stays is in nobody's way.
    let mut subscriber = Raw::connect(port);
    subscriber.ask("SUBSCRIBE s\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\ns\r\n:1\r\n");
    let publish = command(&[b"PUBLISH", b"s", &part]);
    wait_until("room for a message", || answers(port, &publish) == ":1\r\n");
    drop(clients);
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn what_clients_say_of_themselves_is_short() {
    let (_daemon, port) = broker();
    let (fits, long) = (vec![b'x'; 256], vec![b'x'; 257]);
    for words in [
        &[&b"CLIENT"[..], b"SETNAME"][..],
        &[b"CLIENT", b"SETINFO", b"LIB-NAME"],
        &[b"CLIENT", b"SETINFO", b"LIB-VER"],
    ] {
        assert_eq!(answers(port, &command(&[words, &[&fits]].concat())), "+OK\r\n");
        let refused = answers(port, &command(&[words, &[&long]].concat()));
        assert!(refused.contains("cannot have more than 256 bytes"), "{refused}");
    }
    let refused = answers(port, &command(&[b"HELLO", b"3", b"SETNAME", &long]));
    assert!(refused.starts_with("-ERR Client names cannot have more"), "{refused}");
}

#[test]
fn one_client_too_many_is_told_so() {
    let port = support::redis_server::free_port();
    let (dir, _) = folder_with(&format!(
        "[redis]\nurl = \"embedded\"\nlisten = \"127.0.0.1:{port}\"\n\
         [channels.chat]\nhandlers = []\nlog = true\n"
    ));
    // All but 200 of the open files are for clients.
    let program = format!("ulimit -n 210; exec {} run", env!("CARGO_BIN_EXE_handlerd"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let daemon = Run::program("sh", &["-c", &program])
        .dir(dir.path())
        .env("XDG_CACHE_HOME", cache.to_str().expect("a path in UTF-8"))
        .spawn();
    wait_until("the broker", || daemon.stderr().contains("subscribed to 1 of 1"));
    let mut clients: Vec<Raw> = Vec::new();
    let refused = (0..20).find_map(|_| {
        let mut raw = Raw::connect(port);
        raw.send("PING\r\n");
        let line = raw.line();
        clients.push(raw);
        (line != "+PONG\r\n").then_some(line)
    });
    assert_eq!(refused.as_deref(), Some("-ERR max number of clients reached\r\n"));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait().expect(0);
}
