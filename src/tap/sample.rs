//! What is shown of a message's way, as JSON: written by the daemon, read by `handlerd tap`.
//!
//! All of it is cut to a size that was asked for, so that a sample is small whatever the message.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{Delivery, Message};

/// Messages of one hop, and headers of one message, that are shown.
const MOST_MESSAGES: usize = 16;
const MOST_HEADERS: usize = 32;

/// Bytes of a whole sample, at most; and how many payloads of the asked size go into it.
const MOST_BYTES: usize = 512 << 10;
const MOST_PAYLOADS: usize = 32;

/// A line that a tap's client gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A message's way.
    Sample(Box<Sample>),
    /// There is nothing more to come, for this reason.
    End {
        /// A sentence.
        end: String,
        /// A reload has taken the channel out, or renamed it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        channel_is_gone: bool,
    },
    /// Messages that passed and were not shown, since the line before.
    Missed {
        /// How many.
        missed: u64,
    },
}

/// One run of a message through its chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// NAME of the channel.
    pub channel: String,
    /// The Redis channel that it came on.
    pub redis_channel: String,
    /// Of a pattern: which one matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Of a stream: the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Milliseconds since 1970 when it came.
    pub received_at: u64,
    /// 1 at first.
    pub attempt: u32,
    /// What came.
    pub input: Shown,
    /// What each handler made of it.
    pub hops: Vec<Hop>,
    /// What came out of the chain, and where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<Shown>>,
    /// Outputs that are not shown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_outputs: u64,
    /// Why nothing came out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failed>,
    /// Messages that passed and were not shown, since the line before.
    pub missed: u64,
}

/// What one handler made of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Its name.
    pub handler: String,
    /// How long it took.
    pub micros: u64,
    /// All messages then on their way; none when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<Shown>>,
    /// Messages that are not shown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_outputs: u64,
}

/// A message that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The handler it failed in; none where it could not even be given to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// The word for the kind of failure.
    pub kind: String,
    /// What happened.
    pub reason: String,
    /// What becomes of the message.
    pub then: Then,
}

/// What becomes of a message that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It is tried again.
    Again,
    /// It becomes a dead letter.
    DeadLetter,
    /// It is dropped.
    Dropped,
}

/// A message as it is shown: `payload`, or `payload_hex` where it isn't UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Bytes of the whole payload, where not all of them are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_from: Option<u64>,
    /// Its headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Value)>,
    /// Headers that are not shown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_headers: u64,
    /// Where it left the chain to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Where it was sent, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

/// A header's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// UTF-8.
    Text(String),
    /// Anything else, as hex digits.
    Hex {
        /// Two digits a byte.
        hex: String,
    },
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Bytes that may still be shown.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Of one payload or value.
    most: usize,
    /// Of the whole sample.
    left: usize,
}

impl Room {
    /// For a sample whose payloads are cut to so many bytes.
    pub fn new(most: usize) -> Self {
        Room { most, left: most.saturating_mul(MOST_PAYLOADS).min(MOST_BYTES) }
    }

    fn cut<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let cut = &bytes[..bytes.len().min(self.most).min(self.left)];
        self.left -= cut.len();
        // No character is cut in two.
        match std::str::from_utf8(cut) {
            Err(error) if error.error_len().is_none() && cut.len() < bytes.len() => {
                &cut[..error.valid_up_to()]
            }
            _ => cut,
        }
    }

    fn text(&mut self, text: &str) -> String {
        String::from_utf8_lossy(self.cut(text.as_bytes())).into_owned()
    }

    fn value(&mut self, bytes: &[u8]) -> Value {
        let cut = self.cut(bytes);
        match std::str::from_utf8(cut) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Hex { hex: hex(cut) },
        }
    }

    fn message(&mut self, message: &Message) -> Shown {
        let cut = self.cut(&message.payload);
        let cut_from = (cut.len() < message.payload.len()).then_some(message.payload.len() as u64);
        let (payload, payload_hex) = match std::str::from_utf8(cut) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(hex(cut))),
        };
        let headers = message.headers.iter().take(MOST_HEADERS);
        let headers = headers.map(|(name, value)| (self.text(name), self.value(value))).collect();
        let more_headers = message.headers.len().saturating_sub(MOST_HEADERS) as u64;
        let route = message.route.as_deref().map(|route| self.text(route));
        Shown { payload, payload_hex, cut_from, headers, more_headers, route, to: Vec::new() }
    }

    /// Some messages, and how many are not among them.
    fn messages(&mut self, messages: &[Message]) -> (Vec<Shown>, u64) {
        let shown = messages.iter().take(MOST_MESSAGES).map(|message| self.message(message));
        (shown.collect(), messages.len().saturating_sub(MOST_MESSAGES) as u64)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sample {
    /// A message at the beginning of its way.
    pub fn new(delivery: &Delivery, input: &Message, room: &mut Room) -> Self {
        let text = |text: &std::sync::Arc<str>, room: &mut Room| room.text(text);
        Sample {
            channel: delivery.table.to_string(),
            redis_channel: text(&delivery.redis_channel, room),
            pattern: delivery.pattern.as_ref().map(|pattern| text(pattern, room)),
            id: delivery.id.as_deref().map(str::to_owned),
            received_at: delivery.received_at,
            attempt: delivery.attempt,
            input: room.message(input),
            ..Sample::default()
        }
    }

    /// What a handler made of it; `None` when it failed.
    pub fn hop(
        &mut self,
        handler: &str,
        took: Duration,
        messages: Option<&[Message]>,
        room: &mut Room,
    ) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let shown = messages.map(|messages| room.messages(messages));
        let (outputs, more_outputs) = shown.map_or((None, 0), |(shown, more)| (Some(shown), more));
        self.hops.push(Hop { handler: handler.to_owned(), micros, outputs, more_outputs });
    }

    /// It went through, and `to` says where a message was sent.
    pub fn went_out(
        &mut self,
        messages: &[Message],
        to: impl Fn(&Message) -> Vec<String>,
        room: &mut Room,
    ) {
        let (mut shown, more) = room.messages(messages);
        shown.iter_mut().zip(messages).for_each(|(shown, message)| shown.to = to(message));
        (self.outputs, self.more_outputs) = (Some(shown), more);
    }

    /// Its bytes in memory, more or less.
    pub fn size(&self) -> usize {
        let outputs = self.hops.iter().filter_map(|hop| hop.outputs.as_ref());
        let all = outputs.chain(&self.outputs).flatten().chain([&self.input]);
        let reason = self.failure.as_ref().map_or(0, |failure| failure.reason.len());
        all.map(Shown::size).sum::<usize>()
            + reason
            + self.redis_channel.len()
            + size_of::<Sample>()
    }
}

impl Shown {
    fn size(&self) -> usize {
        let texts = [&self.payload, &self.payload_hex, &self.route];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        let value = |value: &Value| match value {
            Value::Text(text) | Value::Hex { hex: text } => text.len(),
        };
        let headers: usize = self.headers.iter().map(|(name, v)| name.len() + value(v)).sum();
        texts + headers + self.to.iter().map(String::len).sum::<usize>() + size_of::<Shown>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        Delivery {
            table: "t".into(),
            redis_channel: "c".into(),
            pattern: None,
            id: None,
            attempt: 1,
            received_at: 7,
        }
    }

    #[test]
    fn payloads_are_cut_between_characters_and_bytes_are_hex() {
        let shown = |bytes: &[u8], most| Room::new(most).message(&Message::new(bytes));
        let cut = shown("aéb".as_bytes(), 2);
        assert_eq!((cut.payload.as_deref(), cut.cut_from), (Some("a"), Some(4)));
        let whole = shown("aéb".as_bytes(), 4);
        assert_eq!((whole.payload.as_deref(), whole.cut_from), (Some("aéb"), None));
        let bytes = shown(b"\xff\x00\x01", 2);
        assert_eq!((bytes.payload_hex.as_deref(), bytes.cut_from), (Some("ff00"), Some(3)));
    }

    #[test]
    fn a_sample_is_small_whatever_the_message() {
        let mut message = Message::new(vec![b'x'; 100 << 10]);
        message.headers = vec![("h".repeat(4 << 10), vec![0xff; 4 << 10]); 40];
        let mut room = Room::new(64 << 10);
        let mut sample = Sample::new(&delivery(), &message, &mut room);
        for _ in 0..10 {
            sample.hop("h", Duration::ZERO, Some(&vec![message.clone(); 20]), &mut room);
        }
        sample.went_out(&[message], |_| vec!["log".into()], &mut room);
        assert!(sample.size() < 2 * MOST_BYTES, "{} bytes", sample.size());
        assert_eq!(sample.hops[0].more_outputs, 4);
        assert_eq!(sample.input.more_headers, 8);
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let mut room = Room::new(100);
        let mut message = Message::new("m");
        message.headers = vec![("a".into(), b"b".to_vec()), ("c".into(), vec![0xff])];
        let mut sample = Sample::new(&delivery(), &message, &mut room);
        sample.hop("h", Duration::from_micros(5), Some(&[message.clone()]), &mut room);
        sample.hop("i", Duration::from_micros(6), None, &mut room);
        sample.failure = Some(Failed {
            handler: Some("i".into()),
            kind: "reject".into(),
            reason: "so".into(),
            then: Then::DeadLetter,
        });
        let lines = [
            Line::Sample(Box::new(sample)),
            Line::Missed { missed: 3 },
            Line::End { end: "it stops".into(), channel_is_gone: true },
        ];
        for line in lines {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }
}
