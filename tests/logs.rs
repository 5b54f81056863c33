//! Where the log goes, and that it holds nothing up.

mod support;

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use support::endpoints::Page;
use support::process::Process;
use support::redis_server::free_port;
use support::{Handlerd, Redis, Watcher, wait_for, wait_until};

/// A channel whose messages are logged as well as published.
fn loud(redis: &Redis, log: &str) -> String {
    format!(
        "[redis]\nurl = \"{}\"\n[log]\n{log}\n[channels.loud]\nsubscribe = \"in\"\n\
         handlers = []\npublish = \"out\"\nlog = true\n",
        redis.url()
    )
}

/// Twelve megabytes of log, in messages as long as a line shows them.
const MANY: usize = 3000;

fn publish_much(redis: &Redis) {
    let mut client = redis.client();
    for from in (0..MANY).step_by(100) {
        let payload = |n: usize| format!("{n} {}", "x".repeat(4000));
        client.publish_all("in", (from..from + 100).map(payload));
    }
}

#[track_caller]
fn end(mut daemon: Process) {
    daemon.signal(Signal::TERM);
    let ended = daemon.wait(support::handlerd::patience()).expect("it ends");
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up_and_says_later_what_is_missing() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let dir = Handlerd::folder();
    let mut command = Handlerd::command_in(dir.path(), &loud(&redis, ""), &[]);
    let mut daemon = Process::spawn(command.stderr(Stdio::piped())).expect("handlerd starts");
    let mut stderr = daemon.child().stderr.take().expect("a pipe");
    redis.wait_subscribed("in", 1);
    publish_much(&redis);
    out.wait_count(MANY);

    // Now somebody does.
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("the log is text");
        text
    });
    end(daemon);
    let text = read.join().expect("the log is read");
    let lines: Vec<&str> = text.lines().collect();
    let written = lines.iter().filter(|line| line.contains("channel=\"loud\"")).count();
    let said = lines.iter().find(|line| line.contains(" lines of the log were dropped"));
    let said = said.expect("that lines were dropped is said");
    let number = |word: &str| word.parse::<usize>().ok();
    let dropped = said.split(' ').find_map(number).expect("a number");
    assert!(dropped > MANY / 2, "{dropped} of {MANY} dropped: there was room for a third of them");
    assert_eq!(written + dropped, MANY, "{said}");
    let last = lines.last().expect("a line");
    assert!(last.contains(&format!("stopped: {MANY} received, {MANY} handled")), "{last}");
    // Each message was published; of its lines those count as delivered that were written.
    let numbers = support::handlerd::numbers(last);
    assert_eq!(numbers["delivered"], (MANY + written) as u64, "{last}");
    let lost = (MANY - written) as u64;
    assert_eq!((numbers["lost"], numbers["log_full"]), (lost, lost), "{last}");
    assert!(
        lines.iter().any(|line| line.contains("lines dropped: log_full")),
        "it is said: {last}"
    );
}

#[test]
fn lines_that_nobody_will_read_are_lost_and_seen_as_such() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let port = free_port();
    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let dir = Handlerd::folder();
    let mut command = Handlerd::command_in(dir.path(), &(loud(&redis, "") + &http), &[]);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let daemon = Process::spawn(command.stderr(full)).expect("handlerd starts");
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["one", "two", "three"]);
    out.wait_count(3);
    let dropped = [("channel", "loud"), ("reason", "log_full")];
    let page = wait_for("the lines to be counted", || {
        let page = Page::fetch(port);
        (page.value("handlerd_messages_dropped_total", &dropped) == 3.0).then_some(page)
    });
    let delivered = |output| {
        let labels = [("channel", "loud"), ("output", output)];
        page.value("handlerd_messages_delivered_total", &labels)
    };
    assert_eq!((delivered("publish"), delivered("log")), (3.0, 0.0));
    end(daemon);
}

#[test]
fn a_full_disk_ends_and_holds_up_nothing() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let dir = Handlerd::folder();
    let port = free_port();
    let config = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{}", loud(&redis, ""));
    let mut command = Handlerd::command_in(dir.path(), &config, &[]);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let daemon = Process::spawn(command.stderr(full)).expect("handlerd starts");
    redis.wait_subscribed("in", 1);
    publish_much(&redis);
    out.wait_count(MANY);
    wait_until("every line is counted", || {
        let page = Page::fetch(port);
        page.value("handlerd_log_lines_dropped_total", &[]) > MANY as f64
    });
    end(daemon);
}

#[test]
fn a_log_that_is_as_long_as_a_file_may_be_ends_nothing() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let log = tempfile::NamedTempFile::new().expect("a file");
    let script = format!("ulimit -f 64; exec \"$@\" 2>{}", log.path().display());
    let mut daemon = Handlerd::start_by(&script, Handlerd::folder(), &loud(&redis, ""), &[]);
    redis.wait_subscribed("in", 1);
    publish_much(&redis);
    out.wait_count(MANY);
    let length = log.as_file().metadata().expect("a file").len();
    assert!((1..=64 << 10).contains(&length), "{length}");
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn lines_of_json_have_every_field() {
    let redis = Redis::start();
    let config = loud(&redis, "format = \"json\"");
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config, &[]);
    redis.wait_subscribed("in", 1);
    redis.client().publish("in", "say \"no\"\n");
    daemon.wait_log(&["handlerd::output"]);
    let stopped = daemon.stop();
    let line = |line: &String| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let lines: Vec<_> = stopped.log.iter().map(line).collect();
    let output = lines.iter().find(|line| line["target"] == "handlerd::output").expect("it");
    assert_eq!(output["channel"], "loud");
    assert_eq!(output["redis_channel"], "in");
    assert_eq!(output["message"], "say \"no\"\\n");
    let last = lines.last().expect("a line");
    assert!(last["message"].as_str().is_some_and(|text| text.contains("1 received")), "{last}");
}

/// journald's end of its socket, as far as it is needed.
struct Journal {
    records: Arc<Mutex<Vec<String>>>,
    socket: Arc<UnixDatagram>,
    reader: Option<std::thread::JoinHandle<()>>,
    path: String,
    _dir: tempfile::TempDir,
}

impl Journal {
    fn start() -> Journal {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let socket = Arc::new(UnixDatagram::bind(&path).expect("a socket"));
        let records: Arc<Mutex<Vec<String>>> = Arc::default();
        let (from, to) = (socket.clone(), records.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 256 << 10];
            while let Ok(length @ 1..) = from.recv(&mut bytes) {
                let record = String::from_utf8_lossy(&bytes[..length]).into_owned();
                to.lock().expect("a lock").push(record);
            }
        });
        let path = path.display().to_string();
        Journal { records, socket, reader: Some(reader), path, _dir: dir }
    }

    /// Wait for a record with all of these lines.
    #[track_caller]
    fn wait(&self, lines: &[&str]) -> String {
        wait_for(&format!("a record with {lines:?}"), || {
            let has = |record: &String, line: &str| record.lines().any(|found| found == line);
            let records = self.records.lock().expect("a lock");
            records.iter().find(|record| lines.iter().all(|line| has(record, line))).cloned()
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// A daemon whose standard error is a stream of journald's, as systemd would start it; and what
/// comes out of that stream.
fn under_journald(redis: &Redis, journal: &str) -> (Process, tempfile::TempDir, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let stat = rustix::fs::fstat(writer.as_fd()).expect("a pipe");
    let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
    let config = format!(
        "[redis]\nurl = \"{}\"\n[channels.chat]\nhandlers = [\"misbehave\"]\npublish = \"out\"\n",
        redis.url()
    );
    let dir = Handlerd::folder();
    let environment = [("JOURNAL_STREAM", stream.as_str()), ("HANDLERD_TEST_JOURNAL", journal)];
    let mut command = Handlerd::command_in(dir.path(), &config, &environment);
    let daemon = Process::spawn(command.stderr(writer)).expect("handlerd starts");
    drop(command);
    redis.wait_subscribed("chat", 1);
    (daemon, dir, reader)
}

#[test]
fn under_systemd_lines_are_records_of_the_journal() {
    let redis = Redis::start();
    let journal = Journal::start();
    let (daemon, _dir, mut stderr) = under_journald(&redis, &journal.path);
    redis.client().publish("chat", "reject no\nPRIORITY=0");
    let failed = journal.wait(&["PRIORITY=4", "HANDLER=misbehave", "CHANNEL=chat", "KIND=reject"]);
    for line in ["SYSLOG_IDENTIFIER=handlerd", "REDIS_CHANNEL=chat", "CODE_FILE=src/worker.rs"] {
        assert!(failed.lines().any(|found| found == line), "{line} in {failed}");
    }
    assert!(!failed.lines().any(|line| line == "PRIORITY=0"), "forged: {failed}");
    redis.client().publish("chat", "log 10");
    let said = ["PRIORITY=6", "PLUGIN=misbehave.wasm", "HANDLER=misbehave", "CHANNEL=chat"];
    assert!(journal.wait(&said).contains("\nMESSAGE=xxxxxxxxxx "));
    end(daemon);
    wait_until("the last record", || {
        let records = journal.records.lock().expect("a lock");
        let last = records.last().expect("a record");
        last.contains("\nMESSAGE=stopped: 2 received, 1 handled")
    });
    let mut text = String::new();
    stderr.read_to_string(&mut text).expect("a pipe");
    assert_eq!(text, "", "nothing is said twice");
}

#[test]
fn without_journald_its_lines_are_text() {
    let redis = Redis::start();
    let (daemon, _dir, mut stderr) = under_journald(&redis, "/nowhere/socket");
    redis.client().publish("chat", "reject no");
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("a pipe");
        text
    });
    end(daemon);
    let text = read.join().expect("it is read");
    let failed = text.lines().find(|line| line.starts_with(" WARN a message was dropped"));
    let failed = failed.unwrap_or_else(|| panic!("{text}"));
    assert!(failed.contains("handler=\"misbehave\""), "{failed}");
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with(" INFO stopped: 1 received"), "{last}");
}

#[test]
fn at_debug_each_message_has_a_line() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let config = format!(
        "[redis]\nurl = \"{}\"\n[log]\nlevel = \"info,handlerd::message=debug\"\n\
         [channels.chat]\nhandlers = [\"announce\", \"misbehave\"]\npublish = \"out\"\n\
         [channels.orders]\nstream = \"orders\"\ngroup = \"g\"\nstart = \"oldest\"\nretries = 0\n\
         handlers = [\"misbehave\"]\npublish = \"out\"\n",
        redis.url()
    );
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config, &[]);
    redis.wait_subscribed("chat", 1);
    redis.client().publish("chat", "hello");
    out.wait_count(1);
    let _: String = redis.run(&["XADD", "orders", "7-1", "payload", "reject no"]);
    let words = ["DEBUG", "channel=\"chat\"", "handlers=announce,misbehave", "outcome=\"handled\""];
    let line = daemon.wait_log(&words);
    for field in ["redis_channel=chat", "outputs=1", "micros="] {
        assert!(line.contains(field), "{field} in {line}");
    }
    let words = ["DEBUG", "channel=\"orders\"", "id=\"7-1\"", "outcome=\"a dead letter\""];
    let line = daemon.wait_log(&words);
    assert!(line.contains("failed_in=\"misbehave\" kind=\"reject\""), "{line}");
    assert_eq!(daemon.stop().code, 0);
}

#[test]
fn a_plugin_that_logs_without_end_does_not_fill_a_disk() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let config = "[channels.chat]\nhandlers = [\"misbehave\"]\npublish = \"out\"\n";
    let mut daemon = Handlerd::start(&redis, config);
    redis.wait_subscribed("chat", 1);
    // Twelve megabytes, in calls that each keep to `max_log`.
    redis.client().publish_all("chat", (0..MANY).map(|_| "log 4000"));
    out.wait_count(MANY);
    daemon.wait_log(&["lines of this plugin are held back", "channel=\"chat\"", "misbehave.wasm"]);
    let stopped = daemon.stop();
    let bytes: usize = stopped.log.iter().map(String::len).sum();
    assert!(bytes < 4 << 20, "{bytes} bytes of log");
    assert_eq!(stopped.number("delivered"), MANY as u64, "{}", stopped.last);
}
