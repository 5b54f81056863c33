//! Finds what is to be masked, and masks it. Knows nothing of settings.

use std::ops::Range;

use aho_corasick::AhoCorasick;
use regex::bytes::Regex;

/// The compiled expressions.
pub struct Redactor {
    /// The words, where there are any.
    pub words: Option<Words>,
    /// Used on the whole payload, so that `(?-u)` can match bytes.
    pub patterns: Vec<Regex>,
    /// What stands for each character of a match.
    pub mask: char,
}

/// What finds words.
pub struct Words {
    /// Matches every word, whole. Used on text only: next to a byte that is no UTF-8 a word
    /// boundary never matches, and the word would stay readable.
    pub expression: Regex,
    /// Finds the words' letters wherever they stand in ASCII: most payloads hold no word at all, and
    /// it says so several times as fast as the expression. `None` where a word isn't ASCII, since
    /// `ſ` is an `s` when case doesn't matter.
    pub letters: Option<AhoCorasick>,
}

impl Words {
    /// Adds where words are in the payload.
    fn find(&self, payload: &[u8], found: &mut Vec<Range<usize>>) {
        if let Some(letters) = &self.letters
            && payload.is_ascii()
            && !letters.is_match(payload)
        {
            return;
        }
        let mut start = 0;
        for chunk in payload.utf8_chunks() {
            find(&self.expression, chunk.valid().as_bytes(), start, found);
            start += chunk.valid().len() + chunk.invalid().len();
        }
    }
}

impl Redactor {
    /// The payload with every match masked; `None` where nothing matches.
    pub fn mask(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut found = Vec::new();
        if let Some(words) = &self.words {
            words.find(payload, &mut found);
        }
        for pattern in &self.patterns {
            find(pattern, payload, 0, &mut found);
        }
        if found.is_empty() {
            return None;
        }
        found.sort_unstable_by_key(|range| range.start);
        Some(self.replace(payload, &found))
    }

    /// Masks the ranges, which are sorted by their starts and may overlap.
    fn replace(&self, payload: &[u8], found: &[Range<usize>]) -> Vec<u8> {
        let mut utf8 = [0; 4];
        let mask = self.mask.encode_utf8(&mut utf8).as_bytes();
        let mut masked = Vec::with_capacity(payload.len());
        let mut done = 0;
        for range in found {
            // The part of an overlapping match that an earlier one has masked is skipped.
            let start = range.start.max(done);
            if range.end <= start {
                continue;
            }
            masked.extend_from_slice(&payload[done..start]);
            for _ in 0..characters(&payload[start..range.end]) {
                masked.extend_from_slice(mask);
            }
            done = range.end;
        }
        masked.extend_from_slice(&payload[done..]);
        masked
    }
}

/// Adds the non-empty matches in `bytes`, which begins at `offset` of the payload.
fn find(expression: &Regex, bytes: &[u8], offset: usize, found: &mut Vec<Range<usize>>) {
    let matches = expression.find_iter(bytes).filter(|one| !one.is_empty());
    found.extend(matches.map(|one| offset + one.start()..offset + one.end()));
}

/// How many characters people see: a sequence that is no UTF-8 counts as one.
fn characters(bytes: &[u8]) -> usize {
    bytes
        .utf8_chunks()
        .map(|chunk| chunk.valid().chars().count() + usize::from(!chunk.invalid().is_empty()))
        .sum()
}
