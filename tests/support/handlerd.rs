//! The real binary: as a daemon under a guard, or one verb run to its end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, code};
use super::{PATIENCE, Redis, plugins, wait_for, wait_until};

/// What a service manager or a user says to a program by its environment.
const FOREIGN: [&str; 8] = [
    "RUST_LOG",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "CACHE_DIRECTORY",
    "RUNTIME_DIRECTORY",
];

/// The binary, with an environment in which nothing of the surroundings counts, and compiled plugins are
/// kept from one test to the next.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handlerd"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    std::fs::create_dir_all(&cache).expect("a cache folder");
    command.env("XDG_CACHE_HOME", cache);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// A running `handlerd run`.
pub struct Handlerd {
    process: Process,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    dir: TempDir,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit code; 128 and the number of the signal that ended it.
    pub code: i32,
    /// The last line of its log.
    pub last: String,
    /// All of its log.
    pub log: Vec<String>,
}

impl Stopped {
    /// A number of the last line: `received`, `handled`, `delivered`, `lost`, or a reason of a
    /// loss. An absent one is 0.
    pub fn number(&self, name: &str) -> u64 {
        numbers(&self.last).get(name).copied().unwrap_or(0)
    }
}

impl Handlerd {
    /// Start it on this Redis. `channels` is the rest of the config: channels and handlers; the
    /// folder `plugins` holds the bundled plugins and `misbehave`.
    pub fn start(redis: &Redis, channels: &str) -> Handlerd {
        Handlerd::start_at(&redis.url(), channels)
    }

    /// The same, at a URL.
    pub fn start_at(url: &str, channels: &str) -> Handlerd {
        let dir = Handlerd::folder();
        Handlerd::start_in(dir, &format!("[redis]\nurl = \"{url}\"\n{channels}"), &[])
    }

    /// A folder for a config, with plugins in it.
    pub fn folder() -> TempDir {
        let dir = TempDir::with_prefix("handlerd-test-").expect("a temporary folder");
        plugins::install(&dir.path().join("plugins"));
        dir
    }

    /// A command that runs this whole config, in this folder, with these environment variables, for
    /// a test that has an end of its own for the log.
    pub fn command_in(dir: &Path, config: &str, env: &[(&str, &str)]) -> Command {
        let file = dir.join("config.toml");
        // Tests run side by side, and the port of the endpoints is one: who looks at them says where.
        let quiet = if config.contains("[http]") { "" } else { "\n[http]\nlisten = false\n" };
        // It is longer than a busy machine stands still: who tests it writes it down.
        let patient =
            if config.contains("[daemon]") { "" } else { "\n[daemon]\ndrain_timeout = \"45s\"\n" };
        std::fs::write(&file, format!("{config}{quiet}{patient}")).expect("a config is written");
        let mut command = command();
        command.arg("run").arg("--config").arg(&file);
        // Its control socket, which it leaves when it is killed, goes with the folder.
        command.env("XDG_RUNTIME_DIR", dir).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Start it with this whole config, in this folder, with these environment variables.
    pub fn start_in(dir: TempDir, config: &str, env: &[(&str, &str)]) -> Handlerd {
        Handlerd::start_with(dir, config, &[], env)
    }

    /// The same, with these arguments of `run`.
    pub fn start_with(dir: TempDir, config: &str, args: &[&str], env: &[(&str, &str)]) -> Handlerd {
        let mut command = Handlerd::command_in(dir.path(), config, env);
        command.args(args);
        Handlerd::attend(dir, command)
    }

    /// Start it by a shell: this script does something before, and then `exec "$@"`.
    pub fn start_by(script: &str, dir: TempDir, config: &str, env: &[(&str, &str)]) -> Handlerd {
        let run = Handlerd::command_in(dir.path(), config, env);
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(run.get_program()).args(run.get_args());
        for (name, value) in run.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Handlerd::attend(dir, command)
    }

    fn attend(dir: TempDir, mut command: Command) -> Handlerd {
        command.stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command).expect("the binary starts");
        let stderr = process.child().stderr.take().expect("standard error is a pipe");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = lines.clone();
        let reader = std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                lock(&shared).push(text);
                line.clear();
            }
        });
        Handlerd { process, lines, reader: Some(reader), dir }
    }

    /// The folder of its config.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A verb with its config, which finds it if it looks for a daemon.
    pub fn verb(&self, args: &[&str]) -> Run {
        let run = Run::new(args).env("XDG_RUNTIME_DIR", &self.dir().display().to_string());
        run.config(&self.dir().join("config.toml"))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// Lines of the log that have all of these words in them.
    pub fn log_lines(&self, words: &[&str]) -> Vec<String> {
        let has_all = |line: &String| words.iter().all(|word| line.contains(word));
        lock(&self.lines).iter().filter(|line| has_all(line)).cloned().collect()
    }

    /// Wait for a line of the log that has all of these words in it.
    #[track_caller]
    pub fn wait_log(&mut self, words: &[&str]) -> String {
        wait_for(&format!("a log line with {words:?}"), || {
            let found = self.log_lines(words).into_iter().next();
            assert!(found.is_some() || self.runs(), "handlerd ended without a line {words:?}");
            found
        })
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        self.process.memory("VmRSS")
    }

    /// Memory that it has reserved for itself, resident or not, in bytes.
    pub fn reserved(&self) -> u64 {
        self.process.memory("VmData")
    }

    /// Most resident memory so far, in bytes.
    pub fn peak_rss(&self) -> u64 {
        self.process.memory("VmHWM")
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(folder).expect("it runs").count()
    }

    /// Send a signal. After SIGSTOP it stands still.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
        if signal == Signal::STOP {
            wait_until("handlerd to stand still", || self.process.is_stopped());
        }
    }

    /// Wait for its end.
    #[track_caller]
    pub fn wait_end(&mut self) -> Stopped {
        let status = self.process.wait(PATIENCE);
        let status = status.unwrap_or_else(|| panic!("handlerd runs on after {PATIENCE:?}"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log is read");
        }
        let log = self.log();
        let last = log.last().cloned().unwrap_or_default();
        Stopped { code: code(status), last, log }
    }

    /// SIGTERM, and wait for its end.
    #[track_caller]
    pub fn stop(&mut self) -> Stopped {
        self.signal(Signal::TERM);
        self.wait_end()
    }
}

impl Drop for Handlerd {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(60);
            eprintln!("--- the end of handlerd's log ---\n{}\n---", log[from..].join("\n"));
        }
    }
}

fn lock(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The numbers of the last log line, by the words that name them:
/// `stopped: 9 received, 7 handled, 7 delivered, 2 lost (overflow 1, failed 1)`.
pub fn numbers(line: &str) -> BTreeMap<String, u64> {
    let line = line.split_once("stopped").map_or("", |(_, rest)| rest);
    let (sums, reasons) = line.split_once('(').unwrap_or((line, ""));
    let mut found = BTreeMap::new();
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    for pair in words(sums).windows(2) {
        if let (Ok(number), Err(_)) = (pair[0].parse(), pair[1].parse::<u64>()) {
            found.insert(pair[1].clone(), number);
        }
    }
    for pair in words(reasons).chunks(2) {
        if let [reason, number] = pair {
            found.insert(reason.clone(), number.parse().unwrap_or(u64::MAX));
        }
    }
    found
}

/// One verb, run to its end.
pub struct Run {
    command: Command,
    input: Input,
}

enum Input {
    Bytes(Vec<u8>),
    Later,
}

/// What a verb left behind.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Check the exit code, showing everything when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        let (text, stderr) = (self.text(), &self.stderr);
        assert_eq!(self.code, code, "exit code\n--- stdout\n{text}\n--- stderr\n{stderr}");
        self
    }
}

impl Run {
    /// `handlerd ARGS…`
    pub fn new(args: &[&str]) -> Run {
        let mut command = command();
        command.args(args);
        Run { command, input: Input::Bytes(Vec::new()) }
    }

    /// Another program.
    pub fn program(program: &str, args: &[&str]) -> Run {
        let mut command = Command::new(program);
        command.args(args);
        Run { command, input: Input::Bytes(Vec::new()) }
    }

    /// A program of `tests/article` (or another path from there), in the Python that `tests/run`
    /// has prepared.
    #[track_caller]
    pub fn python(program: &str, args: &[&str]) -> Run {
        let python = plugins::root().join(".venv/bin/python");
        assert!(
            python.is_file(),
            "{} is missing: tests/run makes it, with the Python package redis in it",
            python.display()
        );
        let mut command = Command::new(python);
        command.arg("-u").arg(plugins::root().join("tests/article").join(program)).args(args);
        Run { command, input: Input::Bytes(Vec::new()) }
    }

    /// With standard input that stays open until [`Running::wait`].
    pub fn interactive(mut self) -> Run {
        self.input = Input::Later;
        self
    }

    /// With `--config`.
    pub fn config(mut self, file: &Path) -> Run {
        self.command.arg("--config").arg(file);
        self
    }

    /// In this folder.
    pub fn dir(mut self, dir: &Path) -> Run {
        self.command.current_dir(dir);
        self
    }

    /// With this environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Run {
        self.command.env(name, value);
        self
    }

    /// With this on standard input.
    pub fn input(mut self, input: impl AsRef<[u8]>) -> Run {
        self.input = Input::Bytes(input.as_ref().to_vec());
        self
    }

    /// Start it, and leave it running under a guard.
    pub fn spawn(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut self.command).expect("the binary starts");
        let mut stdin = process.child().stdin.take();
        let stdout = collect(process.child().stdout.take().expect("a pipe"));
        let stderr = collect(process.child().stderr.take().expect("a pipe"));
        if let Input::Bytes(input) = self.input {
            let mut stdin = stdin.take().expect("a pipe");
            // Fails when the verb ends without reading it all, which is its right. The thread
            // ends with the process.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
        }
        Running { process, stdin, stdout, stderr }
    }

    /// Run it to its end.
    #[track_caller]
    pub fn output(self) -> Output {
        self.spawn().wait()
    }
}

/// A verb that still runs.
pub struct Running {
    process: Process,
    stdout: Collected,
    stderr: Collected,
    stdin: Option<ChildStdin>,
}

struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

fn collect(mut from: impl Read + Send + 'static) -> Collected {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = bytes.clone();
    let thread = std::thread::spawn(move || {
        let mut chunk = [0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let mut bytes = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            bytes.extend_from_slice(&chunk[..n]);
        }
    });
    Collected { bytes, thread }
}

impl Collected {
    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn all(self) -> Vec<u8> {
        self.thread.join().expect("the output is read");
        std::mem::take(&mut self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Running {
    /// Standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.so_far()).into_owned()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.so_far()).into_owned()
    }

    /// Wait until standard output has this in it.
    #[track_caller]
    pub fn wait_stdout(&self, text: &str) -> String {
        wait_until(&format!("{text:?} on standard output"), || self.stdout().contains(text));
        self.stdout()
    }

    /// Write to the standard input of an interactive one.
    pub fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).expect("the program reads");
        stdin.flush().expect("the program reads");
    }

    /// Send a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Close standard input, and wait for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        drop(self.stdin.take());
        let status = self.process.wait(PATIENCE);
        let status = status.unwrap_or_else(|| {
            panic!("the verb runs on after {PATIENCE:?}; so far:\n{}", self.stdout())
        });
        drop(self.process);
        let stderr = String::from_utf8_lossy(&self.stderr.all()).into_owned();
        Output { code: code(status), stdout: self.stdout.all(), stderr }
    }
}

/// A folder with a config in it, for verbs.
pub fn folder_with(config: &str) -> (TempDir, PathBuf) {
    let dir = Handlerd::folder();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, config).expect("a config is written");
    (dir, file)
}

/// The limit of a wait that a test makes by itself.
pub const fn patience() -> Duration {
    PATIENCE
}
