//! A channel's turn: takes messages from its queue, has them pass the chain, and hands what comes
//! out to the outputs.
//!
//! Called by the crew, for as many turns at a time as the channel has workers; one keeps the order.
//! A message's failure is counted and logged here and never ends anything.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::chain::{Chain, Convoy, Failure, Transit};
use crate::message::{Delivery, Received};
use crate::output::Outputs;
use crate::queue::{Batch, Queue};
use crate::telemetry::{DropReason, Metrics, RateLimit, printable};

/// Bytes of a failure's reason that a log line shows at most.
const LOGGED_REASON: usize = 4 << 10;

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

/// Messages and bytes that one turn takes, more or less.
const MOST: usize = 128;
const MOST_BYTES: usize = 256 << 10;

/// What a turn needs and leaves to the next one, of whatever channels: room for the messages.
#[derive(Default)]
pub struct Desk {
    batches: Vec<Batch>,
    convoy: Convoy,
    /// Messages that the last turn handled.
    pub handled: usize,
}

/// Handle messages of some channels whose chains are alike: a batch of each, as long as there is
/// room. What comes out is written, and goes out when `flush` is called: here that is done only
/// when a handler takes its time, which must not hold back what others have finished before it.
pub async fn turn(channels: &[&Channel], desk: &mut Desk, flush: impl Fn()) {
    let Desk { batches, convoy, handled } = desk;
    *handled = 0;
    convoy.clear();
    let (mut taken, mut bytes) = (0, 0);
    while taken < channels.len() && convoy.len() < MOST && bytes < MOST_BYTES {
        if taken == batches.len() {
            batches.push(Batch::default());
        }
        let batch = &mut batches[taken];
        channels[taken].queue.take(batch);
        bytes += batch.bytes();
        let transit = |received: Received| Transit::new(received.delivery, received.message);
        convoy.extend(batch.drain().map(transit));
        taken += 1;
    }
    let mut waited = false;
    let mut of = 0;
    while let Some(arrived) = advance(&channels[0].chain, convoy, &flush, &mut waited).await {
        for transit in arrived.iter() {
            while batches[of].is_done() {
                of += 1;
            }
            channels[of].outputs.room().await;
            channels[of].arrived(transit);
            batches[of].done(1);
        }
        *handled += arrived.len();
    }
    if waited {
        flush();
    }
}

/// Take the convoy further; flush when that has to wait.
async fn advance<'c>(
    chain: &Chain,
    convoy: &'c mut Convoy,
    flush: &impl Fn(),
    waited: &mut bool,
) -> Option<&'c mut [Transit]> {
    let mut advance = pin!(chain.advance(convoy));
    let mut flushed = false;
    poll_fn(|cx| match advance.as_mut().poll(cx) {
        Poll::Pending => {
            if !flushed {
                flush();
                flushed = true;
                *waited = true;
            }
            Poll::Pending
        }
        ready => ready,
    })
    .await
}

impl Channel {
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
