//! What is wrong, in words: a sentence for whoever asks, a few words for the service manager's one line.
//!
//! The only place where these are worded. Made by the view; knows nothing of what it tells of.

use std::fmt;
use std::sync::Arc;

use crate::telemetry::printable;

/// Bytes of a Redis channel's name that are shown.
const SHOWN_NAME: usize = 200;

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No more messages are taken.
    Draining,
    /// A channel doesn't get what is sent on these Redis channels, or by these patterns.
    Unsubscribed {
        /// NAME.
        channel: Arc<str>,
        /// What it should be subscribed to.
        names: Vec<Arc<str>>,
    },
    /// A stream can't be read, or its entries not be finished.
    Stream(Trouble),
    /// The lease of a channel that is single can't be had or looked at.
    Lease(Trouble),
    /// A channel's outputs wait for a Redis.
    OutputsAway {
        /// NAME.
        channel: Arc<str>,
        /// NAME of `[connections.NAME]`, or `redis`.
        connection: Arc<str>,
    },
    /// A channel that a reload has taken out isn't done with what it has in hand, for this reason.
    Ending(Box<Problem>),
    /// A loop doesn't come around.
    Stalled(String),
    /// Everything goes on as it was before a reload, for this reason.
    ReloadFailed(String),
    /// The configuration in its file is not what runs, for this reason.
    ConfigRefused(String),
}

/// What can't be done with a key in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// NAME of the channel.
    pub channel: Arc<str>,
    /// The key.
    pub key: Arc<str>,
    /// A sentence without it: `can't read: …`.
    pub text: String,
}

impl Problem {
    /// What it is, and of what: those of one kind can be said together.
    pub fn in_short(&self) -> (&'static str, &str) {
        match self {
            Problem::Draining => ("draining", ""),
            Problem::Unsubscribed { channel, .. } => ("not subscribed", channel),
            Problem::Stream(Trouble { channel, .. }) => ("streams in trouble", channel),
            Problem::Lease(Trouble { channel, .. }) => ("leases in trouble", channel),
            Problem::OutputsAway { connection, .. } => ("Redis is away for outputs", connection),
            Problem::Ending(problem) => problem.in_short(),
            Problem::Stalled(what) => ("stands still", what),
            Problem::ReloadFailed(why) => ("the last reload failed", why),
            Problem::ConfigRefused(why) => ("the configuration was refused", why),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_key = |f: &mut fmt::Formatter<'_>, what, trouble: &Trouble| {
            let Trouble { channel, key, text } = trouble;
            write!(f, "channel {channel}: {what} {}: {text}", quoted(key))
        };
        match self {
            Problem::Draining => f.write_str("draining: no more messages are taken"),
            Problem::Unsubscribed { channel, names } => {
                write!(f, "channel {channel}: not subscribed to {}", listed(names))
            }
            Problem::Stream(trouble) => on_key(f, "stream", trouble),
            Problem::Lease(trouble) => on_key(f, "lease", trouble),
            Problem::OutputsAway { channel, connection } => {
                write!(f, "channel {channel}: the Redis {connection} of its outputs is away")
            }
            Problem::Ending(problem) => {
                write!(f, "{problem} (a reload has taken this channel out, it ends after that)")
            }
            Problem::Stalled(what) => write!(f, "{what} stands still"),
            Problem::ReloadFailed(why) => write!(f, "the last reload failed: {why}"),
            Problem::ConfigRefused(why) => write!(
                f,
                "the configuration in its file is not what runs: it was refused when it was read last: \
                 {why}"
            ),
        }
    }
}

/// Names in quotes, with nothing that could forge a line.
pub(super) fn listed(names: &[Arc<str>]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    names.join(", ")
}

/// The same of one.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", printable(name.as_bytes(), SHOWN_NAME))
}
