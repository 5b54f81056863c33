//! The embedded broker as its clients see it: redis-cli, redis-py and node-redis, beside a real Redis
//! wherever both can be asked; bytes that are none; clients that don't read; many of them.
//!
//! Where it listens, and who finds it there: `tests/embedded_place.rs`. What it keeps and does at most:
//! `tests/embedded_limits.rs`.

mod support;

use std::io::{Read, Write};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::embedded::{Raw, answers, broker};
use support::{Redis, Run, plugins, wait_until};

#[test]
fn redis_cli_publishes_and_a_message_comes_out_of_the_chain() {
    let (_daemon, port) = broker();
    let port = port.to_string();
    let cli = |args: &[&str]| Run::program("redis-cli", &[&["-p", &port], args].concat());
    let old = cli(&["subscribe", "chat.out"]).interactive().spawn();
    let new = cli(&["-3", "psubscribe", "chat.*"]).interactive().spawn();
    old.wait_stdout("subscribe\nchat.out\n1\n");
    new.wait_stdout("psubscribe\nchat.*\n1\n");
    assert_eq!(cli(&["publish", "chat", "hello"]).output().expect(0).text(), "1\n");
    let message = "Received message 'hello' from channel 'chat'\n";
    old.wait_stdout(&format!("message\nchat.out\n{message}"));
    new.wait_stdout(&format!("pmessage\nchat.*\nchat.out\n{message}"));

    // Its prompt asks for the commands' texts at first; a pipe of commands is `--pipe`'s.
    let typed = cli(&[]).input("ping\nclient setname me\nclient getname\nget x\n").output();
    let typed = typed.expect(0).text();
    assert!(typed.starts_with("PONG\nOK\nme\n"), "{typed}");
    assert!(typed.contains("ERR unknown command 'get': this is handlerd's embedded"), "{typed}");
    let pipe = "PUBLISH nobody a\r\n".repeat(10_000);
    let piped = cli(&["--pipe"]).input(pipe).output().expect(0).text();
    assert!(piped.contains("errors: 0, replies: 10000"), "{piped}");
    let info = cli(&["info", "server"]).output().expect(0).text();
    assert!(info.contains("handlerd_version:") && info.contains(&format!("tcp_port:{port}")));
}

#[test]
fn redis_py_and_node_redis_see_no_difference_to_a_redis() {
    let (_daemon, port) = broker();
    let redis = Redis::start();
    let programs = plugins::root().join("tests/embedded");
    // tests/run keeps what it has installed beside it.
    let read = |name: &str| std::fs::read(programs.join(name)).ok();
    let has_node = read("node_modules/installed.json") == read("package.json")
        && Command::new("node").arg("--version").output().is_ok();
    for url in [redis.url(), format!("redis://127.0.0.1:{port}")] {
        for protocol in ["2", "3"] {
            let python = Run::python("../embedded/client.py", &[&url, protocol]);
            assert_eq!(python.output().expect(0).text(), "ok\n");
            if has_node {
                let program = programs.join("client.mjs");
                let program = program.to_str().expect("a path in UTF-8");
                let node = Run::program("node", &[program, &url, protocol]).output().expect(0);
                assert_eq!(node.text(), "ok\n");
            }
        }
    }
    if !has_node {
        eprintln!("skipped: node-redis, which tests/run installs where node and npm are");
    }
}

/// What both must answer alike, byte for byte.
const ALIKE: &[&str] = &[
    "PING\r\n",
    "ping hello\r\n*2\r\n$4\r\nPING\r\n$3\r\na\r\n\r\n",
    "PING a b\r\n",
    "  echo  \"a b\\x41\\n\"  \r\n\r\n*0\r\n*-1\r\nECHO 'it\\'s'\r\n",
    "ECHO\r\nECHO a b\r\n",
    "PUBLISH a\r\nPUBLISH nobody b\r\n",
    "SUBSCRIBE\r\nPSUBSCRIBE\r\n",
    "SUBSCRIBE a a b\r\nUNSUBSCRIBE b\r\nUNSUBSCRIBE c\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE\r\nPING\r\n",
    "PSUBSCRIBE a* b*\r\nPUNSUBSCRIBE x\r\nPUNSUBSCRIBE\r\nPUNSUBSCRIBE\r\nPING\r\n",
    "SUBSCRIBE a\r\nPING\r\nPING x\r\nECHO x\r\nPUBLISH a b\r\nQUIT\r\n",
    "SUBSCRIBE a\r\nRESET\r\nPING\r\n",
    "HELLO 3 \r\nSUBSCRIBE a\r\nPSUBSCRIBE b\r\nPING\r\nPUNSUBSCRIBE\r\nUNSUBSCRIBE\r\n",
    "SUBSCRIBE {a}\r\nPSUBSCRIBE {*\r\n",
    "PUBSUB NUMSUB x y\r\nPUBSUB NUMSUB\r\nPUBSUB CHANNELS nothing*\r\n",
    "SELECT 0\r\nSELECT 99\r\n",
    "SELECT 00\r\nSELECT +0\r\nSELECT -1\r\nSELECT x\r\n",
    "AUTH any\r\nAUTH default any\r\nAUTH me any\r\nHELLO 2 AUTH me any\r\nPING\r\n",
    "AUTH\r\nAUTH a b c\r\nHELLO 3 AUTH x\r\n",
    "HELLO 4\r\nHELLO 1\r\nHELLO -1\r\nHELLO 3 FROBNICATE\r\nPING\r\n",
    "HELLO x\r\nHELLO 02\r\nHELLO 99999999999999999999\r\nHELLO x AUTH y\r\nPING\r\n",
    "CLIENT GETNAME\r\nCLIENT SETNAME me\r\nCLIENT GETNAME\r\nCLIENT SETNAME \"a b\"\r\n",
    "CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nPING a\r\nCLIENT REPLY SKIP\r\nPING b\r\nPING c\r\n",
    "CLIENT REPLY SKIP\r\nSUBSCRIBE a\r\nPING\r\n",
    "CLIENT KILL 1.2.3.4:5\r\nCLIENT KILL ID 0\r\nCLIENT KILL ADDR 1.2.3.4:5\r\nCLIENT LIST ID x\r\n",
    "CLIENT KILL TYPE replica\r\nCLIENT KILL TYPE MASTER SKIPME no\r\nCLIENT KILL TYPE slave\r\n",
    "CLIENT KILL TYPE x\r\nCLIENT LIST TYPE x\r\nCLIENT LIST TYPE\r\nCLIENT KILL ID 01\r\n",
    "CLIENT KILL USER nobody\r\nCLIENT KILL USER DEFAULT\r\nCLIENT KILL USER default TYPE replica\r\n",
    "CLIENT KILL USER default ADDR 1.2.3.4:5\r\nCLIENT KILL SKIPME x\r\n",
    "QUIT\r\nPING\r\n",
    "*1\r\n$4\r\nPING\r\n*1\r\n:1\r\n",
    "*x\r\n",
    "*99999999999\r\n",
    "*1\r\n$-1\r\n",
    "*1\r\n$x\r\n",
    "*2\r\n$4\r\nECHO\r\nx\r\n",
    "ping \"a\r\n",
    "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nPUBLISH chat evil\r\n",
    "host: x\r\nPING\r\n",
    "*1\r\n$4\r\nPI",
];

#[test]
fn it_answers_as_a_redis_does_byte_for_byte() {
    let (_daemon, port) = broker();
    let redis = Redis::start();
    let mut differences = Vec::new();
    for bytes in ALIKE {
        // What HELLO tells is its own, and so is the hint behind an unknown command.
        let comparable = |answer: String| -> String {
            let maps = answer.split("%7\r\n").enumerate().map(|(n, part)| match part {
                own if n > 0 => own.split_once("modules\r\n*0\r\n").map_or("", |(_, rest)| rest),
                part => part,
            });
            let lines = maps.collect::<String>();
            let lines =
                lines.split("\r\n").map(|line| match line.split_once("unknown command '") {
                    Some((start, _)) => start.to_owned() + "unknown",
                    None => line.to_owned(),
                });
            lines.collect::<Vec<_>>().join("\r\n")
        };
        let expected = comparable(answers(redis.port(), bytes.as_bytes()));
        let answer = comparable(answers(port, bytes.as_bytes()));
        if answer != expected {
            differences.push(format!("{bytes:?}\n  Redis: {expected:?}\n  here:  {answer:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn hello_is_a_map_and_names_the_server() {
    let (_daemon, port) = broker();
    let hello = answers(port, b"HELLO 3 SETNAME me\r\nCLIENT GETNAME\r\n");
    assert!(hello.starts_with("%7\r\n$6\r\nserver\r\n$8\r\nhandlerd\r\n"), "{hello}");
    assert!(hello.contains("$5\r\nproto\r\n:3\r\n"), "{hello}");
    assert!(hello.ends_with("$2\r\nme\r\n"), "{hello}");
    let hello = answers(port, b"HELLO\r\n");
    assert!(hello.starts_with("*14\r\n$6\r\nserver\r\n"), "{hello}");
    let count = answers(port, b"COMMAND COUNT\r\nCOMMAND DOCS\r\nCOMMAND INFO publish x\r\n");
    assert!(
        count.ends_with("*0\r\n*2\r\n*6\r\n$7\r\npublish\r\n:3\r\n*0\r\n:0\r\n:0\r\n:0\r\n$-1\r\n")
    );
}

#[test]
fn a_publisher_gets_its_own_message_behind_the_answer() {
    // So since Redis 7.2; before, in front of it.
    let (_daemon, port) = broker();
    let all = answers(port, b"HELLO 3\r\nSUBSCRIBE a\r\nPUBLISH a x\r\nPING\r\n");
    assert!(all.ends_with(":1\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n+PONG\r\n"));
}

#[test]
fn half_frames_wait_for_their_other_half() {
    let (_daemon, port) = broker();
    let mut raw = Raw::connect(port);
    let mut other = Raw::connect(port);
    for byte in b"*2\r\n$4\r\nECHO\r\n$5\r\nhe\r\no\r\n" {
        // Others are served meanwhile.
        other.ask("PING\r\n", "+PONG\r\n");
        raw.send([*byte]);
    }
    raw.expect("$5\r\nhe\r\no\r\n");
    // The largest argument, in two halves.
    let half = vec![b'x'; 8 << 20];
    raw.send("*2\r\n$4\r\nECHO\r\n$16777216\r\n");
    raw.send(&half);
    other.ask("PING\r\n", "+PONG\r\n");
    raw.send(&half);
    raw.send("\r\n");
    raw.expect([&b"$16777216\r\n"[..], &half, &half, b"\r\n"].concat());
    raw.send("*2\r\n$4\r\nECHO\r\n$16777217\r\n");
    assert_eq!(raw.rest(), "-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let (mut daemon, port) = broker();
    let mut other = Raw::connect(port);
    for seed in 0..200 {
        let mut noise = support::noise(seed, 2000);
        if seed % 2 == 0 {
            noise.splice(..0, *b"*3\r\n$7\r\nPUBLISH\r\n$4\r\n");
        }
        answers(port, &noise);
        other.ask("PING\r\n", "+PONG\r\n");
    }
    assert!(answers(port, &[b'a'; 70_000]).contains("-ERR Protocol error: too big inline request"));
    let deep = b"*1\r\n".repeat(50_000);
    assert_eq!(answers(port, &deep), "-ERR Protocol error: expected '$', got '*'\r\n");
    other.ask("PING\r\n", "+PONG\r\n");
    assert!(daemon.runs());
    assert_eq!(daemon.stop().number("lost"), 0);
}

#[test]
fn announcing_much_takes_no_memory() {
    let (daemon, port) = broker();
    // What is reserved and not yet used counts, too.
    let before = daemon.reserved();
    let mut clients: Vec<Raw> = (0..100).map(|_| Raw::connect(port)).collect();
    for raw in &mut clients {
        // In one piece: what is behind the PING has been read with it.
        raw.ask("PING\r\n*65536\r\n$16777216\r\nx", "+PONG\r\n");
    }
    Raw::connect(port).ask("PING\r\n", "+PONG\r\n");
    let taken = daemon.reserved().saturating_sub(before);
    assert!(taken < 64 << 20, "{taken} bytes");
}

#[test]
fn pipelined_messages_stay_in_order() {
    const COUNT: usize = 100_000;
    let (_daemon, port) = broker();
    let mut subscriber = Raw::connect(port);
    subscriber.ask("SUBSCRIBE n\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\nn\r\n:1\r\n");
    let mut publisher = Raw::connect(port);
    let mut reader = publisher.stream.try_clone().expect("a second handle");
    let answered = std::thread::spawn(move || {
        let mut answers = vec![0; 4 * COUNT];
        reader.read_exact(&mut answers).expect("every answer");
        assert!(answers == b":1\r\n".repeat(COUNT));
    });
    let numbers = std::thread::spawn(move || {
        for chunk in (0..COUNT).collect::<Vec<_>>().chunks(1000) {
            let commands: String = chunk.iter().map(|n| format!("PUBLISH n {n:06}\r\n")).collect();
            publisher.send(commands);
        }
        publisher
    });
    for n in 0..COUNT {
        subscriber.expect(format!("*3\r\n$7\r\nmessage\r\n$1\r\nn\r\n$6\r\n{n:06}\r\n"));
    }
    numbers.join().expect("all are sent");
    answered.join().expect("all are answered");
}

#[test]
fn a_thousand_clients() {
    const CLIENTS: usize = 1000;
    // It asks for the files that it needs by itself.
    let (daemon, port) = broker();
    // This test has a file for each of them, too.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("more open files");
    let before = daemon.rss();
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::connect(port)).collect();
    for (n, raw) in clients.iter_mut().enumerate() {
        if n % 2 == 0 {
            raw.ask("SUBSCRIBE all\r\n", "*3\r\n$9\r\nsubscribe\r\n$3\r\nall\r\n:1\r\n");
        } else {
            raw.ask("PSUBSCRIBE al?\r\n", "*3\r\n$10\r\npsubscribe\r\n$3\r\nal?\r\n:1\r\n");
        }
    }
    // A payload that all of them share.
    let payload = "x".repeat(100_000);
    let mut publisher = Raw::connect(port);
    publisher
        .ask(format!("*3\r\n$7\r\nPUBLISH\r\n$3\r\nall\r\n$100000\r\n{payload}\r\n"), ":1000\r\n");
    for (n, raw) in clients.iter_mut().enumerate() {
        if n % 2 == 0 {
            raw.expect(format!("*3\r\n$7\r\nmessage\r\n$3\r\nall\r\n$100000\r\n{payload}\r\n"));
        } else {
            let head = "*4\r\n$8\r\npmessage\r\n$3\r\nal?\r\n";
            raw.expect(format!("{head}$3\r\nall\r\n$100000\r\n{payload}\r\n"));
        }
    }
    let list = Run::program("redis-cli", &["-p", &port.to_string(), "client", "list"]).output();
    assert!(list.expect(0).text().lines().count() > CLIENTS);
    let taken = daemon.rss().saturating_sub(before);
    assert!(taken < 64 << 20, "{taken} bytes");
    drop(clients);
    wait_until("all of them to be forgotten", || {
        publisher.send("PUBSUB NUMSUB all\r\n");
        let mut answer = [0; 24];
        let length = publisher.stream.read(&mut answer).expect("an answer");
        answer[..length].ends_with(b":0\r\n")
    });
}

#[test]
fn who_does_not_read_is_cut_off_and_nobody_waits_for_it() {
    let (mut daemon, port) = broker();
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$1\r\ns\r\n:1\r\n";
    let mut slow: Vec<Raw> = (0..5).map(|_| Raw::connect(port)).collect();
    slow.iter_mut().for_each(|raw| raw.ask("SUBSCRIBE s\r\n", confirmed));
    let mut reader = Raw::connect(port);
    reader.ask("SUBSCRIBE s\r\n", confirmed);
    let before = daemon.rss();

    // 200 MiB, which the reader gets all of.
    let payload = "x".repeat(1 << 20);
    let message = format!("$1\r\ns\r\n$1048576\r\n{payload}\r\n");
    let mut publisher = Raw::connect(port);
    let mut receivers = Vec::new();
    for _ in 0..200 {
        publisher.send(format!("*3\r\n$7\r\nPUBLISH\r\n{message}"));
        let mut answer = [0; 4];
        publisher.stream.read_exact(&mut answer).expect("an answer");
        receivers.push(answer[1] - b'0');
        reader.expect(format!("*3\r\n$7\r\nmessage\r\n{message}"));
    }
    assert_eq!((receivers[0], receivers[199]), (6, 1));
    let cut_off = || daemon.log_lines(&["was cut off", "32 MiB waited for it"]).len();
    wait_until("all five to be named", || cut_off() >= 5);
    assert_eq!(cut_off(), 5);
    // They share what waited for them, and the daemon's own buffers are there, too.
    let taken = daemon.peak_rss().saturating_sub(before);
    assert!(taken < 128 << 20, "{taken} bytes");

    // Answers that nobody reads count as well.
    let mut raw = Raw::connect(port);
    let command = format!("*2\r\n$4\r\nECHO\r\n$1048576\r\n{payload}\r\n");
    let cut_off = (0..200).any(|_| raw.stream.write_all(command.as_bytes()).is_err());
    assert!(cut_off);
    wait_until("it to be cut off", || daemon.log_lines(&["was cut off"]).len() == 6);
    publisher.ask("PING\r\n", "+PONG\r\n");
    assert!(daemon.runs());
}

#[test]
fn what_waits_is_written_before_the_end() {
    let (mut daemon, port) = broker();
    let mut listener = Raw::connect(port);
    listener.ask("SUBSCRIBE chat.out\r\n", "*3\r\n$9\r\nsubscribe\r\n$8\r\nchat.out\r\n:1\r\n");
    let mut publisher = Raw::connect(port);
    publisher.ask("PUBLISH chat last\r\n".repeat(1000), ":1\r\n".repeat(1000));
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("delivered"), stopped.number("lost")), (0, 1000, 0));
    assert_eq!(listener.rest().matches("Received message 'last'").count(), 1000);
    assert!(stopped.log.iter().all(|line| !line.contains("ERROR")), "{:?}", stopped.log);
}
