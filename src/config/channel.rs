//! `[channels.NAME]`: a source, a chain of handlers, outputs.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::pattern::Pattern;

mod failure;
mod names;
mod order;
mod outputs;
mod read;
mod single;
mod stream;

pub use failure::Retries;
pub(super) use failure::{LEAST_RETRY_FOR, MOST_RETRIES};
pub use order::OrderBy;
pub(super) use read::{Context, LARGEST_PAYLOAD, LEAST_QUEUE, MOST_WORKERS, Places, read};
pub use stream::{EntryId, EntryIdError, Start, StreamSource, WhenDone};
pub(super) use stream::{LEAST_CLAIM_IDLE, MOST_BATCH};

/// `[channels.NAME]`.
#[derive(Clone, Debug)]
pub struct Channel {
    /// NAME: what commands, metrics and logs call it.
    pub name: Arc<str>,
    /// Where its messages come from.
    pub source: Source,
    /// `single`: of several daemons that subscribe to the same, one at a time handles what comes.
    pub single: bool,
    /// Names in [`super::Config::handlers`], in order. May be empty.
    pub handlers: Vec<Arc<str>>,
    /// Where what leaves the chain goes. May be empty where there are routes.
    pub outputs: Vec<Output>,
    /// `maxlen`: about how many entries the streams of `append`, and those of routes, are kept at.
    /// `None` keeps all.
    pub maxlen: Option<u64>,
    /// Where handlers themselves may send.
    pub routes: Routes,
    /// `workers`: messages handled at once. 1, the default, keeps the order.
    pub workers: usize,
    /// `order_by`: what several workers keep the order of. `None` where there is one.
    pub order_by: Option<OrderBy>,
    /// `queue`: bytes that may wait. Default 16 MiB, or `[limits] memory` where that is less.
    pub queue: usize,
    /// `overflow`. Means nothing for streams: what doesn't fit isn't read.
    pub overflow: Overflow,
    /// `max_payload`: larger messages are dropped and counted, a stream's are dead letters. Default 1 MiB, or what `queue` has
    /// room for where that is less.
    pub max_payload: usize,
    /// `retries`: how often a message is tried again. Default 0 for pub/sub, 3 for streams.
    pub retries: Retries,
    /// `retry_for`: how long a message is tried again. Default 30 s for pub/sub, 5 m for streams,
    /// and `None`, for ever, with retries = "forever".
    pub retry_for: Option<Duration>,
    /// `dead_letter`: the stream, on the connection `[redis]`, that keeps what could not be
    /// handled. Default NAME.dead for streams; none for pub/sub, and with `false`.
    pub dead_letter: Option<Arc<str>>,
    /// `dead_letter_maxlen`: about how many entries that stream is kept at. `None` keeps all.
    pub dead_letter_maxlen: Option<u64>,
}

impl Channel {
    /// Whether what is made of a message is written in one step with the note that it is done.
    pub fn is_finished(&self) -> bool {
        self.single || matches!(self.source, Source::Stream(_))
    }
}

/// Where a channel's messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `subscribe`: names of pub/sub channels. Never empty, none twice.
    Subscribe(Vec<Arc<str>>),
    /// `pattern`: patterns of pub/sub channels. Never empty, none twice.
    Pattern(Vec<Arc<str>>),
    /// `stream`: entries of streams, by a consumer group.
    Stream(StreamSource),
}

/// Which message a full queue loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The one that waits longest: the default.
    #[default]
    DropOldest,
    /// The one that comes.
    DropNewest,
}

/// Where what leaves a chain goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// `publish`: PUBLISH.
    Publish(Target),
    /// `append`: XADD.
    Append(Target),
    /// `push`: RPUSH, so that a reader who takes from the left sees the order of arrival.
    Push(Target),
    /// `log`: a line a message.
    Log,
}

/// A name in a Redis to send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The connection: "redis", or NAME of `[connections.NAME]`.
    pub connection: Arc<str>,
    /// The Redis channel or key.
    pub name: NameTemplate,
}

/// A name in which `{channel}` stands for the Redis channel that the message came on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameTemplate {
    /// Without the placeholder.
    Fixed(Arc<str>),
    /// The texts around the placeholders: one more than there are placeholders, at least two.
    Parts(Vec<Arc<str>>),
}

impl NameTemplate {
    /// The name for a message that came on this Redis channel.
    pub fn fill(&self, channel: &str) -> Cow<'_, str> {
        match self {
            NameTemplate::Fixed(name) => Cow::Borrowed(name),
            NameTemplate::Parts(parts) => Cow::Owned(parts.join(channel)),
        }
    }
}

/// `routes`: what handlers may send to, and by which command.
///
/// Always over the connection `[redis]`. No name is permitted by two kinds (a config error where
/// patterns of two overlap).
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Redis channels for PUBLISH.
    pub publish: Vec<Pattern>,
    /// Streams for XADD.
    pub append: Vec<Pattern>,
    /// Lists for RPUSH.
    pub push: Vec<Pattern>,
}

/// What a route resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// PUBLISH.
    Publish,
    /// XADD.
    Append,
    /// RPUSH.
    Push,
}

impl Routes {
    /// The command that the routes permit for this name; `None` when none does.
    pub fn resolve(&self, name: &str) -> Option<RouteKind> {
        let permits = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(name));
        if permits(&self.publish) {
            Some(RouteKind::Publish)
        } else if permits(&self.append) {
            Some(RouteKind::Append)
        } else if permits(&self.push) {
            Some(RouteKind::Push)
        } else {
            None
        }
    }

    /// Whether nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.append.is_empty() && self.push.is_empty()
    }
}
