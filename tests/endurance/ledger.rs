//! What came out, and the verdict: each message that went in came out once, or it is known why not.

use std::fmt::Write;

/// How many wrong ones are shown.
const EXAMPLES: u64 = 20;

/// How often each number was seen.
#[derive(Clone, Debug, Default)]
pub struct Counts(Vec<u8>);

impl Counts {
    /// It was seen once more.
    pub fn add(&mut self, number: u64) {
        let place = usize::try_from(number).expect("a place in memory");
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] = self.0[place].saturating_add(1);
    }

    /// How often it was seen.
    pub fn of(&self, number: u64) -> u8 {
        self.0.get(number as usize).copied().unwrap_or(0)
    }
}

/// Everything that came out so far.
#[derive(Default)]
pub struct Ledger {
    /// Entries of the output stream.
    pub appended: Counts,
    /// Elements of the output list.
    pub pushed: Counts,
    /// Dead letters.
    pub dead: Counts,
    /// Those that were to become dead letters.
    pub bad: Counts,
    /// Those that the test removed from the stream.
    pub trimmed: Counts,
    /// Those that may come again, because their group was destroyed.
    pub again: Counts,
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Messages that went in.
    pub messages: u64,
    /// Those that came out of both outputs.
    pub out: u64,
    /// Those that are dead letters.
    pub dead: u64,
    /// Good ones that are dead letters, and bad ones that aren't.
    pub misjudged: u64,
    /// Those that came out nowhere because they were removed before they were handled.
    pub trimmed: u64,
    /// Those that came out nowhere, and nobody removed them.
    pub lost: u64,
    /// Those that came out more often than once, or of one output only.
    pub duplicated: u64,
    /// Those that did so because their group was destroyed.
    pub again: u64,
    /// Published while nobody listened, or refused.
    pub unheard: u64,
    /// What was wrong with the first few of them.
    pub examples: String,
}

impl Verdict {
    /// For the table.
    pub fn numbers(&self) -> [(&'static str, u64); 9] {
        [
            ("messages in", self.messages),
            ("out, once", self.out),
            ("dead letters", self.dead),
            ("misjudged", self.misjudged),
            ("trimmed by the test", self.trimmed),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("again after their group was destroyed", self.again),
            ("published and not heard", self.unheard),
        ]
    }
}

impl Ledger {
    /// Judge all numbers below `messages`.
    pub fn judge(&self, messages: u64, heard: &Counts) -> Verdict {
        let mut verdict = Verdict { messages, ..Verdict::default() };
        for number in 0..messages {
            self.judge_one(number, heard.of(number), &mut verdict);
        }
        verdict
    }

    fn judge_one(&self, number: u64, heard: u8, verdict: &mut Verdict) {
        let seen = [&self.appended, &self.pushed, &self.dead].map(|counts| counts.of(number));
        let [trimmed, again, bad] =
            [&self.trimmed, &self.again, &self.bad].map(|counts| counts.of(number) > 0);
        let wrong = match seen {
            [1, 1, 0] if heard <= 1 => {
                verdict.out += 1;
                verdict.unheard += u64::from(heard == 0);
                verdict.misjudged += u64::from(bad);
                bad
            }
            [0, 0, 1] if heard == 0 => {
                verdict.dead += 1;
                verdict.misjudged += u64::from(!bad);
                !bad
            }
            [0, 0, 0] if heard == 0 && trimmed => {
                verdict.trimmed += 1;
                false
            }
            // Twice or more, but whole each time.
            [n, m, 0] if n == m && n > 0 && heard <= n && again => {
                verdict.again += 1;
                false
            }
            [0, 0, n] if n > 1 && heard == 0 && again => {
                verdict.again += 1;
                false
            }
            [0, 0, 0] if heard == 0 => {
                verdict.lost += 1;
                true
            }
            _ => {
                verdict.duplicated += 1;
                true
            }
        };
        if wrong && verdict.lost + verdict.duplicated + verdict.misjudged <= EXAMPLES {
            let [appended, pushed, dead] = seen;
            let _ = writeln!(
                verdict.examples,
                "message {number}: appended {appended}, pushed {pushed}, dead {dead}, published \
                 {heard}, bad {bad}, trimmed {trimmed}, group destroyed {again}"
            );
        }
    }
}

/// Who watches the watcher: each way to be wrong is found.
mod tests {
    use super::*;

    fn counts(numbers: &[u64]) -> Counts {
        let mut counts = Counts::default();
        numbers.iter().for_each(|number| counts.add(*number));
        counts
    }

    #[track_caller]
    fn judged(ledger: &Ledger, heard: &[u64], messages: u64) -> [u64; 8] {
        let v = ledger.judge(messages, &counts(heard));
        let all = [v.out, v.dead, v.trimmed, v.lost, v.duplicated, v.again];
        assert_eq!(all.iter().sum::<u64>(), messages, "each is one of these: {v:?}");
        [v.out, v.dead, v.trimmed, v.lost, v.duplicated, v.again, v.misjudged, v.unheard]
    }

    #[test]
    fn what_comes_out_once_is_right() {
        let ledger = Ledger {
            appended: counts(&[0, 1]),
            pushed: counts(&[1, 0]),
            dead: counts(&[2]),
            bad: counts(&[2]),
            trimmed: counts(&[1, 3]),
            ..Ledger::default()
        };
        assert_eq!(judged(&ledger, &[0], 4), [2, 1, 1, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_comes_out_twice_or_in_part_is_not() {
        let ledger = Ledger {
            appended: counts(&[0, 0, 1, 3, 4, 5]),
            pushed: counts(&[0, 0, 2, 3, 5]),
            dead: counts(&[3, 6, 6, 7]),
            bad: counts(&[3, 6, 7]),
            ..Ledger::default()
        };
        assert_eq!(judged(&ledger, &[5, 5, 7], 8), [0, 0, 0, 0, 8, 0, 0, 0]);
    }

    #[test]
    fn what_does_not_come_out_is_lost_and_what_goes_the_wrong_way_is_found() {
        let ledger = Ledger {
            appended: counts(&[0]),
            pushed: counts(&[0]),
            dead: counts(&[1]),
            bad: counts(&[0]),
            ..Ledger::default()
        };
        assert_eq!(judged(&ledger, &[0], 3), [1, 1, 0, 1, 0, 0, 2, 0]);
    }

    #[test]
    fn a_destroyed_group_excuses_whole_repetitions_only() {
        let ledger = Ledger {
            appended: counts(&[0, 0, 1, 1]),
            pushed: counts(&[0, 0, 1]),
            again: counts(&[0, 1, 2]),
            ..Ledger::default()
        };
        assert_eq!(judged(&ledger, &[0], 3), [0, 0, 0, 1, 1, 1, 0, 0]);
    }
}
