//! Redis's patterns, everywhere the same: `*` spans everything, `?` one byte, `[a-c]`, `[^a]`, `\x`;
//! braces are literal. Bytes are what counts, not characters.

use std::fmt::Write;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

use super::glob::{ByteSet, Glob, Step};

/// A pattern as Redis's `PSUBSCRIBE` reads it.
///
/// It is a regular expression inside: matching takes time in proportion to the name, whatever name
/// a plugin thinks of.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    glob: Arc<Glob>,
    regex: Regex,
}

/// A pattern is too long to be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the pattern takes too much memory to match")]
pub struct PatternError;

/// Bytes that a compiled pattern may take.
const MOST_MEMORY: usize = 4 << 20;

impl Pattern {
    /// Read a pattern. Every text is one.
    ///
    /// # Errors
    /// When it is so long that matching it would take too much memory.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        Pattern::of_bytes(text.as_bytes())
    }

    /// The same for a pattern that isn't UTF-8; its [`Pattern::text`] is then only for people.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn of_bytes(pattern: &[u8]) -> Result<Self, PatternError> {
        let glob = Glob::of_pattern(pattern);
        let regex = RegexBuilder::new(&expression(&glob))
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(MOST_MEMORY)
            .build()
            .map_err(|_| PatternError)?;
        let text = String::from_utf8_lossy(pattern).into();
        Ok(Pattern { text, glob: Arc::new(glob), regex })
    }

    /// As it was written.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        self.matches_bytes(name.as_bytes())
    }

    /// The same for a name that isn't UTF-8.
    pub fn matches_bytes(&self, name: &[u8]) -> bool {
        // Redis's matcher ends where the name does: a `*` doesn't match nothing from the start.
        if name.is_empty() {
            return self.text.is_empty();
        }
        self.regex.is_match(name)
    }

    /// Whether there is a name that both match.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        self.glob.meets(&other.glob)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// The pattern as a regular expression over bytes.
fn expression(glob: &Glob) -> String {
    let mut text = String::from(r"\A");
    for step in glob.steps() {
        match step {
            Step::Many => text.push_str(".*"),
            Step::One(set) if *set == ByteSet::ALL => text.push('.'),
            Step::One(set) => {
                text.push('[');
                let mut bytes = (0..=u8::MAX).filter(|byte| set.has(*byte)).peekable();
                // Nothing is what is neither of all bytes.
                if bytes.peek().is_none() {
                    text.push_str(r"^\x00-\xFF");
                }
                for byte in bytes {
                    // Writing to a String doesn't fail.
                    let _ = write!(text, r"\x{byte:02X}");
                }
                text.push(']');
            }
        }
    }
    text.push_str(r"\z");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_redis() {
        // `tests/config.rs` asks a real Redis about many more.
        for (pattern, name, matches) in [
            ("room.*", "room.1", true),
            ("room.*", "room.", true),
            ("room.*", "room", false),
            ("*", "a\nb", true),
            ("*", "", false),
            ("", "", true),
            ("h?llo", "hallo", true),
            ("h?llo", "hållo", false),
            ("h??llo", "hållo", true),
            ("h[ae]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[c-a]llo", "hbllo", true),
            ("[]a", "a", false),
            ("[^]a", "xa", true),
            ("[a-]x", "ax", false),
            ("[a-]]x", "bx", false),
            ("[abc", "b", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("a\\", "a\\", true),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
        ] {
            let compiled = Pattern::new(pattern).expect(pattern);
            assert_eq!(compiled.matches(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn long_patterns_are_compiled_or_refused() {
        for text in ["*a".repeat(2000), "[^a]".repeat(1000), "?".repeat(4096), "[".repeat(4096)] {
            let Ok(pattern) = Pattern::new(&text) else { continue };
            assert!(!pattern.matches("b"));
        }
    }
}
