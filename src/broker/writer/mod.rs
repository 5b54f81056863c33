//! The way out to one Redis: PUBLISH, RPUSH and XADD, pipelined over one connection.
//!
//! [`Writer`] is what outputs hold: it appends commands to a buffer and never waits. Its task
//! ([`Writer::run`], started by the daemon) exchanges that buffer for the one that was sent last,
//! writes it out in one go and reads the answers meanwhile. Each command ends in exactly one
//! counter of its channel, or, appended with a [`Receipt`], in exactly one call of that:
//!
//! | counter | when |
//! | --- | --- |
//! | `delivered` | Redis answered with success |
//! | `refused` | Redis answered with an error |
//! | `unknown` | handed to a connection that ended before the answer: it isn't sent again |
//! | `shutdown` | never handed to a connection when [`Writer::abandon`] was called |
//!
//! Memory is bounded as long as callers wait for [`Writer::room`]: 4 MiB wait, as much is being
//! written, and no more is begun while 64k commands or 8 MiB have no answer. So a Redis that stalls
//! stops its workers, and their queues' overflow policies act.

mod ledger;
mod receipt;
mod refusals;
mod session;
mod task;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::ledger::{Batch, Kind, Outbox};
use super::connection::Connector;
use crate::heartbeat::Beat;
use crate::telemetry::{ChannelMetrics, Metrics};

use self::receipt::Owner;
pub use self::receipt::{Fate, Receipt};

/// Bytes that may wait before [`Writer::room`] waits.
const BUFFER_LIMIT: usize = 4 << 20;

/// Bytes that go out without waiting for [`Writer::flush`].
const BLOCK: usize = 64 << 10;

/// The way out to one Redis. Clones share the connection, the buffer and the order. What waits when
/// the last one is dropped is counted as `shutdown`.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    front: Mutex<Front>,
    /// What the task had in hand, while no task runs.
    outbox: Mutex<Outbox>,
    /// Whether `front` holds [`BUFFER_LIMIT`].
    full: AtomicBool,
    /// There is room again.
    room: Notify,
    /// What `front` holds is to go out. Without this the task would send, while it is awake, each
    /// command on its own, and a system call costs as much as a handler.
    due: AtomicBool,
    /// Whether the task waits for `wake`.
    asleep: AtomicBool,
    wake: Notify,
    /// No working connection, or its answers are overdue.
    away: AtomicBool,
    /// Commands that ended in a counter. Together with [`Front::appended`]: what is on its way.
    settled: AtomicU64,
    /// `settled` has caught up, perhaps.
    idle: Notify,
    abandoned: CancellationToken,
}

#[derive(Default)]
struct Front {
    batch: Batch,
    /// Commands appended ever.
    appended: u64,
    /// Nothing is taken any more.
    closed: bool,
}

impl Writer {
    /// A writer to this Redis. What is handed to it waits until [`Self::run`] runs.
    pub fn new(connector: Connector) -> Self {
        let shared = Shared {
            connector,
            front: Mutex::default(),
            outbox: Mutex::default(),
            full: AtomicBool::new(false),
            room: Notify::new(),
            due: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            wake: Notify::new(),
            away: AtomicBool::new(true),
            settled: AtomicU64::new(0),
            idle: Notify::new(),
            abandoned: CancellationToken::new(),
        };
        Writer { shared: Arc::new(shared) }
    }

    /// The connection's name: "redis", or NAME of `[connections.NAME]`.
    pub fn name(&self) -> &Arc<str> {
        self.shared.connector.name()
    }

    /// Whether it is a clone of this one.
    pub fn is(&self, other: &Writer) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The writer's task: one at a time. Connects, and again for ever. After `stop` it ends as soon
    /// as everything was answered, which may be never; [`Self::abandon`] ends it at once.
    ///
    /// When the future is dropped, what was sent and has no answer is counted as `unknown`; the
    /// rest waits for another run, or for `abandon`.
    pub async fn run(self, metrics: Arc<Metrics>, beat: Beat, stop: CancellationToken) {
        task::run(self.shared, metrics, beat, stop).await;
    }

    /// Append a PUBLISH. Never waits; goes out after [`Self::flush`], or when 64 KiB wait.
    pub fn publish(&self, channel: &str, payload: &[u8], from: &Arc<ChannelMetrics>) {
        self.put(Kind::Publish, channel, [payload].into_iter(), Owner::Channel(from));
    }

    /// Append an RPUSH. Never waits; goes out after [`Self::flush`], or when 64 KiB wait.
    pub fn push(&self, list: &str, payload: &[u8], from: &Arc<ChannelMetrics>) {
        self.put(Kind::Push, list, [payload].into_iter(), Owner::Channel(from));
    }

    /// Append an XADD of these fields, names and values in turn, to a stream that is kept at about
    /// `maxlen` entries. Never waits; goes out after [`Self::flush`], or when 64 KiB wait.
    pub fn append<'f>(
        &self,
        stream: &str,
        maxlen: Option<u64>,
        fields: impl Iterator<Item = &'f [u8]>,
        from: &Arc<ChannelMetrics>,
    ) {
        self.xadd(stream, maxlen, fields, Owner::Channel(from));
    }

    /// The same, and `told` what became of it, instead of a counter.
    pub fn append_and_tell<'f>(
        &self,
        stream: &str,
        maxlen: Option<u64>,
        fields: impl Iterator<Item = &'f [u8]>,
        told: Receipt,
    ) {
        self.xadd(stream, maxlen, fields, Owner::Receipt(told));
    }

    fn xadd<'f>(
        &self,
        stream: &str,
        maxlen: Option<u64>,
        fields: impl Iterator<Item = &'f [u8]>,
        owner: Owner<'_>,
    ) {
        let length = maxlen.map(|length| length.to_string());
        let mut parts: Vec<&[u8]> = Vec::with_capacity(16);
        if let Some(length) = &length {
            parts.extend([b"MAXLEN".as_slice(), b"~", length.as_bytes()]);
        }
        parts.push(b"*");
        for field in fields {
            parts.push(field);
        }
        self.put(Kind::Append, stream, parts.into_iter(), owner);
    }

    fn put<'p>(
        &self,
        kind: Kind,
        name: &str,
        parts: impl ExactSizeIterator<Item = &'p [u8]> + Clone,
        owner: Owner<'_>,
    ) {
        if self.shared.append(kind, name, parts, owner) >= BLOCK {
            self.flush();
        }
    }

    /// What was appended goes out now. Two atomic accesses when the task is awake.
    pub fn flush(&self) {
        self.shared.due.store(true, SeqCst);
        // The task says that it sleeps before it looks whether anything is due: either it finds
        // that, or this sees that it sleeps.
        if self.shared.asleep.load(SeqCst) && self.shared.asleep.swap(false, SeqCst) {
            self.shared.wake.notify_one();
        }
    }

    /// Whether less than 4 MiB wait.
    pub fn has_room(&self) -> bool {
        !self.shared.full.load(Relaxed)
    }

    /// Wait until less than 4 MiB wait. What callers append between two waits comes on top of that.
    pub async fn room(&self) {
        while !self.has_room() {
            let room = self.shared.room.notified();
            if self.has_room() {
                return;
            }
            self.flush();
            room.await;
        }
    }

    /// Whether there is no working connection, or none that answers.
    pub fn is_away(&self) -> bool {
        self.shared.away.load(Relaxed)
    }

    /// Wait until every command appended so far, and meanwhile, ended in a counter.
    pub async fn idle(&self) {
        loop {
            let idle = self.shared.idle.notified();
            if self.shared.settled.load(SeqCst) == lock(&self.shared.front).appended {
                return;
            }
            self.flush();
            idle.await;
        }
    }

    /// Wait until so many commands that were appended for these counters have ended in one of them.
    pub async fn ended(&self, from: &ChannelMetrics, commands: u64) {
        loop {
            let settled = self.shared.idle.notified();
            if from.ended() >= commands {
                return;
            }
            self.flush();
            settled.await;
        }
    }

    /// Give up: what was sent and has no answer is counted as `unknown`, the rest as `shutdown`,
    /// and so is whatever is appended from now on. The task, if it runs, counts what it has in
    /// hand and ends; await it before reading the counters.
    pub fn abandon(&self) {
        self.shared.abandoned.cancel();
        {
            let mut front = lock(&self.shared.front);
            front.closed = true;
            let left = front.batch.forget();
            self.shared.settle(left);
        }
        self.shared.abandon(&mut lock(&self.shared.outbox));
        self.shared.full.store(false, Relaxed);
        self.shared.room.notify_waiters();
    }
}

impl Shared {
    /// Answers how many bytes wait.
    fn append<'p>(
        &self,
        kind: Kind,
        name: &str,
        parts: impl ExactSizeIterator<Item = &'p [u8]> + Clone,
        owner: Owner<'_>,
    ) -> usize {
        let mut front = lock(&self.front);
        if front.closed {
            drop(front);
            owner.told(kind, Fate::Unsent);
            return 0;
        }
        front.batch.append(kind, name.as_bytes(), parts, owner);
        front.appended += 1;
        let waiting = front.batch.len();
        if waiting >= BUFFER_LIMIT {
            self.full.store(true, Relaxed);
        }
        waiting
    }

    /// Exchange the buffers; `false` when nothing is due.
    fn take(&self, outbox: &mut Outbox) -> bool {
        if !self.due.swap(false, SeqCst) {
            return false;
        }
        {
            let mut front = lock(&self.front);
            if front.batch.is_empty() {
                return false;
            }
            outbox.take(&mut front.batch);
            self.full.store(false, Relaxed);
        }
        self.room.notify_waiters();
        true
    }

    fn shrink(&self) {
        lock(&self.front).batch.shrink();
    }

    /// Commands ended in counters.
    fn settle(&self, commands: u64) {
        self.settled.fetch_add(commands, SeqCst);
        self.idle.notify_waiters();
    }

    /// Nothing of this will be sent or answered any more.
    fn abandon(&self, outbox: &mut Outbox) {
        let mut settled = outbox.lose(0);
        settled += outbox.settle(u64::MAX, Fate::Unsent);
        *outbox = Outbox::default();
        self.settle(settled);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        lock(&self.front).batch.forget();
        let mut outbox = std::mem::take(&mut *lock(&self.outbox));
        self.abandon(&mut outbox);
    }
}

/// A lock whose holder panicked is still good: a command is appended whole or, at worst, left out
/// of the accounts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
