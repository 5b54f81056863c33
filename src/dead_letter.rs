//! A dead letter: a message that could not be handled, with the reason, as an entry of a stream.
//!
//! Owns the format. Written by whoever gives a message up, read by `handlerd dead`; a leaf that
//! does no I/O and never looks into a payload.
//!
//! ```text
//! payload                  the bytes, exactly
//! handlerd-channel         NAME of [channels.NAME]
//! handlerd-redis-channel   the Redis channel, or the stream's key
//! handlerd-id              the stream entry's id; absent for pub/sub
//! handlerd-payload-field   where the stream's payload isn't in a field "payload"
//! handlerd-handler         who is to blame, where it is a handler
//! handlerd-kind            reject, retry, trap, timeout, memory, …
//! handlerd-reason          in words
//! handlerd-attempts        how often it was tried
//! handlerd-time            milliseconds since 1970, UTC: when it was given up
//! …                        the message's headers, in their order
//! ```
//! Fields are told apart by their places, so a header may have any name, these included: the first
//! field is the payload, those after it up to and with `handlerd-time` are handlerd's own, the rest
//! are headers. A field that later versions add has its place before `handlerd-time`.

use std::borrow::Cow;

use thiserror::Error;

use crate::chain::Failure;
use crate::message::{Delivery, Message};
use crate::telemetry::printable;

/// The first field: the payload.
pub const PAYLOAD: &str = "payload";

/// The last field of handlerd's own; what comes after it is the message's.
pub const TIME: &str = "handlerd-time";

const CHANNEL: &str = "handlerd-channel";
const REDIS_CHANNEL: &str = "handlerd-redis-channel";
const ID: &str = "handlerd-id";
const PAYLOAD_FIELD: &str = "handlerd-payload-field";
const HANDLER: &str = "handlerd-handler";
const KIND: &str = "handlerd-kind";
const REASON: &str = "handlerd-reason";
const ATTEMPTS: &str = "handlerd-attempts";

/// Bytes of a reason that are kept. A guest can say as much as it likes; a trap with its trace has
/// room.
const LONGEST_REASON: usize = 4 << 10;

/// The kind of a stream entry without the payload field: all of its fields are headers here.
pub const NO_PAYLOAD: &str = "no_payload";

/// A field of a stream entry: name and value, neither of which need be text.
pub type Field = (Vec<u8>, Vec<u8>);

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message's bytes; empty where it had none ([`NO_PAYLOAD`]).
    pub payload: Vec<u8>,
    /// The message's headers: order and repetition are kept.
    pub headers: Vec<Field>,
    /// NAME of `[channels.NAME]`.
    pub channel: String,
    /// Where the message came from.
    pub origin: Origin,
    /// Why it was given up.
    pub blame: Blame,
    /// How often it was tried.
    pub attempts: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub time: u64,
}

/// Where a message came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Redis channel of pub/sub.
    PubSub {
        /// Its name.
        channel: String,
    },
    /// An entry of a stream.
    Stream {
        /// The stream.
        key: String,
        /// The entry.
        id: String,
        /// The field that the payload was in.
        payload_field: String,
    },
}

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The handler it failed in; `None` where it reached none.
    pub handler: Option<String>,
    /// The word: a [`crate::chain::FailureKind`], or `crash`, `too_large`, `no_payload`, `name`,
    /// `refused`.
    pub kind: Cow<'static, str>,
    /// In words; a guest's own text is not escaped.
    pub reason: String,
}

impl From<Failure> for Blame {
    fn from(Failure { handler, kind, reason }: Failure) -> Self {
        Blame { handler: Some(handler.to_string()), kind: kind.as_str().into(), reason }
    }
}

/// Why an entry isn't a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotADeadLetter {
    /// It begins with something else.
    #[error("its first field is \"{}\", not \"{PAYLOAD}\"", printable(found, 100))]
    First {
        /// The name of its first field.
        found: Vec<u8>,
    },
    /// One of handlerd's own fields is missing.
    #[error("it has no field \"{name}\" in its place behind the payload")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// One of handlerd's own fields has something else in it.
    #[error("its field \"{name}\" is not {expected}: \"{}\"", printable(value, 100))]
    Value {
        /// Which.
        name: &'static str,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        value: Vec<u8>,
    },
}

impl DeadLetter {
    /// What a message becomes that is given up after `delivery.attempt` tries. `payload_field` is
    /// the one of its channel; it says nothing for pub/sub.
    pub fn new(
        message: Message,
        delivery: &Delivery,
        payload_field: &str,
        blame: Blame,
        time: u64,
    ) -> Self {
        let redis_channel = delivery.redis_channel.to_string();
        let headers = message.headers.into_iter().map(|(name, value)| (name.into_bytes(), value));
        DeadLetter {
            payload: message.payload,
            headers: headers.collect(),
            channel: delivery.table.to_string(),
            origin: match &delivery.id {
                None => Origin::PubSub { channel: redis_channel },
                Some(id) => Origin::Stream {
                    key: redis_channel,
                    id: id.to_string(),
                    payload_field: payload_field.to_owned(),
                },
            },
            blame,
            attempts: delivery.attempt,
            time,
        }
    }

    /// The fields of its entry, as XADD takes them. A long reason is cut.
    pub fn fields(&self) -> Vec<(&[u8], Cow<'_, [u8]>)> {
        let mut fields: Vec<(&[u8], Cow<'_, [u8]>)> = Vec::with_capacity(10 + self.headers.len());
        fields.push((PAYLOAD.as_bytes(), self.payload.as_slice().into()));
        fields.extend(self.own_fields().into_iter().map(|(name, value)| {
            let value: Cow<'_, [u8]> = match value {
                Cow::Borrowed(text) => text.as_bytes().into(),
                Cow::Owned(text) => text.into_bytes().into(),
            };
            (name.as_bytes(), value)
        }));
        let headers = self.headers.iter();
        fields.extend(headers.map(|(name, value)| (name.as_slice(), value.as_slice().into())));
        fields
    }

    fn own_fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut fields: Vec<(&'static str, Cow<'_, str>)> =
            vec![(CHANNEL, self.channel.as_str().into())];
        match &self.origin {
            Origin::PubSub { channel } => fields.push((REDIS_CHANNEL, channel.into())),
            Origin::Stream { key, id, payload_field } => {
                fields.push((REDIS_CHANNEL, key.into()));
                fields.push((ID, id.into()));
                if payload_field != PAYLOAD {
                    fields.push((PAYLOAD_FIELD, payload_field.into()));
                }
            }
        }
        let Blame { handler, kind, reason } = &self.blame;
        if let Some(handler) = handler {
            fields.push((HANDLER, handler.into()));
        }
        fields.push((KIND, kind.as_ref().into()));
        fields.push((REASON, bounded(reason)));
        fields.push((ATTEMPTS, self.attempts.to_string().into()));
        fields.push((TIME, self.time.to_string().into()));
        fields
    }

    /// Read an entry's fields.
    ///
    /// # Errors
    /// When they aren't those of a dead letter; each says what is wrong with "it", the entry.
    pub fn decode(fields: Vec<Field>) -> Result<Self, NotADeadLetter> {
        let mut fields = fields.into_iter();
        let payload = match fields.next() {
            Some((name, payload)) if name == PAYLOAD.as_bytes() => payload,
            first => {
                let found = first.map(|(name, _)| name).unwrap_or_default();
                return Err(NotADeadLetter::First { found });
            }
        };
        let mut own = Own(Vec::new());
        loop {
            let Some((name, value)) = fields.next() else {
                return Err(NotADeadLetter::Missing { name: TIME });
            };
            let is_last = name == TIME.as_bytes();
            own.0.push((name, value));
            if is_last {
                break;
            }
        }
        let channel = own.text(REDIS_CHANNEL)?;
        let origin = match own.take(ID) {
            None => Origin::PubSub { channel },
            Some(id) => Origin::Stream {
                key: channel,
                id: text(ID, id)?,
                payload_field: own
                    .take(PAYLOAD_FIELD)
                    .map_or_else(|| Ok(PAYLOAD.to_owned()), |name| text(PAYLOAD_FIELD, name))?,
            },
        };
        let blame = Blame {
            handler: own.take(HANDLER).map(|name| text(HANDLER, name)).transpose()?,
            kind: own.text(KIND)?.into(),
            reason: own.text(REASON)?,
        };
        Ok(DeadLetter {
            payload,
            headers: fields.collect(),
            channel: own.text(CHANNEL)?,
            origin,
            blame,
            attempts: own.number(ATTEMPTS)?,
            time: own.number(TIME)?,
        })
    }

    /// Bytes of the message: payload and headers.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + headers
    }
}

impl Origin {
    /// The Redis channel, or the stream's key.
    pub fn redis_channel(&self) -> &str {
        match self {
            Origin::PubSub { channel } => channel,
            Origin::Stream { key, .. } => key,
        }
    }
}

/// handlerd's own fields of an entry, in whatever order a later version may have them.
struct Own(Vec<Field>);

impl Own {
    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(field, _)| field == name.as_bytes())?;
        Some(self.0.remove(at).1)
    }

    fn required(&mut self, name: &'static str) -> Result<Vec<u8>, NotADeadLetter> {
        self.take(name).ok_or(NotADeadLetter::Missing { name })
    }

    fn text(&mut self, name: &'static str) -> Result<String, NotADeadLetter> {
        text(name, self.required(name)?)
    }

    fn number<N: std::str::FromStr>(&mut self, name: &'static str) -> Result<N, NotADeadLetter> {
        let value = self.required(name)?;
        let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        number.ok_or(NotADeadLetter::Value { name, expected: "a number", value })
    }
}

fn text(name: &'static str, value: Vec<u8>) -> Result<String, NotADeadLetter> {
    String::from_utf8(value).map_err(|error| NotADeadLetter::Value {
        name,
        expected: "text",
        value: error.into_bytes(),
    })
}

/// A reason that isn't longer than it may be, and says so where it was.
fn bounded(reason: &str) -> Cow<'_, str> {
    if reason.len() <= LONGEST_REASON {
        return reason.into();
    }
    let kept = &reason[..reason.floor_char_boundary(LONGEST_REASON)];
    format!("{kept}… ({} bytes in all)", reason.len()).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chain::FailureKind;

    fn delivery(id: Option<&str>) -> Delivery {
        Delivery {
            table: "orders".into(),
            redis_channel: "orders.in".into(),
            pattern: None,
            id: id.map(Into::into),
            attempt: 4,
            received_at: 1,
        }
    }

    fn blame() -> Blame {
        let handler = Arc::from("price");
        Blame::from(Failure { handler, kind: FailureKind::Trap, reason: "boom\n\0".into() })
    }

    fn letter(message: Message, id: Option<&str>, payload_field: &str) -> DeadLetter {
        DeadLetter::new(message, &delivery(id), payload_field, blame(), 1_700_000_000_123)
    }

    /// What XRANGE would answer of what was given to XADD.
    fn stored(letter: &DeadLetter) -> Vec<Field> {
        let fields = letter.fields().into_iter();
        fields.map(|(name, value)| (name.to_vec(), value.into_owned())).collect()
    }

    fn names(letter: &DeadLetter) -> Vec<String> {
        letter.fields().iter().map(|(name, _)| name.escape_ascii().to_string()).collect()
    }

    #[test]
    fn the_fields_stand_in_their_order() {
        let mut message = Message::new("p");
        message.headers.push(("lang".into(), b"en".to_vec()));
        let full = letter(message, Some("5-1"), "body");
        assert_eq!(
            names(&full),
            [
                "payload",
                "handlerd-channel",
                "handlerd-redis-channel",
                "handlerd-id",
                "handlerd-payload-field",
                "handlerd-handler",
                "handlerd-kind",
                "handlerd-reason",
                "handlerd-attempts",
                "handlerd-time",
                "lang"
            ]
        );
        let mut small = letter(Message::new("p"), None, "body");
        small.blame.handler = None;
        assert_eq!(
            names(&small),
            [
                "payload",
                "handlerd-channel",
                "handlerd-redis-channel",
                "handlerd-kind",
                "handlerd-reason",
                "handlerd-attempts",
                "handlerd-time"
            ]
        );
        assert!(
            !names(&letter(Message::new(""), Some("5-1"), PAYLOAD)).contains(&PAYLOAD_FIELD.into())
        );
    }

    #[test]
    fn what_is_stored_is_read_back_byte_for_byte() {
        let binary: Vec<u8> = (0..=255).rev().collect();
        for (id, payload_field) in [(None, PAYLOAD), (Some("5-1"), PAYLOAD), (Some("5-1"), "body")]
        {
            for payload in [b"".as_slice(), b"text", &binary] {
                let mut letter = letter(Message::new(payload), id, payload_field);
                letter.headers = vec![
                    (b"payload".to_vec(), b"not the payload".to_vec()),
                    (b"handlerd-kind".to_vec(), b"not the kind".to_vec()),
                    (b"handlerd-time".to_vec(), b"never".to_vec()),
                    (b"twice".to_vec(), b"1".to_vec()),
                    (b"twice".to_vec(), binary.clone()),
                    (binary.clone(), b"".to_vec()),
                    (b"".to_vec(), b"".to_vec()),
                ];
                assert_eq!(DeadLetter::decode(stored(&letter)), Ok(letter));
            }
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_passed_over() {
        let letter = letter(Message::new("p"), Some("5-1"), PAYLOAD);
        let mut fields = stored(&letter);
        fields.insert(3, (b"handlerd-weather".to_vec(), b"fine".to_vec()));
        assert_eq!(DeadLetter::decode(fields), Ok(letter));
    }

    #[test]
    fn a_long_reason_is_cut_and_a_short_one_is_not() {
        let reason = |reason: &str| {
            let mut letter = letter(Message::new("p"), None, PAYLOAD);
            letter.blame.reason = reason.to_owned();
            DeadLetter::decode(stored(&letter)).expect("a letter").blame.reason
        };
        let fits = "x".repeat(LONGEST_REASON);
        assert_eq!(reason(&fits), fits);
        // A character isn't cut in two.
        let long = format!("x{}", "é".repeat(LONGEST_REASON));
        let cut = reason(&long);
        assert!(cut.len() < LONGEST_REASON + 40, "{}", cut.len());
        assert!(cut.ends_with(&format!("é… ({} bytes in all)", long.len())), "{cut}");
    }

    #[test]
    fn a_foreign_entry_is_refused_with_a_sentence() {
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let refusal = |fields| DeadLetter::decode(fields).unwrap_err().to_string();
        assert_eq!(
            refusal(vec![field("order\n", "7")]),
            r#"its first field is "order\n", not "payload""#
        );
        assert_eq!(refusal(vec![]), r#"its first field is "", not "payload""#);
        assert_eq!(
            refusal(vec![field("payload", "7"), field("lang", "en")]),
            r#"it has no field "handlerd-time" in its place behind the payload"#
        );
        let good = stored(&letter(Message::new("p"), None, PAYLOAD));
        for at in 1..good.len() {
            let mut without = good.clone();
            let (name, _) = without.remove(at);
            if name == HANDLER.as_bytes() {
                continue;
            }
            let name = String::from_utf8(name).expect("text");
            assert!(refusal(without).contains(&format!("no field \"{name}\"")), "{name}");
        }
        for (name, value, expected) in [
            (TIME, b"now".as_slice(), r#"its field "handlerd-time" is not a number: "now""#),
            (ATTEMPTS, b"-1", r#"its field "handlerd-attempts" is not a number: "-1""#),
            (KIND, b"\xff", r#"its field "handlerd-kind" is not text: "\xff""#),
        ] {
            let mut wrong = good.clone();
            let at = wrong.iter().position(|(field, _)| field == name.as_bytes());
            wrong[at.expect("the field")].1 = value.to_vec();
            assert_eq!(refusal(wrong), expected);
        }
    }
}
