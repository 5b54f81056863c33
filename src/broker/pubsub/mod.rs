//! The subscription: one connection for all pub/sub channels of one Redis.
//!
//! Started by the daemon, once for each Redis that channels subscribe at. Puts messages into the
//! channels' queues and never waits for them. Loses nothing silently: what is dropped, and the time
//! without a subscription, is counted for each channel.
//!
//! What is subscribed changes while it runs (a reload): what stays is not touched, new names are
//! confirmed before those that go are ended, and no message is lost or doubled.
//!
//! ```text
//! run: connect, session, connect, session, ...           this file; journal.rs: what the log says of it
//!        changes: other subscriptions are wanted         changes.rs
//!        session: subscribe, read, prove, leave          session.rs
//!          plan: what is wanted, and is leaving          plan.rs
//!          pace: when others go on                       pace.rs
//!          wire: bytes in, bytes out                     wire.rs
//!          intake: bytes --> messages, answers           intake.rs, answer.rs
//!            router: message --> queues                  router.rs
//!          requests: what was asked, what is answered    requests.rs
//!            roster: names, confirmed or not; gaps       roster.rs
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use tokio::select;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::backoff::backoff;
use super::connection::{ConnectError, Connector, Link};
use super::single::{self, Lane};
use crate::config::Source;
use crate::heartbeat::Beat;
use crate::queue::Queue;
use crate::telemetry::Metrics;

mod answer;
mod changes;
mod intake;
mod journal;
mod pace;
mod plan;
mod requests;
mod roster;
mod router;
mod session;
mod wire;

use changes::{Changes, Switch, Wanted};
use journal::Journal;
use plan::Plan;
use session::{Ended, Session, SessionEnd};

/// Pauses between attempts to connect: doubled from the first to the last, and up to as much again
/// by chance, so that many daemons don't come back at once. Messages flow again within 2 s of Redis
/// being back, so the longest is 1 s.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// How long Redis may take to tell what is stored for channels that are single.
const LOOK: Duration = Duration::from_secs(2);

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
    /// With `single = true`: what they go through before that.
    pub single: Option<Arc<Lane>>,
}

impl Subscription {
    /// Its names and patterns, each with whether it is a pattern. One that is single has its marks as
    /// a further name.
    fn names(&self) -> impl Iterator<Item = (bool, &Arc<str>)> {
        let (pattern, texts) = roster::texts(&self.source);
        let mark = self.single.iter().map(|lane| (false, lane.mark_channel()));
        texts.iter().map(move |text| (pattern, text)).chain(mark)
    }
}

/// All pub/sub channels of one Redis: what they subscribe to, and how to change that.
///
/// Clones are the same subscriber.
#[derive(Clone)]
pub struct Subscriber {
    connector: Connector,
    metrics: Arc<Metrics>,
    wanted: watch::Sender<Wanted>,
    /// The number of the last list that is done.
    done: watch::Sender<u64>,
}

impl Subscriber {
    /// Of these subscriptions; there may be none.
    pub fn new(
        connector: Connector,
        subscriptions: Vec<Subscription>,
        metrics: Arc<Metrics>,
    ) -> Self {
        for subscription in &subscriptions {
            let names = subscription.names().map(|(_, name)| name.clone());
            subscription.queue.metrics().unsubscribed.replace(names);
        }
        let wanted = Wanted::new(0, subscriptions.into(), Box::new(|| {}));
        Subscriber {
            connector,
            metrics,
            wanted: watch::Sender::new(wanted),
            done: watch::Sender::new(0),
        }
    }

    /// Subscribe to these from now on, and to nothing else. [`Change::done`] tells when that is so; it
    /// happens whether or not that is waited for.
    ///
    /// A name or pattern that stays is not touched: between two messages, what comes of it begins to
    /// go to its new subscriptions, and then `switch` is called, which must not take long. New ones are
    /// subscribed to first; until Redis has answered all of them, those that go deliver to their old
    /// subscriptions. Then they are ended.
    ///
    /// Changes happen one after the other; of those that wait, only the last. While [`Self::run`]
    /// doesn't run, nothing happens.
    pub fn change(
        &self,
        subscriptions: Vec<Subscription>,
        switch: impl FnOnce() + Send + 'static,
    ) -> Change {
        self.want(subscriptions.into(), Box::new(switch))
    }

    fn want(&self, subscriptions: Arc<[Subscription]>, switch: Switch) -> Change {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            number = wanted.number + 1;
            *wanted = Wanted::new(number, subscriptions, switch);
        });
        Change { number, done: self.done.subscribe() }
    }

    /// What is subscribed to stays as it is; [`Change::done`] tells when all that Redis had sent before
    /// now is in the queues. Not while a change waits to be taken.
    pub fn passed(&self) -> Change {
        let wanted = self.wanted.borrow().subscriptions.clone();
        self.want(wanted, Box::new(|| {}))
    }

    /// Keep the subscriptions up until `stop`, over one connection and whatever happens to it; over
    /// none while there are no subscriptions.
    ///
    /// Returns when it has unsubscribed and everything that Redis had sent by then is in the queues (or
    /// when Redis didn't answer for 2 s). Redis being away, at the start too, is not an error. Started
    /// again after a panic, it takes up the subscriptions that were wanted last.
    pub async fn run(self, beat: Beat, stop: CancellationToken) {
        let (changes, subscriptions) = Changes::of(&self);
        let mut supervisor = Supervisor::new(&self, changes, subscriptions, beat);
        supervisor.run(&stop).await;
    }
}

/// A change that was asked for.
#[derive(Clone)]
pub struct Change {
    number: u64,
    /// The number of the last list that is done.
    done: watch::Receiver<u64>,
}

impl Change {
    /// Wait until Redis has confirmed or refused every new name, and nothing more comes into the
    /// queues of subscriptions that are gone. Without a connection that is at once: the next one
    /// subscribes to the new list only.
    pub async fn done(mut self) {
        // A subscriber that is gone brings nothing more either.
        let _ = self.done.wait_for(|done| *done >= self.number).await;
    }
}

struct Supervisor {
    connector: Connector,
    plan: Plan,
    changes: Changes,
    metrics: Arc<Metrics>,
    backoff: ExponentialBackoff,
    journal: Journal,
    beat: Arc<Beat>,
    /// Whether there ever was a connection, since something is wanted.
    was_connected: bool,
}

impl Supervisor {
    fn new(
        subscriber: &Subscriber,
        changes: Changes,
        subscriptions: Arc<[Subscription]>,
        beat: Beat,
    ) -> Self {
        let connector = subscriber.connector.clone();
        Supervisor {
            plan: Plan::new(subscriptions, Instant::now()),
            changes,
            metrics: subscriber.metrics.clone(),
            backoff: new_backoff(),
            journal: Journal::new(&connector),
            beat: Arc::new(beat),
            was_connected: false,
            connector,
        }
    }

    async fn run(&mut self, stop: &CancellationToken) {
        let mut next = None;
        loop {
            let mut link = match next.take().filter(|_| !self.plan.is_empty()) {
                Some(link) => link,
                None => match self.connect(stop).await {
                    Some(link) => link,
                    None => break,
                },
            };
            match self.look_before(&mut link, stop).await {
                Some(Ok(())) if self.plan.is_empty() => continue,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    self.journal.failed(&error);
                    if self.pause(stop).await {
                        continue;
                    }
                    break;
                }
                None => break,
            }
            let ended = self.session(*link, stop).await;
            if ended.healthy {
                self.backoff = new_backoff();
            }
            match ended.why {
                SessionEnd::Stopped => return,
                SessionEnd::Silent(link) => next = Some(link),
                SessionEnd::Idle => {}
                _ if self.pause(stop).await => {}
                _ => break,
            }
        }
        self.plan.roster.count_gaps(Instant::now());
    }

    /// Try until it works, as soon as there is a need; `None` when told to stop.
    async fn connect(&mut self, stop: &CancellationToken) -> Option<Box<Link>> {
        loop {
            if self.plan.is_empty() {
                self.idle(stop).await?;
            }
            let connector = self.connector.clone();
            match self.meanwhile(stop, connector.connect()).await? {
                Ok(link) if !self.plan.is_empty() => return Some(Box::new(link)),
                Ok(_) => continue,
                Err(error) => self.journal.failed(&error),
            }
            if !self.pause(stop).await {
                return None;
            }
        }
    }

    /// Let the channels that are single look at what is stored before they subscribe; `None` when told to
    /// stop.
    async fn look_before(
        &mut self,
        link: &mut Link,
        stop: &CancellationToken,
    ) -> Option<Result<(), ConnectError>> {
        let lanes = self.plan.lanes();
        if lanes.is_empty() {
            return Some(Ok(()));
        }
        let looked = self.meanwhile(stop, timeout(LOOK, single::look_before(link, &lanes))).await?;
        let address = self.connector.address();
        Some(match looked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(ConnectError::Io { address, source }),
            Err(_) => Err(ConnectError::TimedOut { address, step: "HGET", limit: LOOK }),
        })
    }

    /// Wait until something is wanted; `None` when told to stop.
    async fn idle(&mut self, stop: &CancellationToken) -> Option<()> {
        self.journal.idle();
        self.was_connected = false;
        while self.plan.is_empty() {
            select! {
                biased;
                () = stop.cancelled() => return None,
                wanted = self.changes.next() => self.change(wanted),
                () = self.beat.asked() => self.beat.answer(),
            }
        }
        Some(())
    }

    /// Wait before the next attempt; `false` when told to stop.
    async fn pause(&mut self, stop: &CancellationToken) -> bool {
        self.plan.roster.count_gaps(Instant::now());
        let pause = self.backoff.next().unwrap_or(LAST_PAUSE);
        self.meanwhile(stop, tokio::time::sleep(pause)).await.is_some()
    }

    /// Take the changes that come until `work` is done; `None` when told to stop.
    async fn meanwhile<F: Future>(
        &mut self,
        stop: &CancellationToken,
        work: F,
    ) -> Option<F::Output> {
        let beat = self.beat.clone();
        let mut work = pin!(beat.during(work));
        loop {
            select! {
                biased;
                () = stop.cancelled() => return None,
                wanted = self.changes.next() => self.change(wanted),
                done = &mut work => return Some(done),
            }
        }
    }

    /// Other subscriptions are wanted, and there is no connection that one of them could be on.
    fn change(&mut self, wanted: Arc<[Subscription]>) {
        let now = Instant::now();
        self.plan.begin(wanted, now);
        self.plan.settle(now);
        self.changes.done();
    }

    async fn session(&mut self, link: Link, stop: &CancellationToken) -> Ended {
        if std::mem::replace(&mut self.was_connected, true) {
            self.metrics.reconnects.add(1);
        }
        self.metrics.subscription.set(true);
        self.journal.connected(&link);
        let journal = &mut self.journal;
        let ended = Session::new(&self.connector, link, &mut self.plan)
            .run(&self.beat, stop, &mut self.changes, |roster| journal.subscribed(roster))
            .await;
        self.metrics.subscription.set(false);
        if !matches!(ended.why, SessionEnd::Stopped | SessionEnd::Idle) {
            self.journal.lost(&ended);
        }
        // Nothing more can come over it: what was leaving has left.
        self.plan.roster.lose_all(ended.since);
        match ended.why {
            SessionEnd::Stopped => self.plan.intake.close(),
            _ => self.plan.intake.cut(),
        }
        self.plan.settle(Instant::now());
        if self.changes.under_way() {
            self.changes.done();
        }
        ended
    }
}

fn new_backoff() -> ExponentialBackoff {
    backoff(FIRST_PAUSE, LAST_PAUSE)
}

#[cfg(test)]
mod tests;
