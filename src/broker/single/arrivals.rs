//! Since when messages wait, about: so that a place can be told with the time up to which all that came
//! is done, which is before now where the handlers are slower than what comes.
//!
//! By this daemon's own clock, of which only how much time passes is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far apart notes are at least.
const APART: Duration = Duration::from_millis(100);

/// How many notes are kept: where there are more, those between others go.
const MOST: usize = 1_000;

/// When what is behind some numbers began to come.
#[derive(Default)]
pub(super) struct Arrivals(VecDeque<(u64, Instant)>);

impl Arrivals {
    /// What is behind this number comes now.
    pub(super) fn note(&mut self, number: u64, now: Instant) {
        if self.0.back().is_some_and(|(_, at)| now.saturating_duration_since(*at) < APART) {
            return;
        }
        if self.0.len() == MOST {
            let mut is_kept = false;
            self.0.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
        self.0.push_back((number, now));
    }

    /// How long what is behind this number has waited by now at most, if that is known.
    pub(super) fn waited(&self, number: u64, now: Instant) -> Option<Duration> {
        let before = self.0.iter().rev().find(|(behind, _)| *behind <= number);
        before.map(|(_, at)| now.saturating_duration_since(*at))
    }

    /// All up to this number is done.
    pub(super) fn forget(&mut self, number: u64) {
        while self.0.get(1).is_some_and(|(behind, _)| *behind <= number) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_up_to_a_message_is_as_old_as_the_next_one() {
        let (start, mut arrivals) = (Instant::now(), Arrivals::default());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(arrivals.waited(0, start), None);
        for (number, ms) in [(0, 0), (3, 50), (5, 1_000), (9, 2_000)] {
            arrivals.note(number, at(ms));
        }
        let waited = |arrivals: &Arrivals, number| arrivals.waited(number, at(5_000));
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(
            [0, 4, 5, 8, 9].map(|n| waited(&arrivals, n)),
            [5_000, 5_000, 4_000, 4_000, 3_000].map(ms)
        );
        arrivals.forget(6);
        assert_eq!([4, 6].map(|n| waited(&arrivals, n)), [None, ms(4_000)]);
    }

    #[test]
    fn where_there_are_many_notes_the_time_is_longer_rather_than_shorter() {
        let (start, mut arrivals) = (Instant::now(), Arrivals::default());
        let at = |number| start + APART * number as u32;
        (0..50_000).for_each(|number| arrivals.note(number, at(number)));
        assert!(arrivals.0.len() <= MOST);
        let now = at(50_000);
        for number in [0, 1, 777, 20_000, 49_999] {
            assert!(arrivals.waited(number, now) >= Some(now - at(number)), "{number}");
        }
    }
}
