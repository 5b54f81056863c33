//! One connection's life: subscribe, read, prove that it delivers, and say how it ended.
//!
//! Started by the supervisor with an open connection. Never tries again: that is the supervisor's.

use std::future::{pending, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::select;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Subscription;
use super::changes::Changes;
use super::pace::Pace;
use super::plan::Plan;
use super::requests::Requests;
use super::roster::Roster;
use super::wire::Wire;
use crate::broker::connection::{ConnectError, Connector, Link};
use crate::heartbeat::Beat;

/// How often the clocks are looked at.
const TICK: Duration = Duration::from_millis(100);

/// A command without an answer, and no byte either, for so long: the connection is doubted.
const SILENT: Duration = Duration::from_millis(600);

/// Redis lives, as a second connection has shown: so long the first may still take to answer.
const GRACE: Duration = Duration::from_millis(250);

/// Between two attempts to open a second connection.
const RIVAL_PAUSE: Duration = Duration::from_millis(300);

/// How long Redis may take to confirm that the subscriptions ended.
const LEAVE: Duration = Duration::from_secs(2);

/// How a connection ended. The texts continue "connection lost: ".
#[derive(Debug, Error)]
pub(super) enum SessionEnd {
    /// We were told to stop, and everything that came was put into queues.
    #[error("stopped")]
    Stopped,
    /// Nothing is subscribed to any more.
    #[error("not needed any more")]
    Idle,
    /// Redis closed it: it ends, or somebody killed the connection, or we were too slow.
    #[error("Redis closed it")]
    Closed,
    /// The network failed.
    #[error("{0}")]
    Broken(io::Error),
    /// What came isn't the Redis protocol.
    #[error("{0}")]
    Protocol(io::Error),
    /// No answer came, while Redis answered on a second connection, which is the next.
    #[error("it was up but silent, while Redis answers on another")]
    Silent(Box<Link>),
    /// Redis counts other subscriptions than it confirmed, even after subscribing anew.
    #[error("Redis counts {counted} subscriptions where it has confirmed {confirmed}")]
    Astray {
        /// Redis's count.
        counted: i64,
        /// Ours.
        confirmed: usize,
    },
}

/// How and when a connection ended.
pub(super) struct Ended {
    pub(super) why: SessionEnd,
    /// Up to here, messages were delivered for all that is known.
    pub(super) since: Instant,
    /// Whether it had shown that it works: then trying again needn't be slow.
    pub(super) healthy: bool,
}

/// One connection.
pub(super) struct Session<'a> {
    connector: &'a Connector,
    plan: &'a mut Plan,
    wire: Wire,
    requests: Requests,
    /// When bytes came last.
    heard: Instant,
    rival: Rival,
    /// The change under way is one of names, not only of where their messages go.
    renames: bool,
}

/// A second connection, which shows whether Redis lives while the first is silent.
enum Rival {
    /// None is needed.
    No,
    /// It is being opened.
    Opening(Pin<Box<dyn Future<Output = Result<Link, ConnectError>> + Send>>),
    /// It couldn't be opened; not again before this.
    Failed(Instant),
    /// It was greeted at this time.
    Open(Box<Link>, Instant),
}

impl Rival {
    /// Wait for the attempt to open it, if one is made.
    async fn opened(&mut self) -> Result<Link, ConnectError> {
        match self {
            Rival::Opening(attempt) => attempt.await,
            _ => pending().await,
        }
    }
}

impl<'a> Session<'a> {
    /// Over an open connection.
    pub(super) fn new(connector: &'a Connector, link: Link, plan: &'a mut Plan) -> Self {
        let now = Instant::now();
        plan.intake.restart();
        Session {
            connector,
            wire: Wire::new(link.stream),
            requests: Requests::new(connector.name(), &plan.roster, now),
            plan,
            heard: now,
            rival: Rival::No,
            renames: false,
        }
    }

    /// Subscribe and pass messages on until the connection ends, or until `stop` and everything
    /// sent before it has come. `subscribed` is called once, when every name has its first answer.
    /// The `changes` that come are taken, one after the other.
    pub(super) async fn run(
        mut self,
        beat: &Beat,
        stop: &CancellationToken,
        changes: &mut Changes,
        subscribed: impl FnOnce(&Roster),
    ) -> Ended {
        let mut subscribed = Some(subscribed);
        let mut stopped = pin!(stop.cancelled());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = Pace::default();
        loop {
            // The tick makes it come around.
            beat.answer();
            if changes.under_way() && self.go_on_with_change() {
                changes.done();
                if self.plan.is_empty() {
                    return self.ended(SessionEnd::Idle);
                }
            }
            self.requests.send(&mut self.wire, &self.plan.roster);
            let switch = self.switch_due();
            select! {
                biased;
                () = &mut stopped => return self.leave().await,
                wanted = changes.next() => self.change(wanted),
                _ = tick.tick() => self.tick(),
                attempt = self.rival.opened() => self.rival_opened(attempt),
                read = self.wire.exchange() => {
                    if let Err(end) = self.read(read) {
                        return self.ended(end);
                    }
                    if self.requests.done() && let Some(subscribed) = subscribed.take() {
                        subscribed(&self.plan.roster);
                    }
                    pace.give_way(self.heard).await;
                }
                // Last, so that what has come by now is seen first.
                () = ready(()), if switch => {
                    let Rival::Open(link, _) = std::mem::replace(&mut self.rival, Rival::No) else {
                        continue;
                    };
                    return self.ended(SessionEnd::Silent(link));
                }
            }
        }
    }

    /// Other subscriptions are wanted from now on.
    fn change(&mut self, wanted: Arc<[Subscription]>) {
        if self.plan.is_for(&wanted) {
            self.renames = false;
            return self.requests.prove(&self.plan.roster);
        }
        let moved = self.plan.begin(wanted, Instant::now());
        let roster = &self.plan.roster;
        self.renames = moved.len() != roster.names().len() || !roster.leaving().is_empty();
        self.requests.moved(&moved, roster);
    }

    /// When every new name is answered, end the subscriptions to those that aren't wanted any more;
    /// when Redis has confirmed that, forget them. `true` when this is done.
    fn go_on_with_change(&mut self) -> bool {
        let now = Instant::now();
        if !self.requests.done() || !self.requests.depart(&mut self.wire, &self.plan.roster, now) {
            return false;
        }
        let moved = self.plan.settle(now);
        self.requests.moved(&moved, &self.plan.roster);
        let roster = &self.plan.roster;
        if self.renames {
            info!(
                connection = %self.connector.name(),
                "the subscriptions have changed: {} of {} names are subscribed to now",
                roster.wanted_confirmed(), roster.wanted()
            );
        }
        true
    }

    /// Bytes have come, or the connection has ended.
    fn read(&mut self, read: io::Result<usize>) -> Result<(), SessionEnd> {
        if let Err(error) = read {
            return Err(match error.kind() {
                io::ErrorKind::UnexpectedEof => SessionEnd::Closed,
                _ => SessionEnd::Broken(error),
            });
        }
        let now = Instant::now();
        if !matches!(self.rival, Rival::No) {
            self.rival = Rival::No;
            info!(
                connection = %self.connector.name(),
                "Redis answers again after {:.1} s; the connection is kept",
                now.saturating_duration_since(self.heard).as_secs_f32()
            );
        }
        self.heard = now;
        self.plan.intake.begin();
        let mut taken = Ok(());
        while taken.is_ok() {
            match self.plan.intake.next(&mut self.wire.reader) {
                Ok(Some(answer)) => {
                    let find = |pattern, name: &[u8]| self.plan.intake.find(pattern, name);
                    taken = self.requests.answer(answer, &mut self.plan.roster, find, now);
                }
                Ok(None) => break,
                Err(error) => taken = Err(SessionEnd::Protocol(error)),
            }
        }
        self.plan.intake.flush();
        taken
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.plan.roster.count_gaps(now);
        self.requests.tick(&mut self.wire, &self.plan.roster, self.heard, now);
        let Some(silence) = self.silence(now).filter(|silence| *silence >= SILENT) else { return };
        match self.rival {
            Rival::Opening(_) | Rival::Open(..) => return,
            Rival::Failed(again) if now < again => return,
            Rival::Failed(_) => {}
            Rival::No => warn!(
                connection = %self.connector.name(),
                "no answer from Redis for {:.1} s; finding out over a second connection whether \
                 it lives",
                silence.as_secs_f32()
            ),
        }
        let connector = self.connector.clone();
        self.rival = Rival::Opening(Box::pin(async move { connector.connect().await }));
    }

    /// For how long an answer has been waited for without a byte.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let oldest = self.requests.oldest()?;
        Some(now.saturating_duration_since(oldest.max(self.heard)))
    }

    fn rival_opened(&mut self, attempt: Result<Link, ConnectError>) {
        let now = Instant::now();
        self.rival = match attempt {
            Ok(link) => Rival::Open(Box::new(link), now),
            Err(error) => {
                debug!(connection = %self.connector.name(), "the second connection: {error}");
                Rival::Failed(now + RIVAL_PAUSE)
            }
        };
    }

    fn switch_due(&self) -> bool {
        matches!(self.rival, Rival::Open(_, at) if at.elapsed() >= GRACE)
    }

    /// End the subscriptions and take everything that comes until Redis has confirmed it.
    async fn leave(mut self) -> Ended {
        self.requests.leave(&mut self.wire, &self.plan.roster);
        let mut pace = Pace::default();
        let confirmed = timeout(LEAVE, async {
            while !self.requests.done() {
                let read = self.wire.exchange().await;
                self.read(read)?;
                pace.give_way(self.heard).await;
            }
            Ok::<(), SessionEnd>(())
        })
        .await;
        let missed = match confirmed {
            Ok(Ok(())) => None,
            Ok(Err(end)) => Some(end.to_string()),
            Err(_) => Some(format!("no answer within {} s", LEAVE.as_secs())),
        };
        if let Some(why) = missed {
            warn!(
                connection = %self.connector.name(),
                "stopping: Redis did not confirm the end of the subscriptions: {why}; \
                 messages under way may be missing"
            );
        }
        self.ended(SessionEnd::Stopped)
    }

    fn ended(&self, why: SessionEnd) -> Ended {
        let now = Instant::now();
        let since = match &why {
            SessionEnd::Astray { .. } => self.requests.proven(),
            _ if self.silence(now).is_some_and(|silence| silence >= SILENT) => self.heard,
            _ => now,
        };
        Ended { why, since, healthy: self.requests.healthy() }
    }
}
