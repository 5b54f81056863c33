//! The task that reads one stream: what is pending in this consumer's name first, then what others
//! left lying, and what is new.
//!
//! It has a connection of its own, on which it waits for entries. Nothing is read for which there is
//! no room, and what is in hand is renewed, so that nobody claims it however long it takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Sink;
use super::conn::{ANSWER, Conn};
use super::entry::{Taken, largest, take};
use super::group;
use super::lane::Lane;
use super::nodes::Nodes;
use super::script::{Script, Scripts};
use super::suspects::Suspects;
use super::timer::Timer;
use super::trouble::{Journal, State, Trouble};
use super::unread::Unread;
use crate::broker::connection::Connector;
use crate::broker::resp::Node;
use crate::config::EntryId;
use crate::failpoint::{Step, reach};
use crate::heartbeat::Beat;
use crate::telemetry::DropReason;

/// How long a read waits in Redis for entries. A stop waits for it, and a dead connection is found
/// out this much later.
const BLOCK: Duration = Duration::from_millis(400);

/// How often what there is to know of the stream is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// After waiting so long for room it is looked at, too.
const PAUSED: Duration = Duration::from_millis(50);

/// How often the group is searched for consumers that are gone.
const FORGET: Duration = Duration::from_secs(60);

/// Reads that have room beside each other.
const READS: usize = 4;

/// For how long giving back is tried at a stop, when nothing else is left to do.
const GIVE_BACK: Duration = Duration::from_secs(2);

pub(super) struct Reader {
    nodes: Nodes,
    pub(super) lane: Arc<Lane>,
    sink: Arc<dyn Sink>,
    journal: Journal,
    beat: Beat,
    conn: Option<Conn>,
    pub(super) scripts: Scripts,
    was_connected: bool,
    /// The group was seen on this connection.
    found: bool,
    /// It has been there in this process's time.
    known: bool,
    /// It was missing since.
    vanished: bool,
    pub(super) own: Own,
    suspects: Suspects,
    unread: Unread,
    /// The highest id that was read.
    highest: EntryId,
    /// Bytes of the largest entry to be expected: what the largest one lately had, which fades as
    /// smaller ones come.
    largest: usize,
    /// What was read had no room and was thrown away. It is taken up, a piece at a time.
    too_much: bool,
    renew: Timer,
    pub(super) claim: Timer,
    look: Timer,
    forget: Timer,
}

/// The entries that are pending in this consumer's name.
pub(super) enum Own {
    /// To be taken up from this id on. `add` is 1 where a former process had them: it may have died
    /// of one. After a lost connection it is 0: they never got here, and that delivery is this one.
    /// `tried`: for so many it was tried, and the answer was lost.
    Left { from: Vec<u8>, add: u8, tried: usize },
    /// All taken up.
    Taken,
}

/// What there is room for.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Own {
    fn all(add: u8) -> Self {
        Own::Left { from: b"-".to_vec(), add, tried: 0 }
    }
}

impl Reader {
    pub(super) fn new(
        connector: &Connector,
        lane: &Arc<Lane>,
        sink: Arc<dyn Sink>,
        beat: Beat,
    ) -> Self {
        let settings = &lane.settings;
        let part = |n: u32, least: u64, most: u64| {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            Timer::new((settings.claim_idle / n).clamp(least, most))
        };
        let mut journal = Journal::new(&settings.table, &lane.key, "read", &lane.metrics);
        journal.begin();
        Reader {
            nodes: Nodes::new(connector),
            journal,
            sink,
            beat,
            conn: None,
            scripts: Scripts::default(),
            was_connected: false,
            found: false,
            known: false,
            vanished: false,
            own: Own::all(1),
            suspects: Suspects::default(),
            unread: Unread::default(),
            highest: EntryId::default(),
            largest: 16 << 10,
            too_much: false,
            renew: part(4, 1, 60_000),
            claim: part(4, 20, 2_000),
            look: Timer::new(LOOK),
            forget: Timer::new(FORGET),
            lane: lane.clone(),
        }
    }

    /// Read until `stop`; then wait until nothing is in hand any more, and give back what was not
    /// handled.
    pub(super) async fn run(mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            self.beat.answer();
            let Err(trouble) = self.read_on(stop).await else { continue };
            if std::mem::take(&mut self.too_much) || self.nodes.follow(&self.lane, &trouble) {
                continue;
            }
            let pause = self.journal.trouble(trouble);
            select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        self.leave().await;
    }

    /// Read until `stop` or trouble; the connection is kept if it is still of use.
    async fn read_on(&mut self, stop: &CancellationToken) -> Result<(), Trouble> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => select! {
                conn = self.connect() => conn?,
                () = stop.cancelled() => return Ok(()),
            },
        };
        let ended = self.steps(&mut conn, stop).await;
        match &ended {
            Err(trouble) if trouble.state.wants_new_connection() => {
                // Too much at once, perhaps.
                self.largest = self.largest.saturating_mul(4).min(1 << 30);
                self.largest = self.largest.max(largest(&self.lane.settings));
                if !matches!(self.own, Own::Left { add: 1, .. }) {
                    self.own = Own::all(0);
                }
            }
            _ => self.conn = Some(conn),
        }
        if let Err(trouble) = &ended
            && matches!(trouble.state, State::NoGroup | State::Unblocked)
        {
            self.found = false;
            self.vanished |= trouble.state == State::NoGroup;
        }
        ended
    }

    async fn connect(&mut self) -> Result<Conn, Trouble> {
        let conn = self.beat.during(self.nodes.open()).await?;
        self.scripts = Scripts::default();
        self.found = false;
        if std::mem::replace(&mut self.was_connected, true) {
            self.lane.metrics.stream.reconnects.add(1);
        }
        Ok(conn)
    }

    async fn steps(&mut self, conn: &mut Conn, stop: &CancellationToken) -> Result<(), Trouble> {
        if !self.found {
            self.find_group(conn).await?;
        }
        while !stop.is_cancelled() {
            self.step(conn, stop).await?;
        }
        Ok(())
    }

    async fn find_group(&mut self, conn: &mut Conn) -> Result<(), Trouble> {
        let cursor = group::cursor(conn, &self.lane).await?;
        let cursor = cursor.as_deref();
        let (seen, made) =
            group::ensure(conn, &mut self.scripts, &self.lane, cursor, self.known).await?;
        if self.known && (made || self.vanished) {
            self.lane.metrics.stream.groups_remade.add(u64::from(made));
            self.suspects.clear();
            let gone = |id: &EntryId| seen.first.is_none_or(|first| *id < first) || *id > seen.last;
            let trimmed = self.lane.orphan().iter().filter(|id| gone(id)).count();
            self.lane.metrics.lost(DropReason::Trimmed, trimmed as u64);
            self.own = Own::all(0);
        }
        self.unread.forget();
        self.known = true;
        self.vanished = false;
        self.found = true;
        Ok(())
    }

    /// Do what is due, and read once if there is room.
    async fn step(&mut self, conn: &mut Conn, stop: &CancellationToken) -> Result<(), Trouble> {
        self.beat.answer();
        if self.lane.take_missing() {
            return Err(Trouble::new(State::NoGroup, "NOGROUP the group is not there any more"));
        }
        if self.renew.due() {
            self.renew_held(conn).await?;
        }
        if self.look.due() {
            self.look_at(conn).await?;
        }
        if self.forget.due() {
            self.forget_dead(conn).await?;
        }
        if let Some(suspect) = self.suspects.next(self.lane.in_hand()) {
            self.sink.take(vec![suspect]);
        }
        let (entries, bytes) = self.lane.credit();
        let next = self.renew.next.min(self.look.next);
        if entries == 0 || bytes == 0 || self.suspects.are_waiting(self.lane.in_hand()) {
            let began = Instant::now();
            select! {
                () = self.lane.freed() => {}
                () = sleep_until(next) => {}
                () = stop.cancelled() => {}
            }
            // What was trimmed off meanwhile can be counted only before the next read.
            if began.elapsed() >= PAUSED {
                self.look.now();
            }
            return Ok(());
        }
        let room = Room { entries: entries.min(self.lane.settings.batch), bytes };
        if let Own::Left { from, add, tried } = &self.own {
            let own = (from.clone(), *add, *tried);
            self.take_up_own(conn, own, room).await?;
            self.journal.fine();
            return Ok(());
        }
        if self.claim.due() {
            return self.claim_stale(conn, room).await;
        }
        let block = next.min(self.claim.next).saturating_duration_since(Instant::now());
        // What is read is there twice for a moment, as it came and as messages.
        let bytes = bytes.min((self.lane.share() / READS).max(1));
        self.read(conn, Room { bytes, ..room }, block.clamp(Duration::from_millis(1), BLOCK)).await
    }

    /// Wait for entries. When they turn out to be larger than those before them, and have no room,
    /// none is kept.
    async fn read(&mut self, conn: &mut Conn, room: Room, block: Duration) -> Result<(), Trouble> {
        let settings = &self.lane.settings;
        let most = room.entries.min((room.bytes / self.largest).max(1));
        // A single one must come, whatever it has.
        let limit = if most == 1 { usize::MAX } else { room.bytes };
        let (count, wait) = (most.to_string(), block.as_millis().max(1).to_string());
        let command: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            settings.group.as_bytes(),
            settings.consumer.as_bytes(),
            b"COUNT",
            count.as_bytes(),
            b"BLOCK",
            wait.as_bytes(),
            b"STREAMS",
            self.lane.key.as_bytes(),
            b">",
        ];
        let lane = &self.lane;
        let taken = conn.ask_for(&command, limit, block + ANSWER, |answer| {
            let items = answer.items();
            // A map of the stream to its entries; in RESP2 a list of such pairs.
            let entries = match items.as_slice() {
                [pair] => pair.items().get(1).copied(),
                [_, entries] => Some(*entries),
                _ => None,
            };
            let entries = entries.into_iter().flat_map(Node::each);
            entries.filter_map(|entry| take_new(lane, entry)).collect::<Vec<Taken>>()
        });
        let Some(taken) = taken.await? else {
            tracing::debug!(
                channel = &*settings.table,
                stream = &*self.lane.key,
                "{most} entries had more than {limit} bytes; they are read a few at a time"
            );
            self.too_much = true;
            return Err(Trouble::new(State::RedisAway, "the entries have no room"));
        };
        self.was_read(taken);
        Ok(())
    }

    fn was_read(&mut self, taken: Vec<Taken>) {
        self.journal.fine();
        let Some(last) = taken.last() else { return };
        reach(Step::Read);
        let again = taken.iter().filter(|taken| taken.entry().id() <= self.highest).count();
        self.lane.metrics.stream.redelivered.add(again as u64);
        self.highest = self.highest.max(last.entry().id());
        self.hand_on(taken);
    }

    /// Give entries to the sink, but keep those back that are to go alone.
    pub(super) fn hand_on(&mut self, taken: Vec<Taken>) {
        let seen = taken.iter().map(|taken| taken.entry().size()).max().unwrap_or(0);
        let faded = self.largest - self.largest / 8;
        self.largest = seen.max(faded).max(1);
        let most = self.lane.settings.max_deliveries;
        let (alone, rest): (Vec<Taken>, Vec<Taken>) = taken.into_iter().partition(|taken| {
            matches!(taken, Taken::Message(..)) && taken.entry().attempt() > most
        });
        self.suspects.add(alone);
        if !rest.is_empty() {
            self.sink.take(rest);
        }
    }

    async fn renew_held(&mut self, conn: &mut Conn) -> Result<(), Trouble> {
        let held: Vec<String> = self.lane.held().iter().map(EntryId::to_string).collect();
        let (Some(lowest), Some(highest)) = (held.first(), held.last()) else { return Ok(()) };
        let settings = &self.lane.settings;
        let mut arguments = vec![
            settings.group.as_bytes(),
            settings.consumer.as_bytes(),
            lowest.as_bytes(),
            highest.as_bytes(),
        ];
        arguments.extend(held.iter().map(String::as_bytes));
        let keys = [self.lane.key.as_bytes()];
        self.scripts.call(conn, Script::Renew, &keys, &arguments, ANSWER, |_| ()).await
    }

    async fn look_at(&mut self, conn: &mut Conn) -> Result<(), Trouble> {
        let seen = group::look(conn, &mut self.scripts, &self.lane, None).await?;
        let Some(group) = &seen.group else {
            return Err(Trouble::new(State::NoGroup, "NOGROUP the group is not there any more"));
        };
        self.lane.metrics.stream.seen(&self.lane.key, group.pending, group.lag);
        let trimmed = self.unread.trimmed(&seen);
        if trimmed > 0 {
            self.lane.metrics.lost(DropReason::Trimmed, trimmed);
        }
        Ok(())
    }

    async fn forget_dead(&mut self, conn: &mut Conn) -> Result<(), Trouble> {
        let settings = &self.lane.settings;
        let idle = settings.forget.as_millis().to_string();
        let arguments = [settings.group.as_bytes(), settings.consumer.as_bytes(), idle.as_bytes()];
        let keys = [self.lane.key.as_bytes()];
        let removed =
            self.scripts.call(conn, Script::Forget, &keys, &arguments, ANSWER, |answer| {
                let name = |node: &Node<'_>| {
                    String::from_utf8_lossy(node.string().unwrap_or_default()).into_owned()
                };
                answer.items().iter().map(name).collect::<Vec<_>>()
            });
        match removed.await {
            Ok(removed) => {
                for consumer in removed {
                    let (stream, group) = (&*self.lane.key, &*settings.group);
                    tracing::info!(
                        channel = &*settings.table,
                        stream,
                        group,
                        consumer,
                        "a consumer without pending entries that was long idle is removed"
                    );
                }
                Ok(())
            }
            // Only tidying: no reason to stop reading.
            Err(trouble) if trouble.state == State::NoPermission => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Wait until nothing is in hand, and give back what was let go without being handled.
    async fn leave(mut self) {
        self.suspects.clear();
        let mut until = None;
        loop {
            self.beat.answer();
            if self.lane.in_hand() == 0 && !self.lane.has_given_back() {
                return;
            }
            let Err(trouble) = self.leave_step().await else { continue };
            if self.nodes.follow(&self.lane, &trouble) {
                continue;
            }
            let pause = self.journal.trouble(trouble);
            let until = until.get_or_insert(Instant::now() + GIVE_BACK);
            if self.lane.in_hand() == 0 && Instant::now() >= *until {
                return;
            }
            select! {
                () = sleep(pause) => {}
                () = self.lane.freed() => {}
            }
        }
    }

    async fn leave_step(&mut self) -> Result<(), Trouble> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        if self.renew.due() {
            self.renew_held(&mut conn).await?;
        }
        let ids = self.lane.given_back();
        if !ids.is_empty() {
            reach(Step::GivingBack);
            let given = self.give_back(&mut conn, &ids).await?;
            reach(Step::GivenBack);
            self.lane.metrics.stream.given_back.add(given);
            self.lane.forget_given_back(&ids);
        } else if self.lane.in_hand() > 0 {
            select! {
                () = self.lane.freed() => {}
                () = sleep_until(self.renew.next) => {}
                () = self.beat.asked() => {}
            }
        }
        self.conn = Some(conn);
        Ok(())
    }

    async fn give_back(&mut self, conn: &mut Conn, ids: &[EntryId]) -> Result<u64, Trouble> {
        let settings = &self.lane.settings;
        let idle = GIVEN_BACK.as_millis().to_string();
        let ids: Vec<String> = ids.iter().map(EntryId::to_string).collect();
        let mut arguments =
            vec![settings.group.as_bytes(), settings.consumer.as_bytes(), idle.as_bytes()];
        arguments.extend(ids.iter().map(String::as_bytes));
        let keys = [self.lane.key.as_bytes()];
        let given = |answer: Node<'_>| answer.integer().unwrap_or(0) as u64;
        self.scripts.call(conn, Script::Release, &keys, &arguments, ANSWER, given).await
    }
}

/// For so long nobody has worked at what was given back: longer than any `claim_idle`, also one of a
/// later configuration, so that it is taken up before what came after it.
const GIVEN_BACK: Duration = Duration::from_secs(366 * 24 * 3600);

/// An entry that was delivered the first time.
fn take_new(lane: &Arc<Lane>, entry: Node<'_>) -> Option<Taken> {
    let mut parts = entry.each();
    take(lane, parts.next()?, parts.next()?, 1)
}
