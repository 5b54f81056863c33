//! Redis's patterns, everywhere the same: `*` spans everything, `?` one byte, `[a-c]`, `[^a]`, `\x`;
//! braces are literal. Bytes are what counts, not characters.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::glob::Glob;
use super::matcher::Matcher;

/// Longest pattern, in bytes, and longest name where there is a limit: Redis itself has hardly one.
pub const LONGEST: usize = 4096;

/// A pattern as Redis's `PSUBSCRIBE` reads it.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    glob: Arc<Glob>,
    matcher: Arc<Matcher>,
}

/// A pattern is too long to be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a pattern has {0} bytes; at most {most} are allowed", most = LONGEST)]
pub struct PatternError(usize);

impl Pattern {
    /// Read a pattern. Every text of at most [`LONGEST`] bytes is one.
    ///
    /// # Errors
    /// When it is longer.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        Pattern::of_bytes(text.as_bytes())
    }

    /// The same for a pattern that isn't UTF-8; its [`Pattern::text`] is then only for people.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn of_bytes(pattern: &[u8]) -> Result<Self, PatternError> {
        if pattern.len() > LONGEST {
            return Err(PatternError(pattern.len()));
        }
        let glob = Glob::of_pattern(pattern);
        let matcher = Arc::new(Matcher::new(&glob));
        let text = String::from_utf8_lossy(pattern).into();
        Ok(Pattern { text, glob: Arc::new(glob), matcher })
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
        self.matcher.matches(name)
    }

    /// Whether there is a name that both match.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        self.glob.meets(&other.glob)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

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
    fn long_patterns_are_taken_up_to_the_limit() {
        for text in ["*a".repeat(2048), "[^a]".repeat(1024), "?".repeat(4096), "[".repeat(4096)] {
            assert!(!Pattern::new(&text).expect("not too long").matches("b"));
            assert_eq!(Pattern::new(&(text + "x")), Err(PatternError(4097)));
        }
    }
}
