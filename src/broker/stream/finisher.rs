//! The task that finishes the entries of one stream, in the order in which they were put in line.
//!
//! One call of `finish.lua` is under way at a time; what comes meanwhile goes with the next, so a
//! busy stream is finished in batches by itself. An entry that Redis refuses for now is tried until
//! it works, and those behind it wait: order demands it. After a lost connection what had no answer
//! is sent again, for a second finish does nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::conn::{ANSWER, Conn};
use super::finish::{Arguments, Call};
use super::group::{self, rehearse};
use super::lane::{Item, Lane, Outcome};
use super::nodes::Nodes;
use super::script::{Script, Scripts};
use super::settings::WhenDone;
use super::timer::Timer;
use super::trouble::{Journal, State, Trouble};
use crate::broker::connection::Connector;
use crate::broker::resp::Node;
use crate::failpoint::{Step, reach};
use crate::heartbeat::Beat;
use crate::telemetry::{DropReason, OutputKind, RateLimit};

/// Bytes of outputs in one call, unless one entry has more. Redis does nothing else meanwhile.
const CALL_BYTES: usize = 1 << 20;

/// Entries in one call at most, whatever `batch` says: they go over Lua's stack.
const CALL_ENTRIES: usize = 1_000;

/// How often it is asked whether a cursor that was forbidden may be used.
const ASK_CURSOR: Duration = Duration::from_secs(5);

/// What a script answered that needn't stop anything is logged this often at most.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Finisher {
    nodes: Nodes,
    lane: Arc<Lane>,
    journal: Journal,
    beat: Beat,
    conn: Option<Conn>,
    scripts: Scripts,
    cursor: Option<String>,
    /// Whether a cursor that was forbidden may be used.
    ask_cursor: Timer,
    flight: VecDeque<Item>,
    /// Done with, but for what is to be said and freed: that is done while Redis works at the next.
    spent: Vec<(Item, Outcome)>,
    arguments: Arguments,
    /// So many go alone: one of them is refused, and it isn't known which.
    alone: usize,
    /// The acknowledgement was refused by the ACL: not to be tried before a rehearsal allows it.
    forbidden: bool,
    said_refused: RateLimit,
    said_trouble: RateLimit,
}

/// What the script answered.
#[derive(Debug, Default)]
struct Answer {
    dealt: usize,
    why: Vec<u8>,
    refused: u64,
    refusal: Vec<u8>,
    trouble: Vec<u8>,
    gone: Vec<usize>,
}

impl Answer {
    fn of(node: Node<'_>) -> Self {
        let items = node.items();
        let number = |i: usize| items.get(i).and_then(|n| n.integer()).unwrap_or(0);
        let text = |i: usize| items.get(i).and_then(|n| n.string()).unwrap_or_default().to_vec();
        Answer {
            dealt: number(0) as usize,
            why: text(1),
            refused: number(2) as u64,
            refusal: text(3),
            trouble: text(4),
            gone: (5..items.len()).map(|i| (number(i) as usize).saturating_sub(1)).collect(),
        }
    }
}

impl Finisher {
    pub(super) fn new(connector: &Connector, lane: &Arc<Lane>, beat: Beat) -> Self {
        let table = &lane.settings.table;
        Finisher {
            nodes: Nodes::new(connector),
            journal: Journal::new(table, &lane.key, "finish entries", &lane.metrics),
            lane: lane.clone(),
            beat,
            conn: None,
            scripts: Scripts::default(),
            cursor: None,
            ask_cursor: Timer::new(ASK_CURSOR),
            flight: VecDeque::new(),
            spent: Vec::new(),
            arguments: Arguments::default(),
            alone: 0,
            forbidden: false,
            said_refused: RateLimit::new(SAY_EVERY),
            said_trouble: RateLimit::new(SAY_EVERY),
        }
    }

    /// Finish what is put in line, until `stop` and nothing is left.
    pub(super) async fn run(mut self, stop: &CancellationToken) {
        loop {
            self.beat.answer();
            self.fill();
            if self.flight.is_empty() {
                settle(&self.lane, &mut self.spent);
                if stop.is_cancelled() {
                    return;
                }
                select! {
                    () = self.lane.woken() => {}
                    () = self.beat.asked() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            match self.step().await {
                Ok(()) => self.journal.fine(),
                Err(trouble) => self.wait(trouble).await,
            }
        }
    }

    fn fill(&mut self) {
        let most = match self.alone {
            0 => self.lane.settings.batch.clamp(1, CALL_ENTRIES),
            _ => 1,
        };
        self.lane.take(&mut self.flight, most, CALL_BYTES);
        // Of a group that isn't there any more: they are read anew.
        let epoch = self.lane.epoch();
        let stale = |item: &Item| item.entry.epoch() != epoch;
        if self.flight.iter().any(stale) {
            let flight = std::mem::take(&mut self.flight);
            let (gone, left): (VecDeque<Item>, _) = flight.into_iter().partition(stale);
            self.flight = left;
            self.spent.extend(gone.into_iter().map(|item| (item, Outcome::Gone)));
        }
    }

    async fn step(&mut self) -> Result<(), Trouble> {
        if self.conn.is_none() {
            settle(&self.lane, &mut self.spent);
            self.connect().await?;
        }
        let lane = self.lane.clone();
        let Some(conn) = &mut self.conn else { return Ok(()) };
        if self.forbidden {
            let (key, group) = (lane.key.as_bytes(), lane.settings.group.as_bytes());
            if let Some(trouble) = rehearse(conn, &[b"XACK", key, group, b"0-0"]).await? {
                return Err(trouble);
            }
            self.forbidden = false;
        }
        if self.cursor.is_none() && self.ask_cursor.due() {
            self.cursor = group::cursor(conn, &lane).await?;
        }
        let call = Call {
            key: &lane.key,
            group: &lane.settings.group,
            consumer: &lane.settings.consumer,
            delete: lane.settings.when_done == WhenDone::Delete,
            cursor: self.cursor.as_deref(),
        };
        let sent = if self.alone > 0 { 1 } else { self.flight.len() };
        self.arguments.clear();
        for item in self.flight.iter().take(sent) {
            self.arguments.add(item.entry.id(), &item.finish);
        }
        let arguments = &self.arguments;
        let parts = arguments.parts(&call);
        let put = |out: &mut Vec<u8>| arguments.put(&call, out);
        let answer = self.scripts.run(conn, Script::Finish, parts, put, ANSWER, Answer::of);
        let spent = &mut self.spent;
        let meanwhile = async {
            reach(Step::FinishSent);
            settle(&lane, spent);
        };
        let (answer, ()) = tokio::join!(answer, meanwhile);
        match answer {
            Ok(answer) => self.answered(answer),
            Err(trouble) => self.failed(trouble, sent).await,
        }
    }

    /// So many were sent, and nothing is known of them, or all were refused.
    async fn failed(&mut self, trouble: Trouble, sent: usize) -> Result<(), Trouble> {
        if trouble.state == State::NoPermission
            && self.cursor.is_some()
            && let Some(conn) = &mut self.conn
        {
            // Perhaps because of the cursor only: it goes on without.
            self.cursor = group::cursor(conn, &self.lane).await?;
            if self.cursor.is_none() {
                return Ok(());
            }
        }
        match trouble.state {
            // It may have been carried out.
            State::RedisAway => {
                self.flight.iter_mut().take(sent).for_each(|item| item.uncertain = true);
            }
            // Refused as a whole: a key of one entry is to blame, perhaps.
            State::NoPermission | State::OtherSlot if sent > 1 => {
                self.alone = sent;
                return Ok(());
            }
            _ => {}
        }
        Err(trouble)
    }

    async fn connect(&mut self) -> Result<(), Trouble> {
        let mut conn = self.beat.during(self.nodes.open()).await?;
        self.scripts = Scripts::default();
        self.cursor = group::cursor(&mut conn, &self.lane).await?;
        self.conn = Some(conn);
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), Trouble> {
        reach(Step::FinishAnswered);
        let dealt = answer.dealt.min(self.flight.len());
        self.alone = self.alone.saturating_sub(dealt);
        let mut gone = answer.gone.iter().copied().peekable();
        let mut delivered = [0u64; OutputKind::ALL.len()];
        for (place, item) in self.flight.drain(..dealt).enumerate() {
            let elsewhere = gone.next_if_eq(&place).is_some() && !item.uncertain;
            if elsewhere {
                self.lane.metrics.stream.finished_elsewhere.add(1);
                self.spent.push((item, Outcome::Gone));
            } else {
                item.finish.outputs().for_each(|by| delivered[by as usize] += 1);
                self.lane.metrics.handled.add(u64::from(item.finish.is_handled()));
                self.lane.metrics.dead_letters.add(item.finish.dead_letters());
                self.spent.push((item, Outcome::Done));
            }
        }
        // Only what is published can be refused alone.
        let published = &mut delivered[OutputKind::Publish as usize];
        *published = published.saturating_sub(answer.refused);
        for by in OutputKind::ALL {
            self.lane.metrics.delivered.add(by, delivered[by as usize]);
        }
        self.say(&answer);
        if answer.why.is_empty() {
            return Ok(());
        }
        let trouble = Trouble::refused(&answer.why);
        // Undone by the script; that once is enough.
        self.forbidden = trouble.state == State::NoPermission;
        Err(trouble)
    }

    fn say(&self, answer: &Answer) {
        let stream = &*self.lane.key;
        let channel = &*self.lane.settings.table;
        if answer.refused > 0 {
            self.lane.metrics.lost(DropReason::Refused, answer.refused);
            if let Some(held_back) = self.said_refused.admit() {
                let why = Trouble::refused(&answer.refusal);
                tracing::warn!(
                    channel,
                    stream,
                    held_back,
                    "{} PUBLISH of channel {channel} refused, which is not tried again: {why}",
                    answer.refused
                );
            }
        }
        if !answer.trouble.is_empty()
            && let Some(held_back) = self.said_trouble.admit()
        {
            let what = String::from_utf8_lossy(&answer.trouble);
            tracing::warn!(channel, stream, held_back, "while entries were finished: {what}");
        }
    }

    async fn wait(&mut self, trouble: Trouble) {
        settle(&self.lane, &mut self.spent);
        if trouble.state == State::NoGroup {
            self.lane.group_is_missing();
        }
        if trouble.state.wants_new_connection() {
            self.conn = None;
        }
        if self.nodes.follow(&self.lane, &trouble) {
            return;
        }
        sleep(self.journal.trouble(trouble)).await;
    }
}

/// Nothing is left to do for these.
fn settle(lane: &Lane, spent: &mut Vec<(Item, Outcome)>) {
    let count = spent.len();
    for (item, outcome) in spent.drain(..) {
        let Item { mut entry, done, .. } = item;
        entry.settle();
        drop(entry);
        if let Some(done) = done {
            let _ = done.send(outcome);
        }
    }
    if count > 0 {
        lane.settle(count);
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        settle(&self.lane, &mut self.spent);
        self.lane.settle(self.flight.len());
    }
}
