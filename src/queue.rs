//! The one queue between a channel's source and its workers, bounded in bytes.
//!
//! A source puts in and never waits: what doesn't fit is dropped by the channel's policy, counted
//! by reason. Workers take batches, each in a turn of its own. All queues share one [`Budget`]: when it is used up the
//! fullest queue drops first. Knows neither Redis nor handlers.

mod batch;
mod budget;
mod order;
mod waiting;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use tokio::sync::Notify;

use self::waiting::{Hold, Mark, Waiting};
use crate::broker::single;
use crate::config::Overflow;
use crate::message::{Delivery, Message};
use crate::telemetry::{ChannelMetrics, DropReason};

pub use self::batch::Batch;
pub use self::budget::{Budget, Holder};
pub use self::order::Workers;
pub use self::waiting::{OutputAway, Rules};

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
    /// Later ones have higher numbers; set when it is let into the queue.
    pub number: u64,
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

/// A queue that is empty doesn't keep room for so few.
const FEW: usize = 8;

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

/// Told that somebody is to take a turn at the queue, as long as it has messages and fewer turns
/// than workers: [`Queue::take`] what there is, and [`Queue::end_turn`].
pub type Ready = Box<dyn Fn() + Send + Sync>;

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
        // Of this type before it is one of several.
        let weak: Weak<Queue> = Arc::downgrade(&queue);
        budget.add(weak);
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

    /// What it shares with the other queues.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Counters of the channel.
    pub fn metrics(&self) -> &Arc<ChannelMetrics> {
        &self.metrics
    }

    /// Put messages in, in order; `messages` is empty afterwards. Never waits: what has no room is
    /// dropped and counted. After [`Self::close`] all of it is dropped as `shutdown`.
    pub fn push(&self, messages: &mut Vec<Received>) {
        self.metrics.received.add(messages.len() as u64);
        self.put(messages);
        self.budget.enforce();
    }

    /// The same for who has locks that giving something up may need, and for what may have been in here
    /// before: the budget is still to be enforced, when it has them no longer, and what is received for
    /// the first time to be counted.
    pub fn put(&self, messages: &mut Vec<Received>) {
        if messages.is_empty() {
            return;
        }
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
    }

    /// Put one message in and answer how many were dropped for it (itself, or older ones).
    fn admit(&self, waiting: &mut Waiting, mut message: Received) -> u64 {
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
        message.number = waiting.numbers;
        waiting.numbers += 1;
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

    /// Carry a change of `waiting.bytes` over to the budget and to the number read without lock.
    fn settle(&self, waiting: &Waiting, before: usize) {
        self.bytes.store(waiting.bytes, Relaxed);
        if waiting.bytes >= before {
            self.budget.hold(waiting.bytes - before);
        } else {
            self.budget.release(before - waiting.bytes);
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
            let (before, number) = (waiting.entered, waiting.numbers);
            waiting.marks.push(Mark { exchange, before, number, passed: Box::new(passed) });
            waiting.passed_at_rest()
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
            let passed = waiting.passed_at_rest();
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
        if waiting.messages.is_empty() && waiting.messages.capacity() <= FEW {
            waiting.messages = VecDeque::new();
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
            waiting.busy.take(&message, &mut batch.keys);
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
            waiting.passed_at_rest()
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

/// A lock whose holder panicked is still good: every change under it is whole at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
