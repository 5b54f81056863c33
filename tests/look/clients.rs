//! Clients of the control socket that are slow, silent or many: they are in nobody's way.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;

use crate::support::{Got, Handlerd, Redis, Watcher, wait_until};
use crate::{CHANNELS, ask, objects, socket, start, tap};

fn is_cut_off(stream: &UnixStream) -> bool {
    let mut of = [PollFd::new(stream, PollFlags::RDHUP)];
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut of, Some(&at_once)).expect("a socket can be polled");
    of[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP)
}

#[test]
fn a_client_that_does_not_read_loses_slows_and_reorders_nothing_and_is_cut_off() {
    const RATE: usize = 20_000;
    const SECONDS: usize = 4;
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = start(&redis);
    let stuck = ask(&socket(&daemon), "/tap/work?rate=1000&bytes=65536");
    let looking = Instant::now();
    let reader = tap(&daemon, &["work", "--rate", "50", "--json"]);
    let pad = "x".repeat(1000);
    let sent: Vec<String> =
        (0..RATE * SECONDS).map(|n| format!("{n} {}", &pad[..n % 100 * 10])).collect();
    let mut client = redis.client();
    let start = Instant::now();
    for (chunk, payloads) in sent.chunks(RATE / 50).enumerate() {
        client.publish_all("in", payloads);
        let due = start + Duration::from_millis(20) * u32::try_from(chunk + 1).expect("few");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let got = out.wait_count(sent.len());
    let got: Vec<String> = got.iter().map(Got::text).collect();
    assert!(got == sent, "all of them, once each and in order");
    wait_until("the one that doesn't read to be cut off", || is_cut_off(&stuck));

    // The one that reads was shown some, and told of all the others.
    wait_until("all to be shown or told of", || {
        let lines = objects(whole(&reader.stdout()));
        let shown = lines.iter().filter(|line| line.get("input").is_some()).count();
        let missed: u64 = lines.iter().filter_map(|line| line["missed"].as_u64()).sum();
        let seconds = looking.elapsed().as_secs() as usize + 2;
        assert!(shown <= 50 * seconds, "{shown} shown in {seconds} s");
        shown as u64 + missed == sent.len() as u64
    });
    reader.signal(Signal::INT);
    reader.wait().expect(0);
    let stopped = daemon.stop();
    let number = |name| stopped.number(name);
    let all = sent.len() as u64;
    assert_eq!((number("received"), number("handled"), number("lost")), (all, all, 0));
}

/// As many lines as are complete.
fn whole(text: &str) -> &str {
    text.rfind('\n').map_or("", |end| &text[..end])
}

#[test]
fn those_who_do_not_ask_are_in_nobodys_way() {
    let redis = Redis::start();
    let daemon = start(&redis);
    let socket = socket(&daemon);
    let silent: Vec<_> = (0..64)
        .map(|n| {
            let mut stream = UnixStream::connect(&socket).expect("the daemon listens");
            // One may be cut off before it has said so much.
            let _ = stream.write_all(["", "GET /sta"][n % 2].as_bytes());
            stream
        })
        .collect();
    daemon.verb(&["status"]).output().expect(0);
    wait_until("they are cut off", || silent.iter().all(is_cut_off));
    // Nor does one keep its place who has been answered.
    let asked = ask(&socket, "/status");
    wait_until("it is over", || is_cut_off(&asked));
    // Who looks on asks once, and may have nothing to see for long.
    let quiet = tap(&daemon, &["chat", "--count", "1"]);
    let silent = UnixStream::connect(&socket).expect("the daemon listens");
    wait_until("one that came later is cut off", || is_cut_off(&silent));
    redis.client().publish("chat", "late");
    quiet.wait().expect(0);
}

#[test]
fn any_number_of_silent_ones_gives_way_to_who_asks_and_ends_no_tap() {
    let redis = Redis::start();
    let log = "[log]\nlevel = \"info,handlerd::clients=debug\"\n";
    let mut daemon = Handlerd::start(&redis, &format!("{CHANNELS}{log}"));
    daemon.wait_log(&["subscribed to 2 of 2 names"]);
    let socket = socket(&daemon);
    let quiet = tap(&daemon, &["chat", "--count", "1"]);
    let silent: Vec<_> =
        (0..500).map(|_| UnixStream::connect(&socket).expect("the daemon listens")).collect();
    daemon.verb(&["status"]).output().expect(0);
    // Not by their own time: that is another line.
    daemon.wait_log(&["a client of the control socket", "its place is needed"]);
    assert!(silent.iter().any(is_cut_off));
    redis.client().publish("chat", "late");
    quiet.wait().expect(0);
}

/// Come and go, so often that whoever comes now is turned away.
fn fill_queue(socket: &Path) {
    let address = SocketAddrUnix::new(socket).expect("a short path");
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let one = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        match net::connect(one.expect("a socket"), &address) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn who_asks_while_too_many_others_come_waits_for_its_turn() {
    let redis = Redis::start();
    let daemon = start(&redis);
    let socket = socket(&daemon);
    daemon.signal(Signal::STOP);
    fill_queue(&socket);
    let waited = daemon.verb(&["status"]).output().expect(69).stderr;
    assert!(waited.contains("it doesn't answer within"), "{waited}");
    daemon.signal(Signal::CONT);
    wait_until("its turn", || daemon.verb(&["status"]).output().code == 0);
}
