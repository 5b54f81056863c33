//! A worker: takes messages from its channel's queue, runs each through the chain, and hands what
//! comes out to the outputs.
//!
//! Started and ended by the daemon, one task each; a channel with one worker keeps the order. A
//! message's failure is counted and logged here and never ends the worker.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::chain::{Chain, Convoy, Failure, Transit};
use crate::message::{Delivery, Received};
use crate::output::Outputs;
use crate::queue::{Batch, Queue};
use crate::telemetry::{DropReason, Metrics, RateLimit, printable};

/// Bytes of a failure's reason that a log line shows at most.
const LOGGED_REASON: usize = 4 << 10;

/// After so long a worker gives its thread to the other tasks. Most handlers answer without ever
/// waiting, so nothing else would make it; and one of the other tasks reads from Redis, which cuts a
/// subscriber who leaves a few megabytes unread.
const TURN: Duration = Duration::from_millis(1);

/// What the workers of one channel share.
pub struct Channel {
    /// NAME.
    pub name: Arc<str>,
    /// Where the messages wait.
    pub queue: Arc<Queue>,
    /// What handles them.
    pub chain: Chain,
    /// Where what comes out goes.
    pub outputs: Outputs,
    /// Where failures are counted.
    pub metrics: Arc<Metrics>,
    /// A broken handler can't fill the log.
    pub failure_log: RateLimit,
}

/// Work until the queue is closed and empty.
pub async fn run(channel: Arc<Channel>) {
    let mut batch = Batch::default();
    let mut convoy = Convoy::default();
    while channel.queue.take(&mut batch).await {
        let mut turn = Instant::now();
        let transit = |received: Received| Transit::new(received.delivery, received.message);
        convoy.begin(batch.drain().map(transit));
        while let Some(arrived) = channel.advance(&mut convoy).await {
            for transit in arrived.iter() {
                channel.outputs.room().await;
                channel.arrived(transit);
                batch.done(1);
            }
            if turn.elapsed() >= TURN {
                channel.outputs.flush();
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
        }
        channel.outputs.flush();
        // A queue that is never empty must not keep this thread from the other tasks. An empty one
        // is waited for anyway.
        if channel.queue.bytes() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Channel {
    /// Take the convoy further. Commands are collected for a whole batch, so that many leave in one
    /// write; but a handler that takes its time must not hold back what others have finished before
    /// it.
    async fn advance<'c>(&self, convoy: &'c mut Convoy) -> Option<&'c mut [Transit]> {
        let mut advance = pin!(self.chain.advance(convoy));
        let mut waited = false;
        poll_fn(|cx| match advance.as_mut().poll(cx) {
            Poll::Pending => {
                if !waited {
                    self.outputs.flush();
                    waited = true;
                }
                Poll::Pending
            }
            ready => ready,
        })
        .await
    }

    fn arrived(&self, transit: &Transit) {
        match &transit.outcome {
            Ok(messages) => {
                self.outputs.send(&transit.delivery, messages);
                self.queue.metrics().handled.add(1);
            }
            Err(failure) => self.failed(&transit.delivery, failure),
        }
    }

    fn failed(&self, delivery: &Delivery, failure: &Failure) {
        self.metrics.failure(&failure.handler, failure.kind);
        self.queue.metrics().lost(DropReason::Failed, 1);
        if let Some(suppressed) = self.failure_log.admit() {
            tracing::warn!(
                channel = &*self.name,
                handler = &*failure.handler,
                kind = failure.kind.as_str(),
                redis_channel = %printable(delivery.redis_channel.as_bytes(), LOGGED_REASON),
                suppressed,
                "a message was dropped, its handler failed: {}",
                printable(failure.reason.as_bytes(), LOGGED_REASON)
            );
        }
    }
}
