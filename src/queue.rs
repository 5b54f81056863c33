//! The one queue between a channel's source and its workers, bounded in bytes.
//!
//! A source puts in and never waits: what doesn't fit is dropped by the channel's policy, counted
//! by reason. Workers take batches, each in a turn of its own. All queues share one [`Budget`]: when it is used up the
//! fullest queue drops first. Knows neither Redis nor handlers.

mod order;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use self::order::Busy;
use crate::broker::stream::Entry;
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
    /// The hold on it, where it is an entry of a stream: it comes again unless it is finished.
    pub entry: Option<Entry>,
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
    limit: usize,
    used: AtomicUsize,
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0), queues: Mutex::default() })
    }

    /// Bytes that wait or are in hand now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Drop from the fullest queue until the limit is kept. One 64th of the limit goes at once, so
    /// that looking for the fullest of many queues is paid for by many messages.
    fn enforce(&self) {
        if self.used() <= self.limit {
            return;
        }
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() > 0);
        loop {
            // Read once: workers give back meanwhile.
            let over = self.used().saturating_sub(self.limit);
            if over == 0 {
                break;
            }
            let fullest = queues.iter().filter_map(Weak::upgrade).max_by_key(|queue| queue.bytes());
            match fullest {
                Some(queue) if queue.bytes() > 0 => {
                    queue.shed(over.max(self.limit / 64));
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
    /// Turns that there may be at a time.
    workers: Workers,
    limit: usize,
    overflow: Overflow,
    budget: Arc<Budget>,
    metrics: Arc<ChannelMetrics>,
    output_away: OutputAway,
    /// Nothing is lost with what is dropped here: its source has it still, and gives it again.
    kept_by_source: bool,
}

/// Tells whether a Redis that the channel writes to is away: then what overflows does so for that.
/// Asked only when something overflows.
pub type OutputAway = Box<dyn Fn() -> bool + Send + Sync>;

/// Told that somebody is to take a turn at the queue, as long as it has messages and fewer turns
/// than workers: [`Queue::take`] what there is, and [`Queue::end_turn`].
pub type Ready = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Received>,
    bytes: usize,
    closed: bool,
    /// Turns that were asked for and haven't ended.
    turns: usize,
    /// With `order_by`.
    busy: Busy,
}

/// With `order_by`: how far a turn looks for messages whose keys nobody has in hand.
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
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            bytes: AtomicUsize::new(0),
            ready: OnceLock::new(),
            workers: workers.into(),
            limit,
            overflow,
            budget: budget.clone(),
            metrics,
            output_away,
            kept_by_source: false,
        });
        lock(&budget.queues).push(Arc::downgrade(&queue));
        queue
    }

    /// A queue for a stream, whose source never has more in hand than may wait: nothing is dropped.
    pub fn of_stream(workers: impl Into<Workers>, metrics: Arc<ChannelMetrics>) -> Arc<Self> {
        Arc::new(Queue {
            waiting: Mutex::default(),
            bytes: AtomicUsize::new(0),
            ready: OnceLock::new(),
            workers: workers.into(),
            limit: usize::MAX,
            overflow: Overflow::DropNewest,
            budget: Budget::new(usize::MAX),
            metrics,
            output_away: Box::new(|| false),
            kept_by_source: true,
        })
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
                if let Some(order_by) = &self.workers.order_by {
                    message.order = order::key(order_by, &message.message);
                }
                dropped += self.admit(&mut waiting, message);
            }
            self.settle(&waiting, before);
            if dropped > 0 {
                let reason =
                    if (self.output_away)() { DropReason::RedisAway } else { DropReason::Overflow };
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
        if self.overflow == Overflow::DropOldest && size <= self.limit {
            while waiting.bytes + size > self.limit {
                match waiting.messages.pop_front() {
                    Some(oldest) => waiting.bytes -= oldest.footprint(),
                    None => break,
                }
                dropped += 1;
            }
        }
        if waiting.bytes + size > self.limit {
            return dropped + 1;
        }
        waiting.bytes += size;
        if waiting.busy.allows(message.order, &[]) {
            waiting.busy.blocked = false;
        }
        waiting.messages.push_back(message);
        dropped
    }

    /// Drop at least so many bytes, or all there is, because all queues together hold too much.
    fn shed(&self, bytes: usize) {
        let mut waiting = lock(&self.waiting);
        let before = waiting.bytes;
        let mut dropped = 0;
        while before - waiting.bytes < bytes {
            let message = match self.overflow {
                Overflow::DropOldest => waiting.messages.pop_front(),
                Overflow::DropNewest => waiting.messages.pop_back(),
            };
            let Some(message) = message else { break };
            waiting.bytes -= message.footprint();
            dropped += 1;
        }
        self.settle(&waiting, before);
        self.metrics.lost(DropReason::Memory, dropped);
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
        let wants = !waiting.messages.is_empty()
            && !waiting.busy.blocked
            && waiting.turns < self.workers.most;
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
            if waiting.messages.is_empty() {
                return false;
            }
            match &self.workers.order_by {
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
        let mut waiting = lock(&self.waiting);
        let another = !waiting.messages.is_empty() && !waiting.busy.blocked;
        waiting.turns -= usize::from(!another);
        another
    }

    fn move_some(self: &Arc<Self>, waiting: &mut Waiting, batch: &mut Batch) {
        batch.finish();
        batch.queue = Some(self.clone());
        while let Some(message) = waiting.messages.front() {
            let size = message.footprint();
            let full = batch.messages.len() == BATCH_MESSAGES || batch.bytes + size > BATCH_BYTES;
            if full && !batch.messages.is_empty() {
                break;
            }
            batch.bytes += size;
            waiting.bytes -= size;
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
        let share = (waiting.messages.len() / self.workers.most).clamp(1, BATCH_MESSAGES);
        let mut at = 0;
        while at < waiting.messages.len().min(LOOK_AT)
            && batch.messages.len() < share
            && batch.bytes < BATCH_BYTES
        {
            if !waiting.busy.allows(waiting.messages[at].order, &batch.keys) {
                at += 1;
                continue;
            }
            let Some(message) = waiting.messages.remove(at) else { break };
            waiting.busy.take(message.order, &mut batch.keys);
            let size = message.footprint();
            batch.bytes += size;
            waiting.bytes -= size;
            batch.messages.push_back(message);
        }
        waiting.busy.blocked = batch.messages.is_empty();
        self.bytes.store(waiting.bytes, Relaxed);
    }

    /// Messages with these keys may be begun now.
    fn release(&self, keys: &mut Vec<u64>) {
        let turn = {
            let mut waiting = lock(&self.waiting);
            waiting.busy.release(keys);
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
        } else {
            lock(&self.waiting).closed = true;
        }
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

    /// Drop what still waits, as `shutdown`.
    pub fn abandon(&self) {
        let mut waiting = lock(&self.waiting);
        let before = waiting.bytes;
        let left = waiting.messages.len() as u64;
        waiting.messages.clear();
        waiting.bytes = 0;
        waiting.closed = true;
        self.settle(&waiting, before);
        self.lost(left);
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

    /// The messages in hand, which are these, wait again, before all others.
    pub fn put_back(&mut self, messages: Vec<Received>) {
        debug_assert_eq!(self.in_hand, messages.len() as u64, "others than those that were taken");
        if let Some(queue) = self.queue.take() {
            let mut waiting = lock(&queue.waiting);
            for message in messages.into_iter().rev() {
                waiting.messages.push_front(message);
            }
            // They have been in the budget all the time.
            waiting.bytes += self.bytes;
            queue.bytes.store(waiting.bytes, Relaxed);
            waiting.busy.release(&mut self.keys);
        }
        self.in_hand = 0;
        self.bytes = 0;
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
