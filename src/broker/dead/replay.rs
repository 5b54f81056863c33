//! Sending dead letters back, each in one step with its removal.

use redis::Value;
use thiserror::Error;

use super::{DeadError, DeadLetters, bytes, list, shown, words};
use crate::config::EntryId;
use crate::dead_letter::{DeadLetter, NO_PAYLOAD, Origin, PAYLOAD};

const APPEND: &str = include_str!("append.lua");
const PUBLISH: &str = include_str!("publish.lua");

/// Scripts sent in one go.
const AT_ONCE: usize = 100;

/// Where a dead letter is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// XADD to this stream: payload and headers.
    Stream(String),
    /// PUBLISH on this Redis channel: the payload alone.
    Channel(String),
}

impl Target {
    /// Where a dead letter came from.
    pub fn origin(letter: &DeadLetter) -> Self {
        match &letter.origin {
            Origin::PubSub { channel } => Target::Channel(channel.clone()),
            Origin::Stream { key, .. } => Target::Stream(key.clone()),
        }
    }
}

/// A dead letter that is to be sent somewhere.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Which.
    pub id: EntryId,
    /// Where to.
    pub target: Target,
    /// The field that the payload goes to; `None` for a message that had no payload. Only for
    /// streams.
    pub payload_field: Option<String>,
}

impl Errand {
    /// Send this letter there, with its payload in the field where it was.
    pub fn new(id: EntryId, letter: &DeadLetter, target: Target) -> Self {
        let payload_field = match &letter.origin {
            _ if letter.blame.kind == NO_PAYLOAD => None,
            Origin::Stream { payload_field, .. } => Some(payload_field.clone()),
            Origin::PubSub { .. } => Some(PAYLOAD.to_owned()),
        };
        Errand { id, target, payload_field }
    }
}

/// What became of an [`Errand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent, and the dead letter is removed.
    Replayed,
    /// The dead letter wasn't there any more; nothing was sent.
    Gone,
    /// Nothing was sent, and the dead letter is still there.
    Kept(Kept),
}

/// Why a dead letter stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Kept {
    /// Redis refused a command.
    #[error("{command} \"{}\" was refused: {answer}", shown(name))]
    Refused {
        /// Which.
        command: String,
        /// Its key or Redis channel.
        name: String,
        /// What Redis says.
        answer: String,
    },
    /// It would have been lost.
    #[error("nobody is subscribed to \"{}\" on this Redis", shown(channel))]
    Unheard {
        /// The Redis channel.
        channel: String,
    },
    /// A stream entry needs a field, and the message has neither a payload nor headers.
    #[error("it has neither a payload nor headers, so it can't be an entry of a stream")]
    Empty,
    /// More than a script can hand over.
    #[error("a message with {fields} fields is more than a script can hand over")]
    TooMany {
        /// Its fields.
        fields: String,
    },
}

impl DeadLetters {
    /// Send dead letters of a stream, in this order; answers what became of each.
    ///
    /// # Errors
    /// When the connection breaks: then those that were under way are either sent and removed, or
    /// still there.
    pub async fn replay(
        &mut self,
        key: &str,
        errands: &[Errand],
    ) -> Result<Vec<Outcome>, DeadError> {
        let mut outcomes = Vec::with_capacity(errands.len());
        for errands in errands.chunks(AT_ONCE) {
            let mut pipe = redis::pipe();
            for Errand { id, target, payload_field } in errands {
                // With the whole script each time, it need not be known to Redis already.
                pipe.cmd("EVAL");
                match target {
                    Target::Stream(stream) => {
                        pipe.arg(APPEND).arg(2).arg(key).arg(stream).arg(id.to_string());
                        pipe.arg(payload_field.as_deref().unwrap_or_default());
                        pipe.arg(if payload_field.is_some() { "1" } else { "0" });
                    }
                    Target::Channel(channel) => {
                        pipe.arg(PUBLISH).arg(1).arg(key).arg(id.to_string()).arg(channel);
                    }
                }
            }
            let replies = self.ask_all(pipe).await?;
            if replies.len() != errands.len() {
                return Err(self.strange());
            }
            for (errand, reply) in errands.iter().zip(replies) {
                outcomes.push(outcome(key, errand, reply).ok_or_else(|| self.strange())?);
            }
        }
        Ok(outcomes)
    }
}

/// What a script answered.
fn outcome(key: &str, errand: &Errand, reply: Value) -> Option<Outcome> {
    if let Value::ServerError(error) = &reply {
        let (command, name) = ("EVAL".to_owned(), key.to_owned());
        return Some(Outcome::Kept(Kept::Refused { command, name, answer: words(error) }));
    }
    let answer = list(reply)?.into_iter().map(bytes).collect::<Option<Vec<_>>>()?;
    let text = |at: usize| answer.get(at).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Some(match &*text(0)? {
        "replayed" => Outcome::Replayed,
        "gone" => Outcome::Gone,
        "empty" => Outcome::Kept(Kept::Empty),
        "too-many" => Outcome::Kept(Kept::TooMany { fields: text(1)? }),
        "refused" => {
            let command = text(1)?;
            let name = match &errand.target {
                Target::Stream(name) if command == "XADD" => name,
                Target::Channel(name) if command == "PUBLISH" => name,
                _ => key,
            };
            let name = name.to_owned();
            Outcome::Kept(Kept::Refused { command, name, answer: shown(&text(2)?) })
        }
        "unheard" => match &errand.target {
            Target::Channel(channel) => Outcome::Kept(Kept::Unheard { channel: channel.clone() }),
            Target::Stream(_) => return None,
        },
        _ => return None,
    })
}
