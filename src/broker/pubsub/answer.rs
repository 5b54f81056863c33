//! What a subscribed connection says beside messages.

use crate::broker::resp::Frame;

/// A frame that isn't a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A subscription was confirmed.
    Subscribed {
        pattern: bool,
        name: Vec<u8>,
        /// How many subscriptions, of names and patterns, Redis counts for this connection.
        count: i64,
    },
    /// A subscription ended, asked for or not.
    Unsubscribed { pattern: bool, name: Vec<u8> },
    /// An error, in the place of the answer to the oldest command without one.
    Error(String),
    /// The answer to another command.
    Reply,
    /// Something out of band that we know nothing of.
    Push,
}

impl Answer {
    /// Understand a frame.
    pub(super) fn of(frame: &Frame<'_>) -> Self {
        if let Some(text) = frame.error() {
            return Answer::Error(String::from_utf8_lossy(text).into_owned());
        }
        let other = if frame.is_push() { Answer::Push } else { Answer::Reply };
        let Some(items) = frame.items() else { return other };
        let [kind, name, count] = items.as_slice() else { return other };
        let Some(kind) = kind.string else { return other };
        let name = name.string.unwrap_or_default().to_vec();
        match (kind, count.integer) {
            (b"subscribe", Some(count)) => Answer::Subscribed { pattern: false, name, count },
            (b"psubscribe", Some(count)) => Answer::Subscribed { pattern: true, name, count },
            (b"unsubscribe", Some(_)) => Answer::Unsubscribed { pattern: false, name },
            (b"punsubscribe", Some(_)) => Answer::Unsubscribed { pattern: true, name },
            _ => other,
        }
    }
}
