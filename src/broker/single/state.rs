//! What a lane knows, and each change of it: what is held, what is in line, which part is played.
//!
//! Always under the lane's lock. Asks nothing and tells nobody.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::held::Held;
use super::place::Mark;
use super::ticket::Hold;
use super::track::Track;
use crate::broker::stream::Finish;
use crate::queue::Received;
use crate::telemetry::DropReason;

pub(super) struct State {
    pub(super) track: Track,
    pub(super) role: Role,
    /// How often this daemon began or ceased to lead.
    pub(super) term: u64,
    pub(super) held: Held,
    pub(super) hold_most: usize,
    /// For which messages there was no room, though they may not be done.
    pub(super) hole: Option<Hole>,
    /// All up to this number are done with.
    pub(super) done: u64,
    /// It can't be told of those behind the first of these numbers, up to the second, that they are done
    /// with.
    unknown: (u64, u64),
    /// Of those up to this number none is to be counted as received any more.
    received: u64,
    arrivals: Arrivals,
    pub(super) out: VecDeque<Item>,
    pub(super) out_bytes: usize,
    pub(super) wants_mark: bool,
    /// A mark has come by which the place that is stored isn't told yet.
    pub(super) tells_mark: bool,
    /// Whether it was said that nothing is missing for going on.
    pub(super) is_ready: bool,
    /// Whether nothing is missing for going on, as it was heard last.
    pub(super) is_sure: bool,
    /// Whether the keeper knows how far others are.
    pub(super) has_looked: bool,
    /// Whether nothing is on its way any more that was published before that.
    pub(super) has_passed: bool,
    /// Somebody has given the lease back.
    pub(super) is_free: bool,
    /// Whether the subscription knows of this.
    pub(super) is_attached: bool,
    /// Since when nothing comes any more, if that is so.
    pub(super) closed: Option<Instant>,
    /// What is still handled here is another's, too: nothing of it will be written.
    pub(super) is_left: bool,
    /// This Redis can't have a channel that is single.
    pub(super) is_refused: bool,
}

/// The part that this daemon plays.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    Standby,
    /// The lease is ours; where to go on isn't known yet.
    Taking {
        place: Option<String>,
        /// How long ago all that had been published was done, if that is known.
        age: Option<Duration>,
        /// What it is called that nothing was ever written, if that is so.
        unwritten: Option<String>,
        /// What was published after we had the lease: all behind this is ours in any case.
        barrier: Option<Mark>,
    },
    Leading,
    /// What was handed on is still finished, and then the lease is given back.
    Leaving {
        passed: bool,
        /// Since when what comes may not have come here.
        since: Instant,
    },
    /// The lease is given back as it was got: it never became known where to go on.
    Quitting,
}

/// Messages for which there was no room.
#[derive(Clone, Copy)]
pub(super) struct Hole {
    /// The number before that of the first.
    before: u64,
    pub(super) last: u64,
    /// In what there was none, at last.
    pub(super) why: DropReason,
}

impl Hole {
    /// How many of them have a higher number than this.
    pub(super) fn behind(&self, number: u64) -> u64 {
        self.last.saturating_sub(self.before.max(number))
    }
}

/// A message that is to be finished.
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) finish: Finish,
    /// It was not handled, for this reason, and nothing comes of it.
    pub(super) dropped: Option<DropReason>,
    /// What to call it, where that isn't what its number says.
    pub(super) place: Option<String>,
}

impl State {
    pub(super) fn new(track: Track, held: Held, hold_most: usize) -> Self {
        State {
            track,
            hold_most,
            role: Role::Standby,
            term: 0,
            held,
            hole: None,
            done: 0,
            unknown: (0, 0),
            received: 0,
            arrivals: Arrivals::default(),
            out: VecDeque::new(),
            out_bytes: 0,
            wants_mark: false,
            tells_mark: false,
            is_ready: false,
            is_sure: false,
            has_looked: false,
            has_passed: false,
            is_free: false,
            is_attached: false,
            closed: None,
            is_left: false,
            is_refused: false,
        }
    }

    /// Whether messages are done that haven't come here: the subscription is slow, or dead and nobody has
    /// noticed yet.
    pub(super) fn is_behind(&self) -> bool {
        self.done > self.track.counted()
    }

    /// These come now.
    pub(super) fn note(&mut self, messages: &[Received]) {
        if let Some(first) = messages.first().and_then(number) {
            self.arrivals.note(first - 1, Instant::now());
        }
    }

    /// For how long something has waited at most, when all up to this number is done.
    pub(super) fn lag(&self, number: u64) -> Duration {
        let now = Instant::now();
        // What came since the subscription ended is another's, wherever it came.
        let missed = match self.role {
            Role::Leaving { since, .. } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        if number >= self.track.counted() {
            return missed;
        }
        let waited = self.arrivals.waited(number, now);
        waited.unwrap_or_else(|| self.track.open_for()).max(missed)
    }

    /// Whether what is in line is ours to be written.
    pub(super) fn writes(&self) -> bool {
        matches!(self.role, Role::Leading | Role::Leaving { .. })
    }

    pub(super) fn become_standby(&mut self) {
        self.term += 1;
        self.role = Role::Standby;
        (self.is_ready, self.is_sure) = (false, false);
    }

    pub(super) fn put_back(&mut self, flight: &mut Vec<Item>) {
        for item in flight.drain(..).rev() {
            self.out_bytes += item.finish.size();
            self.out.push_front(item);
        }
    }

    /// Whether something is here of which it isn't known whether another handles it.
    pub(super) fn holds(&self) -> bool {
        let is_new = |item: &Item| item.number > self.done;
        let in_line = !self.writes() && self.out.iter().any(is_new);
        let hole = self.hole.is_some_and(|hole| hole.behind(self.done) > 0);
        in_line || hole || self.held.bytes() > 0
    }

    /// Hold it, unless it is done, or nothing will ever be handled here again.
    pub(super) fn hold(&mut self, message: Received) {
        let number = number(&message).filter(|number| *number > self.done && !self.is_left);
        if let Some(number) = number {
            self.held.push(number, message);
        }
    }

    /// Hold no more than the channel's queue may have.
    pub(super) fn trim(&mut self) {
        self.shed_to(self.hold_most, DropReason::Overflow);
    }

    /// Hold no more than so many bytes: the oldest go, which are the first to be heard of as done.
    pub(super) fn shed_to(&mut self, most: usize, why: DropReason) {
        while self.held.bytes() > most {
            let Some(number) = self.held.drop_oldest() else { break };
            let before = self.hole.filter(|hole| hole.last > self.done);
            let before = before.map_or(number - 1, |hole| hole.before);
            self.hole = Some(Hole { before, last: number, why });
        }
    }

    /// It can't be told of those up to this number, which aren't known to be done with, whether they are,
    /// and they are not handled here: answers how many there are, and how many of them are received only
    /// now.
    pub(super) fn give_up(&mut self, number: u64) -> (u64, u64) {
        // Redis may have gone back to a place before what is done.
        let number = number.max(self.done);
        let in_line = self.out.iter().take_while(|item| item.number <= number);
        let in_line = in_line.filter(|item| item.number > self.done).count() as u64;
        let hole = self.hole.map_or(0, |hole| hole.behind(self.done) - hole.behind(number));
        let held = self.held.numbers().take_while(|held| *held <= number);
        let held: Vec<u64> = held.collect();
        let last = self.hole.map_or(0, |hole| hole.last.min(number));
        let received = self.receive(hole, last) + self.receive_all(held.iter().copied());
        self.unknown = (self.done, number);
        (in_line + hole + held.len() as u64, received)
    }

    /// Whether it can't be told of this one that it is done with.
    pub(super) fn is_unknown(&self, number: u64) -> bool {
        let (after, last) = self.unknown;
        after < number && number <= last
    }

    /// How many up to this number were received here, and are neither done nor lost.
    fn in_hand(&self, number: u64) -> u64 {
        let number = number.min(self.received).max(self.done);
        let hole = self.hole.map_or(0, |hole| hole.behind(self.done) - hole.behind(number));
        let held = self.held.numbers().take_while(|held| *held <= number).count() as u64;
        let is_ours = |item: &&Item| self.done < item.number && item.number <= number;
        hole + held + self.out.iter().filter(is_ours).count() as u64
    }

    /// Another has done all up to this number: answers how many of those were received here.
    pub(super) fn leave(&mut self, number: u64) -> u64 {
        let left = self.in_hand(number);
        self.forget(number);
        left
    }

    /// Nothing is handled here any more: answers how many were received here, and are left to others.
    pub(super) fn leave_all(&mut self) -> u64 {
        let left = self.in_hand(u64::MAX);
        self.is_left = true;
        self.held.take();
        self.out.clear();
        self.out_bytes = 0;
        self.hole = None;
        left
    }

    /// Nothing is handled here any more, and nobody knows whether it is elsewhere: answers how many there
    /// were, and how many of them are received only now.
    pub(super) fn give_up_all(&mut self) -> (u64, u64) {
        let given_up = self.give_up(u64::MAX);
        self.leave_all();
        given_up
    }

    /// Of so many messages, of which this is the last one's number, so many are received only now.
    pub(super) fn receive(&mut self, messages: u64, last: u64) -> u64 {
        let new = last.saturating_sub(self.received).min(messages);
        self.received = self.received.max(last);
        new
    }

    /// The same of these, in order.
    pub(super) fn receive_all(&mut self, numbers: impl Iterator<Item = u64>) -> u64 {
        numbers.map(|number| self.receive(1, number)).sum()
    }

    /// All up to this number is done with.
    pub(super) fn forget(&mut self, number: u64) {
        self.done = self.done.max(number);
        self.held.forget(number);
        while let Some(item) = self.out.pop_front_if(|item| item.number <= number) {
            self.out_bytes -= item.finish.size();
        }
        self.arrivals.forget(number);
        self.track.forget(number);
    }

    /// What comes from now on isn't all. Answers the term that is to end when what was handed on is
    /// done with.
    pub(super) fn cut(&mut self) -> Option<u64> {
        self.track.skip(self.done);
        self.track.close();
        self.wants_mark = false;
        (self.is_ready, self.is_sure) = (false, false);
        match self.role {
            Role::Leading => {
                let since = self.closed.unwrap_or_else(Instant::now);
                self.role = Role::Leaving { passed: false, since };
                Some(self.term)
            }
            Role::Taking { .. } => {
                self.role = Role::Quitting;
                None
            }
            Role::Standby | Role::Leaving { .. } | Role::Quitting => None,
        }
    }
}

/// Which message it is.
pub(super) fn number(message: &Received) -> Option<u64> {
    match &message.entry {
        Some(Hold::Ticket(ticket)) => Some(ticket.number),
        _ => None,
    }
}
