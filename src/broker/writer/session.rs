//! One connection's life: buffers out, answers in, and how it is found out that it is dead.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::ledger::Oldest;
use super::task::{Task, second_opinion};
use crate::broker::connection::{Connector, Link, Stream, describe};
use crate::broker::resp::FrameReader;

/// No more is begun while so much has no answer.
const UNANSWERED_COMMANDS: u64 = 64 << 10;
const UNANSWERED_BYTES: usize = 8 << 20;

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Answers are overdue when none has come for this time: nothing more is begun. A second connection
/// is tried when they might also have come from the slowest way, in bytes a second.
const OVERDUE: Duration = Duration::from_millis(600);
const SLOWEST: usize = 4 << 20;

/// A connection that nothing is sent on is asked for a sign of life this often: one that went dead
/// meanwhile must be known and replaced within 2 s, whether or not something is to be sent.
const QUIET: Duration = Duration::from_millis(400);

/// How long the first connection has to answer when a second one does. A Redis that was stopped
/// and goes on answers both at once.
const GRACE: Duration = Duration::from_millis(250);

/// Bytes handed to TLS at once. When TLS fails it doesn't say how many of them went out.
const TLS_CHUNK: usize = 64 << 10;

/// How a session ends.
pub enum End {
    /// `stop` was called, and everything was answered.
    Finished,
    /// The connection broke. So many bytes beyond those known to be written may have been.
    Lost { reason: String, unsure: usize },
    /// Nothing was answered while a second connection was: this one.
    Silent(Link),
    /// Redis can't take writes any more. Everything was answered.
    Retired(String),
}

pub struct Session<'a> {
    task: &'a mut Task,
    reader: FrameReader,
    tls: bool,
    /// From when on it is left when it takes no writes.
    retire_from: Instant,
    /// The last byte that came, or the moment from which on one was due.
    alive: Instant,
    healthy: bool,
    /// Bytes went into the stream that it may keep back until it is flushed.
    unflushed: bool,
    /// Why nothing can be written any more, and since when. What was answered may still be read.
    broken: Option<(String, usize, Instant)>,
    /// The answer for which this Redis is left when all is answered.
    retired: Option<String>,
    /// Answers are overdue.
    away: bool,
    /// What looks meanwhile whether a second connection is answered.
    rival: Option<Pin<Box<dyn Future<Output = Link> + Send>>>,
}

impl<'a> Session<'a> {
    pub fn new(task: &'a mut Task, link: Link, retire_after: Duration) -> (Self, Stream) {
        let now = Instant::now();
        let session = Session {
            task,
            reader: FrameReader::default(),
            tls: matches!(link.stream, Stream::Tls(_)),
            retire_from: now + retire_after,
            alive: now,
            healthy: false,
            unflushed: false,
            broken: None,
            retired: None,
            away: false,
            rival: None,
        };
        (session, link.stream)
    }
}

impl Session<'_> {
    /// Until it ends; and whether it had been of use.
    pub async fn run(mut self, stream: Stream) -> (End, bool) {
        self.set_away(false);
        let end = self.drive(stream).await;
        self.set_away(true);
        (end, self.healthy)
    }

    async fn drive(&mut self, stream: Stream) -> End {
        let (mut input, mut output) = split(stream);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.task.stop.clone();
        let mut stopping = stop.is_cancelled();
        loop {
            // The tick makes it come around.
            self.task.beat.answer();
            let waiting = self.take();
            if self.task.outbox.commands() == 0 {
                if let Some(answer) = self.retired.take() {
                    return End::Retired(answer);
                }
                if stopping && self.task.is_finished() {
                    return End::Finished;
                }
            }
            let Task { outbox, shared, .. } = &*self.task;
            let (unwritten, tls) = (outbox.unwritten(), self.tls);
            let writing = self.broken.is_none() && (!unwritten.is_empty() || self.unflushed);
            let ended = tokio::select! {
                biased;
                written = write(&mut output, unwritten, tls), if writing => self.wrote(written),
                read = self.reader.fill(&mut input) => self.read(read.map(drop)),
                () = shared.wake.notified(), if waiting => {
                    // The worker that woke this may be one of many that run now: what they are about
                    // to append goes out in the same write.
                    tokio::task::yield_now().await;
                    None
                }
                _ = tick.tick() => self.tick(),
                link = resolve(&mut self.rival) => self.replace(&mut input, link).await,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    None
                }
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    /// Begin with what waits, if anything may be begun. `true`: nothing waits, be woken for it.
    fn take(&mut self) -> bool {
        let Task { outbox, shared, .. } = &mut *self.task;
        let held_back = !outbox.is_written()
            || outbox.commands() >= UNANSWERED_COMMANDS
            || outbox.bytes() >= UNANSWERED_BYTES
            || self.away
            || self.retired.is_some()
            || self.broken.is_some();
        if held_back {
            return false;
        }
        let nothing_under_way = outbox.commands() == 0;
        // First asleep, then a look: see `Writer::flush`.
        shared.asleep.store(true, SeqCst);
        if !shared.take(outbox) {
            return true;
        }
        shared.asleep.store(false, SeqCst);
        if nothing_under_way {
            self.alive = Instant::now();
        }
        false
    }

    fn wrote(&mut self, written: Written) -> Option<End> {
        match written.result {
            Ok(bytes) => {
                if written.blocked {
                    // The other end made room: a sign of life, though not an answer.
                    self.alive = Instant::now();
                }
                self.task.outbox.wrote(bytes);
                self.unflushed = self.tls && bytes > 0;
            }
            Err(error) => {
                // What was answered before may still be read.
                let unsure = if self.tls { TLS_CHUNK } else { 0 };
                self.broken = Some((describe(&error), unsure, Instant::now()));
            }
        }
        None
    }

    fn read(&mut self, read: io::Result<()>) -> Option<End> {
        let settled = read.and_then(|()| {
            self.alive = Instant::now();
            self.healthy = true;
            if self.away {
                self.set_away(false);
                self.rival = None;
            }
            self.settle()
        });
        let error = settled.err()?;
        let (reason, unsure) = match self.broken.take() {
            Some((reason, unsure, _)) => (reason, unsure),
            None => (describe(&error), 0),
        };
        Some(End::Lost { reason, unsure })
    }

    /// Match what was read with what was sent.
    fn settle(&mut self) -> io::Result<()> {
        let mut settled = 0;
        // Before a protocol error there may have been answers.
        let matched = self.match_answers(&mut settled);
        self.task.shared.settle(settled);
        matched
    }

    fn match_answers(&mut self, settled: &mut u64) -> io::Result<()> {
        loop {
            let (bytes, answers) = integers(self.reader.unread());
            if answers > 0 {
                self.reader.advance(bytes);
                *settled += self.task.delivered(answers)?;
            }
            match self.reader.next_frame()? {
                None => break,
                Some(frame) if frame.is_push() => {}
                Some(frame) => match frame.error() {
                    None => *settled += self.task.delivered(1)?,
                    Some(error) => {
                        let error = String::from_utf8_lossy(error).into_owned();
                        *settled += self.task.refused(&error)?;
                        let leave =
                            error.starts_with("READONLY") || error.starts_with("MASTERDOWN");
                        if leave && Instant::now() >= self.retire_from {
                            self.retired = Some(error);
                        }
                    }
                },
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Option<End> {
        self.task.refusals.tick(Instant::now());
        if let Some((_, _, since)) = &self.broken
            && since.elapsed() >= OVERDUE
        {
            return self.read(Err(io::ErrorKind::TimedOut.into()));
        }
        let Task { outbox, shared, .. } = &mut *self.task;
        let silent = self.alive.elapsed();
        if outbox.commands() == 0 {
            if silent >= QUIET && self.broken.is_none() {
                outbox.shrink();
                shared.shrink();
                outbox.ping();
                self.alive = Instant::now();
            }
            return None;
        }
        if self.rival.is_none() && silent >= patience(outbox.bytes()) {
            let rival = outbox.oldest().map(|oldest| rival(shared.connector.clone(), oldest));
            self.rival = rival.map(|rival| Box::pin(rival) as _);
        }
        if silent >= OVERDUE {
            self.set_away(true);
        }
        None
    }

    fn set_away(&mut self, away: bool) {
        self.away = away;
        self.task.shared.away.store(away, Relaxed);
    }

    /// A second connection was answered and this one wasn't, unless it is right now: when this
    /// process itself had been stopped, both are found at the same moment.
    async fn replace(&mut self, input: &mut ReadHalf<Stream>, link: Link) -> Option<End> {
        const LOOK: Duration = Duration::from_millis(50);
        match timeout(LOOK, self.reader.fill(input)).await {
            Ok(read) => self.read(read.map(drop)),
            Err(_) => Some(End::Silent(link)),
        }
    }
}

/// How long no answer may come before a second connection is tried, with so many bytes under way.
fn patience(bytes: usize) -> Duration {
    OVERDUE + Duration::from_secs_f64(bytes as f64 / SLOWEST as f64)
}

/// A second connection, when it has been answered and the first has had its grace.
async fn rival(connector: Connector, oldest: Oldest) -> Link {
    const PAUSE: Duration = Duration::from_millis(300);
    loop {
        if let Some(link) = second_opinion(&connector, &oldest).await {
            sleep(GRACE).await;
            return link;
        }
        sleep(PAUSE).await;
    }
}

async fn resolve(rival: &mut Option<Pin<Box<dyn Future<Output = Link> + Send>>>) -> Link {
    match rival {
        Some(rival) => rival.await,
        None => std::future::pending().await,
    }
}

struct Written {
    result: io::Result<usize>,
    /// The socket had been full.
    blocked: bool,
}

/// Hand bytes to the stream, or, when there are none, have it send what it keeps back.
///
/// Cancel safe: when dropped before it is done, nothing has been written.
async fn write(output: &mut WriteHalf<Stream>, bytes: &[u8], tls: bool) -> Written {
    if bytes.is_empty() {
        return Written { result: output.flush().await.map(|()| 0), blocked: false };
    }
    let chunk = if tls { &bytes[..bytes.len().min(TLS_CHUNK)] } else { bytes };
    let mut blocked = false;
    let result = std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut *output).poll_write(cx, chunk);
        blocked |= polled.is_pending();
        polled
    });
    match result.await {
        Ok(0) => Written { result: Err(io::ErrorKind::WriteZero.into()), blocked },
        result => Written { result, blocked },
    }
}

/// The whole `:N` answers at the beginning: their bytes, and how many. What every PUBLISH and RPUSH
/// is answered with, so it is worth a scan of its own.
fn integers(bytes: &[u8]) -> (usize, u64) {
    let (mut at, mut answers) = (0, 0);
    while bytes.get(at) == Some(&b':') {
        let mut end = at + 1;
        while bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end += 1;
        }
        if bytes.get(end..end + 2) != Some(b"\r\n") || end == at + 1 {
            break;
        }
        at = end + 2;
        answers += 1;
    }
    (at, answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_taken_and_nothing_else() {
        assert_eq!(integers(b":0\r\n:12\r\n:3"), (9, 2));
        assert_eq!(integers(b":0\r\n-ERR\r\n:1\r\n"), (4, 1));
        for other in [&b""[..], b":", b":\r\n", b":1\r", b":-1\r\n", b":x\r\n", b"+OK\r\n"] {
            assert_eq!(integers(other), (0, 0), "{other:?}");
        }
    }
}
