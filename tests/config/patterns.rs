//! Patterns, compared with what a real Redis says of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use handlerd::config::pattern::Pattern;
use redis::{Client, Connection, ConnectionInfo, IntoConnectionInfo};

use crate::random::Random;

/// A Redis of its own for a test, on a unix socket in a temporary folder.
struct Redis {
    process: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.path().join("redis.sock"))
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Redis { process, folder }
    }

    fn connect(&self) -> Connection {
        let socket: &Path = &self.folder.path().join("redis.sock");
        let info: ConnectionInfo =
            format!("unix://{}", socket.display()).into_connection_info().expect("a socket's URL");
        let client = Client::open(info).expect("a client");
        let since = Instant::now();
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) if since.elapsed() > Duration::from_secs(10) => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It has nothing to save, and a test that failed needs it gone too.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// For each name, whether Redis delivers what is published on it to a subscriber of the pattern.
fn ask(
    subscriber: &mut Connection,
    publisher: &mut Connection,
    pattern: &str,
    names: &[Vec<u8>],
) -> Vec<bool> {
    let mut subscription = subscriber.as_pubsub();
    subscription.psubscribe(pattern.as_bytes()).expect("PSUBSCRIBE");
    let mut publish = redis::pipe();
    for name in names {
        publish.cmd("PUBLISH").arg(name.as_slice()).arg("x");
    }
    let receivers: Vec<u64> = publish.query(publisher).expect("PUBLISH");
    receivers.into_iter().map(|count| count > 0).collect()
}

/// Texts that patterns are made of: much of what is special, and little else, so that they match
/// often enough.
const PIECES: [&str; 24] = [
    "*", "*", "?", "[", "]", "^", "-", "\\", "a", "a", "b", "c", "d", ".", "{", "}", "[a", "[^",
    "[a-c]", "[c-a]", "[^b]", "a-", "é", "\n",
];

fn pattern(random: &mut Random) -> String {
    let length = random.below(9);
    let pieces = (0..length).map(|_| *random.pick(&PIECES));
    // Whether a range over the bytes of `é` is signed depends on the machine's `char`.
    pieces.filter(|piece| cfg!(target_arch = "x86_64") || piece.is_ascii()).collect()
}

fn name(random: &mut Random) -> Vec<u8> {
    let bytes = b"aaabbccd.-^]\\[{}\xc3\xa9\xff\x00\n";
    (0..random.below(7)).map(|_| *random.pick(bytes)).collect()
}

#[test]
fn patterns_match_what_redis_matches() {
    let redis = Redis::start();
    let (mut subscriber, mut publisher) = (redis.connect(), redis.connect());
    let mut random = Random::new(0x5eed);
    let known =
        ["", "*", "**", "?", "[]", "[^]", "[a-]x]", "[a-]", "[\\]", "[a\\-c]", "a\\", "[", "[^"];
    let generated: Vec<String> = (0..2500).map(|_| pattern(&mut random)).collect();
    let mut matched = 0;
    for text in known.into_iter().chain(generated.iter().map(String::as_str)) {
        let mut names: Vec<Vec<u8>> = (0..40).map(|_| name(&mut random)).collect();
        // What looks like the pattern itself.
        names.push(text.as_bytes().to_vec());
        names.push(Vec::new());
        let compiled = Pattern::new(text).expect("a short pattern");
        let answers = ask(&mut subscriber, &mut publisher, text, &names);
        for (name, answer) in names.iter().zip(answers) {
            let shown = String::from_utf8_lossy(name);
            assert_eq!(compiled.matches_bytes(name), answer, "pattern {text:?}, name {shown:?}");
            matched += usize::from(answer);
        }
    }
    // The test would say nothing if hardly anything matched.
    assert!(matched > 5_000, "only {matched} matches");
}

#[test]
fn patterns_with_a_common_name_overlap() {
    let mut random = Random::new(0xcafe);
    let (mut apart, mut common) = (0, 0);
    for _ in 0..6000 {
        let texts = (pattern(&mut random), pattern(&mut random));
        let (Ok(a), Ok(b)) = (Pattern::new(&texts.0), Pattern::new(&texts.1)) else { continue };
        assert_eq!(a.overlaps(&b), b.overlaps(&a), "{texts:?}");
        if !a.overlaps(&b) {
            apart += 1;
        }
        for _ in 0..30 {
            let name = name(&mut random);
            if a.matches_bytes(&name) && b.matches_bytes(&name) {
                common += 1;
                assert!(a.overlaps(&b), "{texts:?} both match {name:?}");
            }
        }
    }
    assert!(apart > 1000 && common > 200, "{apart} pairs apart, {common} common names");
}
