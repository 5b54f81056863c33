//! Everything that runs: its tasks, how its channels are exchanged, and how it is drained.
//!
//! A start is a reload of nothing. Messages see a reload as one moment: what came before it is in the
//! old channels' queues, or already in those of the channels that go on as them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Ended;
use super::handlers::{Handlers, chain};
use super::memory::{hold, queues_memory};
use super::plan::{Known, Plan, plan};
use super::reload::{Prepared, Refused};
use super::singles::{Single, Singles};
use super::streams::{Stream, Streams, sink};
use super::writers::Writers;
use crate::broker::connection::Connector;
use crate::broker::pubsub::{Change, Subscriber, Subscription};
use crate::broker::single::Lane;
use crate::broker::stream;
use crate::broker::writer::Writer;
use crate::config::{self, Config, Connection};
use crate::crew::Crew;
use crate::heartbeat::Heartbeats;
use crate::output::Outputs;
use crate::plugin::PluginHandler;
use crate::policy;
use crate::queue::{Budget, Queue, Rules, Workers};
use crate::service::{self, Stop};
use crate::tap::Hub;
use crate::telemetry::{ChannelMetrics, Metrics, RateLimit};
use crate::view::{self, Outline, View};
use crate::worker;

/// A channel's failing handler is logged this often at most.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(1);

/// Time that is kept of `drain_timeout` for giving entries back to their streams.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Pause before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked whether a channel is still in use that another goes on as.
const LOOK: Duration = Duration::from_millis(100);

/// What runs.
pub(super) struct Running {
    /// As it stood in the file at the start: what needs a restart is as it says.
    pub(super) started: Config,
    /// As it stands in the file.
    pub(super) written: Config,
    /// As it runs.
    pub(super) config: Config,
    pub(super) handlers: Handlers,
    pub(super) metrics: Arc<Metrics>,
    /// What is to be seen of all this.
    pub(super) view: Arc<View>,
    /// Where others look on at the channels' messages.
    pub(super) taps: Arc<Hub>,
    budget: Arc<Budget>,
    source: Connector,
    /// Our name in consumer groups; it is ours as long as this lives.
    consumer: Option<stream::consumer::Consumer>,
    heartbeats: Heartbeats,
    crew: Arc<Crew>,
    /// How many times channels were exchanged.
    exchanges: u64,
    /// The channels, in the order of the configuration.
    live: Vec<Live>,
    writers: Writers,
    streams: Streams,
    singles: Singles,
    subscriber: Subscriber,
    /// Channels that are no longer in the configuration, or as whom others go on, until nothing of
    /// them is left; each answers the place that is free then.
    leaving: JoinSet<Option<usize>>,
    stop_sources: CancellationToken,
    stop_crew: CancellationToken,
    subscription: JoinSet<()>,
    hands: JoinSet<()>,
}

/// The counters of channels, by their names.
type Counters = HashMap<Arc<str>, Arc<ChannelMetrics>>;

/// A channel that runs.
struct Live {
    name: Arc<str>,
    source: config::Source,
    place: usize,
    queue: Arc<Queue>,
    stream: Option<Stream>,
    single: Option<Single>,
}

/// A channel that is to run.
struct Next {
    channel: Arc<worker::Channel>,
    /// The place of the channel that it goes on as.
    place: Option<usize>,
    /// That its queue goes by from then on.
    rules: Option<Rules>,
    stream: Option<Stream>,
    single: Option<Single>,
}

impl Running {
    /// Start everything.
    pub(super) async fn start(
        written: Config,
        config: Config,
        handlers: Handlers,
        heartbeats: &Heartbeats,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let beats = heartbeats.clone();
        let view = View::new(&config.file, metrics.clone(), Box::new(move || beats.stalled()));
        let hands = std::thread::available_parallelism().map_or(1, usize::from);
        let source = Connector::new(&config.redis);
        let mut running = Running {
            started: written.clone(),
            written: written.clone(),
            config: Config { channels: Vec::new(), ..config.clone() },
            handlers: Handlers::new(),
            budget: Budget::new(queues_memory(&config)),
            subscriber: Subscriber::new(source.clone(), Vec::new(), metrics.clone()),
            metrics: metrics.clone(),
            view,
            taps: Arc::default(),
            source,
            consumer: None,
            heartbeats: heartbeats.clone(),
            crew: Crew::new(hands),
            exchanges: 0,
            live: Vec::new(),
            writers: Writers::new(heartbeats, &metrics),
            streams: Streams::new(heartbeats),
            singles: Singles::new(heartbeats),
            leaving: JoinSet::new(),
            stop_sources: CancellationToken::new(),
            stop_crew: CancellationToken::new(),
            subscription: JoinSet::new(),
            hands: JoinSet::new(),
        };
        for hand in 1..=hands {
            let (crew, stop) = (running.crew.clone(), running.stop_crew.clone());
            let (name, beats) = (format!("hand {hand}"), heartbeats.clone());
            running.hands.spawn(keep_running(name.clone(), move || {
                crew.clone().work(beats.register(&*name), stop.clone())
            }));
        }
        let exchanged = running.exchange(written, config, handlers, Vec::new()).await;
        debug_assert!(exchanged.is_some(), "nothing is in the way of the first channels");
        running
    }

    /// A connection that runs under this name, with the settings that it runs with.
    pub(super) fn connection(&self, name: &Arc<str>) -> Option<&Connection> {
        self.config.connections.get(name)
    }

    /// Take over what a reload has built, and say how it went.
    ///
    /// # Errors
    /// Why everything goes on as it was, in a line.
    pub(super) async fn reload(
        &mut self,
        prepared: Result<Option<Prepared>, Refused>,
    ) -> Result<(), String> {
        let prepared = match prepared {
            Ok(Some(prepared)) => prepared,
            Ok(None) => {
                let what = "nothing has changed that a channel uses";
                self.metrics.reloaded(true, what);
                tracing::info!("{what}");
                return Ok(());
            }
            Err(Refused(why)) => {
                let first = why.lines().next().unwrap_or_default();
                self.metrics.reloaded(false, first.strip_prefix("error: ").unwrap_or(first));
                why.lines().for_each(|line| tracing::error!("{line}"));
                tracing::error!("the reload was refused: everything goes on as it was");
                return Err(first.to_owned());
            }
        };
        let Prepared { written, config, handlers, notes } = prepared;
        let Some(what) = self.exchange(written, config, handlers, notes.clone()).await else {
            let why = "the reload failed by a fault of handlerd's own";
            self.metrics.reloaded(false, why);
            tracing::error!("{why}");
            return Err(why.to_owned());
        };
        self.metrics.reloaded(true, &what);
        tracing::info!("reloaded: {what}");
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(())
    }

    /// Names the connections for outputs that are away, whenever it is called.
    pub(super) fn away(&self) -> service::watch::Away {
        let crew = self.crew.clone();
        Box::new(move || {
            let writers = crew.writers();
            let away = writers.iter().filter(|writer| writer.is_away());
            away.map(|writer| writer.name().clone()).collect()
        })
    }

    /// Exchange the channels for those of another configuration, between two messages. Answers in
    /// words what that changes; `None` when it couldn't be done, and nothing has changed. `notes` are
    /// seen by who looks at what runs then.
    async fn exchange(
        &mut self,
        written: Config,
        config: Config,
        handlers: Handlers,
        notes: Vec<String>,
    ) -> Option<String> {
        self.writers.open(&config);
        let writers = self.writers.by_name();
        let sources = self.live.iter().map(|live| Known {
            name: live.name.clone(),
            source: live.source.clone(),
            single: live.single.is_some(),
        });
        let plan = plan(&sources.collect::<Vec<_>>(), &config.channels);
        let counters = self.counters(&plan);
        let channels = config.channels.iter().zip(&plan.before);
        let mut next: Vec<Next> = channels
            .map(|(channel, before)| {
                self.next(&config, channel, *before, &handlers, &counters, &writers)
            })
            .collect();
        let wanted = config.channels.iter().zip(&next);
        let wanted = wanted.filter(|(_, next)| next.stream.is_none());
        let wanted = wanted.map(|(channel, next)| Subscription {
            source: channel.source.clone(),
            table: channel.name.clone(),
            max_payload: channel.max_payload,
            queue: next.channel.queue.clone(),
            single: next.single.as_ref().map(|single| single.lane.clone()),
        });
        let what = self.difference(&plan, &config, &handlers);
        let singles = next.iter().filter(|next| next.place.is_none());
        let singles: Vec<Single> = singles.filter_map(|next| next.single.clone()).collect();
        if !singles.is_empty() {
            singles.into_iter().for_each(|single| self.singles.start(single, &self.source));
            self.singles.looked().await;
        }
        let succeeded = next.iter().filter_map(|next| self.crew.channel(next.place?));
        let succeeded = succeeded.map(|channel| Arc::downgrade(&channel)).collect();
        let (places, change) = self.switch(&plan, wanted.collect(), &mut next).await?;

        // In place of the old one, which would keep counters of channels that are gone.
        self.view.set(outline(&config, &next, &handlers, notes));
        let kept: BTreeSet<usize> = places.iter().copied().collect();
        let live = next.into_iter().zip(&config.channels).zip(&places);
        let live = live.map(|((next, channel), place)| {
            if let (Some(stream), None) = (&next.stream, next.place) {
                self.streams.start(stream.clone(), sink(&self.crew, *place));
            }
            Live {
                name: channel.name.clone(),
                source: channel.source.clone(),
                place: *place,
                queue: next.channel.queue.clone(),
                stream: next.stream,
                single: next.single,
            }
        });
        let live = live.collect();
        let gone = std::mem::replace(&mut self.live, live);
        for gone in gone.into_iter().filter(|gone| !kept.contains(&gone.place)) {
            self.let_go(gone, change.clone());
        }
        self.leaving.spawn(released(succeeded));
        self.budget.set_limit(queues_memory(&config));
        let counts = self.live.iter().map(|live| (live.name.clone(), live.queue.metrics().clone()));
        self.metrics.set_channels(counts.collect());
        (self.written, self.config, self.handlers) = (written, config, handlers);
        self.tidy_up();
        Some(what)
    }

    /// The counters of channels, by name, that no other channel goes on with.
    fn counters(&self, plan: &Plan) -> Counters {
        let gone = plan.gone(self.live.len()).into_iter().map(|old| &self.live[old]);
        gone.map(|live| (live.name.clone(), live.queue.metrics().clone())).collect()
    }

    /// Build a channel, beside what runs.
    fn next(
        &mut self,
        config: &Config,
        channel: &config::Channel,
        before: Option<usize>,
        handlers: &Handlers,
        counters: &Counters,
        writers: &BTreeMap<Arc<str>, Writer>,
    ) -> Next {
        let counts_of = |before: Option<&Live>| match before {
            Some(before) => before.queue.metrics().clone(),
            None => counters.get(&channel.name).cloned().unwrap_or_default(),
        };
        let workers = Workers { most: channel.workers, order_by: channel.order_by.clone() };
        if let config::Source::Stream(source) = &channel.source {
            let settings = self.stream_settings(config, channel, source);
            let kept = before.and_then(|before| {
                let Live { place, queue, stream, .. } = &self.live[before];
                Some((*place, queue.clone(), stream.clone().filter(|s| s.does(&settings))?))
            });
            let (place, queue, stream) = match kept {
                Some((place, queue, stream)) => {
                    stream.source.set_hold(hold(config, channel));
                    (Some(place), queue, stream)
                }
                None => {
                    let counts = counts_of(before.map(|before| &self.live[before]));
                    let source =
                        stream::Source::new(self.source.clone(), settings.clone(), &counts);
                    let stream = Stream::new(source, settings, &self.stop_sources);
                    (None, Queue::of_stream(workers.clone(), counts), stream)
                }
            };
            let outputs = Outputs::new(channel, writers, queue.metrics().clone());
            let finisher = Some(stream.source.finisher());
            let built = self.channel(config, channel, handlers, queue, outputs, finisher);
            return Next {
                channel: built,
                place,
                rules: Some(Rules::of_stream(workers)),
                stream: Some(stream),
                single: None,
            };
        }
        let before = before.map(|before| &self.live[before]);
        let counts = counts_of(before);
        let outputs = Outputs::new(channel, writers, counts.clone());
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
        let built = self.channel(config, channel, handlers, queue, outputs, None);
        Next { channel: built, place, rules: Some(rules), stream: None, single }
    }

    fn channel(
        &self,
        config: &Config,
        channel: &config::Channel,
        handlers: &Handlers,
        queue: Arc<Queue>,
        outputs: Outputs,
        finisher: Option<stream::Finisher>,
    ) -> Arc<worker::Channel> {
        let maxlen = channel.dead_letter_maxlen;
        Arc::new(worker::Channel {
            name: channel.name.clone(),
            queue,
            chain: chain(config, channel, handlers),
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

    /// Exchange the channels at the moment when the subscription's messages begin to go to the new
    /// ones. Answers the places of the new channels, and what is ready when nothing comes for those
    /// any more that have ended.
    async fn switch(
        &mut self,
        plan: &Plan,
        subscriptions: Vec<Subscription>,
        next: &mut [Next],
    ) -> Option<(Vec<usize>, Change)> {
        let queue = |old: &usize| self.live[*old].queue.clone();
        let held: Vec<(Arc<Queue>, Vec<Arc<Queue>>)> = next
            .iter()
            .zip(&plan.behind)
            .filter(|(next, behind)| next.stream.is_none() && !behind.is_empty())
            .map(|(next, behind)| (next.channel.queue.clone(), behind.iter().map(queue).collect()))
            .collect();
        let added = next.iter().filter(|next| next.place.is_none());
        let added: Vec<Arc<worker::Channel>> = added.map(|next| next.channel.clone()).collect();
        let succeed =
            |next: &mut Next| Some((next.place?, next.channel.clone(), next.rules.take()?));
        let successors: Vec<_> = next.iter_mut().filter_map(succeed).collect();

        self.exchanges += 1;
        let (crew, exchange) = (self.crew.clone(), self.exchanges);
        let (switched, has_switched) = oneshot::channel();
        let switch = move || {
            let adopt = |(place, channel, rules): (usize, Arc<worker::Channel>, Rules)| {
                channel.queue.adopt(rules);
                (place, channel)
            };
            let successors = successors.into_iter().map(adopt).collect();
            held.into_iter().for_each(|(queue, before)| hold_back(exchange, &queue, before));
            let _ = switched.send(crew.change(added, successors));
        };
        let change = self.subscriber.change(subscriptions, switch);
        if self.subscription.is_empty() {
            // Not before there is something to subscribe to.
            let (subscriber, stop) = (self.subscriber.clone(), self.stop_sources.clone());
            let (name, beats) = ("the subscription", self.heartbeats.clone());
            self.subscription.spawn(keep_running(name.to_owned(), move || {
                subscriber.clone().run(beats.register(name), stop.clone())
            }));
        }
        let mut new = has_switched.await.ok()?.into_iter();
        let places = next.iter().map(|next| next.place.or_else(|| new.next()));
        Some((places.collect::<Option<Vec<usize>>>()?, change))
    }

    /// A channel is no longer in the configuration: what came for it is handled, what is a stream's
    /// is given back, and then its place is free.
    fn let_go(&mut self, gone: Live, change: Change) {
        let Live { place, queue, stream, single, .. } = gone;
        let Some(stream) = stream else {
            self.leaving.spawn(async move {
                change.done().await;
                queue.close();
                queue.ended().await;
                if let Some(single) = single {
                    single.end().await;
                }
                Some(place)
            });
            return;
        };
        self.streams.stop(&stream);
        self.leaving.spawn(async move {
            queue.close();
            stream.ended.cancelled().await;
            queue.ended().await;
            Some(place)
        });
    }

    /// Wait until something has ended that a reload had left over, and tidy up behind it.
    pub(super) async fn changed(&mut self) {
        let Some(first) = self.leaving.join_next().await else {
            return std::future::pending().await;
        };
        let mut free = Vec::new();
        let mut next = Some(first);
        while let Some(left) = next {
            match left {
                Ok(place) => free.extend(place),
                Err(error) => tracing::error!("a channel that ends was lost sight of: {error}"),
            }
            next = self.leaving.try_join_next();
        }
        self.crew.vacate(&free);
        self.streams.tend();
        self.tidy_up();
    }

    /// Unless something is left that may still need it: let go of what no channel uses any more.
    fn tidy_up(&mut self) {
        if !self.leaving.is_empty() {
            return;
        }
        self.writers.close_unused(&self.config, self.config.drain_timeout);
        self.metrics.retain_handlers(|name| self.handlers.contains_key(name));
    }

    /// What a reload changes, in words.
    fn difference(&self, plan: &Plan, config: &Config, handlers: &Handlers) -> String {
        let names = |live: &Live| live.name.clone();
        let gone: Vec<Arc<str>> =
            plan.gone(self.live.len()).into_iter().map(|old| names(&self.live[old])).collect();
        let (mut new, mut renamed) = (Vec::new(), Vec::new());
        for (channel, before) in config.channels.iter().zip(&plan.before) {
            match before.map(|before| &self.live[before].name) {
                None => new.push(channel.name.clone()),
                Some(before) if *before != channel.name => {
                    renamed.push(format!("{before} to {}", channel.name).into());
                }
                Some(_) => {}
            }
        }
        let is_new = |(name, handler): (&Arc<str>, &Arc<_>)| {
            let before = self.handlers.get(name);
            before.is_none_or(|before| !Arc::ptr_eq(before, handler)).then(|| name.clone())
        };
        let changed = handlers.iter().filter_map(is_new).collect();
        let parts = [
            ("new channels", new),
            ("ended", gone),
            ("renamed", renamed),
            ("new or changed handlers", changed),
        ];
        let said = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let said: Vec<String> =
            said.map(|(what, names)| format!("{what} {}", listed(&names))).collect();
        let total = config.channels.len();
        let channels =
            if total == 1 { "1 channel".to_owned() } else { format!("{total} channels") };
        match said.is_empty() {
            true => channels,
            false => format!("{channels}; {}", said.join("; ")),
        }
    }

    /// Stop the sources only: the rest drains as its input ends. A second signal, or the end of
    /// the time, ends it at once, and what is left is counted.
    pub(super) async fn drain(mut self, stop: &mut Stop) -> Ended {
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
            self.writers.abandon();
        }
        tracing::debug!("drained in {:?}", started.elapsed());
        let mut totals = self.metrics.totals();
        totals.pending -= given_back.min(totals.pending);
        totals.pending += self.streams.left() as u64;
        Ended { drained, totals }
    }

    /// Sources, then the crew, then writers: each ends when what feeds it has ended.
    async fn finish(&mut self) {
        // A stream's source ends when everything that was begun is finished: what waits is given
        // back to it.
        self.crew.close_streams();
        self.streams.ended().await;
        joined(&mut self.subscription).await;
        self.crew.close();
        self.crew.idle().await;
        self.stop_crew.cancel();
        joined(&mut self.hands).await;
        self.singles.end().await;
        self.writers.finish().await;
    }
}

/// Names that a log line shows at most.
const NAMES_TOLD: usize = 10;

fn listed(names: &[Arc<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_TOLD).map(|name| &**name).collect();
    match names.len().saturating_sub(NAMES_TOLD) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What is to be seen of these.
fn outline(config: &Config, next: &[Next], handlers: &Handlers, warnings: Vec<String>) -> Outline {
    let channel = |(config, next): (&config::Channel, &Next)| {
        let stream = next.stream.as_ref().map(|stream| &stream.source);
        view::Channel::new(config, &next.channel, stream)
    };
    let handler = |(name, handler): (&Arc<str>, &Arc<_>)| {
        view::Handler::new(&config.handlers[name], Arc::<PluginHandler>::clone(handler))
    };
    Outline {
        channels: config.channels.iter().zip(next).map(channel).collect(),
        handlers: handlers.iter().map(handler).collect(),
        warnings,
    }
}

/// What comes into this queue from now on waits until all that is in those now is done with.
fn hold_back(exchange: u64, queue: &Arc<Queue>, before: Vec<Arc<Queue>>) {
    queue.hold(exchange);
    let left = Arc::new(AtomicUsize::new(before.len()));
    for before in before {
        let (queue, left) = (queue.clone(), left.clone());
        before.when_passed(exchange, move || {
            if left.fetch_sub(1, SeqCst) == 1 {
                queue.release_held(exchange);
            }
        });
    }
}

/// Wait until no turn of these channels goes on.
async fn released(mut channels: Vec<Weak<worker::Channel>>) -> Option<usize> {
    loop {
        channels.retain(|channel| channel.strong_count() > 0);
        if channels.is_empty() {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Run a task to its end; one that panics is named in the log and started again.
pub(super) async fn keep_running<F: Future<Output = ()>>(name: String, start: impl Fn() -> F) {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        tracing::error!("{name} failed by a fault of handlerd's own and is started again");
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// Wait for all of these tasks. One that couldn't even be started again is not waited for, and the
/// rest drains.
pub(super) async fn joined(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!("a task was lost: {error}");
        }
    }
}
