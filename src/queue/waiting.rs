//! What waits in a queue, and what waits for it: all that is under the queue's lock.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::order::{self, Busy, Workers};
use super::{Queue, Received, lock};
use crate::config::Overflow;

/// Tells whether a Redis that the channel writes to is away: then what overflows does so for that.
/// Asked only when something overflows.
pub type OutputAway = Box<dyn Fn() -> bool + Send + Sync>;

/// What a channel's table says of its queue.
pub struct Rules {
    /// How many take turns at it at a time, and what they keep the order of.
    pub workers: Workers,
    /// Bytes that may wait.
    pub limit: usize,
    /// What goes when there is no room.
    pub overflow: Overflow,
    /// Drops are counted as `redis_away` while this says so.
    pub output_away: OutputAway,
}

impl Rules {
    /// Of a stream, which has nothing dropped.
    pub fn of_stream(workers: impl Into<Workers>) -> Self {
        Rules {
            workers: workers.into(),
            limit: usize::MAX,
            overflow: Overflow::DropNewest,
            output_away: Box::new(|| false),
        }
    }
}

/// What is under the lock of a queue.
pub(super) struct Waiting {
    pub(super) messages: VecDeque<Received>,
    pub(super) bytes: usize,
    pub(super) rules: Rules,
    pub(super) closed: bool,
    /// Messages that were let in ever, but for those that are as if they had never been.
    pub(super) entered: u64,
    /// The same with those: what the next one's number is.
    pub(super) numbers: u64,
    /// What waits for other queues to have done what came before it.
    pub(super) holds: Vec<Hold>,
    /// What is done when those before it are done with.
    pub(super) marks: Vec<Mark>,
    /// Messages in hand have keys of other rules: no new turn until they are done with.
    pub(super) rekeyed: bool,
    /// Turns that were asked for and haven't ended.
    pub(super) turns: usize,
    /// With `order_by`.
    pub(super) busy: Busy,
}

/// What is done when messages have been done with.
pub(super) type Passed = Box<dyn FnOnce() + Send>;

/// All but the first so many messages ever let in have to wait.
pub(super) struct Hold {
    /// Of which exchange of channels.
    pub(super) exchange: u64,
    pub(super) after: u64,
}

/// The first so many messages ever let in.
pub(super) struct Mark {
    pub(super) exchange: u64,
    pub(super) before: u64,
    /// What the number of the next one was.
    pub(super) number: u64,
    pub(super) passed: Passed,
}

impl Waiting {
    pub(super) fn new(rules: Rules) -> Mutex<Self> {
        Mutex::new(Waiting {
            messages: VecDeque::new(),
            bytes: 0,
            rules,
            closed: false,
            entered: 0,
            numbers: 0,
            holds: Vec::new(),
            marks: Vec::new(),
            rekeyed: false,
            turns: 0,
            busy: Busy::default(),
        })
    }

    /// Take out the oldest.
    pub(super) fn pop_oldest(&mut self) -> Option<Received> {
        let oldest = self.messages.pop_front()?;
        self.busy.looked = self.busy.looked.saturating_sub(1);
        Some(oldest)
    }

    /// Take out the newest, as if it had never been let in.
    pub(super) fn pop_newest(&mut self) -> Option<Received> {
        let newest = self.messages.pop_back()?;
        self.busy.looked = self.messages.len().min(self.busy.looked);
        self.entered -= 1;
        let entered = self.entered;
        self.holds.iter_mut().for_each(|hold| hold.after = entered.min(hold.after));
        self.marks.iter_mut().for_each(|mark| mark.before = entered.min(mark.before));
        Some(newest)
    }

    /// Messages that were taken are as if they had not been, and before all others.
    pub(super) fn put_back(&mut self, messages: &mut Vec<Received>) {
        for mut message in messages.drain(..).rev() {
            // The rules may have changed since it came.
            if let Some(order_by) = &self.rules.workers.order_by {
                message.order = order::key(order_by, &message.message);
            }
            self.messages.push_front(message);
        }
        self.busy.looked = 0;
    }

    /// How many of those that were let in have been taken, or dropped.
    pub(super) fn left(&self) -> u64 {
        self.entered - self.messages.len() as u64
    }

    /// How many messages may be taken: the first of those that wait.
    pub(super) fn free(&self) -> usize {
        match self.holds.iter().map(|hold| hold.after).min() {
            None => self.messages.len(),
            Some(after) => self.messages.len().min(after.saturating_sub(self.left()) as usize),
        }
    }

    /// Which marks have been passed. One that was made later than a hold, and lies behind it, waits
    /// for what the hold waits for.
    pub(super) fn passed(&mut self) -> Vec<Passed> {
        if self.rekeyed {
            // What is in hand keeps the order of the rules before.
            return Vec::new();
        }
        let left = self.left();
        let Waiting { marks, holds, messages, busy, rules, .. } = self;
        let keeps_order = rules.workers.order_by.is_some();
        let is_passed = |mark: &mut Mark| {
            let is_before =
                |hold: &Hold| hold.exchange < mark.exchange && hold.after <= mark.before;
            // Of several workers' turns some that began before may go on. Where these keep an order,
            // it is not the first that were taken, either.
            let is_left = |message: &Received| message.number < mark.number;
            mark.before <= left
                && !holds.iter().any(is_before)
                && !(keeps_order
                    && (busy.has_one_before(mark.number) || messages.iter().any(is_left)))
        };
        marks.extract_if(.., is_passed).map(|mark| mark.passed).collect()
    }

    /// The same, while there is no turn whose end would tell.
    pub(super) fn passed_at_rest(&mut self) -> Vec<Passed> {
        if self.turns == 0 { self.passed() } else { Vec::new() }
    }

    /// Whether a turn would find something to do.
    pub(super) fn has_work(&self) -> bool {
        self.free() > self.busy.looked
    }

    pub(super) fn is_ended(&self) -> bool {
        self.closed && self.is_at_rest()
    }

    fn is_at_rest(&self) -> bool {
        self.turns == 0 && self.messages.is_empty()
    }
}

impl Queue {
    /// Whether no message waits, and none is being handled.
    pub fn is_at_rest(&self) -> bool {
        lock(&self.waiting).is_at_rest()
    }
}
