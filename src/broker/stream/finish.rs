//! What is written when an entry is done, and how that is said to `finish.lua`.

use std::sync::Arc;

use thiserror::Error;

use crate::broker::resp::bulk;
use crate::config::EntryId;
use crate::message::{Header, Message};
use crate::telemetry::OutputKind;

/// Fields that an entry which is written may have beside its payload. Lua hands the fields over on
/// its stack, which has 8,000 places.
pub const MOST_HEADERS: usize = 3_900;

/// Why a message can't be an entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// A header has the payload's name.
    #[error("a header has the name {0:?}, which is the payload's")]
    PayloadName(Arc<str>),
    /// More headers than [`MOST_HEADERS`].
    #[error("{0} headers; an entry can have {MOST_HEADERS}")]
    TooMany(usize),
}

/// What is to be written together with an entry's acknowledgement. Without any output it is only
/// acknowledged.
#[derive(Debug, Default)]
pub struct Finish {
    writes: Vec<Write>,
    size: usize,
    /// Its handlers have done with it.
    handled: bool,
}

/// One output.
#[derive(Debug)]
enum Write {
    Append {
        key: Arc<str>,
        maxlen: Option<u64>,
        payload: (Arc<str>, Vec<u8>),
        headers: Vec<Header>,
    },
    Push {
        key: Arc<str>,
        payload: Vec<u8>,
    },
    Publish {
        channel: Arc<str>,
        payload: Vec<u8>,
    },
    Dead {
        key: Arc<str>,
        maxlen: Option<u64>,
        fields: Vec<(Vec<u8>, Vec<u8>)>,
    },
}

impl Finish {
    /// Nothing is written: the entry is only acknowledged.
    pub fn new() -> Self {
        Finish::default()
    }

    /// The same for an entry that its handlers have done with: when it is finished, it is counted as
    /// handled.
    pub fn handled() -> Self {
        Finish { handled: true, ..Finish::default() }
    }

    /// Whether it is counted as handled.
    pub(in crate::broker) fn is_handled(&self) -> bool {
        self.handled
    }

    /// XADD: the payload in the field of this name, then the headers in order.
    ///
    /// # Errors
    /// When the message can't be an entry; nothing is added then.
    pub fn append(
        &mut self,
        key: impl Into<Arc<str>>,
        payload_field: &Arc<str>,
        message: Message,
        maxlen: Option<u64>,
    ) -> Result<(), AppendError> {
        can_append(payload_field, &message)?;
        self.size += message.size();
        let Message { payload, headers, route: _ } = message;
        let payload = (payload_field.clone(), payload);
        self.writes.push(Write::Append { key: key.into(), maxlen, payload, headers });
        Ok(())
    }

    /// RPUSH.
    pub fn push(&mut self, key: impl Into<Arc<str>>, payload: Vec<u8>) {
        self.size += payload.len();
        self.writes.push(Write::Push { key: key.into(), payload });
    }

    /// PUBLISH. What Redis refuses of these is counted and never tried again.
    pub fn publish(&mut self, channel: impl Into<Arc<str>>, payload: Vec<u8>) {
        self.size += payload.len();
        self.writes.push(Write::Publish { channel: channel.into(), payload });
    }

    /// XADD of a dead letter with these fields. More than an entry can have are left out at the end,
    /// which is logged.
    pub fn dead_letter(
        &mut self,
        key: impl Into<Arc<str>>,
        mut fields: Vec<(Vec<u8>, Vec<u8>)>,
        maxlen: Option<u64>,
    ) {
        let key = key.into();
        if fields.len() > MOST_HEADERS {
            let left_out = fields.len() - MOST_HEADERS;
            tracing::warn!(
                stream = &*key,
                left_out,
                "a dead letter has more headers than a script can write; the last are left out"
            );
            fields.truncate(MOST_HEADERS);
        }
        self.size += fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.writes.push(Write::Dead { key, maxlen, fields });
    }

    /// Bytes that are to be written, and a little for each output.
    pub(in crate::broker) fn size(&self) -> usize {
        const EACH: usize = 64;
        EACH + self.size + EACH * self.writes.len()
    }

    /// What its outputs are, dead letters left out.
    pub(super) fn outputs(&self) -> impl Iterator<Item = OutputKind> {
        self.writes().flatten()
    }

    /// What is written, in order; `None` for a dead letter.
    pub(in crate::broker) fn writes(&self) -> impl Iterator<Item = Option<OutputKind>> {
        self.writes.iter().map(|write| match write {
            Write::Append { .. } => Some(OutputKind::Append),
            Write::Push { .. } => Some(OutputKind::Push),
            Write::Publish { .. } => Some(OutputKind::Publish),
            Write::Dead { .. } => None,
        })
    }

    /// Dead letters.
    pub(super) fn dead_letters(&self) -> u64 {
        self.writes.iter().filter(|write| matches!(write, Write::Dead { .. })).count() as u64
    }
}

/// Whether a message can be an entry with the payload under this name.
///
/// # Errors
/// Why not.
pub fn can_append(payload_field: &Arc<str>, message: &Message) -> Result<(), AppendError> {
    if message.headers.iter().any(|(name, _)| **name == **payload_field) {
        return Err(AppendError::PayloadName(payload_field.clone()));
    }
    if message.headers.len() > MOST_HEADERS {
        return Err(AppendError::TooMany(message.headers.len()));
    }
    Ok(())
}

/// What is the same for every call of `finish.lua` for one stream.
pub(super) struct Call<'a> {
    pub(super) key: &'a str,
    pub(super) group: &'a str,
    pub(super) consumer: &'a str,
    pub(super) delete: bool,
    pub(super) cursor: Option<&'a str>,
}

/// The arguments of a call, made of entries one by one. Kept, to keep its memory.
#[derive(Default)]
pub(in crate::broker) struct Arguments {
    entries: Vec<u8>,
    /// Parts in `entries`.
    parts: usize,
    keys: Vec<Arc<str>>,
    count: usize,
    lowest: EntryId,
    highest: EntryId,
    /// The last entry that was said in full, where those like it need to say their payload only.
    said: Option<Said>,
}

/// A single append of a payload without headers.
#[derive(PartialEq)]
struct Said {
    key: Arc<str>,
    maxlen: Option<u64>,
    field: Arc<str>,
}

impl Said {
    fn of(finish: &Finish) -> Option<(Self, &[u8])> {
        match &*finish.writes {
            [Write::Append { key, maxlen, payload: (field, payload), headers }]
                if headers.is_empty() =>
            {
                let said = Said { key: key.clone(), maxlen: *maxlen, field: field.clone() };
                Some((said, payload))
            }
            _ => None,
        }
    }
}

impl Arguments {
    pub(in crate::broker) fn clear(&mut self) {
        const KEEP: usize = 1 << 20;
        self.entries.clear();
        self.entries.shrink_to(KEEP);
        self.keys.clear();
        *self = Arguments {
            entries: std::mem::take(&mut self.entries),
            keys: std::mem::take(&mut self.keys),
            ..Arguments::default()
        };
    }

    /// Add an entry and what is written for it.
    pub(super) fn add(&mut self, id: EntryId, finish: &Finish) {
        self.lowest = if self.count == 0 { id } else { self.lowest.min(id) };
        self.highest = self.highest.max(id);
        self.count += 1;
        let said = Said::of(finish);
        if let Some((said, payload)) = &said
            && self.said.as_ref() == Some(said)
        {
            self.part(id.to_string().as_bytes());
            self.part(b"=");
            self.part(payload);
            return;
        }
        self.said = said.map(|(said, _)| said);
        let publishes = finish.writes.iter().filter(|w| matches!(w, Write::Publish { .. })).count();
        let keyed = finish.writes.len() - publishes;
        let values: usize = finish.writes.iter().map(Write::values).sum();
        self.part(id.to_string().as_bytes());
        self.number(keyed);
        self.number(values);
        // The script expects the keyed ones first.
        let publish = |write: &&Write| matches!(write, Write::Publish { .. });
        finish.writes.iter().filter(|write| !publish(write)).for_each(|write| self.write(write));
        finish.writes.iter().filter(publish).for_each(|write| self.write(write));
    }

    /// Add what is written for a message that isn't an entry, as it is, for `single/finish.lua`.
    pub(in crate::broker) fn add_plain(&mut self, finish: &Finish) {
        finish.writes.iter().for_each(|write| self.write(write));
    }

    /// Parts that say what was added by [`Self::add_plain`].
    pub(in crate::broker) fn plain_parts(&self) -> usize {
        1 + self.keys.len() + self.parts
    }

    /// Append those parts: how many keys, these, and the writes.
    pub(in crate::broker) fn put_plain(&self, out: &mut Vec<u8>) {
        bulk(out, self.keys.len().to_string().as_bytes());
        self.keys.iter().for_each(|key| bulk(out, key.as_bytes()));
        out.extend_from_slice(&self.entries);
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Append { key, maxlen, payload: (name, payload), headers } => {
                self.append(key, *maxlen, 1 + headers.len());
                self.part(name.as_bytes());
                self.part(payload);
                for (name, value) in headers {
                    self.part(name.as_bytes());
                    self.part(value);
                }
            }
            Write::Dead { key, maxlen, fields } => {
                self.append(key, *maxlen, fields.len());
                for (name, value) in fields {
                    self.part(name);
                    self.part(value);
                }
            }
            Write::Push { key, payload } => {
                let place = self.place(key);
                self.part(b"l");
                self.number(place);
                self.part(payload);
            }
            Write::Publish { channel, payload } => {
                self.part(b"p");
                self.part(channel.as_bytes());
                self.part(payload);
            }
        }
    }

    fn append(&mut self, key: &Arc<str>, maxlen: Option<u64>, fields: usize) {
        let place = self.place(key);
        self.part(b"a");
        self.number(place);
        self.part(maxlen.unwrap_or(0).to_string().as_bytes());
        self.number(2 * fields);
    }

    /// The place of a key among those of the outputs, from 1 on.
    fn place(&mut self, key: &Arc<str>) -> usize {
        match self.keys.iter().position(|known| known == key) {
            Some(place) => place + 1,
            None => {
                self.keys.push(key.clone());
                self.keys.len()
            }
        }
    }

    fn part(&mut self, bytes: &[u8]) {
        bulk(&mut self.entries, bytes);
        self.parts += 1;
    }

    fn number(&mut self, n: usize) {
        self.part(n.to_string().as_bytes());
    }

    /// Parts of the command behind the script's name.
    pub(super) fn parts(&self, call: &Call<'_>) -> usize {
        const BEFORE_ENTRIES: usize = 7;
        1 + 1 + usize::from(call.cursor.is_some()) + self.keys.len() + BEFORE_ENTRIES + self.parts
    }

    /// Append those parts.
    pub(super) fn put(&self, call: &Call<'_>, out: &mut Vec<u8>) {
        let keys = 1 + usize::from(call.cursor.is_some()) + self.keys.len();
        let flag = |set: bool| if set { b"1" } else { b"0" };
        bulk(out, keys.to_string().as_bytes());
        bulk(out, call.key.as_bytes());
        if let Some(cursor) = call.cursor {
            bulk(out, cursor.as_bytes());
        }
        self.keys.iter().for_each(|key| bulk(out, key.as_bytes()));
        bulk(out, call.group.as_bytes());
        bulk(out, call.consumer.as_bytes());
        bulk(out, flag(call.delete));
        bulk(out, flag(call.cursor.is_some()));
        bulk(out, self.count.to_string().as_bytes());
        bulk(out, self.lowest.to_string().as_bytes());
        bulk(out, self.highest.to_string().as_bytes());
        out.extend_from_slice(&self.entries);
    }
}

impl Write {
    /// Values that say it.
    fn values(&self) -> usize {
        match self {
            Write::Append { headers, .. } => 4 + 2 * (1 + headers.len()),
            Write::Dead { fields, .. } => 4 + 2 * fields.len(),
            Write::Push { .. } | Write::Publish { .. } => 3,
        }
    }
}
