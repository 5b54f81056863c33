//! The ways out that run: one writer for each connection that a channel writes to by one, and each a
//! task of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::running::{joined, keep_running};
use crate::broker::connection::Connector;
use crate::broker::writer::Writer;
use crate::config::{Config, Connection};
use crate::heartbeat::Heartbeats;
use crate::output::Outputs;
use crate::telemetry::Metrics;

/// A writer that runs.
struct Open {
    writer: Writer,
    /// What it was made with.
    connection: Connection,
    stop: CancellationToken,
}

/// All writers.
pub(super) struct Writers {
    heartbeats: Heartbeats,
    metrics: Arc<Metrics>,
    by_name: BTreeMap<Arc<str>, Open>,
    /// Those in whose place there is another one.
    replaced: Vec<Open>,
    /// Those that no channel writes by any more, until this tells that nothing of theirs waits.
    closing: Vec<(Writer, CancellationToken)>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Writers {
    /// None yet; their loops are watched by these.
    pub(super) fn new(heartbeats: &Heartbeats, metrics: &Arc<Metrics>) -> Self {
        Writers {
            heartbeats: heartbeats.clone(),
            metrics: metrics.clone(),
            by_name: BTreeMap::new(),
            replaced: Vec::new(),
            closing: Vec::new(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    /// By the names of their connections.
    pub(super) fn by_name(&self) -> BTreeMap<Arc<str>, Writer> {
        let named = |(name, open): (&Arc<str>, &Open)| (name.clone(), open.writer.clone());
        self.by_name.iter().map(named).collect()
    }

    /// Begin to write to the connections that the channels of a configuration write to.
    pub(super) fn open(&mut self, config: &Config) {
        for name in connections(config) {
            let connection = config.connections.get(name).unwrap_or(&config.redis);
            // Of one that went and came again with other settings, what ends may still use the first.
            if self.by_name.get(name).is_some_and(|open| open.connection == *connection) {
                continue;
            }
            let writer = Writer::new(Connector::new(connection));
            let stop = self.stop.child_token();
            let (metrics, beats) = (self.metrics.clone(), self.heartbeats.clone());
            let open =
                Open { writer: writer.clone(), connection: connection.clone(), stop: stop.clone() };
            self.replaced.extend(self.by_name.insert(name.clone(), open));
            let what = format!("the writer of {name}");
            self.tasks.spawn(keep_running(what.clone(), move || {
                writer.clone().run(metrics.clone(), beats.register(&*what), stop.clone())
            }));
        }
    }

    /// End those that no channel of a configuration writes by; one that doesn't answer has this time.
    pub(super) fn close_unused(&mut self, config: &Config, limit: Duration) {
        let needed: BTreeSet<&Arc<str>> = connections(config).collect();
        let unused = self.by_name.extract_if(.., |name, _| !needed.contains(name));
        let closed: Vec<Open> =
            unused.map(|(_, open)| open).chain(self.replaced.drain(..)).collect();
        while self.tasks.try_join_next().is_some() {}
        self.closing.retain(|(_, closed)| !closed.is_cancelled());
        for Open { writer, stop, .. } in closed {
            stop.cancel();
            let closed = CancellationToken::new();
            self.closing.push((writer.clone(), closed.clone()));
            self.tasks.spawn(async move {
                let _closed = closed.drop_guard();
                if tokio::time::timeout(limit, writer.idle()).await.is_err() {
                    tracing::warn!(
                        connection = &**writer.name(),
                        "no channel writes to it any more, and it doesn't answer: what waits for it is \
                         counted as lost"
                    );
                    writer.abandon();
                }
            });
        }
    }

    /// All that is to be written is there: wait until it is written.
    pub(super) async fn finish(&mut self) {
        for open in self.by_name.values() {
            open.writer.idle().await;
        }
        self.stop.cancel();
        joined(&mut self.tasks).await;
    }

    /// End all tasks at once.
    pub(super) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Count what is left as lost.
    pub(super) fn abandon(&self) {
        let open = self.by_name.values().chain(&self.replaced).map(|open| &open.writer);
        open.chain(self.closing.iter().map(|(writer, _)| writer)).for_each(Writer::abandon);
    }
}

/// The names of the connections that a configuration's channels write to by a writer.
fn connections(config: &Config) -> impl Iterator<Item = &Arc<str>> {
    let names = config.channels.iter().flat_map(Outputs::connections);
    names.map(|name| &config.connections.get(name).unwrap_or(&config.redis).name)
}
