//! The stream source: entries of a consumer group in, and the step that finishes them.
//!
//! Started by the daemon, once for each channel with a stream. Hands entries to a sink and never runs
//! a handler. Nothing is lost: an entry stays pending until what is to be written for it and its
//! acknowledgement are written in one step, and it comes again until that has happened. Where there
//! is no room for more nothing is read.
//!
//! ```text
//! Source::run, for each stream                       this file; lane.rs: what is in hand, what is in line
//!   reader: connect, group, take up, claim, read     reader.rs, claim.rs, group.rs
//!     entry --> sink                                 entry.rs; suspects.rs: those that go alone
//!   finisher: line --> finish.lua                    finisher.rs, finish.rs
//! where to connect to, in a Redis Cluster            nodes.rs
//! what is wrong, in words; how long to wait          trouble.rs
//! ```
//!
//! Keys of two streams of a source are never in one script. The outputs of an entry are in one script
//! with its stream, which in a Redis Cluster must be one slot;
//! each stream has connections of its own, which find the node of its slot.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection::Connector;
use crate::heartbeat::Heartbeats;
use crate::telemetry::ChannelMetrics;

mod claim;
mod conn;
pub mod consumer;
mod entry;
mod finish;
mod finisher;
mod group;
mod lane;
mod nodes;
mod reader;
mod script;
mod settings;
mod suspects;
mod timer;
mod trouble;
mod unread;

pub use entry::{Entry, Taken, Unfit, UnfitKind};
pub use finish::{AppendError, Finish, MOST_HEADERS, can_append};
pub use lane::Outcome;
pub use settings::{Settings, Start, WhenDone};
pub use trouble::State;

pub(super) use conn::{ANSWER, Conn};
pub(super) use consumer::random;
pub(super) use finish::Arguments;
pub(super) use script::{Script, Scripts};
pub(super) use trouble::{Journal, Trouble};

pub(super) use group::cursor_name;
use lane::Lane;
pub(super) use nodes::named;

/// Pause before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Where entries go. Called with at least one, in the order in which they are to be handled.
pub trait Sink: Send + Sync + 'static {
    /// Take them. Must not wait: there are never more than the source may have in hand.
    fn take(&self, taken: Vec<Taken>);
}

impl<F: Fn(Vec<Taken>) + Send + Sync + 'static> Sink for F {
    fn take(&self, taken: Vec<Taken>) {
        self(taken);
    }
}

/// A stream source of one channel, over all its streams. Clones share what is in hand.
#[derive(Clone)]
pub struct Source {
    connector: Connector,
    lanes: Arc<[Arc<Lane>]>,
}

impl Source {
    /// For these settings, on this Redis. Nothing happens until [`Self::run`].
    pub fn new(connector: Connector, settings: Settings, metrics: &Arc<ChannelMetrics>) -> Self {
        let settings = Arc::new(settings);
        let lane = |key: &Arc<str>| Lane::new(&settings, key, metrics);
        Source { connector, lanes: settings.keys.iter().map(lane).collect() }
    }

    /// Whether it is a clone of this one.
    pub fn is(&self, other: &Source) -> bool {
        Arc::ptr_eq(&self.lanes, &other.lanes)
    }

    /// So many bytes may be in hand from now on, instead of [`Settings::hold`].
    pub fn set_hold(&self, hold: usize) {
        self.lanes.iter().for_each(|lane| lane.set_hold(hold));
    }

    /// What finishes its entries.
    pub fn finisher(&self) -> Finisher {
        Finisher { lanes: self.lanes.clone() }
    }

    /// Bytes that may be in hand of it.
    pub fn hold(&self) -> usize {
        self.lanes.iter().map(|lane| lane.share()).sum()
    }

    /// How many entries are in hand: read, and not finished or let go.
    pub fn in_hand(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_hand()).sum()
    }

    /// Bytes of the entries in hand.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.bytes()).sum()
    }

    /// How many entries are in hand, or were given back and Redis doesn't know it yet.
    pub fn left(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_hand() + lane.given_back().len()).sum()
    }

    /// Let go of what is in line to be finished: it stays pending. For when [`Self::run`] was ended
    /// before its time.
    pub fn abandon(&self) {
        self.lanes.iter().for_each(|lane| lane.abandon());
    }

    /// Read and finish, whatever happens to Redis meanwhile.
    ///
    /// After `stop` nothing is read any more. Returns when every [`Entry`] was finished or dropped
    /// (those were given back: their delivery doesn't count), so whoever holds entries that aren't
    /// begun drops them then. With Redis away that may be never: the caller has a time limit, and
    /// what is left stays pending.
    pub async fn run(self, sink: Arc<dyn Sink>, beats: Heartbeats, stop: CancellationToken) {
        let lanes = self.lanes.iter().map(|lane| {
            lane.until(&stop);
            let (sink, stop, beats) = (sink.clone(), stop.clone(), &beats);
            let connector = &self.connector;
            let beat = move |what: &str| {
                let (channel, stream) = (&lane.settings.table, &lane.key);
                beats.register(format!("{what} the stream {stream} of channel {channel}"))
            };
            async move {
                let read = CancellationToken::new();
                let reading = async {
                    again(lane, "reading", || {
                        let beat = beat("reading");
                        reader::Reader::new(connector, lane, sink.clone(), beat).run(&stop)
                    })
                    .await;
                    read.cancel();
                };
                let finishing = again(lane, "finishing", || async {
                    let beat = beat("finishing");
                    tokio::select! {
                        () = finisher::Finisher::new(connector, lane, beat).run(&read) => {}
                        // What it has in hand is let go with it.
                        () = lane.abandoned() => {}
                    }
                });
                tokio::join!(reading, finishing);
            }
        });
        join_all(lanes).await;
        // Who begins anew, under the same name perhaps, sees for itself.
        self.lanes.iter().for_each(|lane| lane.metrics.stream.forget(&lane.key));
    }
}

/// Run it to its end; after a panic it is named in the log and started again.
async fn again<F: Future<Output = ()>>(lane: &Lane, what: &str, start: impl Fn() -> F) {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        let (channel, stream) = (&*lane.settings.table, &*lane.key);
        tracing::error!(
            channel,
            stream,
            "{what} the stream {stream} failed by a fault of handlerd's own and is started again"
        );
        sleep(RESTART_PAUSE).await;
    }
}

/// Finishes what is in line; see [`Entry::finish`].
#[derive(Clone)]
pub struct Finisher {
    lanes: Arc<[Arc<Lane>]>,
}

impl Finisher {
    /// What is in line goes out now.
    pub fn flush(&self) {
        self.lanes.iter().for_each(|lane| lane.flush());
    }

    /// Whether less than 4 MiB of outputs are in line, for each stream.
    pub fn has_room(&self) -> bool {
        self.lanes.iter().all(|lane| lane.has_room())
    }

    /// Wait until that is so.
    pub async fn room(&self) {
        for lane in self.lanes.iter() {
            lane.room().await;
        }
    }

    /// Wait until all that is in line, and what is put there meanwhile, is finished. While Redis
    /// refuses, that is never: the caller has a time limit.
    pub async fn idle(&self) {
        for lane in self.lanes.iter() {
            lane.idle().await;
        }
    }
}

#[cfg(test)]
mod tests;
