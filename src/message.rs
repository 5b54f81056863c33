//! The data that travels: a message, its headers, and what is known of its delivery.
//!
//! A leaf: used by every stage of the way, uses none of them, does no I/O.

use std::sync::Arc;

/// A further field beside the payload: its name and its bytes. Order and repetition are kept.
pub type Header = (String, Vec<u8>);

/// A message as handlers see it: what came from Redis, or what a handler made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The bytes, exactly as they were sent.
    pub payload: Vec<u8>,
    /// The fields beside the payload; empty for pub/sub.
    pub headers: Vec<Header>,
    /// `None` goes on along the chain. A name leaves the chain here, to that Redis channel (or
    /// stream, or list) if the channel's routes permit it.
    pub route: Option<String>,
}

impl Message {
    /// A message with this payload, without headers and without a route.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Message { payload: payload.into(), ..Message::default() }
    }

    /// Bytes this message holds: payload, headers and route, without allocator overhead.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.payload.len() + headers + self.route.as_ref().map_or(0, String::len)
    }
}

/// What is known of a message beside its content: where it came from and when.
///
/// It stays the same for all messages that a chain makes of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// NAME of the `[channels.NAME]` table.
    pub table: Arc<str>,
    /// The Redis channel the message was sent on.
    pub redis_channel: Arc<str>,
    /// The pattern that matched, where the source is a pattern.
    pub pattern: Option<Arc<str>>,
    /// Id of the stream entry; `None` for pub/sub.
    pub id: Option<Arc<str>>,
    /// 1 at the first delivery.
    pub attempt: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub received_at: u64,
}
