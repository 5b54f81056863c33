//! Which part this daemon plays: it takes the lease and goes on where another ended, or follows, or
//! leaves. Called by the keeper, and, when a mark was waited for, by the subscription.

use std::sync::Arc;
use std::time::Duration;

use super::Lane;
use crate::broker::single::state::{Item, Role, State, number as number_of};
use crate::broker::single::track::Found;
use crate::broker::stream::Finish;
use crate::telemetry::DropReason;

impl Lane {
    /// Whether this daemon could lead: it gets all messages, and can tell others which are done.
    pub(in crate::broker::single) fn may_lead(&self) -> bool {
        let state = self.state();
        // Who has ended handles what it holds, if that is nobody's.
        let may_go_on = match state.closed {
            Some(_) => state.holds(),
            None => state.track.is_marked(),
        };
        state.role == Role::Standby && may_go_on && !state.is_behind()
    }

    /// Whether nothing is missing here for going on: who can't say that leaves it to others first.
    pub(in crate::broker::single) fn is_sure(&self) -> bool {
        self.state().is_sure
    }

    /// Whether the lease is ours, for all we know.
    pub fn has_lease(&self) -> bool {
        self.state().role != Role::Standby
    }

    /// Whether it is to be given back now.
    pub(in crate::broker::single) fn may_release(&self) -> bool {
        let state = self.state();
        matches!(state.role, Role::Leaving { passed: true, .. } | Role::Quitting)
    }

    /// The lease is ours from now on; `place` is up to where all is done, which was all there was
    /// `age` ago, if that is known, and where none ever was, `unwritten` is what that is called.
    pub(in crate::broker::single) fn take(
        self: &Arc<Self>,
        place: Option<String>,
        age: Option<Duration>,
        unwritten: Option<String>,
    ) {
        let mut state = self.state();
        debug_assert_eq!(state.role, Role::Standby);
        let is_closed = state.closed.is_some();
        if if is_closed { !state.holds() } else { !state.track.is_open() } {
            // It ended just now: for another, then.
            state.role = Role::Quitting;
            return;
        }
        state.role = Role::Taking { place, age, unwritten, barrier: None };
        self.go_on(&mut state);
        let cut = if is_closed { state.cut() } else { None };
        drop(state);
        self.wait_for_passing(cut);
        self.settled.notify_waiters();
        self.queue.budget().enforce();
    }

    /// Whether it isn't known yet where to go on.
    pub(in crate::broker::single) fn is_taking(&self) -> bool {
        matches!(self.state().role, Role::Taking { .. })
    }

    /// Whether all that came is done with.
    pub(in crate::broker::single) fn is_caught_up(&self) -> bool {
        let state = self.state();
        state.role == Role::Leading && state.done == state.track.counted()
    }

    /// Whether this is the place that we stored last.
    pub(in crate::broker::single) fn is_known(&self, place: Option<&str>) -> bool {
        self.state().track.is_known(place)
    }

    /// Lead, as soon as it is known from where on.
    pub(super) fn go_on(self: &Arc<Self>, state: &mut State) {
        let Role::Taking { place, age, unwritten, barrier } = &state.role else { return };
        let anew = || state.track.before_unwritten(unwritten.as_deref()?);
        let (done, number, gap, begun) = match state.track.find(place.as_deref()) {
            // Who comes later and finds no place would think that nobody has had anything in hand.
            Found::Behind { done, number, gap } if place.is_none() => {
                (done, number, gap, state.track.place_before_all(number))
            }
            Found::Behind { done, number, gap } => (done, number, gap, None),
            Found::Later | Found::Unknown => match (anew(), barrier) {
                (Some((number, begun)), _) => (0, number, true, Some(begun)),
                // No mark comes any more by which it could be told.
                (None, _) if state.closed.is_some() => {
                    self.give_up(state);
                    return;
                }
                (None, Some(mark)) => match state.track.before(mark) {
                    Some(number) => (0, number, true, Some(state.track.place_of(mark.clone()))),
                    None => return,
                },
                (None, None) => {
                    state.wants_mark = true;
                    self.wake.notify_one();
                    return;
                }
            },
        };
        // Since then nobody was subscribed, as far as can be told.
        let age = age.filter(|_| place.is_some());
        let unseen = age.map(|age| age.saturating_sub(state.track.open_for()));
        let place = place.clone();
        self.metrics().single.left.add(state.leave(done));
        // Another may have handled these, or nobody.
        let (lost, received) = state.give_up(number);
        self.metrics().received.add(received);
        self.metrics().lost(DropReason::Unknown, lost);
        self.lead(state, place, number, gap.then_some(unseen));
        if begun.is_some() {
            // So that others, too, know from where on.
            state.out.push_front(Item {
                number,
                finish: Finish::new(),
                dropped: None,
                place: begun,
            });
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
        let lost = state.hole.take().map_or(0, |hole| {
            let lost = hole.behind(state.done);
            metrics.received.add(state.receive(lost, hole.last));
            metrics.lost(hole.why, lost);
            lost
        });
        state.track.set_known(place, number);
        state.role = Role::Leading;
        state.term += 1;
        metrics.single.lead(&self.token);
        let mut held = state.held.take();
        metrics.received.add(state.receive_all(held.iter().filter_map(number_of)));
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
                 handled; what came in {unseen} may be missing"
            );
        }
        if lost > 0 {
            tracing::warn!(
                channel,
                lost,
                "channel {channel}: {lost} messages that were not handled had no room here, in `queue` or \
                 in `memory` of [limits]"
            );
        }
        self.queue.put(&mut held);
    }

    /// Another daemon leads, and has stored this place.
    pub(in crate::broker::single) fn follow(&self, place: Option<&str>) {
        let mut state = self.state();
        // The first time only: what is on its way may have been published before the second.
        if !std::mem::replace(&mut state.has_looked, true) && !state.is_attached {
            state.track.look_before(place);
        }
        if place.is_some() {
            state.track.saw_place();
        }
        self.settled.notify_waiters();
        if state.role != Role::Standby {
            return;
        }
        state.is_sure = false;
        let Found::Behind { done, number, gap } = state.track.find(place) else { return };
        self.metrics().single.left.add(state.leave(done));
        let has_all = state.hole.is_none_or(|hole| hole.last <= number);
        let is_ready = !gap && has_all && state.track.is_marked() && !state.is_behind();
        state.is_sure = is_ready;
        if is_ready && !std::mem::replace(&mut state.is_ready, true) {
            let channel = &*self.name;
            tracing::info!(
                channel,
                "channel {channel}: this daemon stands by: it holds all that isn't handled yet"
            );
        }
    }

    /// The lease is another's, or was; `flight` was not written. What waits is held again.
    pub(in crate::broker::single) fn demote(&self, flight: &mut Vec<Item>) {
        {
            let mut state = self.state();
            if state.role == Role::Standby {
                return;
            }
            state.become_standby();
            state.put_back(flight);
            let later = state.held.take();
            let waits = self.queue.take_back();
            if state.closed.is_some() {
                let left = waits.len() as u64 + state.leave_all();
                self.metrics().single.left.add(left);
            } else {
                waits.into_iter().chain(later).for_each(|message| state.hold(message));
                state.trim();
            }
        }
        self.queue.let_pass();
        self.resign("another daemon handles its messages now");
    }

    /// Whether this Redis can't have a channel that is single: then nothing is taken from it. The lease
    /// isn't ours when it turns out so.
    pub(in crate::broker::single) fn refuse(&self, is_refused: bool) {
        let mut state = self.state();
        debug_assert!(!is_refused || state.role == Role::Standby);
        if std::mem::replace(&mut state.is_refused, is_refused) == is_refused {
            return;
        }
        if is_refused {
            state.held.take();
            state.cut();
            // Nobody need wait for that.
            state.has_looked = true;
            self.settled.notify_waiters();
        }
    }

    /// The lease was given back.
    pub(in crate::broker::single) fn released(&self) {
        self.state().become_standby();
        self.resign("this daemon leaves its messages to others");
    }

    fn resign(&self, what: &str) {
        self.metrics().single.resign(&self.token);
        self.settled.notify_waiters();
        let channel = &*self.name;
        tracing::info!(channel, "channel {channel}: {what}");
    }
}
