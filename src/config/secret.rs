//! Texts that must not be seen: in `Debug` of the configuration, and in the lines of it that
//! errors show.

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// What stands where a secret stood, whatever its length.
const STARS: &str = "***";

/// A password or a token: `Debug` shows stars, and only [`Secret::expose`] gives the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wrap a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STARS)
    }
}

/// A line as it may be shown, and how positions in it have moved.
pub(super) struct Masked {
    /// The line, with stars for secrets.
    pub text: String,
    /// The parts of the original that became stars, in order and apart from each other.
    hidden: Vec<Range<usize>>,
}

impl Masked {
    /// Where a byte of the original line is in [`Self::text`]; inside of a secret, at its stars.
    pub fn position(&self, original: usize) -> usize {
        let mut shown = original;
        for hidden in &self.hidden {
            if original >= hidden.end {
                shown = shown + STARS.len() - hidden.len();
            } else if original > hidden.start {
                shown -= original - hidden.start;
            }
        }
        shown
    }
}

/// Hide what looks like a secret in a line of the configuration: user and password of a URL,
/// `password=` in one, and what is assigned to a key that is named like a secret.
///
/// It looks at the text only, so that lines which aren't TOML are safe to show too; in doubt it
/// hides too much.
pub(super) fn mask(line: &str) -> Masked {
    let mut hidden: Vec<Range<usize>> = Vec::new();
    hidden.extend(url_parts(line));
    hidden.extend(assigned(line));
    hidden.retain(|range| !range.is_empty());
    hidden.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in hidden {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    let mut text = String::with_capacity(line.len());
    let mut at = 0;
    for range in &merged {
        text.push_str(&line[at..range.start]);
        text.push_str(STARS);
        at = range.end;
    }
    text.push_str(&line[at..]);
    Masked { text, hidden: merged }
}

/// Hide user and password of a URL in a sentence.
pub(super) fn mask_url(sentence: String) -> String {
    match user_part(&sentence) {
        Some(user) => format!("{}{STARS}{}", &sentence[..user.start], &sentence[user.end..]),
        None => sentence,
    }
}

/// What stands before the last `@` of a URL.
fn user_part(text: &str) -> Option<Range<usize>> {
    // To the last @ of the line: a password may hold anything, an @ or a quote too.
    static USER: LazyLock<Option<Regex>> = LazyLock::new(|| regex(r"://(.*)@"));
    Some(USER.as_ref()?.captures(text)?.get(1)?.range())
}

/// A pattern of this file; they are constant, and a test compiles each.
fn regex(pattern: &str) -> Option<Regex> {
    Regex::new(pattern).ok()
}

/// Credentials inside URLs.
fn url_parts(line: &str) -> Vec<Range<usize>> {
    // Without an @ a port that isn't a number is perhaps a password whose rest was forgotten.
    static PORT: LazyLock<Option<Regex>> = LazyLock::new(|| regex(r"://[^\[/]*?:(.*)"));
    static QUERY: LazyLock<Option<Regex>> =
        LazyLock::new(|| regex(r#"(?i)[?&](?:pass|password|passwd|pwd|token|secret)=([^&"'\s]*)"#));
    let mut found = Vec::new();
    match user_part(line) {
        Some(user) => found.push(user),
        None => {
            let port = PORT.as_ref().and_then(|port| port.captures(line));
            if let Some(port) = port.and_then(|found| found.get(1)) {
                let text = port.as_str();
                let digits = text.bytes().take_while(u8::is_ascii_digit).count();
                let ends = matches!(
                    text.as_bytes().get(digits),
                    None | Some(b'"' | b'\'' | b'/' | b'?' | b'#' | b' ' | b',')
                );
                if !ends {
                    let end = text.find(['"', '\'']).unwrap_or(text.len());
                    found.push(port.start()..port.start() + end);
                }
            }
        }
    }
    if let Some(query) = QUERY.as_ref() {
        found.extend(query.captures_iter(line).filter_map(|found| found.get(1)).map(|m| m.range()));
    }
    found
}

/// Whether what has this name is a secret, to all appearances.
pub(super) fn is_secret_name(name: &str) -> bool {
    static NAME: LazyLock<Option<Regex>> =
        LazyLock::new(|| regex(r"(?i)pass|pwd|secret|token|api[_-]?key"));
    NAME.as_ref().is_some_and(|pattern| pattern.is_match(name)) && !name.ends_with("_file")
}

/// What is assigned to keys that are named like secrets.
fn assigned(line: &str) -> Vec<Range<usize>> {
    static KEY: LazyLock<Option<Regex>> = LazyLock::new(|| {
        regex(r#"(?i)[A-Z0-9_.-]*(?:pass|pwd|secret|token|api[_-]?key)[A-Z0-9_.-]*["']?\s*=\s*"#)
    });
    let Some(key) = KEY.as_ref() else { return Vec::new() };
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(assignment) = key.find_at(line, from) {
        from = assignment.end();
        let name = assignment.as_str().trim_end_matches(['=', ' ', '\t', '"', '\'']);
        let value = &line[from..];
        // A path isn't a secret, and `{ file = … }` and the like only say where one is. What
        // belongs to a URL is seen to there.
        let in_url = line[..assignment.start()].ends_with(['?', '&']);
        if name.ends_with("_file") || value.starts_with('{') || in_url {
            continue;
        }
        let (start, length) = value_extent(value);
        if !is_variable(&value[start..start + length]) {
            found.push(from + start..from + start + length);
        }
        from += start + length;
    }
    found
}

/// The content of the value that a text begins with: where it starts and how long it is.
fn value_extent(value: &str) -> (usize, usize) {
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| value.starts_with(quote));
    let Some(quote) = quote else {
        return (0, value.find([',', '}', ']', '#']).unwrap_or(value.len()));
    };
    let content = &value[quote.len()..];
    let mut escaped = false;
    for (at, character) in content.char_indices() {
        if !escaped && content[at..].starts_with(quote) {
            return (quote.len(), at);
        }
        escaped = !escaped && character == '\\' && quote.starts_with('"');
    }
    (quote.len(), content.len())
}

/// Whether a text is one `${NAME}` and nothing else.
fn is_variable(text: &str) -> bool {
    text.strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_stars() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(***)");
    }

    #[test]
    fn secrets_in_lines_become_stars() {
        for (line, shown) in [
            (r#"url = "redis://:hunter2@host""#, r#"url = "redis://***@host""#),
            (r#"url = "redis://me:hun/t@er2@host:1/0""#, r#"url = "redis://***@host:1/0""#),
            (r#"url = "redis://me:hun\"ter2@host"#, r#"url = "redis://***@host"#),
            (r#"url = "redis://me:hunter2"#, r#"url = "redis://me:***"#),
            (r#"url = "redis://host:6379/0""#, r#"url = "redis://host:6379/0""#),
            (r#"url = "redis://[::1]:6379/0""#, r#"url = "redis://[::1]:6379/0""#),
            (r#"url = "unix:///a?db=1&pass=hunter2""#, r#"url = "unix:///a?db=1&pass=***""#),
            (r#"password = "hunter2""#, r#"password = "***""#),
            (r#"password = "hun\"ter2", a = 1"#, r#"password = "***", a = 1"#),
            (r#"password = 'hun"ter2'"#, r#"password = '***'"#),
            (r#"password = hunter2 # x"#, r#"password = ***# x"#),
            (r#"password = "${PASSWORD}""#, r#"password = "${PASSWORD}""#),
            (r#"password_file = "/run/pw""#, r#"password_file = "/run/pw""#),
            (
                r#"config = { "api-key" = "abc", n = 1 }"#,
                r#"config = { "api-key" = "***", n = 1 }"#,
            ),
            (r#"config = { TOKEN = { env = "T" } }"#, r#"config = { TOKEN = { env = "T" } }"#),
            ("a = 1", "a = 1"),
            ("", ""),
        ] {
            assert_eq!(mask(line).text, shown, "{line}");
        }
    }

    #[test]
    fn positions_follow_the_masked_line() {
        let line = r#"url = "redis://:hunter2@host", x = 1"#;
        let masked = mask(line);
        for part in ["url", "redis", "host", "x = 1"] {
            let position = masked.position(line.find(part).unwrap_or_default());
            assert!(masked.text[position..].starts_with(part), "{part} at {position}");
        }
        assert_eq!(
            &masked.text[masked.position(line.find("ter2").unwrap_or_default())..][..3],
            "***"
        );
        assert_eq!(masked.position(line.len()), masked.text.len());
    }
}
