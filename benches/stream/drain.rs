//! A full stream, who empties it, and how long that takes.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::bare::Job;
use crate::common::ANNOUNCED;
use crate::support::process::Process;
use crate::support::{Client, Handlerd, Redis};

const FROM: &str = "bench.in";
const TO: &str = "bench.out";
const GROUP: &str = "bench";

/// What the test plugin `misbehave` is told: to compute for 50 µs.
pub const BUSY: &str = "busy 50 ";

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(2);

/// How long nothing may come before the measurement is given up.
const STALLED: Duration = Duration::from_secs(10);

/// What there is to do.
pub struct Stream {
    pub entries: usize,
    pub payload: Vec<u8>,
    pub batch: usize,
}

/// Who does it.
pub struct Contestant {
    /// For the report.
    pub name: &'static str,
    work: Work,
}

/// How it is done.
pub enum Work {
    /// By the bare loop.
    Bare,
    /// By handlerd with so many plugins.
    Plugins(usize),
    /// By so many daemons, whose handler does what the payload says.
    Daemons(usize),
}

/// Keeps the processes running.
#[expect(dead_code, reason = "guards")]
enum Running {
    Bare(Process),
    Handlerd(Vec<Handlerd>),
}

/// What the bare loop is told.
pub fn job(batch: usize) -> Job<'static> {
    Job { from: FROM, to: TO, group: GROUP, consumer: "bare", batch }
}

impl Contestant {
    /// One of this name.
    pub fn new(name: &'static str, work: Work) -> Self {
        Contestant { name, work }
    }

    fn processes(&self) -> usize {
        match self.work {
            Work::Daemons(n) => n,
            Work::Bare | Work::Plugins(_) => 1,
        }
    }

    fn expected(&self) -> &'static str {
        match self.work {
            Work::Bare | Work::Plugins(1 | 3) => ANNOUNCED,
            Work::Plugins(_) => "",
            Work::Daemons(_) => BUSY,
        }
    }

    fn start(&self, redis: &Redis, batch: usize) -> Running {
        let handlers = match self.work {
            Work::Bare => return Running::Bare(bare(redis, batch)),
            Work::Plugins(0) => "",
            Work::Plugins(1) => "\"announce\"",
            Work::Plugins(_) => "\"redact\", \"announce\", \"redact\"",
            Work::Daemons(_) => "\"misbehave\"",
        };
        let daemon = |n| {
            let config = format!(
                "[redis]\nurl = \"{}\"\n[handlers.redact]\nconfig = {{ words = \"secret\" }}\n\
                 [channels.bench]\nstream = \"{FROM}\"\ngroup = \"{GROUP}\"\nconsumer = \"c{n}\"\n\
                 batch = {batch}\nhandlers = [{handlers}]\nappend = \"{TO}\"\n",
                redis.url()
            );
            Handlerd::start_in(Handlerd::folder(), &config, &[])
        };
        Running::Handlerd((0..self.processes()).map(daemon).collect())
    }
}

fn bare(redis: &Redis, batch: usize) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["bare", &redis.port().to_string(), &batch.to_string()]).stdin(Stdio::null());
    Process::spawn(&mut command).expect("this program starts")
}

/// Fill the stream, have it emptied, and answer how many messages a second that were.
pub fn measure(redis: &Redis, stream: &Stream, contestant: &Contestant) -> anyhow::Result<f64> {
    let mut client = redis.client();
    fill(&mut client, stream);
    let running = contestant.start(redis, stream.batch);
    let all = stream.entries;
    let (before, from) = reach(&mut client, |client, done| {
        done >= all / 10 && consumers(client) == contestant.processes()
    })?;
    let (after, until) = reach(&mut client, |_, done| done >= all)?;
    let rate = (after - before) as f64 / (until - from).as_secs_f64();
    check(&mut client, all, contestant)?;
    drop(running);
    Ok(rate)
}

fn fill(client: &mut Client, stream: &Stream) {
    const AT_ONCE: usize = 1000;
    client.run::<u64>(&["DEL", FROM, TO]);
    client.run::<()>(&["XGROUP", "CREATE", FROM, GROUP, "0", "MKSTREAM"]);
    let mut left = stream.entries;
    while left > 0 {
        let mut pipe = redis::pipe();
        for _ in 0..left.min(AT_ONCE) {
            pipe.cmd("XADD").arg(FROM).arg("*").arg("payload").arg(&*stream.payload).ignore();
        }
        pipe.query::<()>(client.raw()).expect("pipelined XADD");
        left -= left.min(AT_ONCE);
    }
}

/// Wait until `reached`, which is told how much is done; answers that, and when.
fn reach(
    client: &mut Client,
    reached: impl Fn(&mut Client, usize) -> bool,
) -> anyhow::Result<(usize, Instant)> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let done: usize = client.run(&["XLEN", TO]);
        let now = Instant::now();
        if reached(client, done) {
            return Ok((done, now));
        }
        if done > last {
            (last, moved) = (done, now);
        }
        ensure!(moved.elapsed() < STALLED, "nothing came for {STALLED:?} after {done} messages");
        std::thread::sleep(LOOK);
    }
}

fn consumers(client: &mut Client) -> usize {
    client.run::<Vec<redis::Value>>(&["XINFO", "CONSUMERS", FROM, GROUP]).len()
}

/// Everything once, as it is to be, and nothing left pending.
fn check(client: &mut Client, all: usize, contestant: &Contestant) -> anyhow::Result<()> {
    let begin = Instant::now();
    type Summary = (usize, redis::Value, redis::Value, redis::Value);
    while client.run::<Summary>(&["XPENDING", FROM, GROUP]).0 > 0 {
        ensure!(begin.elapsed() < STALLED, "{}: entries stay pending", contestant.name);
        std::thread::sleep(LOOK);
    }
    let done: usize = client.run(&["XLEN", TO]);
    ensure!(done == all, "{}: {done} outputs of {all} entries", contestant.name);
    let shown: redis::Value = client.run(&["XRANGE", TO, "-", "+", "COUNT", "1"]);
    let shown = format!("{shown:?}");
    let expected = contestant.expected();
    ensure!(shown.contains(expected), "{shown} came, without {expected:?}");
    Ok(())
}
