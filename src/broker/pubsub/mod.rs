//! The subscription: one connection for all pub/sub channels of one Redis.
//!
//! Started by the daemon, once for each Redis that channels subscribe at. Puts messages into the
//! channels' queues and never waits for them. Loses nothing silently: what is dropped, and the time
//! without a subscription, is counted for each channel and logged.
//!
//! ```text
//! run: connect, session, connect, session, ...           this file; journal.rs: what the log says of it
//!        session: subscribe, read, prove, leave          session.rs
//!          wire: bytes in, bytes out                     wire.rs
//!          intake: bytes --> messages, answers           intake.rs, answer.rs
//!            router: message --> queues                  router.rs
//!          requests: what was asked, what is answered    requests.rs
//!            roster: names, confirmed or not; gaps       roster.rs
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::select;
use tokio_util::sync::CancellationToken;

use super::connection::{Connector, Link};
use crate::config::Source;
use crate::queue::Queue;
use crate::telemetry::{DropLog, Metrics};

mod answer;
mod intake;
mod journal;
mod requests;
mod roster;
mod router;
mod session;
mod wire;

use intake::Intake;
use journal::Journal;
use roster::Roster;
use router::Router;
use session::{Ended, Session, SessionEnd};

/// Pauses between attempts to connect: doubled from the first to the last, and up to as much again
/// by chance, so that many daemons don't come back at once. Messages flow again within 2 s of Redis
/// being back, so the longest is 1 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// What one channel wants of this Redis.
#[derive(Clone)]
pub struct Subscription {
    /// The names or patterns.
    pub source: Source,
    /// NAME of `[channels.NAME]`.
    pub table: Arc<str>,
    /// Bytes of the largest payload that is taken; a larger one is dropped and counted `too_large`.
    pub max_payload: usize,
    /// Where its messages go.
    pub queue: Arc<Queue>,
}

/// Keep these subscriptions up until `stop`, over one connection and whatever happens to it.
///
/// Returns when it has unsubscribed and everything that Redis had sent by then is in the queues (or
/// when Redis didn't answer for 2 s). Redis being away, at the start too, is not an error.
pub async fn run(
    connector: Connector,
    subscriptions: Vec<Subscription>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    if subscriptions.is_empty() {
        return stop.cancelled().await;
    }
    let channels =
        subscriptions.iter().map(|s| (s.table.clone(), s.queue.metrics().clone())).collect();
    let mut drops = DropLog::new(channels);
    let mut supervisor = Supervisor::new(connector, subscriptions, metrics);
    select! {
        biased;
        () = supervisor.run(&stop) => {}
        () = drops.run() => {}
    }
    drops.report();
}

struct Supervisor {
    connector: Connector,
    roster: Roster,
    intake: Intake,
    metrics: Arc<Metrics>,
    backoff: ExponentialBackoff,
    journal: Journal,
    /// Whether there ever was a connection.
    was_connected: bool,
}

impl Supervisor {
    fn new(connector: Connector, subscriptions: Vec<Subscription>, metrics: Arc<Metrics>) -> Self {
        let roster = Roster::new(&subscriptions, Instant::now());
        let intake = Intake::new(Router::new(subscriptions, &roster));
        let journal = Journal::new(&connector);
        let backoff = new_backoff();
        Supervisor { connector, roster, intake, metrics, backoff, journal, was_connected: false }
    }

    async fn run(&mut self, stop: &CancellationToken) {
        let mut next = None;
        loop {
            let link = match next.take() {
                Some(link) => link,
                None => match self.connect(stop).await {
                    Some(link) => link,
                    None => break,
                },
            };
            let ended = self.session(*link, stop).await;
            if ended.healthy {
                self.backoff = new_backoff();
            }
            self.roster.lose_all(ended.since);
            match ended.why {
                SessionEnd::Stopped => return,
                SessionEnd::Silent(link) => next = Some(link),
                _ if self.pause(stop).await => {}
                _ => break,
            }
        }
        self.roster.count_gaps(Instant::now());
    }

    /// Try until it works; `None` when told to stop.
    async fn connect(&mut self, stop: &CancellationToken) -> Option<Box<Link>> {
        loop {
            let attempt = select! {
                biased;
                () = stop.cancelled() => return None,
                attempt = self.connector.connect() => attempt,
            };
            match attempt {
                Ok(link) => return Some(Box::new(link)),
                Err(error) => self.journal.failed(&error),
            }
            if !self.pause(stop).await {
                return None;
            }
        }
    }

    /// Wait before the next attempt; `false` when told to stop.
    async fn pause(&mut self, stop: &CancellationToken) -> bool {
        self.roster.count_gaps(Instant::now());
        let pause = self.backoff.next().unwrap_or(LAST_PAUSE);
        select! {
            biased;
            () = stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    async fn session(&mut self, link: Link, stop: &CancellationToken) -> Ended {
        if std::mem::replace(&mut self.was_connected, true) {
            self.metrics.reconnects.add(1);
        }
        self.metrics.subscription.set(true);
        self.journal.connected(&link);
        let journal = &mut self.journal;
        let ended = Session::new(&self.connector, link, &mut self.roster, &mut self.intake)
            .run(stop, |roster| journal.subscribed(roster))
            .await;
        self.metrics.subscription.set(false);
        if !matches!(ended.why, SessionEnd::Stopped) {
            self.journal.lost(&ended);
        }
        ended
    }
}

fn new_backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LAST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests;
