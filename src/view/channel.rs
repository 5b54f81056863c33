//! A channel that runs, as those see it who look: its numbers, and what is in its way.
//!
//! Made by the daemon when it builds the channel; read by the view, and by whoever shows numbers.

use std::collections::HashSet;
use std::sync::Arc;

use super::problem::{Problem, Trouble, listed, quoted};
use crate::broker::single::Lane;
use crate::broker::stream;
use crate::broker::writer::Writer;
use crate::config::{self, Output, Source};
use crate::queue::{Holder, Queue};
use crate::status;
use crate::telemetry::{ChannelMetrics, DropReason, OutputKind, StreamTrouble};
use crate::worker;

/// A channel that runs.
#[derive(Clone)]
pub struct Channel {
    /// NAME of `[channels.NAME]`.
    pub name: Arc<str>,
    source: Source,
    pub(super) handlers: Vec<Arc<str>>,
    /// The kinds of output that it may have.
    outputs: Vec<OutputKind>,
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: Arc<ChannelMetrics>,
    limit: usize,
    pub(super) writers: Vec<Writer>,
    stream: Option<stream::Source>,
    single: Option<Arc<Lane>>,
    /// Whether a reload has taken it out.
    pub is_ending: bool,
}

impl Channel {
    /// Of this table, run by these workers; with its stream where that is its source, or what it
    /// shares its messages with others by.
    pub fn new(
        config: &config::Channel,
        running: &worker::Channel,
        stream: Option<&stream::Source>,
        single: Option<&Arc<Lane>>,
    ) -> Self {
        let routes = &config.routes;
        let kind = |output: &Output| match output {
            Output::Publish(_) => OutputKind::Publish,
            Output::Append(_) => OutputKind::Append,
            Output::Push(_) => OutputKind::Push,
            Output::Log => OutputKind::Log,
        };
        let mut outputs: Vec<OutputKind> = config.outputs.iter().map(kind).collect();
        outputs.extend((!routes.publish.is_empty()).then_some(OutputKind::Publish));
        outputs.extend((!routes.append.is_empty()).then_some(OutputKind::Append));
        outputs.extend((!routes.push.is_empty()).then_some(OutputKind::Push));
        Channel {
            name: config.name.clone(),
            source: config.source.clone(),
            handlers: config.handlers.clone(),
            outputs,
            queue: running.queue.clone(),
            metrics: running.queue.metrics().clone(),
            limit: stream.map_or(config.queue, stream::Source::hold),
            writers: running.outputs.writers().cloned().collect(),
            stream: stream.cloned(),
            single: single.cloned(),
            is_ending: false,
        }
    }

    /// The same, taken out by a reload.
    pub(super) fn ending(&self) -> Self {
        Channel { is_ending: true, ..self.clone() }
    }

    /// The same, with counters of its own, in which is nothing: another channel has those that it had.
    pub(super) fn uncounted(&self) -> Self {
        Channel { metrics: Arc::default(), ..self.clone() }
    }

    /// Its counters. Of one that is ending and whose counters another channel of its NAME goes on
    /// with, they are seen there, and here is nothing.
    pub fn metrics(&self) -> &ChannelMetrics {
        &self.metrics
    }

    /// Whether a message waits or is being handled, or a write has no answer. Of one whose counters are
    /// those of a channel that runs it isn't known whose writes these are.
    pub(super) fn has_something_in_hand(
        &self,
        of_running: &HashSet<*const ChannelMetrics>,
    ) -> bool {
        let is_shared = of_running.contains(&Arc::as_ptr(&self.metrics));
        !self.queue.is_at_rest()
            || (!is_shared && self.metrics.is_written_for())
            || self.stream.as_ref().is_some_and(|stream| stream.left() > 0)
            || self.single.as_ref().is_some_and(|lane| lane.has_lease())
    }

    /// Whether nothing comes any more, and nothing is left.
    pub(super) fn is_done(&self, of_running: &HashSet<*const ChannelMetrics>) -> bool {
        self.queue.is_closed() && !self.has_something_in_hand(of_running)
    }

    /// Whether one daemon at a time handles its messages.
    pub fn is_single(&self) -> bool {
        self.single.is_some()
    }

    /// Whether its source is a stream.
    pub fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Bytes that wait, those that a standby holds among them, and how many may.
    pub fn queue_bytes(&self) -> (usize, usize) {
        let held = self.single.as_ref().map_or(0, |lane| lane.bytes());
        (self.queue.bytes() + held, self.limit)
    }

    /// Entries of its streams that are in hand.
    pub fn in_hand(&self) -> usize {
        self.stream.as_ref().map_or(0, stream::Source::in_hand)
    }

    /// What went out, by each kind that it may have and each that there was.
    pub fn delivered(&self) -> impl Iterator<Item = (OutputKind, u64)> {
        let counted = OutputKind::ALL.map(|kind| (kind, self.metrics().delivered.by(kind)));
        counted.into_iter().filter(|(kind, n)| *n > 0 || self.outputs.contains(kind))
    }

    /// What was lost, by each reason that there may be.
    pub fn dropped(&self) -> impl Iterator<Item = (DropReason, u64)> {
        let counted = DropReason::ALL.map(|reason| (reason, self.metrics().dropped(reason)));
        let may_be = |reason: DropReason| match reason {
            DropReason::LogFull => self.outputs.contains(&OutputKind::Log),
            other => other.may_be_of(self.is_stream()),
        };
        counted.into_iter().filter(move |(reason, n)| *n > 0 || may_be(*reason))
    }

    /// What is in the way of its messages.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let channel = &self.name;
        let mut problems = Vec::new();
        let names = self.metrics().unsubscribed.names();
        if !names.is_empty() {
            problems.push(Problem::Unsubscribed { channel: channel.clone(), names });
        }
        let kind = if self.is_stream() { Problem::Stream } else { Problem::Lease };
        for (key, StreamTrouble { text, .. }) in self.metrics().stream.troubles() {
            problems.push(kind(Trouble { channel: channel.clone(), key, text }));
        }
        for writer in self.writers.iter().filter(|writer| writer.is_away()) {
            let (channel, connection) = (channel.clone(), writer.name().clone());
            problems.push(Problem::OutputsAway { channel, connection });
        }
        match self.is_ending {
            true => problems.into_iter().map(|p| Problem::Ending(Box::new(p))).collect(),
            false => problems,
        }
    }

    /// `ready`: whether nothing is in the way of its messages.
    pub(super) fn status(&self, ready: bool) -> status::Channel {
        let metrics = self.metrics();
        let (queue_bytes, queue_limit) = self.queue_bytes();
        let delivered = self.delivered().map(|(kind, n)| (kind.as_str().to_owned(), n));
        let dropped = DropReason::ALL.map(|reason| (reason, metrics.dropped(reason)));
        let dropped = dropped.into_iter().filter(|(_, n)| *n > 0);
        status::Channel {
            name: self.name.to_string(),
            ending: self.is_ending,
            source: match &self.source {
                Source::Subscribe(names) => format!("subscribe {}", listed(names)),
                Source::Pattern(patterns) => format!("pattern {}", listed(patterns)),
                Source::Stream(stream) => {
                    format!("stream {} group {}", listed(&stream.keys), quoted(&stream.group))
                }
            },
            handlers: self.handlers.iter().map(|name| name.to_string()).collect(),
            received: metrics.received.get(),
            handled: metrics.handled.get(),
            delivered: delivered.collect(),
            dead_letters: metrics.dead_letters.get(),
            dropped: dropped.map(|(reason, n)| (reason.as_str().to_owned(), n)).collect(),
            queue_bytes: queue_bytes as u64,
            queue_limit: queue_limit as u64,
            ready,
            gap_ms: metrics.gap_ms.get(),
            stream: self.stream.as_ref().map(|source| status::Stream {
                pending: metrics.stream.pending(),
                lag: metrics.stream.lag(),
                in_hand: source.in_hand() as u64,
                claimed: metrics.stream.claimed.get(),
                redelivered: metrics.stream.redelivered.get(),
            }),
            single: self.is_single().then(|| status::Single {
                leads: metrics.single.is_leader(),
                takeovers: metrics.single.takeovers.get(),
                gaps: metrics.single.gaps.get(),
            }),
        }
    }
}
