//! What is done with a message that could not be handled: `retries`, `retry_for`, `dead_letter`.

use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::names::read_name;
use super::{Channel, Source};
use crate::config::connection;
use crate::config::quantity::{LONGEST, MOST_ENTRIES};
use crate::config::reader::{Span, Table, Value};
use crate::config::suggest;

/// `retries`, `retry_for` and the end of `dead_letter` where none are written, for streams.
const STREAM: (Retries, Duration, &str) = (Retries::Times(3), Duration::from_secs(5 * 60), ".dead");

/// `retries` and `retry_for` where none are written, for pub/sub.
const PUBSUB: (Retries, Duration) = (Retries::Times(0), Duration::from_secs(30));

/// Most `retries` that are counted.
pub(in crate::config) const MOST_RETRIES: usize = 1_000_000;

/// Shortest `retry_for`.
pub(in crate::config) const LEAST_RETRY_FOR: Duration = Duration::from_millis(1);

/// `retries`: how often a message is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// So often at most; 0 is not at all.
    Times(u32),
    /// `"forever"`.
    Forever,
}

/// What holds where nothing is written.
pub(super) fn set_defaults(channel: &mut Channel) {
    if matches!(channel.source, Source::Stream(_)) {
        let (retries, retry_for, end) = STREAM;
        (channel.retries, channel.retry_for) = (retries, Some(retry_for));
        channel.dead_letter = Some(format!("{}{end}", channel.name).into());
    } else {
        (channel.retries, channel.retry_for) = (PUBSUB.0, Some(PUBSUB.1));
        channel.dead_letter = None;
    }
}

/// Read them; the source has been read. Answers where dead letters stand in the file.
pub(super) fn read(table: &Table<'_, '_>, channel: &mut Channel, embedded: bool) -> Option<Span> {
    set_defaults(channel);
    read_retries(table, channel);
    let written = table.get("dead_letter");
    if let Some(value) = &written {
        channel.dead_letter = read_dead_letter(value, embedded);
    }
    if let Some(value) = table.get("dead_letter_maxlen") {
        channel.dead_letter_maxlen = read_maxlen(&value);
        let is_none = match &written {
            Some(value) => matches!(value.value.get_ref(), DeValue::Boolean(false)),
            None => channel.dead_letter.is_none(),
        };
        if is_none {
            let help = "add dead_letter = \"NAME\", or remove it".to_owned();
            let message = "`dead_letter_maxlen` means nothing without dead letters".to_owned();
            value.reader.error(&value.key_span, message, vec![help]);
        }
    }
    written.map(|value| value.span())
}

/// `maxlen` or `dead_letter_maxlen`. 0 would empty the stream with every entry.
pub(super) fn read_maxlen(value: &Value<'_, '_>) -> Option<u64> {
    value.count(1..=MOST_ENTRIES).map(|count| count as u64)
}

fn read_retries(table: &Table<'_, '_>, channel: &mut Channel) {
    let written = table.get("retries").map(|value| read_count(&value));
    if let Some(retries) = written.flatten() {
        channel.retries = retries;
        if retries == Retries::Forever {
            channel.retry_for = None;
        }
    }
    let Some(value) = table.get("retry_for") else { return };
    channel.retry_for = value.duration(LEAST_RETRY_FOR..=LONGEST);
    let reason = match written {
        None if channel.retries == Retries::Times(0) => "without `retries`, which is 0 for pub/sub",
        Some(Some(Retries::Times(0))) => "with retries = 0",
        _ => return,
    };
    let help = "write retries = 3, or \"forever\"; or remove it".to_owned();
    let message = format!("`retry_for` means nothing {reason}");
    value.reader.error(&value.key_span, message, vec![help]);
}

fn read_count(value: &Value<'_, '_>) -> Option<Retries> {
    const FOREVER: &str = "forever";
    match value.value.get_ref() {
        DeValue::Integer(_) => {
            let count = value.count(0..=MOST_RETRIES)?;
            u32::try_from(count).ok().map(Retries::Times)
        }
        DeValue::String(_) => {
            let text = value.text()?;
            if text.value == FOREVER {
                return Some(Retries::Forever);
            }
            let is_near = suggest::nearest(&text.value, std::iter::once(FOREVER)).is_some();
            let help = match text.value.parse::<u32>() {
                Ok(number) if !text.has_variables() => format!("write retries = {number}"),
                _ if is_near => format!("did you mean \"{FOREVER}\"?"),
                _ => format!("write a number, or \"{FOREVER}\""),
            };
            let message = format!("`retries` is not a number or \"{FOREVER}\": {}", text.quoted());
            value.error(message, Some(help));
            None
        }
        _ => {
            value.wrong_kind(&format!("a whole number or \"{FOREVER}\""), None);
            None
        }
    }
}

fn read_dead_letter(value: &Value<'_, '_>, embedded: bool) -> Option<Arc<str>> {
    match value.value.get_ref() {
        DeValue::Boolean(false) => return None,
        DeValue::String(_) => {}
        _ => {
            let help = "write dead_letter = \"NAME\", or false for none".to_owned();
            value.wrong_kind("the name of a stream or false", Some(help));
            return None;
        }
    }
    if embedded {
        connection::refuse_kind(value, "streams", "remove it");
    }
    let name = read_name(value)?;
    if name.contains("{channel}") {
        let help = "write its name; a dead letter says which Redis channel its message came on";
        value.error("`dead_letter` is one stream: {channel} can't stand in it", Some(help.into()));
    }
    Some(name)
}
