//! What patterns say about each other: whether two can match a common name, whether all names of
//! one match another.
//!
//! Redis's own matcher (`stringmatchlen` in its `util.c`) reads a pattern and a name side by side;
//! here its reading of the pattern is done once, down to its oddities (see [`class`]), into steps
//! that each take one byte of a set, or any number of any bytes. Both questions are then answered
//! exactly, by walking the two automata side by side. Used by `pattern`, `matcher` and `circle`.

use std::collections::{HashSet, VecDeque};

/// A set of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    const NONE: ByteSet = ByteSet([0; 4]);
    pub const ALL: ByteSet = ByteSet([u64::MAX; 4]);

    fn of(byte: u8) -> Self {
        let mut set = ByteSet::NONE;
        set.add(byte);
        set
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    /// The byte, if there is just one.
    pub fn single(&self) -> Option<u8> {
        let word = self.0.iter().position(|bits| *bits != 0)?;
        let byte = word * 64 + self.0[word].trailing_zeros() as usize;
        let byte = u8::try_from(byte).ok()?;
        (*self == ByteSet::of(byte)).then_some(byte)
    }

    fn not(&self) -> Self {
        ByteSet(self.0.map(|bits| !bits))
    }

    fn meets(&self, other: &ByteSet) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }
}

/// A step of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Any number of any bytes.
    Many,
    /// One byte of the set.
    One(ByteSet),
}

/// A pattern, or the names that a template makes of those that a pattern matches.
///
/// One difference to Redis, where `*` doesn't match the empty name: here it does. No message is
/// ever received on that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Glob {
    steps: Vec<Step>,
}

/// How many pairs of states [`Glob::is_within`] looks at before it gives up. Patterns that people
/// write need some hundred.
const MOST_STATES: usize = 10_000;

impl Glob {
    /// The names that a pattern matches.
    pub fn of_pattern(pattern: &[u8]) -> Self {
        let mut steps = Vec::with_capacity(pattern.len());
        let mut at = 0;
        while let Some(&byte) = pattern.get(at) {
            match byte {
                b'*' => {
                    if steps.last() != Some(&Step::Many) {
                        steps.push(Step::Many);
                    }
                }
                b'?' => steps.push(Step::One(ByteSet::ALL)),
                b'[' => {
                    let (set, end) = class(pattern, at + 1);
                    steps.push(Step::One(set));
                    at = end;
                    continue;
                }
                // At the end of the pattern it stands for itself.
                b'\\' => {
                    if at + 1 < pattern.len() {
                        at += 1;
                    }
                    steps.push(Step::One(ByteSet::of(pattern[at])));
                }
                _ => steps.push(Step::One(ByteSet::of(byte))),
            }
            at += 1;
        }
        Glob { steps }
    }

    /// One name.
    pub fn of_name(name: &[u8]) -> Self {
        Glob { steps: name.iter().map(|byte| Step::One(ByteSet::of(*byte))).collect() }
    }

    /// One after the other.
    pub fn append(&mut self, other: &Glob) {
        let both = [self.steps.last(), other.steps.first()];
        let merge = both.iter().all(|step| *step == Some(&Step::Many));
        self.steps.extend_from_slice(&other.steps[usize::from(merge)..]);
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether some name matches both.
    pub fn meets(&self, other: &Glob) -> bool {
        // Nearly all pairs differ in how they begin or end.
        let agree = |(a, b): (&Step, &Step)| match (a, b) {
            (Step::One(a), Step::One(b)) => Some(a.meets(b)),
            _ => None,
        };
        let begin = self.steps.iter().zip(&other.steps).map_while(agree);
        let end = self.steps.iter().rev().zip(other.steps.iter().rev()).map_while(agree);
        if !begin.chain(end).all(|agrees| agrees) {
            return false;
        }
        let (a, b) = (&self.steps, &other.steps);
        let width = b.len() + 1;
        let mut seen = vec![false; (a.len() + 1) * width];
        let mut open = vec![(0, 0)];
        while let Some((i, j)) = open.pop() {
            if std::mem::replace(&mut seen[i * width + j], true) {
                continue;
            }
            match (a.get(i), b.get(j)) {
                (None, None) => return true,
                (Some(Step::Many), Some(Step::Many)) => open.extend([(i + 1, j), (i, j + 1)]),
                // It takes nothing more, or the byte that the other one takes.
                (Some(Step::Many), other) => {
                    open.push((i + 1, j));
                    if matches!(other, Some(Step::One(set)) if *set != ByteSet::NONE) {
                        open.push((i, j + 1));
                    }
                }
                (other, Some(Step::Many)) => {
                    open.push((i, j + 1));
                    if matches!(other, Some(Step::One(set)) if *set != ByteSet::NONE) {
                        open.push((i + 1, j));
                    }
                }
                (Some(Step::One(x)), Some(Step::One(y))) if x.meets(y) => {
                    open.push((i + 1, j + 1));
                }
                _ => {}
            }
        }
        false
    }

    /// Whether all names of this one match the other; `None` when that is too much to find out.
    pub fn is_within(&self, other: &Glob) -> Option<bool> {
        let bytes = representatives([self, other]);
        let mut seen = HashSet::new();
        let mut open = VecDeque::from([(0, other.reach(vec![0]))]);
        while let Some(state) = open.pop_front() {
            if seen.contains(&state) {
                continue;
            }
            if seen.len() == MOST_STATES {
                return None;
            }
            let (i, theirs) = &state;
            let mut next = |i: usize, byte: u8| {
                let steps = theirs.iter().filter_map(|j| other.take(*j, byte)).collect();
                open.push_back((i, other.reach(steps)));
            };
            match self.steps.get(*i) {
                None if !theirs.contains(&other.steps.len()) => return Some(false),
                None => {}
                Some(Step::One(set)) => {
                    bytes.iter().filter(|byte| set.has(**byte)).for_each(|byte| next(i + 1, *byte));
                }
                Some(Step::Many) => {
                    bytes.iter().for_each(|byte| next(*i, *byte));
                    open.push_back((i + 1, theirs.clone()));
                }
            }
            seen.insert(state);
        }
        Some(true)
    }

    /// The state after a byte.
    fn take(&self, state: usize, byte: u8) -> Option<usize> {
        match self.steps.get(state)? {
            Step::Many => Some(state),
            Step::One(set) => set.has(byte).then_some(state + 1),
        }
    }

    /// These states and those that are reached from them without a byte, each once and in order.
    fn reach(&self, mut states: Vec<usize>) -> Vec<usize> {
        let mut at = 0;
        while let Some(&state) = states.get(at) {
            if self.steps.get(state) == Some(&Step::Many) {
                states.push(state + 1);
            }
            at += 1;
        }
        states.sort_unstable();
        states.dedup();
        states
    }
}

/// One byte of each kind that the patterns tell apart.
fn representatives(globs: [&Glob; 2]) -> Vec<u8> {
    let steps = globs.into_iter().flat_map(|glob| &glob.steps);
    let sets: HashSet<&ByteSet> = steps
        .filter_map(|step| match step {
            Step::One(set) => Some(set),
            Step::Many => None,
        })
        .collect();
    let mut kinds: HashSet<Vec<bool>> = HashSet::new();
    (0..=u8::MAX)
        .filter(|byte| kinds.insert(sets.iter().map(|set| set.has(*byte)).collect()))
        .collect()
}

/// The set of a `[…]` whose content begins at `at`, and where the pattern goes on.
///
/// As Redis reads it: `]` ends it wherever it stands outside of a range or an escape, also as the
/// first character; a range takes any byte as its end, `]` and `\` too (so `[a-]` is not at its
/// end there); a range's ends may be in either order; without a `]` all the rest belongs to it.
fn class(pattern: &[u8], mut at: usize) -> (ByteSet, usize) {
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let mut set = ByteSet::NONE;
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => break,
            [b'\\', escaped, ..] => {
                set.add(*escaped);
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [from, b'-', to, ..] => {
                // Redis compares them as C's `char`, which has a sign on x86-64.
                let (from, to) = (*from as i8, *to as i8);
                (from.min(to)..=from.max(to)).for_each(|byte| set.add(byte as u8));
                at += 3;
            }
            [byte, ..] => {
                set.add(*byte);
                at += 1;
            }
        }
    }
    (if negated { set.not() } else { set }, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Glob {
        Glob::of_pattern(text.as_bytes())
    }

    #[test]
    fn patterns_meet_when_some_name_matches_both() {
        for (a, b, meet) in [
            ("a", "a", true),
            ("a", "b", false),
            ("*", "anything", true),
            ("room.*", "out.*", false),
            ("room.*", "*.x", true),
            ("*.in", "*.in.out", false),
            ("a*b", "*c*", true),
            ("a?", "?b", true),
            ("a?", "?bc", false),
            ("[ab]*", "[bc]", true),
            ("[ab]*", "[^ab]*", false),
            ("[]x", "*", false),
            ("*[]*", "*", false),
            ("{a}", "a", false),
        ] {
            assert_eq!(pattern(a).meets(&pattern(b)), meet, "{a} {b}");
            assert_eq!(pattern(b).meets(&pattern(a)), meet, "{b} {a}");
        }
    }

    #[test]
    fn a_pattern_is_within_another_when_all_its_names_match_that() {
        for (a, b, within) in [
            ("x.x.*", "x.*", true),
            ("x.*", "x.x.*", false),
            ("out.room.*", "room.*", false),
            ("b*a*", "*a*", true),
            ("*a*", "*a", false),
            ("[ab]", "[a-c]", true),
            ("[ab]", "a", false),
            ("?", "*", true),
            ("*?", "?*", true),
            ("*", "?*", false), // The empty name, which counts here.
            ("[]", "a", true),
            ("a*[]", "b", true),
            ("*a*b*", "*b*", true),
            ("*a????????????", "*a*", true),
        ] {
            assert_eq!(pattern(a).is_within(&pattern(b)), Some(within), "{a} {b}");
        }
    }

    #[test]
    fn it_gives_up_on_what_is_too_much() {
        // Each of the 40 bytes after the `a` may or may not be one that the other looks for.
        let wide = pattern(&format!("*a{}", "?".repeat(40)));
        let wider = pattern(&format!("*a{}*b", "?".repeat(40)));
        assert_eq!(wide.is_within(&wider), None);
        assert_eq!(wide.is_within(&wide), None);
        assert!(wide.meets(&wider));
    }

    /// The simplest way to say whether a name matches.
    fn matches(steps: &[Step], name: &[u8]) -> bool {
        match (steps, name) {
            ([], []) => true,
            ([Step::Many, rest @ ..], name) => {
                (0..=name.len()).any(|taken| matches(rest, &name[taken..]))
            }
            ([Step::One(set), rest @ ..], [byte, name @ ..]) => {
                set.has(*byte) && matches(rest, name)
            }
            _ => false,
        }
    }

    #[test]
    fn both_questions_are_answered_as_by_trying_all_names() {
        let pieces = ["*", "?", "a", "b", "[ab]", "[^a]", "[]"];
        let patterns: Vec<Glob> = (0..pieces.len().pow(3))
            .map(|n| [n % 7, n / 7 % 7, n / 49].map(|piece| pieces[piece]).concat())
            .map(|text| pattern(&text))
            .collect();
        // Three steps each: names of up to six bytes tell all of them apart.
        let mut names: Vec<Vec<u8>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..6 {
            let longest = names[from..].to_vec();
            from = names.len();
            names.extend(longest.iter().flat_map(|n| b"abc".map(|byte| [n, &[byte][..]].concat())));
        }
        let matched: Vec<Vec<bool>> = patterns
            .iter()
            .map(|glob| names.iter().map(|name| matches(&glob.steps, name)).collect())
            .collect();
        // Some of the pairs, spread over them.
        for (number, (i, j)) in
            (0..patterns.len()).flat_map(|i| (0..patterns.len()).map(move |j| (i, j))).enumerate()
        {
            if number % 61 != 0 {
                continue;
            }
            let mut pairs = matched[i].iter().zip(&matched[j]);
            let common = pairs.clone().any(|(a, b)| *a && *b);
            assert_eq!(patterns[i].meets(&patterns[j]), common, "{:?}", (i, j));
            let within = pairs.all(|(a, b)| !a || *b);
            assert_eq!(patterns[i].is_within(&patterns[j]), Some(within), "{:?}", (i, j));
        }
    }

    #[test]
    fn appending_joins_the_names() {
        let mut glob = Glob::of_name(b"out.");
        glob.append(&pattern("room.*"));
        assert_eq!(glob, pattern("out.room.*"));
        glob.append(&pattern("*x"));
        assert_eq!(glob, pattern("out.room.*x"));
    }
}
