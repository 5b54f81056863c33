//! The subscription: one connection for all pub/sub channels of one Redis.
//!
//! Started by the daemon, once for each Redis that channels subscribe at. Puts messages into the
//! channels' queues and never waits for them. Loses nothing silently: what is dropped, and the time
//! without a subscription, is counted for each channel and logged.
//!
//! ```text
//! run: connect, session, connect, session, ...           (this file: backoff, gaps, the log)
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
use tracing::{info, warn};

use super::connection::{ConnectError, Connector, Link};
use crate::config::Source;
use crate::queue::Queue;
use crate::telemetry::{DropLog, Metrics};

mod answer;
mod intake;
mod requests;
mod roster;
mod router;
mod session;
mod wire;

use intake::Intake;
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
    history: History,
}

/// What the log was told last of the connection.
enum History {
    /// There never was one. What the last attempt failed of.
    New(Option<String>),
    /// Names are subscribed.
    Up,
    /// It was lost at this time.
    Lost(Instant, Option<String>),
}

impl Supervisor {
    fn new(connector: Connector, subscriptions: Vec<Subscription>, metrics: Arc<Metrics>) -> Self {
        let roster = Roster::new(&subscriptions, Instant::now());
        let intake = Intake::new(Router::new(subscriptions, &roster));
        let (backoff, history) = (new_backoff(), History::New(None));
        Supervisor { connector, roster, intake, metrics, backoff, history }
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
                Err(error) => self.failed(&error),
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
        let server = server(&link);
        if !matches!(self.history, History::New(_)) {
            self.metrics.reconnects.add(1);
        }
        let session = Session::new(&self.connector, link, &mut self.roster, &mut self.intake);
        let (connector, history) = (&self.connector, &mut self.history);
        let ended = session
            .run(stop, |roster| {
                let names = roster.confirmed();
                let wanted = roster.names().len();
                let connection = connector.name();
                match history {
                    History::Lost(since, _) => info!(
                        %connection,
                        "Redis is back after {:.1} s without messages: {names} of {wanted} names \
                         subscribed", since.elapsed().as_secs_f32()
                    ),
                    _ => info!(
                        %connection,
                        "subscribed to {names} of {wanted} names at {}{server}",
                        connector.address()
                    ),
                }
                *history = History::Up;
            })
            .await;
        if !matches!(ended.why, SessionEnd::Stopped) {
            let connection = self.connector.name();
            warn!(%connection, "connection lost: {}; connecting again", ended.why);
            if !matches!(self.history, History::Lost(..)) {
                self.history = History::Lost(ended.since, None);
            }
        }
        ended
    }

    /// Log why an attempt failed, once for each reason in a row.
    fn failed(&mut self, error: &ConnectError) {
        let text = error.to_string();
        let told = match &mut self.history {
            History::New(told) | History::Lost(_, told) => told,
            History::Up => return,
        };
        if told.as_ref() != Some(&text) {
            let connection = self.connector.name();
            warn!(%connection, "Redis can't be reached: {text}; it is tried until it works");
            *told = Some(text);
        }
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

fn server(link: &Link) -> String {
    let protocol = if link.resp3 { "" } else { ", RESP2" };
    match link.version.as_str() {
        "" => String::new(),
        version => format!(" (Redis {version}{protocol})"),
    }
}

#[cfg(test)]
mod tests;
