//! An event as a record of journald's native protocol: a field a line, in upper case.
//!
//! `journalctl -u handlerd CHANNEL=chat` finds what one channel logged. What a line of text would
//! show is in `MESSAGE`, fields included. The names of fields are handlerd's own, never a guest's.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::Queue;

/// Hands each event to the queue as a record.
pub(super) struct Records(pub(super) Queue);

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.push(&record(event));
    }
}

/// The record of an event.
fn record(event: &Event<'_>) -> Vec<u8> {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let mut record = Vec::with_capacity(256);
    // These two come first: see `as_line`.
    put(&mut record, "PRIORITY", priority(*metadata.level()));
    put(&mut record, "MESSAGE", &(fields.message + &fields.shown));
    put(&mut record, "SYSLOG_IDENTIFIER", "handlerd");
    put(&mut record, "TARGET", metadata.target());
    if let Some(file) = metadata.file() {
        put(&mut record, "CODE_FILE", file);
    }
    if let Some(line) = metadata.line() {
        put(&mut record, "CODE_LINE", &line.to_string());
    }
    for (name, value) in &fields.fields {
        put(&mut record, name, value);
    }
    record
}

/// A record as a line of text, for when there is no journal.
pub(super) fn as_line(record: &[u8]) -> Vec<u8> {
    let level = match record.get("PRIORITY=".len()) {
        Some(b'3') => "ERROR ",
        Some(b'4') => " WARN ",
        Some(b'6') => " INFO ",
        _ => "DEBUG ",
    };
    let rest = record.get("PRIORITY=n\nMESSAGE".len()..).unwrap_or_default();
    let message = match rest {
        [b'=', text @ ..] => text.split(|&byte| byte == b'\n').next().unwrap_or_default(),
        [b'\n', rest @ ..] => match rest.split_first_chunk::<8>() {
            Some((length, text)) => {
                let length = u64::from_le_bytes(*length).try_into().unwrap_or(usize::MAX);
                &text[..text.len().min(length)]
            }
            None => &[],
        },
        _ => &[],
    };
    [level.as_bytes(), message, b"\n"].concat()
}

/// As syslog numbers them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

fn put(record: &mut Vec<u8>, name: &str, value: &str) {
    record.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        record.push(b'\n');
        record.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        record.push(b'=');
    }
    record.extend_from_slice(value.as_bytes());
    record.push(b'\n');
}

#[derive(Default)]
struct Fields {
    message: String,
    /// The other fields, as they stand behind a message.
    shown: String,
    fields: Vec<(String, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String, shown: impl fmt::Display) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        // To a text nothing fails to be written.
        let _ = write!(self.shown, " {}={shown}", field.name());
        self.fields.push((field_name(field.name()), value));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned(), format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        self.add(field, value.clone(), value);
    }
}

/// Upper-case letters, digits and underscores, of which the first may be none; at most 64.
fn field_name(name: &str) -> String {
    let upper = name.chars().map(|c| match c {
        'a'..='z' => c.to_ascii_uppercase(),
        'A'..='Z' | '0'..='9' => c,
        _ => '_',
    });
    upper.skip_while(|c| !c.is_ascii_uppercase()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("a lock").push(record(event));
        }
    }

    fn recorded(log: impl FnOnce()) -> Vec<u8> {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        tracing::subscriber::with_default(subscriber, log);
        let mut records = kept.0.lock().expect("a lock");
        records.pop().expect("an event")
    }

    #[test]
    fn every_field_is_one_of_the_record() {
        let line = line!() + 2;
        let record = recorded(|| {
            tracing::warn!(target: "here", channel = "chat", attempt = 2, %line, "it {}", "failed");
        });
        let text = String::from_utf8(record.clone()).expect("text");
        let expected = format!(
            "PRIORITY=4\nMESSAGE=it failed channel=\"chat\" attempt=2 line={line}\n\
             SYSLOG_IDENTIFIER=handlerd\nTARGET=here\nCODE_FILE={}\nCODE_LINE={line}\n\
             CHANNEL=chat\nATTEMPT=2\nLINE={line}\n",
            file!()
        );
        assert_eq!(text, expected);
        let line = format!(" WARN it failed channel=\"chat\" attempt=2 line={line}\n");
        assert_eq!(as_line(&record), line.as_bytes());
    }

    #[test]
    fn a_value_with_a_line_end_can_not_forge_a_field() {
        let record = recorded(|| tracing::error!(reason = "a\nPRIORITY=0", "one\nUNIT=x"));
        let length = "one\nUNIT=x reason=\"a\\nPRIORITY=0\"".len() as u8;
        let mut begins = b"PRIORITY=3\nMESSAGE\n".to_vec();
        begins.extend_from_slice(&[length, 0, 0, 0, 0, 0, 0, 0]);
        begins.extend_from_slice(b"one\nUNIT=x reason=");
        assert!(record.starts_with(&begins), "{}", String::from_utf8_lossy(&record));
        let reason = b"REASON\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert!(record.ends_with(reason), "{}", String::from_utf8_lossy(&record));
        assert_eq!(as_line(&record), b"ERROR one\nUNIT=x reason=\"a\\nPRIORITY=0\"\n");
    }

    #[test]
    fn names_are_what_journald_takes() {
        for (name, field) in [("redis_channel", "REDIS_CHANNEL"), ("_x.y", "X_Y"), ("2nd", "ND")] {
            assert_eq!(field_name(name), field);
        }
    }
}
