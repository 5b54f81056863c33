//! What sends and what measures: a publisher and a subscriber, each a thread of this process.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::Thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::bare::next_message;

/// Messages that are on their way at most: the publisher waits for the subscriber then, so that
/// what is measured is the relay and nothing is lost on the way.
const WINDOW: u64 = 8192;

/// How long nothing may come before the measurement is given up.
const STALLED: Duration = Duration::from_secs(5);

/// How often a subscriber to whom nothing comes looks whether all has come.
const LOOK_UP: Duration = Duration::from_millis(20);

/// PUBLISH commands that are sent in turn, all of one length.
pub struct Commands {
    bytes: Vec<u8>,
    length: usize,
    /// So many are written at once.
    pipeline: usize,
}

impl Commands {
    /// The payload to each of these channels, whose names must be of one length.
    pub fn new(channels: &[String], payload: &[u8], pipeline: usize) -> Commands {
        let mut bytes = Vec::new();
        let mut length = 0;
        // One channel gets a pipeline's worth of the same command.
        let times = pipeline.div_ceil(channels.len());
        for channel in std::iter::repeat_n(channels, times).flatten() {
            let start = bytes.len();
            publish(&mut bytes, channel, payload);
            length = bytes.len() - start;
        }
        assert_eq!(bytes.len() % length, 0, "the channels' names differ in length");
        Commands { bytes, length, pipeline }
    }
}

fn publish(out: &mut Vec<u8>, channel: &str, payload: &[u8]) {
    let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n", channel.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that publishes and whose replies Redis doesn't send: for few messages only, since
/// real publishers get replies, which cost Redis and them something.
fn silent_publisher(port: u16) -> io::Result<TcpStream> {
    let mut stream = connect(port)?;
    stream.write_all(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n")?;
    Ok(stream)
}

/// A connection that has subscribed.
fn subscriber(port: u16, channel: &str) -> io::Result<TcpStream> {
    let mut stream = connect(port)?;
    write!(stream, "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{channel}\r\n", channel.len())?;
    let mut confirmation = vec![0; 64 + channel.len()];
    let mut filled = 0;
    while next_message(&confirmation[..filled]).is_none() {
        match stream.read(&mut confirmation[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(stream)
}

/// What one measurement of throughput found.
pub struct Throughput {
    /// Messages that arrived at the subscriber a second.
    pub per_second: f64,
    /// The first message that arrived.
    pub sample: Vec<u8>,
}

/// Send as fast as it goes for so long, after a time to get warm, and count what arrives.
pub fn throughput(
    port: u16,
    commands: &Commands,
    out: &str,
    warm_up: Duration,
    time: Duration,
) -> anyhow::Result<Throughput> {
    let flow = Arc::new(Flow::default());
    let input = subscriber(port, out)?;
    input.set_read_timeout(Some(LOOK_UP))?;
    let output = connect(port)?;
    let replies = output.try_clone()?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| flow.send(output, commands));
        let replying = scope.spawn(|| take_replies(replies));
        let sender = sending.thread().clone();
        let receiving = scope.spawn(|| flow.receive(input, sender));
        std::thread::sleep(warm_up);
        let (before, from) = (flow.received.load(Relaxed), Instant::now());
        std::thread::sleep(time);
        let (after, until) = (flow.received.load(Relaxed), Instant::now());
        flow.stop.store(true, Relaxed);
        let sent = sending.join().expect("the publisher ends")?;
        replying.join().expect("the replies' reader ends")?;
        flow.last.store(sent, Relaxed);
        let sample = receiving.join().expect("the subscriber ends")?;
        let per_second = (after - before) as f64 / (until - from).as_secs_f64();
        Ok(Throughput { per_second, sample })
    })
}

/// Read the replies to a publisher until Redis ends the connection.
fn take_replies(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        // Every reply is an integer; an error's text has a letter in it.
        let refused = buffer[..n].iter().find(|byte| byte.is_ascii_alphabetic());
        anyhow::ensure!(refused.is_none(), "Redis refused a PUBLISH");
    }
}

struct Flow {
    sent: AtomicU64,
    received: AtomicU64,
    stop: AtomicBool,
    /// How many were sent in all, once that is known.
    last: AtomicU64,
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            last: AtomicU64::new(u64::MAX),
        }
    }
}

impl Flow {
    fn send(&self, mut stream: TcpStream, commands: &Commands) -> io::Result<u64> {
        let mut sent = 0;
        for block in commands.bytes.chunks(commands.pipeline * commands.length).cycle() {
            while sent > self.received.load(Relaxed) + WINDOW && !self.stop.load(Relaxed) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            if self.stop.load(Relaxed) {
                break;
            }
            stream.write_all(block)?;
            sent += (block.len() / commands.length) as u64;
            self.sent.store(sent, Relaxed);
        }
        // Redis answers what it has and closes its end, too.
        stream.shutdown(std::net::Shutdown::Write)?;
        Ok(sent)
    }

    /// Take the messages apart, as a client does, and count until everything that was sent has come.
    fn receive(&self, mut stream: TcpStream, sender: Thread) -> anyhow::Result<Vec<u8>> {
        let mut buffer = vec![0; 256 << 10];
        let (mut filled, mut received) = (0, 0);
        let mut sample = Vec::new();
        loop {
            let mut at = 0;
            while let Some((message, length)) = next_message(&buffer[at..filled]) {
                let (_, payload) = message.ok_or_else(|| anyhow::anyhow!("not a message"))?;
                if received == 0 {
                    sample = payload.to_vec();
                }
                anyhow::ensure!(payload.len() == sample.len(), "a message of another length came");
                received += 1;
                at += length;
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
            self.received.store(received, Relaxed);
            if received == self.last.load(Relaxed) {
                return Ok(sample);
            }
            if received + WINDOW / 2 > self.sent.load(Relaxed) {
                sender.unpark();
            }
            filled += self.read(&mut stream, &mut buffer[filled..])?;
        }
    }

    /// Read; 0 when everything that was sent has come.
    fn read(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<usize> {
        let begin = Instant::now();
        loop {
            match stream.read(buffer) {
                Ok(0) => anyhow::bail!("Redis cut the subscriber"),
                Ok(n) => return Ok(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.received.load(Relaxed) == self.last.load(Relaxed) {
                        return Ok(0);
                    }
                    anyhow::ensure!(
                        begin.elapsed() < STALLED,
                        "nothing came for {STALLED:?}: {} were sent and {} came",
                        self.sent.load(Relaxed),
                        self.received.load(Relaxed)
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the digits of a timestamp stand behind.
const STAMP: &[u8] = b"t=";
const DIGITS: usize = 16;

/// Send so many messages a second for so long; answers how many nanoseconds each took.
pub fn latency(
    port: u16,
    channel: &str,
    out: &str,
    per_second: u32,
    time: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let mut input = subscriber(port, out)?;
    input.set_read_timeout(Some(STALLED))?;
    let mut output = silent_publisher(port)?;
    let start = Instant::now();
    let warm_up = per_second as usize / 2;
    let count = (per_second as f64 * time.as_secs_f64()) as usize + warm_up;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || -> io::Result<()> {
            let pause = Duration::from_secs(1) / per_second;
            let mut command = Vec::new();
            for n in 0..count {
                let due = start + pause * n as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let mut payload = format!("t={:0DIGITS$} ", start.elapsed().as_nanos());
                while payload.len() < 64 {
                    payload.push('x');
                }
                command.clear();
                publish(&mut command, channel, payload.as_bytes());
                output.write_all(&command)?;
            }
            Ok(())
        });
        let mut histogram = Histogram::new(3)?;
        let mut buffer = vec![0; 256 << 10];
        let (mut filled, mut came) = (0, 0);
        while came < count {
            let n = input.read(&mut buffer[filled..]);
            let n = n.map_err(|e| anyhow::anyhow!("{came} of {count} messages came: {e}"))?;
            let now = start.elapsed().as_nanos() as u64;
            anyhow::ensure!(n > 0, "Redis cut the subscriber");
            filled += n;
            let mut at = 0;
            while let Some((message, length)) = next_message(&buffer[at..filled]) {
                let (_, payload) = message.ok_or_else(|| anyhow::anyhow!("not a message"))?;
                came += 1;
                if came > warm_up {
                    histogram.record(now.saturating_sub(stamp(payload)?))?;
                }
                at += length;
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
        }
        sending.join().expect("the publisher ends")?;
        Ok(histogram)
    })
}

fn stamp(payload: &[u8]) -> anyhow::Result<u64> {
    let at = payload.windows(STAMP.len()).position(|w| w == STAMP).map(|at| at + STAMP.len());
    let digits = at.and_then(|at| payload.get(at..at + DIGITS));
    let digits = digits.ok_or_else(|| anyhow::anyhow!("a message came without its time"))?;
    Ok(std::str::from_utf8(digits)?.parse()?)
}
