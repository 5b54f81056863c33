//! The settings, parsed into a `Redactor`. An error is one sentence for whoever wrote them.

use std::fmt::Display;
use std::str::FromStr;

use aho_corasick::AhoCorasick;
use handlerd_plugin::config::Settings;
use regex::bytes::{Regex, RegexBuilder};

use crate::redactor::{Redactor, Words};

/// What to write when nothing is set.
const EXAMPLE: &str = r#"config = { words = "foo, bar" } or config = { patterns = ['\d{16}'] }"#;

/// A redactor made of the settings.
pub fn redactor(mut settings: Settings) -> Result<Redactor, String> {
    let words = settings
        .parsed("words", r#"a text such as "foo, bar", or a list of texts"#, parse_words)?
        .unwrap_or_default();
    let patterns = settings
        .parsed("patterns", r"a list of expressions, such as ['\d{16}']", list)?
        .unwrap_or_default();
    let mask = settings.parsed("mask", "one character", char::from_str)?.unwrap_or('*');
    let ignore_case = settings.boolean("ignore_case")?.unwrap_or(true);
    settings.finish()?;
    if words.is_empty() && patterns.is_empty() {
        return Err(format!("redact has nothing to mask: write {EXAMPLE} for its handler"));
    }
    let patterns = patterns.iter().enumerate().map(|(index, pattern)| compile(index + 1, pattern));
    Ok(Redactor {
        words: compile_words(words, ignore_case)?,
        patterns: patterns.collect::<Result<_, _>>()?,
        mask,
    })
}

/// `foo, bar`, or a list, for words with a comma in them.
fn parse_words(value: &str) -> Result<Vec<String>, serde_json::Error> {
    let words = if value.trim_start().starts_with('[') {
        list(value)?
    } else {
        value.split(',').map(str::to_owned).collect()
    };
    let words = words.iter().map(|word| word.trim().to_owned());
    Ok(words.filter(|word| !word.is_empty()).collect())
}

/// What matches any of the words, whole.
fn compile_words(mut words: Vec<String>, ignore_case: bool) -> Result<Option<Words>, String> {
    if words.is_empty() {
        return Ok(None);
    }
    let error = |error: &dyn Display| format!("`words` can't be compiled: {error}");
    let letters = if words.iter().all(|word| word.is_ascii()) {
        let letters = AhoCorasick::builder().ascii_case_insensitive(ignore_case).build(&words);
        Some(letters.map_err(|e| error(&e))?)
    } else {
        None
    };
    // The first alternative that matches wins, and the longest should.
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let words: Vec<_> = words.iter().map(|word| regex::escape(word)).collect();
    // Half boundaries, so that a word may begin or end in what is no letter, as in `C++`.
    let expression = format!(r"\b{{start-half}}(?:{})\b{{end-half}}", words.join("|"));
    let compiled = RegexBuilder::new(&expression).case_insensitive(ignore_case).build();
    Ok(Some(Words { expression: compiled.map_err(|e| error(&e))?, letters }))
}

fn compile(number: usize, pattern: &str) -> Result<Regex, String> {
    // The parser first: it knows the place of an error, which regex only draws.
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    if let Err(error) = parser.parse(pattern) {
        let (what, offset) = match &error {
            regex_syntax::Error::Parse(error) => {
                (error.kind().to_string(), error.span().start.offset)
            }
            regex_syntax::Error::Translate(error) => {
                (error.kind().to_string(), error.span().start.offset)
            }
            _ => (error.to_string(), 0),
        };
        let position = pattern.get(..offset).map_or(0, |before| before.chars().count()) + 1;
        return Err(format!(
            "expression {number} of `patterns`, `{pattern}`, is wrong at character {position}: {what}"
        ));
    }
    Regex::new(pattern)
        .map_err(|error| format!("expression {number} of `patterns`, `{pattern}`: {error}"))
}

fn list(value: &str) -> Result<Vec<String>, serde_json::Error> {
    serde_json::from_str(value)
}
