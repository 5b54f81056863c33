//! What came out, and the verdict: each message that went in came out once, or it is known why not.

use std::fmt::Write;

/// How often each number was seen.
#[derive(Clone, Default)]
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

impl Ledger {
    /// Judge all numbers below `messages`.
    pub fn judge(&self, messages: u64, heard: &Counts) -> Verdict {
        let mut verdict = Verdict { messages, ..Verdict::default() };
        for number in 0..messages {
            let seen = [&self.appended, &self.pushed, &self.dead].map(|counts| counts.of(number));
            let heard = heard.of(number);
            match seen {
                [1, 1, 0] if heard <= 1 => {
                    verdict.out += 1;
                    verdict.unheard += u64::from(heard == 0);
                }
                [0, 0, 1] if heard == 0 => verdict.dead += 1,
                [0, 0, 0] if heard == 0 && self.trimmed.of(number) > 0 => verdict.trimmed += 1,
                // Written twice or more, but whole each time.
                [n, m, _] if n == m && n > 0 && self.again.of(number) > 0 => verdict.again += 1,
                _ => {
                    let lost = seen == [0, 0, 0] && heard == 0;
                    *(if lost { &mut verdict.lost } else { &mut verdict.duplicated }) += 1;
                    if verdict.lost + verdict.duplicated <= 20 {
                        let [appended, pushed, dead] = seen;
                        let _ = writeln!(
                            verdict.examples,
                            "message {number}: appended {appended}, pushed {pushed}, dead \
                             {dead}, published {heard}, trimmed {}",
                            self.trimmed.of(number)
                        );
                    }
                }
            }
        }
        verdict
    }
}
