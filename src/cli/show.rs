//! Messages for people and for programs.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value as Json, json};

use crate::message::{Header, Message};
use crate::telemetry::printable;

/// Bytes as text, escaped so that nothing in them moves a cursor or forges a line; all of them.
pub fn escaped(bytes: &[u8]) -> String {
    printable(bytes, usize::MAX)
}

/// Bytes as `00 ff 7f`.
pub fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}

/// Bytes as `00ff7f`.
pub fn digits(bytes: &[u8]) -> String {
    hex(bytes).replace(' ', "")
}

/// How payloads are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As escaped text.
    Text,
    /// As hex digits.
    Hex,
}

impl Form {
    /// A payload in one line.
    pub fn payload(self, bytes: &[u8]) -> String {
        match self {
            Form::Text => escaped(bytes),
            Form::Hex => hex(bytes),
        }
    }

    /// A message: its payload, then a line for each header and for the route.
    pub fn message(self, message: &Message) -> Vec<String> {
        let mut lines = vec![self.payload(&message.payload)];
        for (name, value) in &message.headers {
            lines.push(format!("    header {}: {}", escaped(name.as_bytes()), self.payload(value)));
        }
        if let Some(route) = &message.route {
            lines.push(format!("    route {}", escaped(route.as_bytes())));
        }
        lines
    }
}

/// Bytes for a program: `{"payload": "text"}`, or `{"payload_hex": "00ff"}` where it isn't UTF-8.
pub fn bytes_json(key: &str, bytes: &[u8]) -> (String, Json) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (key.to_owned(), text.into()),
        Err(_) => (format!("{key}_hex"), digits(bytes).into()),
    }
}

/// A message for a program; `headers` and `route` only where there are any.
pub fn message_json(message: &Message) -> serde_json::Map<String, Json> {
    let mut object = serde_json::Map::new();
    object.extend([bytes_json("payload", &message.payload)]);
    if !message.headers.is_empty() {
        object.insert("headers".into(), message.headers.iter().map(header_json).collect());
    }
    if let Some(route) = &message.route {
        object.insert("route".into(), route.as_str().into());
    }
    object
}

fn header_json((name, value): &Header) -> Json {
    match std::str::from_utf8(value) {
        Ok(text) => json!([name, text]),
        Err(_) => json!([name, { "hex": digits(value) }]),
    }
}

/// The name that was probably meant, as ` (did you mean …?)`; else nothing.
pub fn meant<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(wrong, name);
    let nearest = names.map(|name| (distance(name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + wrong.chars().count() / 4 => {
            format!(" (did you mean {name:?}?)")
        }
        _ => String::new(),
    }
}

/// A word as a shell reads it, with nothing in it that moves a cursor or forges a line.
pub fn shell_word(word: impl AsRef<[u8]>) -> String {
    let word = word.as_ref();
    let is_plain = |c: char| c.is_alphanumeric() || "._-/:@%+,".contains(c);
    match std::str::from_utf8(word) {
        Ok(text) if !text.is_empty() && text.chars().all(is_plain) => return text.to_owned(),
        // A backslash is only one there, and `printable` doubles it.
        Ok(text) if escaped(word) == text.replace('\\', r"\\") => {
            return format!("'{}'", text.replace('\'', r"'\''"));
        }
        _ => {}
    }
    let mut shown = String::from("$'");
    for byte in word {
        // Writing to a String doesn't fail.
        let _ = match byte {
            b'\'' | b'\\' => write!(shown, "\\{}", char::from(*byte)),
            b' '..=b'~' => write!(shown, "{}", char::from(*byte)),
            _ => write!(shown, "\\x{byte:02x}"),
        };
    }
    shown + "'"
}

/// A path as a shell reads it. One that begins with `-` would be an option.
pub fn shell_path(path: impl AsRef<OsStr>) -> String {
    let word = shell_word(path.as_ref().as_bytes());
    if path.as_ref().as_bytes().starts_with(b"-") { format!("./{word}") } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_as_a_shell_reads_them() {
        for (word, shown) in [
            ("chat.out", "chat.out"),
            ("../a-b/c_d.1", "../a-b/c_d.1"),
            ("räume", "räume"),
            ("", "''"),
            ("my plugins", "'my plugins'"),
            ("it's", r"'it'\''s'"),
            (r"a\b", r"'a\b'"),
            ("a=b", "'a=b'"),
            ("it's\n\u{202e}", r"$'it\'s\x0a\xe2\x80\xae'"),
        ] {
            assert_eq!(shell_word(word), shown);
        }
        assert_eq!(shell_word(b"\xff a"), r"$'\xff a'");
        assert_eq!(shell_path("-x"), "./-x");
        assert_eq!(shell_path("- x"), "./'- x'");
        assert_eq!(shell_path("a/-x"), "a/-x");
    }

    #[test]
    fn a_shell_reads_them_so() {
        for word in
            ["a\\b \\\\n", "it's", "tab\t'\\x41'", "$HOME `id` \"!\"", "é\u{200b}", "\u{1b}[2J"]
        {
            let script = format!("printf %s {}", shell_word(word));
            let bash = std::process::Command::new("bash").args(["-c", &script]).output();
            // Where there is one.
            let Ok(output) = bash else { return };
            assert_eq!(String::from_utf8_lossy(&output.stdout), word, "{script}");
        }
    }

    #[test]
    fn a_message_is_shown_with_what_it_carries() {
        let mut message = Message::new("a\nb");
        message.headers.push(("lang".into(), b"en".to_vec()));
        message.route = Some("vip".into());
        let lines = ["a\\nb", "    header lang: en", "    route vip"];
        assert_eq!(Form::Text.message(&message), lines);
        assert_eq!(Form::Hex.message(&message)[..2], ["61 0a 62", "    header lang: 65 6e"]);
    }

    #[test]
    fn programs_get_bytes_that_are_not_text_as_hex() {
        let mut message = Message::new([0xff, 0x00]);
        message.headers.push(("h".into(), vec![0xfe]));
        let json = Json::Object(message_json(&message));
        assert_eq!(json, json!({ "payload_hex": "ff00", "headers": [["h", { "hex": "fe" }]] }));
        let json = Json::Object(message_json(&Message::new("é")));
        assert_eq!(json, json!({ "payload": "é" }));
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["chat", "orders"];
        assert_eq!(meant("chta", names.into_iter()), " (did you mean \"chat\"?)");
        assert_eq!(meant("rooms", names.into_iter()), "");
        assert_eq!(meant("x", std::iter::empty()), "");
    }
}
