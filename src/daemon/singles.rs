//! The channels that are single: each has a keeper, which is a task of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::running::{joined, keep_running};
use crate::broker::connection::Connector;
use crate::broker::pubsub::Change;
use crate::broker::single::{self, Lane};
use crate::heartbeat::Heartbeats;

/// How long it may take to hear how far other daemons are.
const LOOK: Duration = Duration::from_millis(500);

/// A channel that is single.
#[derive(Clone)]
pub(super) struct Single {
    pub(super) lane: Arc<Lane>,
    /// Nothing comes any more.
    stop: CancellationToken,
    /// Nothing is in hand any more.
    done: CancellationToken,
    ended: CancellationToken,
}

impl Single {
    /// One that takes no lease any more when `stop` says so.
    pub(super) fn new(lane: Arc<Lane>, stop: &CancellationToken) -> Self {
        let (done, ended) = Default::default();
        Single { lane, stop: stop.child_token(), done, ended }
    }

    /// Nothing comes: wait until it is known whose it is what is held.
    pub(super) async fn settled(&self) {
        self.lane.close();
        self.lane.settled().await;
    }

    /// Nothing comes, and all that was in hand is done with: give the lease back.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.done.cancel();
        self.ended.cancelled().await;
    }
}

/// The keepers that run.
pub(super) struct Singles {
    heartbeats: Heartbeats,
    tasks: JoinSet<()>,
    running: Vec<Single>,
}

impl Singles {
    /// None yet; their loops are watched by these.
    pub(super) fn new(heartbeats: &Heartbeats) -> Self {
        Singles { heartbeats: heartbeats.clone(), tasks: JoinSet::new(), running: Vec::new() }
    }

    /// Start its keeper.
    pub(super) fn start(&mut self, single: Single, connector: &Connector) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|single| !single.ended.is_cancelled());
        let same = |before: &&Single| before.lane.name() == single.lane.name();
        let before = self.running.iter().rfind(same);
        let before = before.map(|before| single::Before {
            lane: before.lane.clone(),
            ended: before.ended.clone(),
        });
        self.running.push(single.clone());
        let (connector, ended) = (connector.clone(), single.ended.clone().drop_guard());
        let beats = self.heartbeats.clone();
        self.tasks.spawn(async move {
            let Single { lane, stop, done, .. } = single;
            let name = format!("the lease of channel {}", lane.name());
            keep_running(name.clone(), || {
                let beat = beats.register(&*name);
                let (stop, done, before) = (stop.clone(), done.clone(), before.clone());
                single::run(lane.clone(), connector.clone(), beat, stop, done, before)
            })
            .await;
            drop(ended);
        });
    }

    /// Wait a moment until the keepers that were just started know how far other daemons are: what comes
    /// before that can't be told from what was handled elsewhere. With Redis away nothing comes.
    ///
    /// Then wait a moment for `passed`, which is begun then: that all which was published before has
    /// come. It is for the channels that run, and the new ones may take what comes after it.
    pub(super) async fn looked(&self, passed: Option<impl FnOnce() -> Change>) {
        let all = join_all(self.running.iter().map(|single| single.lane.looked()));
        if tokio::time::timeout(LOOK, all).await.is_err() {
            tracing::debug!("it isn't known yet how far other daemons are");
        }
        let Some(passed) = passed else { return };
        let looked = self.running.iter().filter(|single| single.lane.has_looked());
        let looked: Vec<&Single> = looked.collect();
        match tokio::time::timeout(LOOK, passed().done()).await {
            Ok(()) => looked.into_iter().for_each(|single| single.lane.has_passed()),
            Err(_) => tracing::debug!("Redis doesn't say yet that all has come"),
        }
    }

    /// Nothing comes: wait until it is known of all channels whose it is what is held.
    pub(super) async fn settled(&self) {
        join_all(self.running.iter().map(Single::settled)).await;
    }

    /// All that was in hand is done with: wait until it is written and the leases are given back.
    pub(super) async fn end(&mut self) {
        self.running.iter().for_each(|single| single.done.cancel());
        joined(&mut self.tasks).await;
    }

    /// End all tasks at once; the leases last a little longer.
    pub(super) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Count what is left as lost.
    pub(super) fn abandon(&self) {
        self.running.iter().for_each(|single| single.lane.abandon());
    }
}
