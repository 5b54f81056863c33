//! Whether a name matches a pattern, in a time and a memory that no pattern and no name can blow up.
//!
//! Every state that the pattern can be in is a bit, and all bits move on together, 64 at a time: a
//! name of `n` bytes takes `n` times `m / 64` steps for a pattern of `m`, whatever stands in them.
//! Going back to the last `*` would take `n * m`, and a regular expression a cache of megabytes.
//! Used by `pattern`, and by the embedded broker.

use std::collections::HashMap;

use super::glob::{Glob, Step};

/// A pattern, ready to be asked.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The number of each byte's class: bytes of one class match the same steps.
    classes: Box<[u8; 256]>,
    /// For each class the steps that its bytes match, one bit each, `words` words a class.
    accepted: Box<[u64]>,
    /// The states that any byte leaves as they are: a `*` stands there.
    stays: Box<[u64]>,
    /// The state behind the last step, which is the number of steps.
    end: usize,
}

impl Matcher {
    /// Of a pattern as Redis's `PSUBSCRIBE` reads it; any bytes are one.
    pub fn of_pattern(pattern: &[u8]) -> Self {
        Matcher::new(&Glob::of_pattern(pattern))
    }

    pub(super) fn new(glob: &Glob) -> Self {
        let ones = glob.steps().iter().filter(|step| **step != Step::Many).count();
        let words = ones / 64 + 1;
        let mut stays = vec![0; words];
        let mut sets = Vec::with_capacity(ones);
        for step in glob.steps() {
            match step {
                Step::Many => set_bit(&mut stays, sets.len()),
                Step::One(set) => sets.push(set),
            }
        }
        let mut classes = Box::new([0; 256]);
        let mut known: HashMap<Vec<u64>, u8> = HashMap::new();
        let mut accepted = Vec::new();
        for byte in 0..=u8::MAX {
            let mut row = vec![0; words];
            for (step, _) in sets.iter().enumerate().filter(|(_, set)| set.has(byte)) {
                set_bit(&mut row, step);
            }
            // There are no more classes than bytes, so the newest one's number is a byte.
            let newest = u8::try_from(known.len()).unwrap_or(u8::MAX);
            classes[usize::from(byte)] = *known.entry(row).or_insert_with_key(|row| {
                accepted.extend_from_slice(row);
                newest
            });
        }
        Matcher { classes, accepted: accepted.into(), stays: stays.into(), end: ones }
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        // Redis's matcher ends where the name does: a `*` doesn't match nothing from the start.
        if name.is_empty() {
            return self.end == 0 && self.stays[0] == 0;
        }
        // Most patterns fit into one word, which is then kept in a register.
        match self.stays.len() {
            1 => self.matches_in(name, &mut [0]),
            words => self.matches_in(name, &mut vec![0; words]),
        }
    }

    /// The same, in words for the states that it is in.
    #[inline]
    fn matches_in(&self, name: &[u8], states: &mut [u64]) -> bool {
        let words = states.len();
        states[0] = 1;
        for byte in name {
            // Whatever follows, a `*` at the end takes it.
            if has_bit(states, self.end) && has_bit(&self.stays, self.end) {
                return true;
            }
            let class = usize::from(self.classes[usize::from(*byte)]);
            let accepted = &self.accepted[class * words..][..words];
            let (mut carry, mut alive) = (0, 0);
            for ((state, accepted), stays) in states.iter_mut().zip(accepted).zip(&self.stays) {
                let moved = *state & accepted;
                *state = (moved << 1) | carry | (*state & stays);
                carry = moved >> 63;
                alive |= *state;
            }
            if alive == 0 {
                return false;
            }
        }
        has_bit(states, self.end)
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        let words = self.accepted.len() + self.stays.len();
        size_of::<Self>() + size_of_val(&*self.classes) + words * size_of::<u64>()
    }
}

fn set_bit(words: &mut [u64], bit: usize) {
    words[bit / 64] |= 1 << (bit % 64);
}

fn has_bit(words: &[u64], bit: usize) -> bool {
    words[bit / 64] & 1 << (bit % 64) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Matcher::of_pattern(pattern.as_bytes()).matches(name.as_bytes())
    }

    #[test]
    fn long_patterns_match_across_words() {
        for length in [1, 62, 63, 64, 65, 127, 128, 129, 4000] {
            let name = "a".repeat(length);
            let (longer, shorter) = (format!("{name}a"), &name[1..]);
            for (pattern, takes_longer) in [
                (name.clone(), false),
                ("?".repeat(length), false),
                ("[^b]".repeat(length), false),
                (format!("{name}*"), true),
                (format!("*{name}"), true),
                ("*a".repeat(length), true),
            ] {
                assert!(matches(&pattern, &name), "{length} {pattern}");
                assert_eq!(matches(&pattern, &longer), takes_longer, "{length} {pattern}");
                assert!(!matches(&pattern, shorter), "{length} {pattern}");
            }
            assert!(!matches(&format!("{}*b", "*a".repeat(length)), &name), "{length}");
            assert!(
                matches(&format!("{}*b", "*a".repeat(length)), &format!("{name}b")),
                "{length}"
            );
        }
    }

    #[test]
    fn its_memory_is_bounded_by_the_patterns_length() {
        let literal = |byte: &u8| !b"*?[\\".contains(byte);
        let all_bytes: Vec<u8> = (0..=u8::MAX).filter(literal).cycle().take(4096).collect();
        for pattern in ["[^a]".repeat(1024), "*a".repeat(2048), "?".repeat(4096)] {
            let matcher = Matcher::of_pattern(pattern.as_bytes());
            assert!(matcher.memory() < pattern.len() + 1024, "{}", matcher.memory());
        }
        let matcher = Matcher::of_pattern(&all_bytes);
        assert!(matcher.memory() < 33 * all_bytes.len() + 1024, "{}", matcher.memory());
    }
}
