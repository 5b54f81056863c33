//! The task behind a channel that is single: takes and renews the lease, publishes marks, finishes what
//! is in line, and hears how far another has come. One thing at a time, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use super::state::Item;
use super::wire::{Finished, LEASE, Lease, Wire};
use super::{lease_key, state_key};
use crate::broker::connection::Connector;
use crate::broker::stream::{Journal, State, Trouble};
use crate::heartbeat::Beat;
use crate::telemetry::{DropReason, OutputKind, RateLimit};

/// How often the lease is renewed, and a standby hears how far all is done.
const EVERY: Duration = Duration::from_millis(400);

/// How often it is looked whether all names are subscribed to, while they aren't.
const LOOK: Duration = Duration::from_millis(20);

/// A daemon that has given the lease back because its subscription ended leaves it to others for so
/// long, unless it is sure by then that nothing is missing: they have heard what it hasn't.
const MODESTY: Duration = Duration::from_millis(500);

/// A lease that nobody has had for so long is taken by who would begin with a gap, too: those that have
/// heard everything had the time to.
const DEFERENCE: Duration = Duration::from_millis(300);

/// How often the lease is looked at by who has ended and holds messages that may be nobody's.
const WHOSE: Duration = Duration::from_millis(50);

/// How long that may take: the lease ends meanwhile, and what others leave time for, unless Redis is away.
const WHOSE_MOST: Duration = Duration::from_secs(4);

/// Messages and bytes of outputs in one script. Redis does nothing else meanwhile.
const CALL_ITEMS: usize = 1_000;
const CALL_BYTES: usize = 1 << 20;

/// A Redis Cluster will hardly cease to be one: it is asked this often.
const CLUSTER: Duration = Duration::from_secs(5);

/// What Redis refuses is logged this often at most.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Do all that a channel needs which is single, until `stop`, and as long as this daemon leads until
/// `done` says that nothing more will be put in line: then the lease is given back. It is not taken before
/// `before` has ended, which this same daemon had for the channel: what that one heard came earlier.
pub async fn run(
    lane: Arc<Lane>,
    connector: Connector,
    beat: Beat,
    stop: CancellationToken,
    done: CancellationToken,
    before: Option<Before>,
) {
    let name: Arc<str> = lease_key(&lane.name).into();
    let journal = Journal::of_lease(&lane.name, &name, lane.metrics());
    let keeper = Keeper {
        lane,
        connector,
        beat,
        stop,
        done,
        before,
        journal,
        wire: None,
        due: Instant::now(),
        modest_until: Instant::now(),
        free_since: None,
        undecided_until: None,
        others_until: None,
        flight: Vec::new(),
        place: String::new(),
        said_refused: RateLimit::new(SAY_EVERY),
    };
    keeper.run().await;
}

/// A key with a name of handlerd's own is of another type: what Redis says names its script, not the key.
fn not_ours(channel: &str) -> Trouble {
    let (lease, state) = (lease_key(channel), state_key(channel));
    let text = format!("the key {lease} or {state} is of another type than handlerd's: delete it");
    Trouble::new(State::Refused, text)
}

/// What a daemon had for the same channel before.
#[derive(Clone)]
pub struct Before {
    /// It takes nothing any more.
    pub lane: Arc<Lane>,
    /// Its keeper has ended.
    pub ended: CancellationToken,
}

struct Keeper {
    lane: Arc<Lane>,
    connector: Connector,
    beat: Beat,
    stop: CancellationToken,
    done: CancellationToken,
    before: Option<Before>,
    journal: Journal,
    wire: Option<Wire>,
    /// When the lease is looked at next.
    due: Instant,
    modest_until: Instant,
    /// Nobody has had the lease since then.
    free_since: Option<Instant>,
    /// It has ended, and by then has to know whose it is what it holds.
    undecided_until: Option<Instant>,
    /// When another's lease ends, as it was heard first since then.
    others_until: Option<Instant>,
    /// What was sent, or is to be, as one batch; kept until its answer has come.
    flight: Vec<Item>,
    /// Of the last of these.
    place: String,
    said_refused: RateLimit,
}

impl Drop for Keeper {
    /// One that is started again after a panic finds out whether this was written.
    fn drop(&mut self) {
        self.lane.put_back(&mut self.flight);
        self.lane.metrics().stream.forget(&lease_key(&self.lane.name));
    }
}

impl Keeper {
    async fn run(mut self) {
        loop {
            self.beat.answer();
            self.lane.look();
            if let Some(before) = self.before.take_if(|before| before.ended.is_cancelled()) {
                self.lane.comes_behind(&before.lane);
            }
            if self.has_ended() {
                self.lane.put_back(&mut self.flight);
                self.lane.leave_all();
                return;
            }
            match self.step_in_time().await {
                Ok(true) => self.journal.fine(),
                Ok(false) => {
                    self.journal.fine();
                    self.wait().await;
                }
                Err(trouble) => {
                    // Others may have been as long without an answer.
                    self.free_since = None;
                    if trouble.state.wants_new_connection() {
                        self.wire = None;
                    }
                    let is_cluster = trouble.state == State::Cluster;
                    let trouble = match trouble.state {
                        State::WrongType => not_ours(&self.lane.name),
                        _ => trouble,
                    };
                    let mut pause = self.journal.trouble(trouble);
                    if self.undecided_until.is_some() {
                        pause = pause.min(WHOSE);
                    }
                    if is_cluster {
                        self.lane.demote(&mut self.flight);
                        self.lane.refuse(true);
                        pause = CLUSTER;
                    }
                    let may_end = !self.lane.has_lease() && !self.stop.is_cancelled();
                    select! {
                        () = sleep(pause) => {}
                        () = self.stop.cancelled(), if may_end => {}
                    }
                }
            }
        }
    }

    /// Whether nothing is undecided that came earlier.
    fn is_first(&self) -> bool {
        self.before.is_none()
    }

    /// A standby ends when it is known whose it is what it holds. Who leads ends when it has given the
    /// lease back.
    fn has_ended(&self) -> bool {
        self.stop.is_cancelled() && !self.lane.has_lease() && self.lane.is_settled()
    }

    /// Do what is to be done next; where that doesn't tell in time whose it is what is held, it is given up.
    async fn step_in_time(&mut self) -> Result<bool, Trouble> {
        if !self.lane.is_undecided() || !self.is_first() {
            (self.undecided_until, self.others_until) = (None, None);
            return self.step().await;
        }
        let limit = *self.undecided_until.get_or_insert_with(|| {
            self.due = Instant::now();
            self.due + WHOSE_MOST
        });
        let stepped = timeout_at(limit, self.step()).await;
        if Instant::now() >= limit && self.lane.is_undecided() {
            // An answer may be on its way.
            self.wire = None;
            self.lane.give_up_all();
        }
        stepped.unwrap_or(Ok(true))
    }

    async fn wait(&self) {
        let (stopped, done) = (self.stop.is_cancelled(), self.done.is_cancelled());
        let before = async {
            match &self.before {
                Some(before) => before.ended.cancelled().await,
                None => std::future::pending().await,
            }
        };
        select! {
            () = self.lane.woken() => {}
            () = sleep_until(self.due) => {}
            () = self.beat.asked() => {}
            () = self.stop.cancelled(), if !stopped => {}
            () = before => {}
            () = self.done.cancelled(), if !done => {}
        }
    }

    /// Do what is to be done next; `false` when there is nothing.
    async fn step(&mut self) -> Result<bool, Trouble> {
        let wire = match &mut self.wire {
            Some(wire) => wire,
            none => {
                let opened = self.beat.during(Wire::open(&self.connector, &self.lane));
                let opened = opened.await?;
                self.lane.refuse(false);
                none.insert(opened)
            }
        };
        if self.lane.wants_mark() {
            let mark = wire.mark().await?;
            self.lane.marked(mark);
            self.due = Instant::now();
            return Ok(true);
        }
        let is_idle = self.flight.is_empty() && !self.lane.is_busy();
        if is_idle && self.lane.has_lease() && (self.lane.may_release() || self.done.is_cancelled())
        {
            wire.release().await?;
            self.lane.released();
            self.modest_until = Instant::now() + MODESTY;
            self.due = Instant::now() + LOOK;
            return Ok(true);
        }
        let is_free = self.lane.take_free() && !self.lane.has_lease();
        if is_free || Instant::now() >= self.due {
            self.look_at_lease().await?;
            return Ok(true);
        }
        if !self.lane.has_lease() {
            return Ok(false);
        }
        if self.flight.is_empty() {
            self.lane.take_line(&mut self.flight, CALL_ITEMS, CALL_BYTES);
            let Some(last) = self.flight.last() else { return Ok(false) };
            let place = last.place.clone();
            self.place = place.unwrap_or_else(|| self.lane.place(last.number));
        }
        let before = self.lane.known_place();
        let lag = self.flight.last().map_or(Duration::ZERO, |last| self.lane.lag(last.number));
        match wire.finish(&self.flight, before.as_deref(), &self.place, lag).await? {
            Finished::Written { refused, why } => self.written(&refused, &why),
            // Perhaps it is nobody's: then it can be had again.
            Finished::NotOurs => self.look_at_lease().await?,
        }
        Ok(true)
    }

    async fn look_at_lease(&mut self) -> Result<(), Trouble> {
        let is_first = self.is_first();
        let Some(wire) = &mut self.wire else { return Ok(()) };
        let has_lease = self.lane.has_lease();
        let is_undecided = is_first && self.lane.is_undecided();
        let may_begin = is_undecided || !self.stop.is_cancelled();
        let may_lead = is_first && may_begin && self.lane.may_lead();
        let now = Instant::now();
        let is_left = self.free_since.is_some_and(|since| now >= since + DEFERENCE);
        let may_take = self.lane.is_sure() || (is_left && now >= self.modest_until);
        let wanted = has_lease || (may_lead && may_take);
        let is_idle = has_lease && self.flight.is_empty() && self.lane.is_caught_up();
        let Lease { is_ours, left, place, age, unwritten } = wire.lease(wanted, is_idle).await?;
        let is_free = !is_ours && left.is_none();
        self.free_since = if is_free { self.free_since.or(Some(now)) } else { None };
        let is_known = || {
            let place = place.as_deref();
            self.lane.is_known(place) || place.is_some_and(|place| place == self.place)
        };
        match (has_lease, is_ours) {
            (true, true) if self.lane.is_taking() || is_known() => {}
            // Another had it meanwhile.
            (true, _) => {
                self.lane.demote(&mut self.flight);
                self.place.clear();
                if is_ours {
                    self.lane.take(place, age, unwritten);
                }
            }
            (false, true) => self.lane.take(place, age, unwritten),
            (false, false) => {
                self.lane.follow(place.as_deref());
                if is_undecided && self.is_renewed(now, left) {
                    self.lane.leave_all();
                }
            }
        }
        // Not before the lease can be had, and not long after.
        let pause = match left {
            _ if is_ours => EVERY,
            Some(left) if is_undecided => (left + Duration::from_millis(1)).min(WHOSE),
            Some(left) => (left + Duration::from_millis(1)).min(EVERY),
            None => LOOK,
        };
        debug_assert!(pause < LEASE);
        self.due = Instant::now() + pause;
        Ok(())
    }

    /// Whether another has renewed its lease, or got it, since we ended: it lives, and has heard what we
    /// hold. `asked`: before it was, that so much is `left`.
    fn is_renewed(&mut self, asked: Instant, left: Option<Duration>) -> bool {
        let Some(left) = left else { return false };
        // At least, and at most: how long the answer took isn't to be taken for a renewal.
        let (least, most) = (asked + left, Instant::now() + left);
        // Redis tells whole milliseconds.
        least > *self.others_until.get_or_insert(most + Duration::from_millis(5))
    }

    fn written(&mut self, refused: &[usize], why: &[u8]) {
        let metrics = self.lane.metrics();
        let mut is_refused = refused.iter().copied().peekable();
        let mut delivered = [0u64; OutputKind::ALL.len()];
        let (mut handled, mut dead_letters) = (0, 0);
        let writes = self.flight.iter().flat_map(|item| item.finish.writes());
        for (place, write) in writes.enumerate() {
            match write {
                _ if is_refused.next_if_eq(&place).is_some() => {}
                Some(by) => delivered[by as usize] += 1,
                None => dead_letters += 1,
            }
        }
        for item in &self.flight {
            handled += u64::from(item.finish.is_handled());
            item.dropped.into_iter().for_each(|reason| metrics.lost(reason, 1));
        }
        metrics.handled.add(handled);
        metrics.dead_letters.add(dead_letters);
        for by in OutputKind::ALL {
            metrics.delivered.add(by, delivered[by as usize]);
        }
        let refused = refused.len() as u64;
        if refused > 0 {
            metrics.lost(DropReason::Refused, refused);
            if let Some(held_back) = self.said_refused.admit() {
                let channel = &*self.lane.name;
                let why = Trouble::refused(why);
                tracing::warn!(
                    channel,
                    held_back,
                    "{refused} outputs of channel {channel} were refused: {why}"
                );
            }
        }
        if let Some(last) = self.flight.drain(..).next_back() {
            self.lane.finished(std::mem::take(&mut self.place), last.number);
        }
    }
}
