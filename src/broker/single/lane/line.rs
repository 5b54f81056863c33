//! What is in line to be finished: put there by workers, taken by the keeper.

use std::time::Duration;

use super::Lane;
use crate::broker::single::state::{Item, Role};
use crate::broker::stream::Finish;
use crate::telemetry::DropReason;

/// Bytes of outputs that may be in line before [`Lane::room`] waits.
const OUTPUTS: usize = 4 << 20;

impl Lane {
    /// Put it in line: it was handled. What another leads meanwhile stays there until it is done
    /// elsewhere, or this daemon leads again.
    pub(in crate::broker::single) fn finish(
        &self,
        number: u64,
        finish: Finish,
        dropped: Option<DropReason>,
    ) {
        // Nothing has come of what was dropped, and it isn't handled.
        let finish = if dropped.is_some() { Finish::new() } else { finish };
        let mut state = self.state();
        if number > state.done && !state.is_left {
            state.out_bytes += finish.size();
            state.out.push_back(Item { number, finish, dropped, place: None });
            self.wake.notify_one();
        } else {
            // Another was faster, or will be.
            self.metrics().single.left.add(1);
        }
    }

    /// Whether less than 4 MiB are in line. Where another leads, no more will come.
    pub(in crate::broker::single) fn has_room(&self) -> bool {
        let state = self.state();
        state.out_bytes < OUTPUTS || state.role == Role::Standby
    }

    /// Wait until that is so.
    pub(in crate::broker::single) async fn room(&self) {
        loop {
            let settled = self.settled.notified();
            if self.has_room() {
                return;
            }
            settled.await;
        }
    }

    /// What was taken from the line is in it again.
    pub(in crate::broker::single) fn put_back(&self, flight: &mut Vec<Item>) {
        self.state().put_back(flight);
    }

    /// Take from the line until so many, or so many bytes, are in `flight`. When there is nothing, but a
    /// mark has come since a place was stored, the place is: a daemon that has only come since knows no
    /// other mark.
    pub(in crate::broker::single) fn take_line(
        &self,
        flight: &mut Vec<Item>,
        most: usize,
        bytes: usize,
    ) {
        let mut state = self.state();
        let mut taken = 0;
        while state.writes() && flight.len() < most && (taken < bytes || flight.is_empty()) {
            let Some(item) = state.out.pop_front() else { break };
            taken += item.finish.size();
            state.out_bytes -= item.finish.size();
            flight.push(item);
        }
        if !state.writes() || !state.tells_mark {
            return;
        }
        match flight.last() {
            // What it is called was decided before.
            Some(Item { place: Some(_), .. }) => {}
            Some(_) => state.tells_mark = false,
            // Not by who leaves: a mark that has come since is behind what it missed, which another may
            // have heard.
            None if state.role == Role::Leading && state.track.known_place().is_some() => {
                state.tells_mark = false;
                let (number, finish) = (state.done, Finish::new());
                let place = state.track.place_before_all(number);
                let item = |place| Item { number, finish, dropped: None, place: Some(place) };
                flight.extend(place.map(item));
            }
            None => {}
        }
    }

    /// Whether something in line is to be written.
    pub(in crate::broker::single) fn is_busy(&self) -> bool {
        let state = self.state();
        state.writes() && !state.out.is_empty()
    }

    /// What to call the message of this number.
    pub(in crate::broker::single) fn place(&self, number: u64) -> String {
        self.state().track.place(number)
    }

    /// How long ago the first message behind this number came, about; no time where there is none.
    pub(in crate::broker::single) fn lag(&self, number: u64) -> Duration {
        self.state().lag(number)
    }

    /// Up to where all was done when that was stored last.
    pub(in crate::broker::single) fn known_place(&self) -> Option<String> {
        self.state().track.known_place().map(str::to_owned)
    }

    /// All up to this number is done, and that is stored.
    pub(in crate::broker::single) fn finished(&self, place: String, number: u64) {
        let mut state = self.state();
        state.track.set_known(Some(place), number);
        state.forget(number);
        drop(state);
        self.settled.notify_waiters();
    }
}
