//! One stream of a source: what is in hand of it, and what waits to be finished.
//!
//! Shared by the reader, the finisher and the entries themselves. An entry is held from the moment
//! it is read until it is finished or let go; what is held is bounded, which is how a stream waits
//! rather than drops. Asks Redis nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::finish::Finish;
use super::settings::Settings;
use crate::config::EntryId;
use crate::telemetry::ChannelMetrics;

/// Batches that may be in hand: one that is read, one that is handled, one that is finished, and one
/// for the unevenness between them.
const BATCHES: usize = 4;

/// Bytes of outputs that may wait before [`Lane::room`] waits.
const OUTPUTS: usize = 4 << 20;

/// Bytes of outputs that are sent without waiting for a flush.
const BLOCK: usize = 64 << 10;

/// What became of an entry that was to be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its outputs and its acknowledgement were written in one step.
    Done,
    /// It wasn't pending any more: another had finished it, or its group is another now. Nothing was
    /// written.
    Gone,
}

/// An entry that waits to be finished.
pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) finish: Finish,
    /// It was sent, and the answer is lost: when it isn't pending any more, that was us.
    pub(super) uncertain: bool,
    pub(super) done: Option<oneshot::Sender<Outcome>>,
}

pub(super) struct Lane {
    pub(super) settings: Arc<Settings>,
    pub(super) key: Arc<str>,
    pub(super) metrics: Arc<ChannelMetrics>,
    /// Bytes that may be in hand.
    share: AtomicUsize,
    stock: Mutex<Stock>,
    /// Entries were let go.
    freed: Notify,
    /// The group isn't there, as the finisher has found.
    vanished: AtomicBool,
    /// The ACL forbids the cursor.
    no_cursor: AtomicBool,
    out: Mutex<Out>,
    /// There is something to finish.
    wake: Notify,
    /// Something was finished.
    settled: Notify,
    /// Nothing is finished any more.
    abandoned: CancellationToken,
}

/// What one of a channel's streams may hold of what the channel may.
fn share(settings: &Settings, hold: usize) -> usize {
    hold / settings.keys.len().max(1)
}

/// What is in hand.
#[derive(Default)]
struct Stock {
    held: FxHashMap<EntryId, usize>,
    /// Of those held, and of those of a former group that were not let go yet.
    entries: usize,
    bytes: usize,
    /// Raised when the group is made again: what was held before is read anew.
    epoch: u64,
    /// Let go unfinished; not to be taken up before `claim_idle` has passed.
    given_up: FxHashSet<EntryId>,
    /// Let go unfinished since the stop.
    given_back: Vec<EntryId>,
    /// The source's stop.
    stop: CancellationToken,
}

#[derive(Default)]
struct Out {
    items: VecDeque<Item>,
    bytes: usize,
    /// Items taken and not settled.
    taken: usize,
}

impl Lane {
    pub(super) fn new(
        settings: &Arc<Settings>,
        key: &Arc<str>,
        metrics: &Arc<ChannelMetrics>,
    ) -> Arc<Self> {
        Arc::new(Lane {
            settings: settings.clone(),
            key: key.clone(),
            metrics: metrics.clone(),
            share: AtomicUsize::new(share(settings, settings.hold)),
            stock: Mutex::default(),
            freed: Notify::new(),
            vanished: AtomicBool::new(false),
            no_cursor: AtomicBool::new(false),
            out: Mutex::default(),
            wake: Notify::new(),
            settled: Notify::new(),
            abandoned: CancellationToken::new(),
        })
    }

    /// How many more entries may be read, and how many bytes they may have. Less than a batch is
    /// none: many small reads cost more than one.
    pub(super) fn credit(&self) -> (usize, usize) {
        let stock = lock(&self.stock);
        let entries = (BATCHES * self.settings.batch).saturating_sub(stock.entries);
        let entries = if entries < self.settings.batch { 0 } else { entries };
        (entries, self.share().saturating_sub(stock.bytes))
    }

    /// Bytes that may be in hand of this stream.
    pub(super) fn share(&self) -> usize {
        self.share.load(Relaxed)
    }

    /// All streams of the channel together may have so many bytes in hand from now on.
    pub(super) fn set_hold(&self, hold: usize) {
        self.share.store(share(&self.settings, hold), Relaxed);
        self.freed.notify_one();
    }

    /// Hold an entry; `None` when it is held already.
    pub(super) fn hold(self: &Arc<Self>, id: EntryId, size: usize, attempt: u32) -> Option<Entry> {
        let mut stock = lock(&self.stock);
        if stock.held.contains_key(&id) {
            return None;
        }
        stock.held.insert(id, size);
        stock.given_up.remove(&id);
        stock.entries += 1;
        stock.bytes += size;
        Some(Entry::new(self.clone(), id, stock.epoch, size, attempt))
    }

    /// An entry is dropped.
    pub(super) fn let_go(&self, id: EntryId, epoch: u64, size: usize, finished: bool) {
        let batch_free = {
            let mut stock = lock(&self.stock);
            stock.entries -= 1;
            stock.bytes -= size;
            if epoch == stock.epoch {
                stock.held.remove(&id);
                match (finished, stock.stop.is_cancelled()) {
                    (true, _) => {}
                    (false, true) => stock.given_back.push(id),
                    (false, false) => drop(stock.given_up.insert(id)),
                }
            }
            stock.entries <= (BATCHES - 1) * self.settings.batch
        };
        if batch_free {
            self.freed.notify_one();
        }
    }

    /// Wait until something was let go, or the group was found to be missing.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// How many are in hand.
    pub(super) fn in_hand(&self) -> usize {
        lock(&self.stock).entries
    }

    /// Bytes of what is in hand.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        lock(&self.stock).bytes
    }

    /// The ids in hand, in order.
    pub(super) fn held(&self) -> Vec<EntryId> {
        let mut held: Vec<EntryId> = lock(&self.stock).held.keys().copied().collect();
        held.sort_unstable();
        held
    }

    /// The ids that were let go unfinished before the stop, in order.
    pub(super) fn given_up(&self) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = lock(&self.stock).given_up.iter().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// What is let go unfinished after this stop is given back.
    pub(super) fn until(&self, stop: &CancellationToken) {
        lock(&self.stock).stop = stop.clone();
    }

    /// The ids to give back.
    pub(super) fn given_back(&self) -> Vec<EntryId> {
        lock(&self.stock).given_back.clone()
    }

    /// Whether there are any.
    pub(super) fn has_given_back(&self) -> bool {
        !lock(&self.stock).given_back.is_empty()
    }

    /// The first of them, these, have been given back.
    pub(super) fn forget_given_back(&self, ids: &[EntryId]) {
        lock(&self.stock).given_back.drain(..ids.len());
    }

    /// Which group's entries are worth finishing.
    pub(super) fn epoch(&self) -> u64 {
        lock(&self.stock).epoch
    }

    /// The finisher finds no group.
    pub(super) fn group_is_missing(&self) {
        self.vanished.store(true, SeqCst);
        self.freed.notify_one();
    }

    /// Whether the cursor is forbidden now; answers whether that is news.
    pub(super) fn cursor_is_forbidden(&self, forbidden: bool) -> bool {
        self.no_cursor.swap(forbidden, SeqCst) != forbidden
    }

    /// Whether the finisher found no group since the last call.
    pub(super) fn take_missing(&self) -> bool {
        self.vanished.swap(false, SeqCst)
    }

    /// The group has been made again: what is in hand will be read anew. Answers what was in hand.
    pub(super) fn orphan(&self) -> Vec<EntryId> {
        let held = self.held();
        {
            let mut stock = lock(&self.stock);
            stock.epoch += 1;
            stock.held.clear();
            stock.given_up.clear();
            stock.given_back.clear();
        }
        self.vanished.store(false, SeqCst);
        self.wake.notify_one();
        held
    }

    /// Put an entry in line to be finished. Never waits.
    pub(super) fn finish(&self, item: Item) {
        if self.abandoned.is_cancelled() {
            return;
        }
        let due = {
            let mut out = lock(&self.out);
            out.bytes += item.finish.size();
            out.items.push_back(item);
            out.items.len() >= self.settings.batch || out.bytes >= BLOCK
        };
        if due {
            self.flush();
        }
    }

    /// What is in line is finished now.
    pub(super) fn flush(&self) {
        self.wake.notify_one();
    }

    /// Wait until something is in line and due.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Take from the line until so many, or so many bytes, are in `flight`.
    pub(super) fn take(&self, flight: &mut VecDeque<Item>, entries: usize, bytes: usize) {
        let mut held: usize = flight.iter().map(|item| item.finish.size()).sum();
        let mut out = lock(&self.out);
        while flight.len() < entries && (held < bytes || flight.is_empty()) {
            let Some(item) = out.items.pop_front() else { break };
            held += item.finish.size();
            out.bytes -= item.finish.size();
            out.taken += 1;
            flight.push_back(item);
        }
    }

    /// So many that were taken are settled.
    pub(super) fn settle(&self, items: usize) {
        lock(&self.out).taken -= items;
        self.settled.notify_waiters();
    }

    /// Whether something is in line or on its way.
    pub(super) fn is_busy(&self) -> bool {
        let out = lock(&self.out);
        out.taken > 0 || !out.items.is_empty()
    }

    /// Wait until everything in line, and what is put there meanwhile, is settled.
    pub(super) async fn idle(&self) {
        loop {
            let settled = self.settled.notified();
            if !self.is_busy() {
                return;
            }
            self.flush();
            settled.await;
        }
    }

    /// Empty the line; what was in it is let go unfinished.
    pub(super) fn abandon(&self) {
        self.abandoned.cancel();
        let items = {
            let mut out = lock(&self.out);
            out.bytes = 0;
            std::mem::take(&mut out.items)
        };
        drop(items);
        self.settled.notify_waiters();
    }

    /// Wait until [`Self::abandon`] is called.
    pub(super) async fn abandoned(&self) {
        self.abandoned.cancelled().await;
    }

    /// Whether less than 4 MiB of outputs are in line.
    pub(super) fn has_room(&self) -> bool {
        lock(&self.out).bytes < OUTPUTS
    }

    /// Wait until that is so.
    pub(super) async fn room(&self) {
        loop {
            let settled = self.settled.notified();
            if self.has_room() {
                return;
            }
            self.flush();
            settled.await;
        }
    }
}

/// A lock whose holder panicked is still good: every change under it is whole at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
