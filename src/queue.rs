//! The one queue between a channel's source and its workers, bounded in bytes.
//!
//! A source puts in and never waits: what doesn't fit is dropped by the channel's policy, counted
//! by reason. Workers take batches, each in a turn of its own. All queues share one [`Budget`]: when it is used up the
//! fullest queue drops first. Knows neither Redis nor handlers.

mod order;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use tokio::sync::Notify;

use self::order::Busy;
use crate::broker::single;
use crate::config::Overflow;
use crate::message::{Delivery, Message};
use crate::telemetry::{ChannelMetrics, DropReason};

pub use self::order::Workers;

/// A message that came from a source and waits to be handled.
#[derive(Debug)]
pub struct Received {
    /// What came.
    pub message: Message,
    /// Where from, and when.
    pub delivery: Arc<Delivery>,
    /// The hold on it, where what becomes of it is written in one step with its being done.
    pub entry: Option<single::Hold>,
    /// With `order_by`: a message is not begun while another one of this key is in hand. Set when it
    /// is put into the queue.
    pub order: u64,
}

impl Received {
    /// Bytes of memory that a waiting message is counted with: what it holds, and what holding it
    /// costs (both structures and the allocator's own bookkeeping), so that a queue of empty
    /// messages is bounded too.
    pub fn footprint(&self) -> usize {
        const ALLOCATIONS: usize = 4 * 16;
        self.message.size()
            + self.delivery.redis_channel.len()
            + std::mem::size_of::<Received>()
            + std::mem::size_of::<Delivery>()
            + ALLOCATIONS
    }
}

/// Most messages and bytes that a worker takes at once. Enough to make a lock and a wake-up cheap
/// for each; few enough that what a slow handler has in hand stays small beside the queue.
const BATCH_MESSAGES: usize = 128;
const BATCH_BYTES: usize = 256 << 10;

/// Bytes that all queues together may hold: `[limits] memory`.
pub struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let (limit, used) = (AtomicUsize::new(limit), AtomicUsize::new(0));
        Arc::new(Budget { limit, used, queues: Mutex::default() })
    }

    /// So many bytes from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
        self.enforce();
    }

    /// Bytes that wait or are in hand now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Drop from the fullest queue until the limit is kept. One 64th of the limit goes at once, so
    /// that looking for the fullest of many queues is paid for by many messages.
    fn enforce(&self) {
        let limit = self.limit.load(Relaxed);
        if self.used() <= limit {
            return;
        }
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        loop {
            // Read once: workers give back meanwhile.
            let over = self.used().saturating_sub(limit);
            if over == 0 {
                break;
            }
            let fullest = queues.iter().filter_map(Weak::upgrade).max_by_key(|queue| queue.bytes());
            match fullest {
                Some(queue) if queue.bytes() > 0 => {
                    queue.shed(over.max(limit / 64));
                }
                // All of it is in hand: the workers will give it back.
                _ => break,
            }
        }
    }
}

/// What waits for the workers of one channel.
pub struct Queue {
    waiting: Mutex<Waiting>,
    /// What `waiting` holds, readable without its lock.
    bytes: AtomicUsize,
    /// Called when a turn is to be had.
    ready: OnceLock<Ready>,
    /// It was closed, and the last turn is over.
    ended: Notify,
    budget: Arc<Budget>,
    metrics: Arc<ChannelMetrics>,
    /// Nothing is lost with what is dropped here: its source has it still, and gives it again.
    kept_by_source: bool,
}

/// Tells whether a Redis that the channel writes to is away: then what overflows does so for that.
/// Asked only when something overflows.
pub type OutputAway = Box<dyn Fn() -> bool + Send + Sync>;

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

/// Told that somebody is to take a turn at the queue, as long as it has messages and fewer turns
/// than workers: [`Queue::take`] what there is, and [`Queue::end_turn`].
pub type Ready = Box<dyn Fn() + Send + Sync>;

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

struct Waiting {
    messages: VecDeque<Received>,
    bytes: usize,
    rules: Rules,
    closed: bool,
    /// Messages that were let in ever.
    entered: u64,
    /// What waits for other queues to have done what came before it.
    holds: Vec<Hold>,
    /// What is done when those before it are done with.
    marks: Vec<Mark>,
    /// Messages in hand have keys of other rules: no new turn until they are done with.
    rekeyed: bool,
    /// Turns that were asked for and haven't ended.
    turns: usize,
    /// With `order_by`.
    busy: Busy,
}

/// What is done when messages have been done with.
type Passed = Box<dyn FnOnce() + Send>;

/// All but the first so many messages ever let in have to wait.
struct Hold {
    /// Of which exchange of channels.
    exchange: u64,
    after: u64,
}

/// The first so many messages ever let in.
struct Mark {
    exchange: u64,
    before: u64,
    passed: Passed,
}

impl Waiting {
    fn new(rules: Rules) -> Mutex<Self> {
        Mutex::new(Waiting {
            messages: VecDeque::new(),
            bytes: 0,
            rules,
            closed: false,
            entered: 0,
            holds: Vec::new(),
            marks: Vec::new(),
            rekeyed: false,
            turns: 0,
            busy: Busy::default(),
        })
    }

    /// Take out the oldest.
    fn pop_oldest(&mut self) -> Option<Received> {
        let oldest = self.messages.pop_front()?;
        self.busy.looked = self.busy.looked.saturating_sub(1);
        Some(oldest)
    }

    /// Take out the newest, as if it had never been let in.
    fn pop_newest(&mut self) -> Option<Received> {
        let newest = self.messages.pop_back()?;
        self.busy.looked = self.messages.len().min(self.busy.looked);
        self.entered -= 1;
        let entered = self.entered;
        self.holds.iter_mut().for_each(|hold| hold.after = entered.min(hold.after));
        self.marks.iter_mut().for_each(|mark| mark.before = entered.min(mark.before));
        Some(newest)
    }

    /// Messages that were taken are as if they had not been, and before all others.
    fn put_back(&mut self, messages: &mut Vec<Received>) {
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
    fn left(&self) -> u64 {
        self.entered - self.messages.len() as u64
    }

    /// How many messages may be taken: the first of those that wait.
    fn free(&self) -> usize {
        match self.holds.iter().map(|hold| hold.after).min() {
            None => self.messages.len(),
            Some(after) => self.messages.len().min(after.saturating_sub(self.left()) as usize),
        }
    }

    /// Which marks have been passed. One that was made later than a hold, and lies behind it, waits
    /// for what the hold waits for.
    fn passed(&mut self) -> Vec<Passed> {
        let left = self.left();
        let Waiting { marks, holds, .. } = self;
        // Of several workers' turns some that began before may go on; these keep no order.
        let is_passed = |mark: &mut Mark| {
            let is_before =
                |hold: &Hold| hold.exchange < mark.exchange && hold.after <= mark.before;
            mark.before <= left && !holds.iter().any(is_before)
        };
        marks.extract_if(.., is_passed).map(|mark| mark.passed).collect()
    }

    /// Whether a turn would find something to do.
    fn has_work(&self) -> bool {
        self.free() > self.busy.looked
    }

    fn is_ended(&self) -> bool {
        self.closed && self.turns == 0 && self.messages.is_empty()
    }
}

/// With `order_by`: how much further a turn looks for messages whose keys nobody has in hand. The next
/// one begins there.
const LOOK_AT: usize = 1024;

impl Queue {
    /// An empty queue of at most `limit` bytes that counts its drops in `metrics`, as `redis_away`
    /// while `output_away` says so. At most so many `workers` take turns at it at a time.
    pub fn new(
        workers: impl Into<Workers>,
        limit: usize,
        overflow: Overflow,
        budget: &Arc<Budget>,
        metrics: Arc<ChannelMetrics>,
        output_away: OutputAway,
    ) -> Arc<Self> {
        let rules = Rules { workers: workers.into(), limit, overflow, output_away };
        let queue = Arc::new(Queue {
            waiting: Waiting::new(rules),
            bytes: AtomicUsize::new(0),
            ready: OnceLock::new(),
            ended: Notify::new(),
            budget: budget.clone(),
            metrics,
            kept_by_source: false,
        });
        let mut queues = lock(&budget.queues);
        // Now and then, so that those of channels long gone don't gather.
        if queues.len().is_power_of_two() {
            queues.retain(|queue| queue.strong_count() > 0);
        }
        queues.push(Arc::downgrade(&queue));
        drop(queues);
        queue
    }

    /// A queue for a stream, whose source never has more in hand than may wait: nothing is dropped.
    pub fn of_stream(workers: impl Into<Workers>, metrics: Arc<ChannelMetrics>) -> Arc<Self> {
        Arc::new(Queue {
            waiting: Waiting::new(Rules::of_stream(workers)),
            bytes: AtomicUsize::new(0),
            ready: OnceLock::new(),
            ended: Notify::new(),
            budget: Budget::new(usize::MAX),
            metrics,
            kept_by_source: true,
        })
    }

    /// Go by other rules from now on.
    pub fn adopt(&self, rules: Rules) {
        let turn = {
            let mut waiting = lock(&self.waiting);
            // What waits has the keys of the rules before.
            if rules.workers.order_by != waiting.rules.workers.order_by {
                let order_by = rules.workers.order_by.as_ref();
                for message in &mut waiting.messages {
                    message.order = order_by.map_or(0, |by| order::key(by, &message.message));
                }
                waiting.rekeyed = waiting.turns > 0;
                waiting.busy.looked = 0;
            }
            waiting.rules = rules;
            self.wants_turn(&mut waiting)
        };
        if turn {
            self.ready();
        }
    }

    /// Say who is told that a turn is to be had; once, before any message comes.
    pub fn on_ready(&self, ready: Ready) {
        let first = self.ready.set(ready).is_ok();
        debug_assert!(first, "a queue has one crew");
    }

    /// Bytes that wait: `handlerd_queue_bytes`.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Counters of the channel.
    pub fn metrics(&self) -> &Arc<ChannelMetrics> {
        &self.metrics
    }

    /// Put messages in, in order; `messages` is empty afterwards. Never waits: what has no room is
    /// dropped and counted. After [`Self::close`] all of it is dropped as `shutdown`.
    pub fn push(&self, messages: &mut Vec<Received>) {
        if messages.is_empty() {
            return;
        }
        self.metrics.received.add(messages.len() as u64);
        let turn = {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                self.lost(messages.len() as u64);
                messages.clear();
                return;
            }
            let before = waiting.bytes;
            let mut dropped = 0;
            for mut message in messages.drain(..) {
                if let Some(order_by) = &waiting.rules.workers.order_by {
                    message.order = order::key(order_by, &message.message);
                }
                dropped += self.admit(&mut waiting, message);
            }
            self.settle(&waiting, before);
            if dropped > 0 {
                let away = (waiting.rules.output_away)();
                let reason = if away { DropReason::RedisAway } else { DropReason::Overflow };
                self.metrics.lost(reason, dropped);
            }
            self.wants_turn(&mut waiting)
        };
        if turn {
            self.ready();
        }
        self.budget.enforce();
    }

    /// Put one message in and answer how many were dropped for it (itself, or older ones).
    fn admit(&self, waiting: &mut Waiting, message: Received) -> u64 {
        let size = message.footprint();
        let mut dropped = 0;
        let Rules { limit, overflow, .. } = waiting.rules;
        if overflow == Overflow::DropOldest && size <= limit {
            while waiting.bytes + size > limit {
                match waiting.pop_oldest() {
                    Some(oldest) => waiting.bytes -= oldest.footprint(),
                    None => break,
                }
                dropped += 1;
            }
        }
        if waiting.bytes + size > limit {
            return dropped + 1;
        }
        waiting.bytes += size;
        waiting.entered += 1;
        // Nobody is told of what would have to wait, unless somebody has to look at others.
        if waiting.busy.looked == waiting.messages.len()
            && waiting.rules.workers.order_by.is_some()
            && !waiting.busy.allows(message.order, &[])
        {
            waiting.busy.looked += 1;
        }
        waiting.messages.push_back(message);
        dropped
    }

    /// Drop at least so many bytes, or all there is, because all queues together hold too much.
    fn shed(&self, bytes: usize) {
        let (passed, dropped) = {
            let mut waiting = lock(&self.waiting);
            let before = waiting.bytes;
            let mut dropped = 0;
            while before - waiting.bytes < bytes {
                let message = match waiting.rules.overflow {
                    Overflow::DropOldest => waiting.pop_oldest(),
                    Overflow::DropNewest => waiting.pop_newest(),
                };
                let Some(message) = message else { break };
                waiting.bytes -= message.footprint();
                dropped += 1;
            }
            self.settle(&waiting, before);
            self.rest(&waiting);
            (if waiting.turns == 0 { waiting.passed() } else { Vec::new() }, dropped)
        };
        self.metrics.lost(DropReason::Memory, dropped);
        passed.into_iter().for_each(|passed| passed());
    }

    /// Carry a change of `waiting.bytes` over to the budget and to the number read without lock.
    fn settle(&self, waiting: &Waiting, before: usize) {
        self.bytes.store(waiting.bytes, Relaxed);
        if waiting.bytes >= before {
            self.budget.used.fetch_add(waiting.bytes - before, Relaxed);
        } else {
            self.budget.used.fetch_sub(before - waiting.bytes, Relaxed);
        }
    }

    /// Whether somebody is to be told, who is then counted.
    fn wants_turn(&self, waiting: &mut Waiting) -> bool {
        let wants = waiting.has_work()
            && waiting.turns < waiting.rules.workers.most
            && !(waiting.rekeyed && waiting.turns > 0);
        waiting.turns += usize::from(wants);
        wants
    }

    fn ready(&self) {
        if let Some(ready) = self.ready.get() {
            ready();
        }
    }

    /// Take some messages into `batch`, which must be used up; `false` when there are none.
    pub fn take(self: &Arc<Self>, batch: &mut Batch) -> bool {
        debug_assert!(batch.is_done(), "the batch before was not used up");
        let turn = {
            let mut waiting = lock(&self.waiting);
            if waiting.free() == 0 {
                return false;
            }
            match &waiting.rules.workers.order_by {
                None => self.move_some(&mut waiting, batch),
                Some(_) => self.move_unrelated(&mut waiting, batch),
            }
            self.wants_turn(&mut waiting)
        };
        if turn {
            self.ready();
        }
        !batch.is_done()
    }

    /// A turn has ended. `true` when messages are left: then there is to be another one in its
    /// place, without anybody being told.
    pub fn end_turn(&self) -> bool {
        let (another, passed) = {
            let mut waiting = lock(&self.waiting);
            let may_go_on = waiting.turns <= waiting.rules.workers.most
                && !(waiting.rekeyed && waiting.turns > 1);
            let another = waiting.has_work() && may_go_on;
            // This was the last with messages of the rules before, perhaps.
            waiting.rekeyed &= waiting.turns > 1;
            waiting.turns -= usize::from(!another);
            self.rest(&waiting);
            (another, waiting.passed())
        };
        passed.into_iter().for_each(|passed| passed());
        another
    }

    /// Tell whoever waits for the end, if this is it.
    fn rest(&self, waiting: &Waiting) {
        if waiting.is_ended() {
            self.ended.notify_waiters();
        }
    }

    /// Wait until the queue was closed and nothing of it waits or is in hand.
    pub async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if lock(&self.waiting).is_ended() {
                return;
            }
            ended.await;
        }
    }

    /// Call this when everything that is in the queue now, or in hand, is done with: at once when
    /// there is nothing. What is held back by an earlier exchange of channels is waited for too.
    pub fn when_passed(&self, exchange: u64, passed: impl FnOnce() + Send + 'static) {
        let passed = {
            let mut waiting = lock(&self.waiting);
            let before = waiting.entered;
            waiting.marks.push(Mark { exchange, before, passed: Box::new(passed) });
            if waiting.turns == 0 { waiting.passed() } else { Vec::new() }
        };
        passed.into_iter().for_each(|passed| passed());
    }

    /// What comes from now on has to wait, until [`Self::release_held`] of the same exchange of channels.
    pub fn hold(&self, exchange: u64) {
        let mut waiting = lock(&self.waiting);
        let after = waiting.entered;
        waiting.holds.push(Hold { exchange, after });
    }

    /// What was held back may be taken, as far as no other exchange holds it back.
    pub fn release_held(&self, exchange: u64) {
        let (turn, passed) = {
            let mut waiting = lock(&self.waiting);
            waiting.holds.retain(|hold| hold.exchange != exchange);
            let passed = if waiting.turns == 0 { waiting.passed() } else { Vec::new() };
            (self.wants_turn(&mut waiting), passed)
        };
        if turn {
            self.ready();
        }
        passed.into_iter().for_each(|passed| passed());
    }

    fn move_some(self: &Arc<Self>, waiting: &mut Waiting, batch: &mut Batch) {
        batch.finish();
        batch.queue = Some(self.clone());
        let mut free = waiting.free();
        while let Some(message) = waiting.messages.front().filter(|_| free > 0) {
            let size = message.footprint();
            let full = batch.messages.len() == BATCH_MESSAGES || batch.bytes + size > BATCH_BYTES;
            if full && !batch.messages.is_empty() {
                break;
            }
            batch.bytes += size;
            waiting.bytes -= size;
            free -= 1;
            batch.messages.extend(waiting.messages.pop_front());
        }
        // Still in the budget, though no longer in the queue: `Batch::finish` gives it back.
        self.bytes.store(waiting.bytes, Relaxed);
    }

    /// The same with `order_by`: only what has no key that somebody has in hand, and not so much
    /// that nothing is left for the other workers.
    fn move_unrelated(self: &Arc<Self>, waiting: &mut Waiting, batch: &mut Batch) {
        batch.finish();
        batch.queue = Some(self.clone());
        let mut free = waiting.free();
        let share = (free / waiting.rules.workers.most).clamp(1, BATCH_MESSAGES);
        let mut at = waiting.busy.looked;
        let end = at + LOOK_AT;
        while at < free.min(end) && batch.messages.len() < share && batch.bytes < BATCH_BYTES {
            if !waiting.busy.allows(waiting.messages[at].order, &batch.keys) {
                at += 1;
                continue;
            }
            let Some(message) = waiting.messages.remove(at) else { break };
            waiting.busy.take(message.order, &mut batch.keys);
            let size = message.footprint();
            batch.bytes += size;
            waiting.bytes -= size;
            free -= 1;
            batch.messages.push_back(message);
        }
        waiting.busy.looked = at;
        self.bytes.store(waiting.bytes, Relaxed);
    }

    /// Messages with these keys may be begun now.
    fn release(&self, keys: &mut Vec<u64>) {
        let turn = {
            let mut waiting = lock(&self.waiting);
            waiting.busy.release(keys, None);
            self.wants_turn(&mut waiting)
        };
        if turn {
            self.ready();
        }
    }

    /// Take nothing in any more. What waits can still be taken out; of a stream it is given back.
    pub fn close(&self) {
        if self.kept_by_source {
            self.abandon();
            return;
        }
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        self.rest(&waiting);
    }

    /// How many may take turns at it at a time.
    pub fn workers(&self) -> usize {
        lock(&self.waiting).rules.workers.most
    }

    /// Whether nothing is taken in any more.
    pub fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    fn lost(&self, messages: u64) {
        if !self.kept_by_source {
            self.metrics.lost(DropReason::Shutdown, messages);
        }
    }

    /// Take out all that waits, in order: it isn't ours to handle any more.
    pub fn take_back(&self) -> Vec<Received> {
        let mut waiting = lock(&self.waiting);
        let before = waiting.bytes;
        let messages = std::mem::take(&mut waiting.messages).into();
        waiting.busy.looked = 0;
        waiting.bytes = 0;
        self.settle(&waiting, before);
        messages
    }

    /// Who waits for what [`Self::take_back`] took out goes on. Apart from that, because what is done
    /// then may need the locks that its caller has.
    pub fn let_pass(&self) {
        let passed = {
            let mut waiting = lock(&self.waiting);
            self.rest(&waiting);
            if waiting.turns == 0 { waiting.passed() } else { Vec::new() }
        };
        passed.into_iter().for_each(|passed| passed());
    }

    /// Drop what still waits, as `shutdown`.
    pub fn abandon(&self) {
        let mut waiting = lock(&self.waiting);
        let before = waiting.bytes;
        let left = waiting.messages.len() as u64;
        waiting.messages.clear();
        waiting.busy.looked = 0;
        waiting.bytes = 0;
        waiting.closed = true;
        self.settle(&waiting, before);
        self.lost(left);
        self.rest(&waiting);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Messages that a worker has in hand. What it has not got through when it is dropped (its worker
/// was ended) is counted as `shutdown`.
#[derive(Default)]
pub struct Batch {
    queue: Option<Arc<Queue>>,
    messages: VecDeque<Received>,
    bytes: usize,
    /// Messages that were handed out and aren't done with.
    in_hand: u64,
    /// With `order_by`: their keys.
    keys: Vec<u64>,
}

impl Batch {
    /// All of the messages, in order. Each is in hand until it is [`Self::done`] with.
    pub fn drain(&mut self) -> impl Iterator<Item = Received> {
        self.in_hand += self.messages.len() as u64;
        self.messages.drain(..)
    }

    /// So many messages in hand are done with: they have been counted as what became of them.
    pub fn done(&mut self, messages: usize) {
        self.in_hand -= messages as u64;
        if self.is_done() {
            self.finish();
        }
    }

    /// These of the messages in hand wait again, before all others: all of them, or all but one,
    /// which is tried again. Then its key, with `order_by`, is the only one that stays in hand.
    pub fn put_back(&mut self, mut messages: Vec<Received>, stays: Option<u64>) {
        let left = messages.len() as u64 + u64::from(stays.is_some());
        debug_assert_eq!(self.in_hand, left, "others than those that were taken");
        let Some(queue) = self.queue.clone() else { return };
        self.in_hand -= messages.len() as u64;
        let bytes: usize = messages.iter().map(Received::footprint).sum();
        self.bytes -= bytes;
        let turn = {
            let mut waiting = lock(&queue.waiting);
            if waiting.closed && queue.kept_by_source {
                // Nobody is to begin them: they go back to their stream when they are dropped here.
                queue.budget.used.fetch_sub(bytes, Relaxed);
            } else {
                waiting.put_back(&mut messages);
                // They have been in the budget all the time.
                waiting.bytes += bytes;
                queue.bytes.store(waiting.bytes, Relaxed);
            }
            waiting.busy.release(&mut self.keys, stays);
            queue.wants_turn(&mut waiting)
        };
        if turn {
            queue.ready();
        }
        if self.is_done() {
            self.finish();
        }
    }

    /// The messages in hand go back to their source: nothing became of them.
    pub fn give_back(&mut self) {
        self.messages.clear();
        self.in_hand = 0;
        self.finish();
    }

    /// Bytes of the messages that were taken, until they are done with.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no message is left or in hand.
    pub fn is_done(&self) -> bool {
        self.in_hand == 0 && self.messages.is_empty()
    }

    fn finish(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.budget.used.fetch_sub(self.bytes, Relaxed);
            if !self.keys.is_empty() {
                queue.release(&mut self.keys);
            }
        }
        self.bytes = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let left = self.messages.len() as u64 + self.in_hand;
        if let (Some(queue), true) = (&self.queue, left > 0) {
            queue.lost(left);
        }
        self.finish();
    }
}

/// A lock whose holder panicked is still good: every change under it is whole at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
