//! The end: everything is drained, in the order in which messages go.

use std::time::{Duration, Instant};

use super::Running;
use crate::daemon::Ended;
use crate::daemon::running::joined;
use crate::service::Stop;

/// Time that is kept of `drain_timeout` for giving entries back to their streams.
const GIVE_BACK: Duration = Duration::from_secs(1);

impl Running {
    /// Stop the sources only: the rest drains as its input ends. A second signal, or the end of
    /// the time, ends it at once, and what is left is counted.
    pub(in crate::daemon) async fn drain(mut self, stop: &mut Stop) -> Ended {
        let started = Instant::now();
        let limit = self.config.drain_timeout;
        // What was given back at reloads has been taken up again.
        let given_back = self.metrics.totals().pending;
        self.stop_sources.cancel();
        let last = if self.streams.is_empty() { Duration::ZERO } else { GIVE_BACK.min(limit / 4) };
        let (drained, at_once) = tokio::select! {
            () = self.finish() => (true, false),
            () = tokio::time::sleep(limit.saturating_sub(last)) => {
                tracing::warn!("drain_timeout ({}) is up", humantime::format_duration(limit));
                (false, false)
            }
            signal = stop.next() => {
                tracing::warn!("{signal} again: stopping at once");
                (false, true)
            }
        };
        if !drained && !at_once {
            // What could not be finished goes back to its streams: that delivery doesn't count.
            self.crew.abandon();
            self.stop_crew.cancel();
            self.streams.abandon();
            let given_back = async {
                while self.streams.left() > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                () = given_back => {}
                () = tokio::time::sleep(last) => {}
                _ = stop.next() => {}
            }
        }
        if !drained {
            self.streams.shutdown().await;
            self.subscription.shutdown().await;
            self.hands.shutdown().await;
            self.singles.shutdown().await;
            self.writers.shutdown().await;
            self.crew.dissolved().await;
            self.crew.abandon();
            self.streams.abandon();
            self.singles.abandon();
            self.writers.abandon();
        }
        // That is why they see nothing more, not that channels are gone.
        self.taps.close();
        tracing::debug!("drained in {:?}", started.elapsed());
        let left = self.streams.left() as u64;
        Ended { drained, metrics: self.metrics.clone(), given_back, left }
    }

    /// Sources, then the crew, then writers: each ends when what feeds it has ended.
    async fn finish(&mut self) {
        // A stream's source ends when everything that was begun is finished: what waits is given
        // back to it.
        self.crew.close_streams();
        self.streams.ended().await;
        joined(&mut self.subscription).await;
        // What a standby holds may be nobody's: then it is handled here.
        self.singles.settled().await;
        self.crew.close();
        self.crew.idle().await;
        self.stop_crew.cancel();
        joined(&mut self.hands).await;
        self.singles.end().await;
        self.writers.finish().await;
    }
}
