//! How what came out differs from what was expected: the byte, or the JSON path.

use serde_json::Value as Json;

use crate::cli::show::escaped;
use crate::config::cases::ExpectedMessage;
use crate::message::{Header, Message};

/// Bytes shown before and after the one that differs.
const BEFORE: usize = 24;
const AFTER: usize = 40;

/// Bytes shown of a message that is one too many or too few.
const LISTED: usize = 200;

/// Paths named where two JSON documents differ.
const PATHS: usize = 5;

/// The differences, in lines; none when all is as expected.
pub fn outputs(expected: &[ExpectedMessage], got: &[Message]) -> Vec<String> {
    let mut lines = Vec::new();
    if expected.len() != got.len() {
        let (expected, got) = (expected.len(), got.len());
        lines.push(format!("{got} messages came out, {expected} were expected"));
    }
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        let differences = message(expected, got);
        if !differences.is_empty() {
            lines.push(format!("message {} differs:", index + 1));
            lines.extend(differences.into_iter().map(|line| format!("  {line}")));
        }
    }
    let mut listed = |what: &str, payload: &[u8]| {
        lines.push(format!("{what}: {}", crate::telemetry::printable(payload, LISTED)));
    };
    got.iter().skip(expected.len()).for_each(|m| listed("not expected", &m.payload));
    expected.iter().skip(got.len()).for_each(|m| listed("missing", &m.payload));
    lines
}

fn message(expected: &ExpectedMessage, got: &Message) -> Vec<String> {
    let mut lines = payload(&expected.payload, &got.payload);
    if let Some(wanted) = expected.headers.as_ref().filter(|headers| **headers != got.headers) {
        lines.push("headers".to_owned());
        lines.push(format!("  expected  {}", headers(wanted)));
        lines.push(format!("  got       {}", headers(&got.headers)));
    }
    if expected.route != got.route {
        let route = |route: &Option<String>| match route {
            Some(route) => escaped(route.as_bytes()),
            None => "(none)".to_owned(),
        };
        lines.push("route".to_owned());
        lines.push(format!("  expected  {}", route(&expected.route)));
        lines.push(format!("  got       {}", route(&got.route)));
    }
    lines
}

fn headers(headers: &[Header]) -> String {
    let header =
        |(name, value): &Header| format!("{}: {}", escaped(name.as_bytes()), escaped(value));
    let headers: Vec<String> = headers.iter().map(header).collect();
    if headers.is_empty() { "(none)".to_owned() } else { headers.join(", ") }
}

/// Where two payloads differ: by JSON path where both are JSON objects or lists, else by byte.
fn payload(expected: &[u8], got: &[u8]) -> Vec<String> {
    if expected == got {
        return Vec::new();
    }
    let document = |bytes: &[u8]| {
        let json: Option<Json> = serde_json::from_slice(bytes).ok();
        json.filter(|json| json.is_object() || json.is_array())
    };
    let (Some(expected_json), Some(got_json)) = (document(expected), document(got)) else {
        return bytes(expected, got);
    };
    let mut found = Vec::new();
    json("$", Some(&expected_json), Some(&got_json), &mut found);
    if found.is_empty() {
        let mut lines = vec!["the same JSON, written in another way".to_owned()];
        lines.extend(bytes(expected, got));
        return lines;
    }
    let more = found.len().saturating_sub(PATHS);
    let mut lines: Vec<String> = Vec::new();
    for Difference { path, expected, got } in found.into_iter().take(PATHS) {
        lines.push(path);
        lines.push(format!("  expected  {expected}"));
        lines.push(format!("  got       {got}"));
    }
    if more > 0 {
        lines.push(format!("and {more} more paths"));
    }
    lines
}

/// Where two JSON documents differ.
struct Difference {
    path: String,
    expected: String,
    got: String,
}

fn json(path: &str, expected: Option<&Json>, got: Option<&Json>, found: &mut Vec<Difference>) {
    match (expected, got) {
        (Some(Json::Object(expected)), Some(Json::Object(got))) => {
            let missing = expected.iter().map(|(key, value)| (key, Some(value), got.get(key)));
            let added = got.iter().filter(|(key, _)| !expected.contains_key(*key));
            let added = added.map(|(key, value)| (key, None, Some(value)));
            for (key, expected, got) in missing.chain(added) {
                json(&format!("{path}{}", step(key)), expected, got, found);
            }
        }
        (Some(Json::Array(expected)), Some(Json::Array(got))) => {
            for index in 0..expected.len().max(got.len()) {
                let path = format!("{path}[{index}]");
                json(&path, expected.get(index), got.get(index), found);
            }
        }
        (expected, got) if expected != got => {
            let shown = |value: Option<&Json>| match value {
                Some(value) => crate::telemetry::printable(value.to_string().as_bytes(), LISTED),
                None => "(nothing)".to_owned(),
            };
            let (expected, got) = (shown(expected), shown(got));
            found.push(Difference { path: path.to_owned(), expected, got });
        }
        _ => {}
    }
}

/// `.key`, or `["a key"]` where it isn't a plain word.
fn step(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && key.chars().all(plain) {
        format!(".{key}")
    } else {
        format!("[{}]", Json::from(key))
    }
}

/// The first byte that differs, and what stands around it.
fn bytes(expected: &[u8], got: &[u8]) -> Vec<String> {
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let mut lines = vec![match (expected.get(at), got.get(at)) {
        (Some(_), Some(_)) => format!("byte {at}"),
        (Some(_), None) => {
            format!("byte {at}: it ends here, {} bytes too early", expected.len() - at)
        }
        _ => format!("byte {at}: {} bytes too many follow", got.len() - at),
    }];
    let (before, wanted, caret) = window(expected, at);
    lines.push(format!("  expected  {before}{wanted}"));
    let (before, found, _) = window(got, at);
    lines.push(format!("  got       {before}{found}"));
    lines.push(format!("            {}^", " ".repeat(caret)));
    lines
}

/// What stands before a byte, what follows from it, and how many characters the former is.
fn window(bytes: &[u8], at: usize) -> (String, String, usize) {
    // A character is shown whole: where it is cut, its bytes would be shown as escapes.
    let char_start = |mut at: usize| {
        let limit = at.saturating_sub(3);
        while at > limit && bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
            at -= 1;
        }
        at
    };
    let at = char_start(at);
    let start = char_start(at.saturating_sub(BEFORE));
    let end = bytes.len().min(at + AFTER);
    let end = if end < bytes.len() { char_start(end).max(at) } else { end };
    let dots = |cut: bool| if cut { "…" } else { "" };
    let before = format!("{}{}", dots(start > 0), escaped(&bytes[start..at]));
    let after = format!("{}{}", escaped(&bytes[at..end]), dots(end < bytes.len()));
    let caret = before.chars().count();
    (before, after, caret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(expected: &str, got: &str) -> String {
        payload(expected.as_bytes(), got.as_bytes()).join("\n")
    }

    #[test]
    fn the_byte_that_differs_is_named() {
        assert_eq!(payload(b"same", b"same"), [""; 0]);
        assert_eq!(
            text("say ***", "say foo"),
            "byte 4\n  expected  say ***\n  got       say foo\n                ^"
        );
        assert!(text("abc", "ab").starts_with("byte 2: it ends here, 1 bytes too early\n"));
        assert!(text("ab", "abc").starts_with("byte 2: 1 bytes too many follow\n"));
    }

    #[test]
    fn a_long_payload_is_shown_around_the_byte() {
        let expected = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let got = format!("{}Y{}", "a".repeat(1000), "b".repeat(1000));
        let lines = payload(expected.as_bytes(), got.as_bytes());
        assert_eq!(lines[0], "byte 1000");
        assert_eq!(lines[1], format!("  expected  …{}X{}…", "a".repeat(24), "b".repeat(39)));
    }

    #[test]
    fn characters_are_not_cut() {
        // The second byte of é and è differs.
        let lines = payload("aé".as_bytes(), "aè".as_bytes());
        assert_eq!(lines, ["byte 2", "  expected  aé", "  got       aè", "             ^"]);
        let lines = payload(&[0xff, 1], &[0xff, 2]);
        assert_eq!(lines[1], r"  expected  \xff\u{1}");
    }

    #[test]
    fn json_differs_by_path() {
        assert_eq!(
            text(r#"{"user":{"name":"a","age":1}}"#, r#"{"user":{"age":1,"name":"b"}}"#),
            "$.user.name\n  expected  \"a\"\n  got       \"b\""
        );
        assert_eq!(
            text(r#"[1,{"a key":2}]"#, r#"[1,{"a key":2},3]"#),
            "$[2]\n  expected  (nothing)\n  got       3"
        );
        assert!(text(r#"{"a key":1}"#, "{}").starts_with("$[\"a key\"]\n"));
        let same = text(r#"{"a":1}"#, r#"{"a": 1}"#);
        assert!(same.starts_with("the same JSON, written in another way\nbyte 5\n"), "{same}");
        // Not documents: a number or a text is compared by its bytes.
        assert!(text("12", "13").starts_with("byte 1"));
    }

    #[test]
    fn headers_and_routes_differ_by_name() {
        let expected = ExpectedMessage {
            payload: b"x".to_vec(),
            headers: Some(vec![("a".into(), b"b".to_vec())]),
            route: None,
        };
        let got = Message { route: Some("vip".into()), ..Message::new("x") };
        let lines = outputs(std::slice::from_ref(&expected), &[got]);
        assert_eq!(
            lines,
            [
                "message 1 differs:",
                "  headers",
                "    expected  a: b",
                "    got       (none)",
                "  route",
                "    expected  (none)",
                "    got       vip"
            ]
        );
    }

    #[test]
    fn messages_too_many_and_too_few_are_listed() {
        let one =
            |payload: &str| ExpectedMessage { payload: payload.into(), headers: None, route: None };
        let lines = outputs(&[one("a")], &[Message::new("a"), Message::new("b")]);
        assert_eq!(lines, ["2 messages came out, 1 were expected", "not expected: b"]);
        let lines = outputs(&[one("a"), one("b")], &[Message::new("a")]);
        assert_eq!(lines, ["1 messages came out, 2 were expected", "missing: b"]);
    }
}
