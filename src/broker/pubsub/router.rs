//! Which queues a message is for, and putting it there.
//!
//! Called for every message of a connection, hundreds of thousands a second: one look-up a message,
//! one push a queue and read. Never waits.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustc_hash::{FxBuildHasher, FxHasher};

use super::Subscription;
use super::roster::{NameId, Roster};
use crate::broker::single::{Hold, Lane};
use crate::message::{Delivery, Message};
use crate::queue::{Queue, Received};
use crate::telemetry::DropReason;

/// Names only of our own configuration are put in, so nobody can make them collide. They are shared, not
/// copied: with ten thousand of them each memory that a message has to go through is one that no cache
/// has.
type Index = HashMap<Arc<[u8]>, NameId, FxBuildHasher>;

/// Names of Redis channels that are remembered, for patterns. A power of two.
const REMEMBERED: usize = 64;
const LONGEST_REMEMBERED: usize = 1 << 10;

/// Vectors that are kept from one read to the next, and what each may keep of its room: a read
/// brings some hundred messages, mostly for few queues.
const SPARE: usize = 16;
const SPARE_CAPACITY: usize = 2048;

/// Where the messages go.
pub(super) struct Router {
    channels: Index,
    patterns: Index,
    routes: Vec<Route>,
    sinks: Sinks,
    /// Shared names of Redis channels that patterns brought.
    remembered: Box<[Option<Arc<str>>; REMEMBERED]>,
}

/// The queues, and what this read has for them.
struct Sinks {
    all: Vec<Sink>,
    /// Those that got messages in this read.
    touched: Vec<usize>,
    spare: Vec<Vec<Received>>,
    /// When this read was, in milliseconds since 1970.
    now: u64,
}

/// The channels that want one name.
struct Route {
    name: Arc<str>,
    /// The largest payload that any of them takes.
    limit: usize,
    targets: Vec<Target>,
}

struct Target {
    sink: usize,
    /// These are the marks of a channel that is single.
    marks: bool,
    pattern: Option<Arc<str>>,
    /// Of the message before: the same for all messages of one Redis channel in one read.
    delivery: Arc<Delivery>,
}

/// The queue of one channel.
struct Sink {
    table: Arc<str>,
    max_payload: usize,
    queue: Arc<Queue>,
    single: Option<Arc<Lane>>,
    batch: Vec<Received>,
}

impl Router {
    /// For these subscriptions, in the order that the roster was made of.
    pub(super) fn new(subscriptions: Vec<Subscription>, roster: &Roster) -> Self {
        let mut channels = Index::default();
        let mut patterns = Index::default();
        let mut routes = Vec::with_capacity(roster.names().len());
        for (id, name) in roster.names().iter().enumerate() {
            let index = if name.pattern { &mut patterns } else { &mut channels };
            index.insert(name.text.clone().into(), id);
            let of = |index: &usize| &subscriptions[*index];
            let target = |index: &usize| {
                let pattern = name.pattern.then(|| name.text.clone());
                let lane = of(index).single.as_ref().filter(|_| !name.pattern);
                Target {
                    sink: *index,
                    marks: lane.is_some_and(|lane| *lane.mark_channel() == name.text),
                    delivery: Arc::new(Delivery {
                        table: of(index).table.clone(),
                        redis_channel: name.text.clone(),
                        pattern: pattern.clone(),
                        id: None,
                        attempt: 1,
                        received_at: 0,
                    }),
                    pattern,
                }
            };
            routes.push(Route {
                name: name.text.clone(),
                limit: name.wanted_by.iter().map(|i| limit(of(i))).max().unwrap_or(0),
                targets: name.wanted_by.iter().map(target).collect(),
            });
        }
        subscriptions.iter().filter_map(|s| s.single.as_ref()).for_each(|lane| lane.attach());
        let sink = |s: Subscription| Sink {
            table: s.table,
            max_payload: s.max_payload,
            queue: s.queue,
            single: s.single,
            batch: Vec::new(),
        };
        Router {
            channels,
            patterns,
            routes,
            sinks: Sinks {
                all: subscriptions.into_iter().map(sink).collect(),
                touched: Vec::new(),
                spare: Vec::new(),
                now: 0,
            },
            remembered: Box::new([const { None }; REMEMBERED]),
        }
    }

    /// A read has brought bytes: what comes out of them was received now.
    pub(super) fn begin(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sinks.now = now.as_millis() as u64;
    }

    /// The name or pattern that a message came by; `None` when it isn't ours.
    pub(super) fn find(&self, pattern: bool, name: &[u8]) -> Option<NameId> {
        let index = if pattern { &self.patterns } else { &self.channels };
        index.get(name).copied()
    }

    /// The largest payload that is of use to anyone.
    pub(super) fn limit(&self, id: NameId) -> usize {
        self.routes[id].limit
    }

    /// The Redis channel's name to share; `None` when it isn't UTF-8.
    pub(super) fn channel(&mut self, id: NameId, pattern: bool, name: &[u8]) -> Option<Arc<str>> {
        if !pattern {
            return Some(self.routes[id].name.clone());
        }
        let slot = &mut self.remembered[slot_of(name)];
        if let Some(known) = slot
            && known.as_bytes() == name
        {
            return Some(known.clone());
        }
        let new: Arc<str> = std::str::from_utf8(name).ok()?.into();
        if new.len() <= LONGEST_REMEMBERED {
            *slot = Some(new.clone());
        }
        Some(new)
    }

    /// Put a message into the batch of every channel that wants it.
    pub(super) fn deliver(&mut self, id: NameId, channel: &Arc<str>, payload: Vec<u8>) {
        let Some((last, others)) = self.routes[id].targets.split_last_mut() else { return };
        for target in others {
            // A copy is made only where it is taken.
            self.sinks.offer(target, channel, &payload, Vec::clone);
        }
        self.sinks.offer(last, channel, payload, |payload| payload);
    }

    /// Count a message as lost for every channel that wanted it.
    pub(super) fn lost(&mut self, id: NameId, reason: DropReason) {
        let route = &mut self.routes[id];
        for target in route.targets.iter_mut().filter(|target| !target.marks) {
            self.sinks.lost(target, &route.name, reason);
        }
    }

    /// The connection has ended: who must have all messages has to know.
    pub(super) fn cut(&self) {
        self.sinks.all.iter().filter_map(|sink| sink.single.as_ref()).for_each(Lane::cut);
    }

    /// Nothing is to come any more, because the daemon ends: of that nobody misses anything here.
    pub(super) fn close(&self) {
        self.sinks.all.iter().filter_map(|sink| sink.single.as_ref()).for_each(Lane::close);
    }

    /// Push what this read brought, once for each queue.
    pub(super) fn flush(&mut self) {
        self.sinks.flush();
    }
}

/// Bytes of the largest payload of a channel that is of use. A mark always is.
fn limit(subscription: &Subscription) -> usize {
    const MARK: usize = 256;
    let least = if subscription.single.is_some() { MARK } else { 0 };
    subscription.max_payload.max(least)
}

impl Sinks {
    /// A message for one of them; `take` makes its payload where it is taken.
    fn offer<P: AsRef<[u8]>>(
        &mut self,
        target: &mut Target,
        channel: &Arc<str>,
        payload: P,
        take: impl FnOnce(P) -> Vec<u8>,
    ) {
        let sink = &self.all[target.sink];
        let length = payload.as_ref().len();
        if target.marks {
            sink.single.iter().for_each(|lane| lane.heard(payload.as_ref()));
        } else if sink.single.is_some() && target.pattern.is_some() && Lane::is_own(channel) {
            // A pattern brings the marks too.
        } else if length > sink.max_payload {
            self.lost(target, channel, DropReason::TooLarge);
        } else {
            let entry = match &sink.single {
                Some(lane) => match lane.arrives(None) {
                    Some(hold) => Some(hold),
                    None => return,
                },
                None => None,
            };
            self.put(target, channel, take(payload), entry);
        }
    }

    /// A message for one of them that can't be taken. Who leads of a channel that is single is to count
    /// it, and that may be another when it is its turn: it goes the way of the others, without a payload.
    fn lost(&mut self, target: &mut Target, channel: &Arc<str>, reason: DropReason) {
        let sink = &self.all[target.sink];
        let Some(lane) = &sink.single else {
            let metrics = sink.queue.metrics();
            metrics.received.add(1);
            metrics.lost(reason, 1);
            return;
        };
        if let Some(hold) = lane.arrives(Some(reason)) {
            self.put(target, channel, Vec::new(), Some(hold));
        }
    }

    fn put(
        &mut self,
        target: &mut Target,
        channel: &Arc<str>,
        payload: Vec<u8>,
        entry: Option<Hold>,
    ) {
        let Sinks { all, touched, spare, now } = self;
        let sink = &mut all[target.sink];
        let last = &target.delivery;
        if last.received_at != *now || !Arc::ptr_eq(&last.redis_channel, channel) {
            match Arc::get_mut(&mut target.delivery) {
                // Who had the message before is done with it: so it is mostly, where channels are many.
                Some(last) => {
                    last.received_at = *now;
                    last.redis_channel.clone_from(channel);
                }
                None => {
                    target.delivery = Arc::new(Delivery {
                        table: sink.table.clone(),
                        redis_channel: channel.clone(),
                        pattern: target.pattern.clone(),
                        id: None,
                        attempt: 1,
                        received_at: *now,
                    });
                }
            }
        }
        if sink.batch.is_empty() {
            touched.push(target.sink);
            if let Some(batch) = spare.pop() {
                sink.batch = batch;
            }
        }
        sink.batch.push(Received {
            message: Message { payload, ..Message::default() },
            delivery: target.delivery.clone(),
            entry,
            order: 0,
            number: 0,
        });
    }

    fn flush(&mut self) {
        let Sinks { all, touched, spare, .. } = self;
        for index in touched.drain(..) {
            let sink = &mut all[index];
            match &sink.single {
                Some(lane) => lane.push(&mut sink.batch),
                None => sink.queue.push(&mut sink.batch),
            }
            let batch = std::mem::take(&mut sink.batch);
            if spare.len() < SPARE && batch.capacity() <= SPARE_CAPACITY {
                spare.push(batch);
            }
        }
    }
}

fn slot_of(name: &[u8]) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    hasher.finish() as usize % REMEMBERED
}
