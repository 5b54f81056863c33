//! Redis's patterns, everywhere the same: `*` spans everything, `?` one byte, `[a-c]`, `[^a]`, `\x`;
//! braces are literal.

use std::sync::Arc;

/// A pattern as Redis's `PSUBSCRIBE` reads it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    regex: regex::bytes::Regex,
}

impl Pattern {
    /// As it was written.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name.as_bytes())
    }
}
