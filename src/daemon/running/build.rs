//! Building the channels of a configuration, beside those that run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Live, Running};
use crate::broker::single::Lane;
use crate::broker::stream;
use crate::broker::writer::Writer;
use crate::config::{self, Config};
use crate::daemon::handlers::{Handlers, chain};
use crate::daemon::memory::hold;
use crate::daemon::plan::Plan;
use crate::daemon::singles::Single;
use crate::daemon::streams::Stream;
use crate::output::Outputs;
use crate::policy;
use crate::queue::{Queue, Rules, Workers};
use crate::telemetry::{ChannelMetrics, RateLimit};
use crate::worker;

/// A channel's failing handler is logged this often at most.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(1);

/// What channels are built of.
struct Parts<'a> {
    config: &'a Config,
    handlers: &'a Handlers,
    writers: BTreeMap<Arc<str>, Writer>,
    /// The counters of channels, by name, that no other channel goes on with.
    counters: HashMap<Arc<str>, Arc<ChannelMetrics>>,
}

impl Parts<'_> {
    /// The counters of the channel that this one goes on as, else those of its name.
    fn counters(&self, channel: &config::Channel, before: Option<&Live>) -> Arc<ChannelMetrics> {
        match before {
            Some(before) => before.queue.metrics().clone(),
            None => self.counters.get(&channel.name).cloned().unwrap_or_default(),
        }
    }
}

/// A channel that is to run.
pub(super) struct Next {
    pub(super) channel: Arc<worker::Channel>,
    /// The place of the channel that it goes on as.
    pub(super) place: Option<usize>,
    /// That its queue goes by from then on.
    pub(super) rules: Option<Rules>,
    pub(super) stream: Option<Stream>,
    pub(super) single: Option<Single>,
}

impl Running {
    /// Build the channels of a configuration, in its order.
    pub(super) fn build(&mut self, config: &Config, plan: &Plan, handlers: &Handlers) -> Vec<Next> {
        let gone = plan.gone(self.live.len()).into_iter().map(|old| &self.live[old]);
        let mut counters = self.metrics.leaving();
        counters.extend(gone.map(|live| (live.name.clone(), live.queue.metrics().clone())));
        let writers = self.writers.by_name();
        let parts = Parts { config, handlers, writers, counters };
        let channels = config.channels.iter().zip(&plan.before);
        let next = |(channel, before): (&config::Channel, &Option<usize>)| match &channel.source {
            config::Source::Stream(source) => self.next_stream(&parts, channel, source, *before),
            config::Source::Subscribe(_) | config::Source::Pattern(_) => {
                self.next_pubsub(&parts, channel, *before)
            }
        };
        channels.map(next).collect()
    }

    fn next_stream(
        &mut self,
        parts: &Parts<'_>,
        channel: &config::Channel,
        source: &config::StreamSource,
        before: Option<usize>,
    ) -> Next {
        let workers = workers(channel);
        let settings = self.stream_settings(parts.config, channel, source);
        let before = before.map(|before| &self.live[before]);
        let kept = before.and_then(|Live { place, queue, stream, .. }| {
            Some((*place, queue.clone(), stream.clone().filter(|s| s.does(&settings))?))
        });
        let (place, queue, stream) = match kept {
            Some((place, queue, stream)) => {
                stream.source.set_hold(hold(parts.config, channel));
                (Some(place), queue, stream)
            }
            None => {
                let counts = parts.counters(channel, before);
                let source = stream::Source::new(self.source.clone(), settings.clone(), &counts);
                let stream = Stream::new(source, settings, &self.stop_sources);
                (None, Queue::of_stream(workers.clone(), counts), stream)
            }
        };
        let outputs = Outputs::new(channel, &parts.writers, queue.metrics().clone());
        let finisher = Some(stream.source.finisher());
        let channel = self.channel(parts, channel, queue, outputs, finisher);
        let rules = Some(Rules::of_stream(workers));
        Next { channel, place, rules, stream: Some(stream), single: None }
    }

    fn next_pubsub(
        &self,
        parts: &Parts<'_>,
        channel: &config::Channel,
        before: Option<usize>,
    ) -> Next {
        let workers = workers(channel);
        let before = before.map(|before| &self.live[before]);
        let counts = parts.counters(channel, before);
        let outputs = Outputs::new(channel, &parts.writers, counts.clone());
        let (limit, overflow) = (channel.queue, channel.overflow);
        let queue = before.map_or_else(
            || {
                let workers = workers.clone();
                Queue::new(workers, limit, overflow, &self.budget, counts, outputs.away())
            },
            |before| before.queue.clone(),
        );
        let rules = Rules { workers, limit, overflow, output_away: outputs.away() };
        let place = before.map(|before| before.place);
        let kept = before.and_then(|before| before.single.clone());
        let single = channel.single.then(|| match kept {
            Some(single) => {
                single.lane.set_hold(limit);
                single
            }
            None => {
                let lane = Lane::new(&channel.name, &channel.source, limit, queue.clone());
                Single::new(lane, &self.stop_sources)
            }
        });
        let channel = self.channel(parts, channel, queue, outputs, None);
        Next { channel, place, rules: Some(rules), stream: None, single }
    }

    fn channel(
        &self,
        parts: &Parts<'_>,
        channel: &config::Channel,
        queue: Arc<Queue>,
        outputs: Outputs,
        finisher: Option<stream::Finisher>,
    ) -> Arc<worker::Channel> {
        let maxlen = channel.dead_letter_maxlen;
        Arc::new(worker::Channel {
            name: channel.name.clone(),
            queue,
            chain: chain(parts.config, channel, parts.handlers),
            outputs,
            finisher,
            policy: policy::Settings { retries: channel.retries, retry_for: channel.retry_for },
            graveyard: channel
                .dead_letter
                .clone()
                .map(|stream| worker::Graveyard { stream, maxlen }),
            metrics: self.metrics.clone(),
            failure_log: RateLimit::new(FAILURE_LOG_PERIOD),
            retired: CancellationToken::new(),
            mended: AtomicBool::new(false),
            tap: self.taps.tap(&channel.name),
        })
    }

    fn stream_settings(
        &mut self,
        config: &Config,
        channel: &config::Channel,
        source: &config::StreamSource,
    ) -> stream::Settings {
        let consumer = match &source.consumer {
            Some(name) => name.clone(),
            None => self
                .consumer
                .get_or_insert_with(stream::consumer::Consumer::of_instance)
                .name()
                .clone(),
        };
        stream::Settings {
            table: channel.name.clone(),
            keys: source.keys.clone(),
            group: source.group.clone(),
            start: source.start,
            consumer,
            batch: source.batch,
            claim_idle: source.claim_idle,
            max_deliveries: source.max_deliveries,
            when_done: source.when_done,
            payload_field: source.payload_field.clone(),
            max_payload: channel.max_payload,
            hold: hold(config, channel),
            forget: stream::Settings::FORGET,
        }
    }
}

/// How many take turns at its queue, and what they keep the order of.
fn workers(channel: &config::Channel) -> Workers {
    Workers { most: channel.workers, order_by: channel.order_by.clone() }
}
