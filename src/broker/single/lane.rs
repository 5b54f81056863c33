//! One channel that is single: what comes in, what is held, what is in line to be finished, and which
//! part this daemon plays.
//!
//! Shared by the subscription, the workers and the keeper. Asks Redis nothing. Whoever leads hands
//! messages on as they come. A standby holds them until it has heard that they were done, as many as
//! the channel's queue may have.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::place::Mark;
use super::state::{Item, Role, State, number};
use super::ticket::{Hold, Ticket};
use super::track::{Found, Track};
use super::{PREFIX, mark_channel};
use crate::broker::stream::{Finish, random};
use crate::config::Source;
use crate::queue::{Queue, Received};
use crate::telemetry::{ChannelMetrics, DropReason};

/// Bytes of outputs that may be in line before [`Lane::room`] waits.
const OUTPUTS: usize = 4 << 20;

/// A channel that is single.
pub struct Lane {
    /// NAME: daemons with the same one are each other's standbys.
    pub(super) name: Arc<str>,
    /// What tells this daemon from all others, and from itself before a restart.
    pub(super) token: String,
    mark_channel: Arc<str>,
    queue: Arc<Queue>,
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
        let state = State::new(Track::new(&fingerprint(source), &token), hold);
        Arc::new(Lane {
            mark_channel: mark_channel(name).into(),
            name: name.clone(),
            token,
            queue,
            state: Mutex::new(state),
            wake: Notify::new(),
            settled: Notify::new(),
        })
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

    /// The subscription brings messages from now on.
    pub fn attach(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.is_attached, true) && self.is_complete() {
            // It was there before, and may have messages on their way that others have handled.
            state.track.doubt();
        }
    }

    /// A message comes: answers what it is held by, or `None` where it isn't to be taken, because not
    /// all names of the channel are subscribed to.
    pub fn arrives(self: &Arc<Self>) -> Option<Hold> {
        let mut state = self.state();
        if !self.open(&mut state) {
            return None;
        }
        let number = state.track.count();
        Some(Hold::Ticket(Ticket { lane: self.clone(), number }))
    }

    /// A message comes that can't be taken; answers whether that is a loss of this daemon's.
    pub fn passes(&self) -> bool {
        let mut state = self.state();
        if self.open(&mut state) {
            state.track.count();
        }
        matches!(state.role, Role::Leading)
    }

    /// Something comes on the Redis channel of the marks.
    pub fn heard(self: &Arc<Self>, text: &[u8]) {
        let mut state = self.state();
        let mark = std::str::from_utf8(text).ok().and_then(Mark::parse);
        if let Some(mark) = mark
            && self.open(&mut state)
        {
            state.track.mark(mark);
            self.go_on(&mut state);
        }
        // Whatever else: that the lease is free.
        state.is_free = true;
        self.wake.notify_one();
    }

    /// Take what came, in order; `messages` is empty afterwards.
    pub fn push(self: &Arc<Self>, messages: &mut Vec<Received>) {
        let cut = {
            let mut state = self.state();
            let cut = self.cut_if_incomplete(&mut state);
            if state.role == Role::Leading {
                messages.retain(|message| number(message).is_some_and(|n| n > state.done));
                self.queue.push(messages);
            } else {
                messages.drain(..).for_each(|message| state.hold(message));
                state.trim();
            }
            cut
        };
        self.wait_for_passing(cut);
    }

    /// From now on messages may be missing: the connection ended.
    pub fn cut(self: &Arc<Self>) {
        let cut = self.state().cut();
        self.wait_for_passing(cut);
        self.wake.notify_one();
    }

    /// Nothing is to come any more: the channel is no longer in the configuration.
    pub fn close(self: &Arc<Self>) {
        let cut = {
            let mut state = self.state();
            state.is_closed = true;
            state.cut()
        };
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
                && let Role::Leaving { passed } = &mut state.role
            {
                *passed = true;
                lane.wake.notify_one();
            }
        });
    }

    /// Begin to count, if everything comes; `false` where it doesn't.
    fn open(&self, state: &mut State) -> bool {
        if state.track.is_open() {
            return true;
        }
        let is_complete = state.is_attached && !state.is_closed && self.is_complete();
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
        if state.track.is_open() && !self.is_complete() { state.cut() } else { None }
    }

    /// Put it in line: it was handled. What another leads meanwhile stays there until it is done
    /// elsewhere, or this daemon leads again.
    pub(super) fn finish(&self, number: u64, finish: Finish) {
        let mut state = self.state();
        if number > state.done {
            state.out_bytes += finish.size();
            state.out.push_back(Item { number, finish, place: None });
            self.wake.notify_one();
        }
    }

    /// Whether less than 4 MiB are in line. Where another leads, no more will come.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state();
        state.out_bytes < OUTPUTS || state.role == Role::Standby
    }

    /// Wait until that is so.
    pub(super) async fn room(&self) {
        loop {
            let settled = self.settled.notified();
            if self.has_room() {
                return;
            }
            settled.await;
        }
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
    }

    /// Whether this daemon could lead: it gets all messages, and can tell others which are done.
    pub(super) fn may_lead(&self) -> bool {
        let state = self.state();
        state.role == Role::Standby && state.track.is_marked() && !state.is_closed
    }

    /// Whether the lease is ours, for all we know.
    pub fn has_lease(&self) -> bool {
        self.state().role != Role::Standby
    }

    /// Whether it is to be given back now.
    pub(super) fn may_release(&self) -> bool {
        let state = self.state();
        state.role == (Role::Leaving { passed: true }) || state.role == Role::Quitting
    }

    /// The lease is ours from now on; `place` is up to where all is done, as it was stored `age` ago.
    pub(super) fn take(self: &Arc<Self>, place: Option<String>, age: Duration) {
        let mut state = self.state();
        debug_assert_eq!(state.role, Role::Standby);
        if !state.track.is_open() {
            // It ended just now: for another, then.
            state.role = Role::Quitting;
            return;
        }
        state.role = Role::Taking { place, age, barrier: None };
        self.go_on(&mut state);
    }

    /// Whether it isn't known yet where to go on.
    pub(super) fn is_taking(&self) -> bool {
        matches!(self.state().role, Role::Taking { .. })
    }

    /// Whether all that came is done with.
    pub(super) fn is_caught_up(&self) -> bool {
        let state = self.state();
        state.role == Role::Leading && state.done == state.track.counted()
    }

    /// Whether this is the place that we stored last.
    pub(super) fn is_known(&self, place: Option<&str>) -> bool {
        self.state().track.is_known(place)
    }

    /// Lead, as soon as it is known from where on.
    fn go_on(self: &Arc<Self>, state: &mut State) {
        let Role::Taking { place, age, barrier } = &state.role else { return };
        let (number, gap, is_sure) = match state.track.find(place.as_deref()) {
            Found::Behind { number, gap } => (number, gap, true),
            Found::Later | Found::Unknown => {
                match barrier.as_ref().map(|mark| state.track.before(mark)) {
                    Some(Some(number)) => (number, true, false),
                    Some(None) => return,
                    None => {
                        state.wants_mark = true;
                        self.wake.notify_one();
                        return;
                    }
                }
            }
        };
        // Since then nobody was subscribed, as far as can be told.
        let unseen = place.as_ref().map(|_| age.saturating_sub(state.track.open_for()));
        let (place, begun) = (place.clone(), barrier.clone());
        if !is_sure {
            // Another may have handled these, or nobody.
            let (held, in_line) = state.up_to(number);
            self.metrics().received.add(held);
            self.metrics().lost(DropReason::Unknown, held + in_line);
        }
        self.lead(state, place, number, gap.then_some(unseen));
        if !is_sure {
            // So that others, too, know from where on.
            let place = begun.map(|mark| state.track.place_of(mark));
            state.out.push_front(Item { number, finish: Finish::new(), place });
            state.out_bytes += Finish::new().size();
            self.wake.notify_one();
        }
    }

    /// `gap`: something may be missing, in at most this time, if that is known.
    fn lead(
        self: &Arc<Self>,
        state: &mut State,
        place: Option<String>,
        number: u64,
        gap: Option<Option<Duration>>,
    ) {
        let metrics = self.metrics();
        state.forget(number);
        let lost = state.hole.take().unwrap_or_default().saturating_sub(number);
        metrics.received.add(lost);
        metrics.lost(DropReason::Overflow, lost);
        state.track.set_known(place, number);
        state.role = Role::Leading;
        state.term += 1;
        metrics.single.leads(&self.token, true);
        state.held_bytes = 0;
        let mut held: Vec<Received> = state.held.drain(..).map(|(_, message)| message).collect();
        let channel = &*self.name;
        tracing::info!(
            channel,
            held = held.len(),
            "channel {channel}: this daemon handles its messages now, beginning with {} that it held",
            held.len()
        );
        if let Some(unseen) = gap {
            metrics.single.gaps.add(1);
            let unseen = unseen.map_or("an unknown time".to_owned(), |unseen| {
                metrics.gap_ms.add(unseen.as_millis() as u64);
                format!("at most {:.1} s", unseen.as_secs_f32())
            });
            tracing::warn!(
                channel,
                "channel {channel}: it can't be told of all messages since the last one that was \
                 handled; what came within {unseen} before now may be missing"
            );
        }
        if lost > 0 {
            tracing::warn!(
                channel,
                lost,
                "channel {channel}: {lost} messages that were not handled had no room in `queue` here"
            );
        }
        self.queue.push(&mut held);
    }

    /// Another daemon leads, and has stored this place.
    pub(super) fn follow(&self, place: Option<&str>) {
        let mut state = self.state();
        state.has_looked = true;
        if place.is_some() {
            state.track.saw_place();
        }
        self.settled.notify_waiters();
        if state.role != Role::Standby {
            return;
        }
        if !state.is_attached {
            state.track.look_before(place);
        }
        let Found::Behind { number, gap } = state.track.find(place) else { return };
        state.forget(number);
        let has_all = state.hole.is_none_or(|hole| hole <= number);
        let is_ready = !gap && has_all && state.track.is_marked();
        if is_ready && !std::mem::replace(&mut state.is_ready, true) {
            let channel = &*self.name;
            tracing::info!(
                channel,
                "channel {channel}: this daemon stands by: it holds all that isn't handled yet"
            );
        }
    }

    /// The lease is another's, or was; `flight` was not written. What waits is held again.
    pub(super) fn demote(&self, flight: &mut Vec<Item>) {
        {
            let mut state = self.state();
            if state.role == Role::Standby {
                return;
            }
            state.become_standby();
            state.put_back(flight);
            let later = std::mem::take(&mut state.held);
            state.held_bytes = 0;
            let again = self.queue.take_back().into_iter();
            again.chain(later.into_iter().map(|(_, later)| later)).for_each(|m| state.hold(m));
            state.trim();
        }
        self.queue.let_pass();
        self.resign("another daemon handles its messages now");
    }

    /// What was taken from the line is in it again.
    pub(super) fn put_back(&self, flight: &mut Vec<Item>) {
        self.state().put_back(flight);
    }

    /// The lease was given back.
    pub(super) fn released(&self) {
        self.state().become_standby();
        self.resign("this daemon leaves its messages to others");
    }

    fn resign(&self, what: &str) {
        self.metrics().single.leads(&self.token, false);
        self.settled.notify_waiters();
        let channel = &*self.name;
        tracing::info!(channel, "channel {channel}: {what}");
    }

    /// Take from the line until so many, or so many bytes, are in `flight`.
    pub(super) fn take_line(&self, flight: &mut Vec<Item>, most: usize, bytes: usize) {
        let mut state = self.state();
        let mut taken = 0;
        while state.writes() && flight.len() < most && (taken < bytes || flight.is_empty()) {
            let Some(item) = state.out.pop_front() else { break };
            taken += item.finish.size();
            state.out_bytes -= item.finish.size();
            flight.push(item);
        }
    }

    /// Whether something in line is to be written.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state();
        state.writes() && !state.out.is_empty()
    }

    /// What to call the message of this number.
    pub(super) fn place(&self, number: u64) -> String {
        self.state().track.place(number)
    }

    /// All up to this number is done, and that is stored.
    pub(super) fn finished(&self, place: String, number: u64) {
        let mut state = self.state();
        state.track.set_known(Some(place), number);
        state.forget(number);
        drop(state);
        self.settled.notify_waiters();
    }

    /// A lock whose holder panicked is still good: every change under it is whole at each step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
