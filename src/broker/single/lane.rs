//! One channel that is single: what comes in, what is held, what is in line to be finished (`line`),
//! which part this daemon plays (`part`), and the end (`end`).
//!
//! Shared by the subscription, the workers and the keeper. Asks Redis nothing. Whoever leads hands
//! messages on as they come. A standby holds them until it has heard that they were done, as many as
//! the channel's queue may have and `[limits] memory` has room for (`held`).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::held::Held;
use super::place::Mark;
use super::state::{Role, State, number};
use super::ticket::{Hold, Ticket};
use super::track::Track;
use super::{PREFIX, mark_channel};
use crate::broker::stream::random;
use crate::config::Source;
use crate::queue::{Holder, Queue, Received};
use crate::telemetry::{ChannelMetrics, DropReason};

mod end;
mod line;
mod part;

/// A channel that is single.
pub struct Lane {
    /// NAME: daemons with the same one are each other's standbys.
    pub(super) name: Arc<str>,
    /// What tells this daemon from all others, and from itself before a restart.
    pub(super) token: String,
    mark_channel: Arc<str>,
    queue: Arc<Queue>,
    /// What is held, readable without the lock.
    held_bytes: Arc<AtomicUsize>,
    /// The budget is not enforced by who has this lock: that may need it.
    state: Mutex<State>,
    /// The keeper has something to do.
    wake: Notify,
    /// Something in line was finished, or thrown away.
    settled: Notify,
}

impl Lane {
    /// For `[channels.NAME]` with this source. Its messages go to this queue while this daemon leads;
    /// else it holds so many bytes.
    pub fn new(name: &Arc<str>, source: &Source, hold: usize, queue: Arc<Queue>) -> Arc<Self> {
        let token = random();
        let held = Held::new(queue.budget());
        let held_bytes = held.counter();
        let state = State::new(Track::new(&fingerprint(source), &token), held, hold);
        let lane = Arc::new(Lane {
            mark_channel: mark_channel(name).into(),
            name: name.clone(),
            token,
            queue,
            held_bytes,
            state: Mutex::new(state),
            wake: Notify::new(),
            settled: Notify::new(),
        });
        let weak: Weak<Lane> = Arc::downgrade(&lane);
        lane.queue.budget().add(weak);
        lane
    }

    /// Hold so many bytes from now on.
    pub fn set_hold(&self, bytes: usize) {
        let mut state = self.state();
        state.hold_most = bytes;
        state.trim();
    }

    /// NAME of its table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Redis channel of its marks.
    pub fn mark_channel(&self) -> &Arc<str> {
        &self.mark_channel
    }

    /// Whether a Redis channel that a pattern brings is handlerd's own.
    pub fn is_own(redis_channel: &str) -> bool {
        redis_channel.starts_with(PREFIX)
    }

    pub(super) fn metrics(&self) -> &Arc<ChannelMetrics> {
        self.queue.metrics()
    }

    /// A subscription is to be made; it is called this that nothing was ever written, if that is so.
    pub(super) fn look_unwritten(&self, name: Option<&str>) {
        self.state().track.look_unwritten(name);
    }

    /// The subscription brings messages from now on.
    pub fn attach(&self) {
        let mut state = self.state();
        let is_new = !std::mem::replace(&mut state.is_attached, true);
        if is_new && !state.has_passed && self.is_complete() {
            // It was there before, and may have messages on their way that others have handled.
            state.track.doubt();
        }
    }

    /// A message comes: answers what it is held by, or `None` where it isn't to be taken, because not
    /// all names of the channel are subscribed to. One that is `dropped` is counted when it would have
    /// been handled.
    pub fn arrives(self: &Arc<Self>, dropped: Option<DropReason>) -> Option<Hold> {
        let mut state = self.state();
        if !self.open(&mut state) {
            return None;
        }
        let number = state.track.count();
        Some(Hold::Ticket(Ticket { lane: self.clone(), number, dropped }))
    }

    /// Something comes on the Redis channel of the marks.
    pub fn heard(self: &Arc<Self>, text: &[u8]) {
        let mut state = self.state();
        let mark = std::str::from_utf8(text).ok().and_then(Mark::parse);
        if let Some(mark) = mark
            && self.open(&mut state)
        {
            state.track.mark(mark);
            state.tells_mark = true;
            self.go_on(&mut state);
        }
        // Whatever else: that the lease is free.
        state.is_free = true;
        drop(state);
        self.wake.notify_one();
        self.queue.budget().enforce();
    }

    /// Take what came, in order; `messages` is empty afterwards.
    pub fn push(self: &Arc<Self>, messages: &mut Vec<Received>) {
        let cut = {
            let mut state = self.state();
            state.note(messages);
            let cut = self.cut_if_incomplete(&mut state);
            // They came in one read with a mark by which this was decided.
            let numbers = messages.iter().filter_map(number);
            let unknown = numbers.filter(|number| state.is_unknown(*number)).count();
            self.metrics().received.add(unknown as u64);
            self.metrics().lost(DropReason::Unknown, unknown as u64);
            if state.role == Role::Leading {
                messages.retain(|message| number(message).is_some_and(|n| n > state.done));
                let received = state.receive_all(messages.iter().filter_map(number));
                self.metrics().received.add(received);
                self.queue.put(messages);
            } else {
                messages.drain(..).for_each(|message| state.hold(message));
                state.trim();
            }
            cut
        };
        self.queue.budget().enforce();
        self.wait_for_passing(cut);
    }

    /// From now on messages may be missing: the connection ended.
    pub fn cut(self: &Arc<Self>) {
        let cut = self.state().cut();
        self.wait_for_passing(cut);
        self.wake.notify_one();
    }

    /// When what was handed on is done with, the lease can be given back.
    fn wait_for_passing(self: &Arc<Self>, cut: Option<u64>) {
        let Some(term) = cut else { return };
        let lane = self.clone();
        // Of no exchange of channels: what is in the queue is waited for, and nothing else.
        self.queue.when_passed(0, move || {
            let mut state = lane.state();
            if state.term == term
                && let Role::Leaving { passed, .. } = &mut state.role
            {
                *passed = true;
                lane.wake.notify_one();
            }
        });
    }

    /// Begin to count, if everything comes; `false` where it doesn't.
    fn open(&self, state: &mut State) -> bool {
        if state.closed.is_some() {
            return false;
        }
        if state.track.is_open() {
            return true;
        }
        let may_come = state.is_attached && !state.is_refused;
        let is_complete = may_come && self.is_complete();
        if is_complete {
            state.track.open();
            state.wants_mark = true;
            self.wake.notify_one();
        }
        is_complete
    }

    /// Whether all names are subscribed to.
    fn is_complete(&self) -> bool {
        self.metrics().unsubscribed.is_only(&self.mark_channel)
    }

    fn cut_if_incomplete(&self, state: &mut State) -> Option<u64> {
        // What it hears no more once it has ended is missing nowhere here.
        let is_cut = state.closed.is_none() && state.track.is_open() && !self.is_complete();
        if is_cut { state.cut() } else { None }
    }

    // What the keeper does.

    /// Wait until there is something to do.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether the lease was given back since this was asked last.
    pub(super) fn take_free(&self) -> bool {
        std::mem::take(&mut self.state().is_free)
    }

    /// Wait until it is known how far others are: only then messages should begin to come, or it can't
    /// be told of the first ones whether they were handled.
    pub async fn looked(&self) {
        loop {
            let settled = self.settled.notified();
            if self.state().has_looked {
                return;
            }
            settled.await;
        }
    }

    /// Whether that is known.
    pub fn has_looked(&self) -> bool {
        self.state().has_looked
    }

    /// All that was published before that was known has come over the subscription, for whoever had it
    /// then.
    pub fn has_passed(&self) {
        self.state().has_passed = true;
    }

    /// Look whether everything comes.
    pub(super) fn look(self: &Arc<Self>) {
        let cut = {
            let mut state = self.state();
            let cut = self.cut_if_incomplete(&mut state);
            self.open(&mut state);
            cut
        };
        self.wait_for_passing(cut);
    }

    /// Whether a mark is to be published.
    pub(super) fn wants_mark(&self) -> bool {
        let state = self.state();
        state.wants_mark
            && state.track.is_open()
            && !self.metrics().unsubscribed.has(&self.mark_channel)
    }

    /// It was published.
    pub(super) fn marked(self: &Arc<Self>, mark: Mark) {
        let mut state = self.state();
        state.wants_mark = false;
        if let Role::Taking { barrier, .. } = &mut state.role {
            barrier.get_or_insert(mark);
            self.go_on(&mut state);
        }
        drop(state);
        self.queue.budget().enforce();
    }

    /// A lock whose holder panicked is still good: every change under it is whole at each step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Holder for Lane {
    fn bytes(&self) -> usize {
        self.held_bytes.load(Relaxed)
    }

    fn shed(&self, bytes: usize) {
        let mut state = self.state();
        let most = state.held.bytes().saturating_sub(bytes);
        state.shed_to(most, DropReason::Memory);
    }
}

/// A word that tells what is subscribed to: the same for the same names.
fn fingerprint(source: &Source) -> String {
    let (pattern, names) = match source {
        Source::Subscribe(names) => (false, names.as_slice()),
        Source::Pattern(names) => (true, names.as_slice()),
        Source::Stream(_) => (false, [].as_slice()),
    };
    let mut names: Vec<&str> = names.iter().map(|name| &**name).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    hash.update([u8::from(pattern)]);
    for name in names {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
