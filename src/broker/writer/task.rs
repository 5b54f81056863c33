//! The writer's task: one connection after the other, for ever.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use backon::ExponentialBackoff;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::{Kind, Oldest, Outbox};
use super::receipt::Fate;
use super::refusals::Refusals;
use super::session::{End, Session};
use super::{Shared, lock};
use crate::broker::backoff::backoff;
use crate::broker::connection::{Connector, Link, Reply};
use crate::heartbeat::Beat;
use crate::telemetry::Metrics;

/// How long a new connection may take to answer its first command.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// While Redis stays away: how often that is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Pauses between attempts to connect: at most 1 s, with what chance adds.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// How long a connection to a Redis that has become a replica is kept at least, in case that another
/// Redis is found under the same name; longer each time that it isn't.
const RETIRE_AT_FIRST: Duration = Duration::from_secs(1);
const RETIRE_AT_LAST: Duration = Duration::from_secs(60);

/// The task's own half of the writer. Dropping it, by whatever end, settles what is on its way.
pub struct Task {
    pub shared: Arc<Shared>,
    pub outbox: Outbox,
    pub refusals: Refusals,
    pub stop: CancellationToken,
    pub beat: Beat,
    metrics: Arc<Metrics>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.lose(0);
        self.shared.away.store(true, Relaxed);
        let mut outbox = lock(&self.shared.outbox);
        *outbox = std::mem::take(&mut self.outbox);
        if self.shared.abandoned.is_cancelled() {
            self.shared.abandon(&mut outbox);
        }
    }
}

/// See [`super::Writer::run`].
pub async fn run(shared: Arc<Shared>, metrics: Arc<Metrics>, beat: Beat, stop: CancellationToken) {
    let outbox = std::mem::take(&mut *lock(&shared.outbox));
    let refusals = Refusals::new(shared.connector.name().clone());
    let abandoned = shared.abandoned.clone();
    let mut task = Task { shared, outbox, refusals, stop, beat, metrics };
    tokio::select! {
        () = abandoned.cancelled() => {}
        () = task.work() => {}
    }
}

impl Task {
    async fn work(&mut self) {
        let mut outage = Outage::new();
        let mut next = None;
        let mut retire_after = RETIRE_AT_FIRST;
        loop {
            let link = match next.take() {
                Some(link) => link,
                None => tokio::select! {
                    link = self.beat.during(outage.end(&self.shared.connector)) => link,
                    () = self.nothing_left() => return,
                },
            };
            if outage.connected(self.shared.connector.name(), link.replica) {
                self.metrics.reconnects.add(1);
            }
            let started = Instant::now();
            let (session, stream) = Session::new(self, link, retire_after);
            let (end, healthy) = session.run(stream).await;
            outage.begin(healthy);
            retire_after = match end {
                End::Finished => return,
                End::Retired(_) if started.elapsed() < 2 * RETIRE_AT_LAST => {
                    (4 * retire_after).min(RETIRE_AT_LAST)
                }
                _ => RETIRE_AT_FIRST,
            };
            next = self.ended(end);
        }
    }

    /// Say how a session ended, and count what it takes along. Answers the connection to go on with.
    fn ended(&mut self, end: End) -> Option<Link> {
        let connection = self.shared.connector.name().clone();
        match end {
            End::Finished => None,
            End::Retired(answer) => {
                tracing::warn!(%connection, "connecting again, perhaps to another Redis: {answer}");
                None
            }
            End::Lost { reason, unsure } => {
                let unknown = self.lose(unsure);
                tracing::warn!(%connection, unknown, "the connection for outputs ended: {reason}");
                None
            }
            End::Silent(link) => {
                let unknown = self.lose(0);
                tracing::warn!(
                    %connection, unknown,
                    "the connection for outputs gave no answer while a second one did, which is \
                     used now"
                );
                Some(link)
            }
        }
    }

    /// What was handed to the connection is counted; the rest stays.
    fn lose(&mut self, unsure: usize) -> u64 {
        let unknown = self.outbox.lose(unsure);
        self.shared.settle(unknown);
        unknown
    }

    /// So many answers say success.
    pub fn delivered(&mut self, answers: u64) -> io::Result<u64> {
        self.expect(answers)?;
        Ok(self.outbox.settle(answers, Fate::Done))
    }

    /// One answer is this error.
    pub fn refused(&mut self, error: &str) -> io::Result<u64> {
        self.expect(1)?;
        if let Some(oldest) = self.outbox.oldest().filter(|oldest| oldest.kind != Kind::Ping) {
            self.refusals.note(Instant::now(), error, &oldest);
        }
        Ok(self.outbox.settle(1, Fate::Refused(error)))
    }

    fn expect(&self, answers: u64) -> io::Result<()> {
        if answers <= self.outbox.commands() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "there came more answers than were asked for",
        ))
    }

    /// `stop` was called and there is nothing to send.
    async fn nothing_left(&self) {
        self.stop.cancelled().await;
        loop {
            let idle = self.shared.idle.notified();
            if self.is_finished() {
                return;
            }
            idle.await;
        }
    }

    /// Whether everything has been answered.
    pub fn is_finished(&self) -> bool {
        self.outbox.commands() == 0 && lock(&self.shared.front).batch.is_empty()
    }
}

/// The time without a connection.
struct Outage {
    since: Instant,
    pauses: ExponentialBackoff,
    said: Option<(Instant, String)>,
    ever_connected: bool,
}

impl Outage {
    fn new() -> Self {
        Outage {
            since: Instant::now(),
            pauses: backoff(FIRST_PAUSE, LAST_PAUSE),
            said: None,
            ever_connected: false,
        }
    }

    /// A connection ended; pauses start small again only if it had been of use.
    fn begin(&mut self, healthy: bool) {
        self.since = Instant::now();
        if healthy {
            self.pauses = backoff(FIRST_PAUSE, LAST_PAUSE);
        }
    }

    /// Try until a connection answers.
    async fn end(&mut self, connector: &Connector) -> Link {
        loop {
            if self.ever_connected || self.said.is_some() {
                sleep(self.pauses.next().unwrap_or(LAST_PAUSE)).await;
            }
            match open(connector).await {
                Ok(link) => return link,
                Err(reason) => self.say(connector.name(), reason),
            }
        }
    }

    fn say(&mut self, connection: &str, reason: String) {
        let known = self
            .said
            .as_ref()
            .is_some_and(|(when, said)| *said == reason && when.elapsed() < SAY_AGAIN);
        if !known {
            let away = self.since.elapsed().as_secs();
            tracing::warn!(connection, "outputs wait, Redis has been away for {away} s: {reason}");
            self.said = Some((Instant::now(), reason));
        }
    }

    /// Says so; answers whether it is a reconnection.
    fn connected(&mut self, connection: &str, replica: bool) -> bool {
        if replica {
            tracing::warn!(
                connection,
                "this Redis is a replica: it refuses RPUSH, and what is published on it reaches \
                 its own subscribers only; name its master in the connection's url"
            );
        }
        let away = self.since.elapsed();
        if self.ever_connected || self.said.is_some() {
            tracing::info!(connection, "outputs go out again after {:.1} s", away.as_secs_f32());
        }
        self.said = None;
        std::mem::replace(&mut self.ever_connected, true)
    }
}

/// Connect, and see that commands are answered: a Redis that is still reading its data greets, and
/// then refuses every write.
async fn open(connector: &Connector) -> Result<Link, String> {
    let mut link = connector.connect().await.map_err(|error| error.to_string())?;
    let address = connector.address();
    let reply = match timeout(FIRST_ANSWER, link.ask(&[&[b"PING"]])).await {
        Err(_) => {
            let limit = FIRST_ANSWER.as_secs();
            return Err(format!("{address}: no answer to PING within {limit} s"));
        }
        Ok(Err(error)) => return Err(format!("{address}: {error}")),
        Ok(Ok(mut replies)) => replies.pop(),
    };
    match reply {
        // Other refusals, by an ACL say, don't tell anything of writes.
        Some(Reply::Error(error))
            if error.starts_with("LOADING") || error.starts_with("MASTERDOWN") =>
        {
            Err(format!("{address}: {error}"))
        }
        _ => Ok(link),
    }
}

/// Whether a second connection is answered: the same command that has no answer on the first,
/// rehearsed there without effect (`MULTI`, `DISCARD`). So a Redis that holds back writes only
/// (`CLIENT PAUSE`, a failover) isn't taken for a broken connection. A refusal is an answer.
pub async fn second_opinion(connector: &Connector, oldest: &Oldest) -> Option<Link> {
    let mut link = connector.connect().await.ok()?;
    let command = oldest.kind.as_str().as_bytes();
    let rehearsed: [&[u8]; 3] = [command, &oldest.name, b""];
    let commands: &[&[&[u8]]] = match oldest.kind {
        Kind::Ping => &[&[b"PING"]],
        Kind::Publish | Kind::Push | Kind::Append => &[&[b"MULTI"], &rehearsed, &[b"DISCARD"]],
    };
    timeout(FIRST_ANSWER, link.ask(commands)).await.ok()?.ok()?;
    Some(link)
}
