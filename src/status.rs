//! What a running daemon says of itself: the JSON of `GET /status`.
//!
//! Written by the daemon, read by `handlerd status` and `handlerd top`: one set of types, so that
//! these can't disagree. Numbers are counts since the start; rates are made by who reads twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of handlerd.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The path of its configuration.
    pub config: String,
    /// Since its start.
    pub uptime_ms: u64,
    /// Whether it still takes messages.
    pub state: State,
    /// Whether every source is subscribed and delivers.
    pub ready: bool,
    /// A sentence for each thing that is missing for that.
    pub not_ready: Vec<String>,
    /// Loops that don't tick.
    pub stalled: Vec<String>,
    /// Its connections.
    pub redis: Vec<Redis>,
    /// Connections made again.
    pub reconnects: u64,
    /// Its channels, in the order of the configuration; behind them those that are ending.
    pub channels: Vec<Channel>,
    /// Their handlers, by name.
    pub handlers: Vec<Handler>,
    /// Of configuration and plugins.
    pub reload: Reload,
    /// What an operator should know, in sentences.
    pub warnings: Vec<String>,
}

/// Whether a daemon still takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Running,
    /// It finishes what it has taken, and ends.
    Draining,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redis {
    /// `redis`, or NAME of `[connections.NAME]`.
    pub connection: String,
    /// What it is for.
    pub role: Role,
    /// Whether it stands.
    pub connected: bool,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Messages come by it.
    Source,
    /// What comes out goes by it.
    Outputs,
}

/// One `[channels.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// NAME.
    pub name: String,
    /// A reload has taken it out, and it is still busy with what came before. Where another channel
    /// of this NAME goes on with its counters, they are 0 here.
    #[serde(default)]
    pub ending: bool,
    /// `subscribe "a", "b"`.
    pub source: String,
    /// Its chain.
    pub handlers: Vec<String>,
    /// Messages that came.
    pub received: u64,
    /// Messages that went through the chain.
    pub handled: u64,
    /// Writes that Redis acknowledged, by command, and log lines.
    pub delivered: BTreeMap<String, u64>,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Messages that were lost, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Bytes that wait.
    pub queue_bytes: u64,
    /// Bytes that may wait.
    pub queue_limit: u64,
    /// Whether its source is subscribed and delivers.
    pub ready: bool,
    /// Milliseconds without a confirmed subscription.
    pub gap_ms: u64,
    /// Where the source is a stream.
    pub stream: Option<Stream>,
    /// With `single = true`.
    pub single: Option<Single>,
}

/// Of a channel that one daemon at a time handles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Single {
    /// Whether this daemon does; else it stands by.
    pub leads: bool,
    /// Times that it began to.
    pub takeovers: u64,
    /// Of these, times that messages before may be missing.
    pub gaps: u64,
}

/// Of a stream source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Entries read by the group and not finished.
    pub pending: u64,
    /// Entries that the group has not read, where Redis says it.
    pub lag: Option<u64>,
    /// Entries that this daemon holds.
    pub in_hand: u64,
    /// Entries taken over from a consumer that didn't finish them.
    pub claimed: u64,
    /// Entries that came again.
    pub redelivered: u64,
}

/// One handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// The plugin's file.
    pub plugin: String,
    /// Of the file.
    pub sha256: String,
    /// Calls so far.
    pub calls: u64,
    /// Calls that failed, by kind.
    pub failures: BTreeMap<String, u64>,
    /// How long calls took.
    pub seconds: Seconds,
}

/// A summary of how long calls took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Calls.
    pub count: u64,
    /// All of them together.
    pub sum: f64,
    /// Half of them took no longer.
    pub p50: f64,
    /// Of a hundred, 99 took no longer.
    pub p99: f64,
    /// How many took how long, for who reads twice; those that hold none are left out.
    #[serde(default)]
    pub buckets: Vec<Bucket>,
}

/// Calls that took about as long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Not longer than so many seconds, and longer than the bound before; `None` beyond the last.
    pub le: Option<f64>,
    /// So many.
    pub calls: u64,
}

/// Reloads since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Those that were taken over.
    pub ok: u64,
    /// Those after which the old went on.
    pub failed: u64,
    /// Of both, those that a signal asked for.
    #[serde(default)]
    pub asked: u64,
    /// The last one.
    pub last: Option<LastReload>,
}

/// A reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Whether it was taken over.
    pub ok: bool,
    /// What changed, or why not.
    pub message: String,
}
