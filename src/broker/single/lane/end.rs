//! The end of a channel here, by a reload or a signal.
//!
//! Who leads finishes what it has. Who doesn't may hold messages that nobody will handle: the leader may
//! be dead, and its lease not have ended. So the keeper finds out first whose they are, and until then
//! what comes behind the lane, its queue and the workers, isn't closed.

use std::sync::Arc;
use std::time::Instant;

use super::Lane;
use crate::broker::single::state::{Role, State};
use crate::telemetry::DropReason;

impl Lane {
    /// Nothing is to come any more: the channel is no longer in the configuration, or the daemon ends.
    pub fn close(self: &Arc<Self>) {
        let cut = {
            let mut state = self.state();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(Instant::now());
            state.wants_mark = false;
            match state.role {
                Role::Leading => state.cut(),
                // The mark that it waits for comes no more.
                Role::Taking { .. } => {
                    self.give_up(&mut state);
                    state.cut()
                }
                Role::Standby | Role::Leaving { .. } | Role::Quitting => None,
            }
        };
        self.wait_for_passing(cut);
        self.settled.notify_waiters();
        self.wake.notify_one();
    }

    /// Whether it is known of all that came whose it is, and nothing more comes.
    pub(in crate::broker::single) fn is_settled(&self) -> bool {
        let state = self.state();
        state.closed.is_some() && !state.holds()
    }

    /// Wait until that is so.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.is_settled() {
                return;
            }
            settled.await;
        }
    }

    /// Whether it has ended, and has to find out whose it is what it holds.
    pub(in crate::broker::single) fn is_undecided(&self) -> bool {
        let state = self.state();
        state.closed.is_some() && state.role == Role::Standby && state.holds()
    }

    /// All that came here did so after the end of this one: behind the place that it stored.
    pub(in crate::broker::single) fn comes_behind(&self, before: &Lane) {
        let place = before.known_place();
        self.state().track.comes_behind(place);
    }

    /// What is held or in line stays with others.
    pub(in crate::broker::single) fn leave_all(&self) {
        self.metrics().single.left.add(self.state().leave_all());
        self.settled.notify_waiters();
    }

    /// It can't be told whether others handle what is held or in line.
    pub(in crate::broker::single) fn give_up_all(&self) {
        self.give_up(&mut self.state());
    }

    pub(super) fn give_up(&self, state: &mut State) {
        let (lost, received) = state.give_up_all();
        self.metrics().received.add(received);
        self.metrics().lost(DropReason::Unknown, lost);
        if lost > 0 {
            let channel = &*self.name;
            tracing::warn!(
                channel,
                lost,
                "channel {channel}: it ends here, and it can't be told whether another daemon handles the \
                 last {lost} messages that came: they are counted as lost"
            );
        }
        self.settled.notify_waiters();
    }

    /// Drop what is still in line, as `shutdown`, or what is held, as `unknown`: the keeper was ended
    /// before it could write the one, or know whose the other is.
    pub fn abandon(&self) {
        let mut state = self.state();
        if state.writes() {
            let (lost, received) = state.give_up_all();
            self.metrics().received.add(received);
            self.metrics().lost(DropReason::Shutdown, lost);
        } else {
            self.give_up(&mut state);
        }
    }
}
