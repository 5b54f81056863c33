//! `stream`: a consumer group's entries as a channel's messages, and the keys that belong to it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::names::{read_name, read_names};
use crate::config::connection;
use crate::config::keys::Table as Keys;
use crate::config::quantity::LONGEST;
use crate::config::reader::{Span, Table, Value, quoted};
use crate::config::suggest;

/// Begins names of fields that handlerd itself writes.
const RESERVED: &str = "handlerd-";

/// `batch` where none is written.
const BATCH: usize = 128;

/// Most entries that are read at once: more gain nothing, and they are one answer of Redis's.
pub(in crate::config) const MOST_BATCH: usize = 10_000;

/// `claim_idle` where none is written.
const CLAIM_IDLE: Duration = Duration::from_secs(30);

/// Shortest `claim_idle`: what a daemon holds is renewed several times within it.
pub(in crate::config) const LEAST_CLAIM_IDLE: Duration = Duration::from_millis(100);

/// `max_deliveries` where none is written.
const MAX_DELIVERIES: u32 = 10;

/// `payload_field` where none is written.
const PAYLOAD_FIELD: &str = "payload";

/// `stream` and the keys that belong to it. Always on the connection `[redis]`. No two channels
/// have a stream and a group in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSource {
    /// `stream`: keys of streams. Never empty, none twice.
    pub keys: Vec<Arc<str>>,
    /// `group`: the consumer group, the same on each of the streams.
    pub group: Arc<str>,
    /// `start`: where a group begins that has to be made. `None` is fine where it exists, or the
    /// stream has no entries.
    pub start: Option<Start>,
    /// `consumer`: this daemon's name in the group; `None` is one that it makes for itself.
    pub consumer: Option<Arc<str>>,
    /// `batch`: most entries that are read at once. Default 128.
    pub batch: usize,
    /// `claim_idle`: entries of another consumer that have been idle for so long are taken over.
    /// Default 30 s.
    pub claim_idle: Duration,
    /// `max_deliveries`: an entry that was delivered more often is handled alone. Default 10.
    pub max_deliveries: u32,
    /// `when_done`.
    pub when_done: WhenDone,
    /// `payload_field`: the field that is the payload. Default "payload".
    pub payload_field: Arc<str>,
}

/// `start`: where a group begins that has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `"new"`: with what is added from then on.
    New,
    /// `"oldest"`: with the first entry that is there.
    Oldest,
    /// An id: with the first entry after it, as XGROUP CREATE reads it.
    After(EntryId),
}

impl fmt::Display for Start {
    /// As XGROUP CREATE takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::New => f.write_str("$"),
            Start::Oldest => f.write_str("0"),
            Start::After(id) => id.fmt(f),
        }
    }
}

/// The id of an entry of a stream: they are in order of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, as Redis counts them.
    pub ms: u64,
    /// The number within that millisecond.
    pub seq: u64,
}

impl EntryId {
    /// An id as Redis sends it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    /// The one right before it: a group that has that delivered begins with this one.
    pub fn before(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => EntryId { seq, ..self },
            None if self.ms == 0 => self,
            None => EntryId { ms: self.ms - 1, seq: u64::MAX },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A text is not an id of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of a stream's entry, like 1526919030474-55")]
pub struct EntryIdError;

impl FromStr for EntryId {
    type Err = EntryIdError;

    /// `1526919030474-55`, or `1526919030474` for `1526919030474-0`.
    fn from_str(text: &str) -> Result<Self, EntryIdError> {
        // The parser of numbers takes a sign.
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| EntryIdError),
            false => Err(EntryIdError),
        };
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        Ok(EntryId { ms: number(ms)?, seq: number(seq)? })
    }
}

/// `when_done`: what is done with an entry that was handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDone {
    /// It is acknowledged: the default.
    #[default]
    Ack,
    /// It is acknowledged and deleted.
    Delete,
}

/// Read `stream`, and where in the file each of the keys is.
pub(super) fn read(
    table: &Table<'_, '_>,
    stream: &Value<'_, '_>,
    embedded: bool,
) -> (StreamSource, Vec<Span>) {
    if embedded {
        connection::refuse_kind(stream, "streams", "use `subscribe`");
    }
    let (keys, spans) = read_keys(stream);
    let defaults = StreamSource {
        keys,
        group: read_group(table, stream),
        start: table.get("start").and_then(|value| read_start(&value)),
        consumer: table.get("consumer").and_then(|value| read_name(&value)),
        batch: BATCH,
        claim_idle: CLAIM_IDLE,
        max_deliveries: MAX_DELIVERIES,
        when_done: WhenDone::default(),
        payload_field: PAYLOAD_FIELD.into(),
    };
    let count = |key, most: usize| table.get(key).and_then(|value| value.count(1..=most));
    let deliveries = count("max_deliveries", u32::MAX as usize);
    let claim_idle = table.get("claim_idle");
    let claim_idle = claim_idle.and_then(|value| value.duration(LEAST_CLAIM_IDLE..=LONGEST));
    let when_done = [("ack", WhenDone::Ack), ("delete", WhenDone::Delete)];
    let when_done = table.get("when_done").and_then(|value| value.choice(&when_done));
    let payload_field = table.get("payload_field").and_then(|value| read_payload_field(&value));
    let source = StreamSource {
        batch: count("batch", MOST_BATCH).unwrap_or(defaults.batch),
        claim_idle: claim_idle.unwrap_or(defaults.claim_idle),
        max_deliveries: deliveries
            .and_then(|n| n.try_into().ok())
            .unwrap_or(defaults.max_deliveries),
        when_done: when_done.unwrap_or_default(),
        payload_field: payload_field.unwrap_or_else(|| defaults.payload_field.clone()),
        ..defaults
    };
    (source, spans)
}

fn read_keys(stream: &Value<'_, '_>) -> (Vec<Arc<str>>, Vec<Span>) {
    let keys = read_names(stream, "a stream");
    for (key, span) in &keys {
        if key.contains(['*', '?']) {
            let message = format!("{} is read as one stream's name, not as a pattern", quoted(key));
            let help = "streams have no patterns: write a list of their names".to_owned();
            stream.reader.warning(span, message, vec![help]);
        }
    }
    keys.into_iter().unzip()
}

/// Empty where it is missing or wrong.
fn read_group(table: &Table<'_, '_>, stream: &Value<'_, '_>) -> Arc<str> {
    let Some(value) = table.get("group") else {
        let help = "add group = \"NAME\": the consumer group, which is made where it is missing; \
                    daemons with the same one share the entries";
        let message = "a `stream` needs a `group`".to_owned();
        stream.reader.missing(&stream.key_span, message, vec![help.to_owned()]);
        return Arc::default();
    };
    read_name(&value).unwrap_or_default()
}

fn read_start(value: &Value<'_, '_>) -> Option<Start> {
    const FORM: &str = "write \"new\", \"oldest\", or an entry's id like \"1526919030474-55\": \
                        the first entry is the one after it";
    if !value.value.get_ref().is_str() {
        value.wrong_kind("a string", Some(FORM.to_owned()));
        return None;
    }
    let text = value.text()?;
    let id = match text.value.as_str() {
        "new" => return Some(Start::New),
        "oldest" => return Some(Start::Oldest),
        id => id.parse().ok(),
    };
    if id.is_none() {
        // What Redis calls them, and others.
        let known = [("$", "new"), (">", "new"), ("latest", "new"), ("newest", "new")];
        let known = known.into_iter().chain([("-", "oldest"), ("earliest", "oldest")]);
        let near = known.into_iter().find(|(other, _)| *other == text.value).map(|(_, name)| name);
        let near = near.or_else(|| suggest::nearest(&text.value, ["new", "oldest"].into_iter()));
        let help = near.map_or(FORM.to_owned(), |near| format!("did you mean \"{near}\"?"));
        value.error(format!("`start` is no place in a stream: {}", text.quoted()), Some(help));
    }
    id.map(Start::After)
}

fn read_payload_field(value: &Value<'_, '_>) -> Option<Arc<str>> {
    let name = read_name(value)?;
    if name.starts_with(RESERVED) {
        let help = "use another name: these are for what handlerd itself writes".to_owned();
        let message = format!("`payload_field` begins with `{RESERVED}`, which is reserved");
        value.error(message, Some(help));
    }
    Some(name)
}

/// Report keys of streams where the source is another; `other` is the key that names it, if any.
pub(super) fn refuse_keys(table: &Table<'_, '_>, other: Option<&str>) {
    let keys = Keys::Channel.keys().iter().filter(|key| key.needs == Some("stream"));
    for value in keys.filter_map(|key| table.get(key.name)) {
        let (source, help) = match other {
            Some(other) => (
                format!("the source of this channel is `{other}`"),
                format!("remove it, or write `stream` instead of `{other}`"),
            ),
            None => (
                "this channel has no `stream`".to_owned(),
                "add stream = \"NAME\", or remove it".to_owned(),
            ),
        };
        let message = format!("{} is for streams only, and {source}", quoted(value.key));
        value.reader.error(&value.key_span, message, vec![help]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_number_or_two() {
        let id = |ms, seq| Ok(EntryId { ms, seq });
        for (text, expected) in [
            ("1526919030474-55", id(1_526_919_030_474, 55)),
            ("1526919030474", id(1_526_919_030_474, 0)),
            ("0-0", id(0, 0)),
            ("18446744073709551615-18446744073709551615", id(u64::MAX, u64::MAX)),
            ("18446744073709551616", Err(EntryIdError)),
            ("+1", Err(EntryIdError)),
            ("1-", Err(EntryIdError)),
            ("-1", Err(EntryIdError)),
            ("1-2-3", Err(EntryIdError)),
            ("1-*", Err(EntryIdError)),
            ("", Err(EntryIdError)),
            ("1 ", Err(EntryIdError)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        let parse = |text: &str| text.parse::<EntryId>().expect(text);
        assert!(parse("9-9") < parse("10") && parse("10-1") < parse("10-2"));
        assert_eq!(Start::After(parse("7")).to_string(), "7-0");
    }

    #[test]
    fn ids_are_read_and_compared_as_redis_does() {
        let id = |text: &str| EntryId::parse(text.as_bytes());
        assert_eq!(id("12-3"), Some(EntryId { ms: 12, seq: 3 }));
        assert_eq!(id("12"), Some(EntryId { ms: 12, seq: 0 }));
        let last = "18446744073709551615-18446744073709551615";
        assert_eq!(id(last).map(|id| id.to_string()).as_deref(), Some(last));
        for bad in ["", "-", "1-", "-1", "a", "1-2-3", "+1", "18446744073709551616", "$", " 1"] {
            assert_eq!(id(bad), None, "{bad}");
        }
        assert!(id("9-0") < id("10-0") && id("10-2") < id("10-10"));
        assert_eq!(id("5-1").map(EntryId::before), id("5"));
        assert_eq!(id("5").map(EntryId::before), Some(EntryId { ms: 4, seq: u64::MAX }));
        assert_eq!(EntryId::default().before(), EntryId::default());
    }
}
