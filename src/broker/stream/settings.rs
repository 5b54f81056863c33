//! What a stream source is told: which stream and group, and how it goes about them.

use std::sync::Arc;
use std::time::Duration;

pub use crate::config::{Start, WhenDone};

/// A source of one `[channels.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// NAME.
    pub table: Arc<str>,
    /// The streams. Each is read and finished by itself, so they may lie in different slots of a
    /// Cluster.
    pub keys: Vec<Arc<str>>,
    /// The consumer group.
    pub group: Arc<str>,
    /// Where a new group of a stream that isn't empty begins.
    pub start: Option<Start>,
    /// The consumer; see [`super::consumer`].
    pub consumer: Arc<str>,
    /// Entries that are read, and finished, in one step at most.
    pub batch: usize,
    /// An entry whose consumer hasn't been heard of for so long is claimed.
    pub claim_idle: Duration,
    /// An entry delivered more often is handled alone, and once more: it is a `crash`.
    pub max_deliveries: u32,
    /// What becomes of an entry that is done.
    pub when_done: WhenDone,
    /// The field that holds the payload; the others are headers.
    pub payload_field: Arc<str>,
    /// Bytes of the largest payload that is handled.
    pub max_payload: usize,
    /// Bytes that may be in hand, read and not finished: beyond it nothing is read.
    pub hold: usize,
    /// A consumer with nothing pending that was idle for so long is removed from the group.
    pub forget: Duration,
}

impl Settings {
    /// The default of `batch`.
    pub const BATCH: usize = 128;
    /// The default of `forget`: longer than any restart or outage takes.
    pub const FORGET: Duration = Duration::from_secs(24 * 3600);

    /// With the defaults of the configuration.
    pub fn new(table: &str, keys: &[&str], group: &str, consumer: &str) -> Self {
        Settings {
            table: table.into(),
            keys: keys.iter().map(|key| (*key).into()).collect(),
            group: group.into(),
            start: None,
            consumer: consumer.into(),
            batch: Self::BATCH,
            claim_idle: Duration::from_secs(30),
            max_deliveries: 10,
            when_done: WhenDone::Ack,
            payload_field: "payload".into(),
            max_payload: 1 << 20,
            hold: 16 << 20,
            forget: Self::FORGET,
        }
    }
}
