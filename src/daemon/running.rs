//! Everything that runs: its tasks, and how its channels are exchanged (`build`: new ones beside the
//! old; `difference`: what that changes, in words) and drained (`drain`).
//!
//! A start is a reload of nothing. Messages see a reload as one moment: what came before it is in the
//! old channels' queues, or already in those of the channels that go on as them.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::handlers::Handlers;
use super::memory::queues_memory;
use super::plan::{Known, Plan, plan};
use super::reload::{Before, Prepared, Refused};
use super::singles::{Single, Singles};
use super::streams::{Stream, Streams, sink};
use super::writers::Writers;
use crate::broker::connection::Connector;
use crate::broker::pubsub::{Change, Subscriber, Subscription};
use crate::broker::stream;
use crate::config::{self, Config};
use crate::crew::Crew;
use crate::heartbeat::Heartbeats;
use crate::plugin::{Host, PluginHandler};
use crate::queue::{Budget, Queue, Rules};
use crate::tap::Hub;
use crate::telemetry::Metrics;
use crate::view::{self, View};
use crate::worker;

mod build;
mod difference;
mod drain;

use build::Next;

/// Pause before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked whether a channel is still in use that another goes on as.
const LOOK: Duration = Duration::from_millis(100);

/// What runs.
pub(super) struct Running {
    /// As it stood in the file at the start: what needs a restart is as it says.
    started: Config,
    /// As it stands in the file.
    written: Config,
    /// As it runs.
    pub(super) config: Config,
    handlers: Handlers,
    /// Those whose file was gone.
    orphans: Vec<Arc<str>>,
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

/// A channel that runs.
struct Live {
    name: Arc<str>,
    source: config::Source,
    place: usize,
    queue: Arc<Queue>,
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
        host: &Arc<Host>,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (beats, host) = (heartbeats.clone(), host.clone());
        let unkept = Box::new(move || (host.cache_errors(), host.cache_trouble()));
        let stalled = Box::new(move || beats.stalled());
        let view = View::new(&config.file, metrics.clone(), stalled, unkept);
        let hands = std::thread::available_parallelism().map_or(1, usize::from);
        let source = Connector::new(&config.redis);
        let mut running = Running {
            started: written.clone(),
            written: written.clone(),
            config: Config { channels: Arc::default(), ..config.clone() },
            handlers: Handlers::new(),
            orphans: Vec::new(),
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

    /// What something new is built beside.
    pub(super) fn before(&self) -> Before {
        Before {
            started: self.started.clone(),
            written: self.written.clone(),
            config: self.config.clone(),
            handlers: self.handlers.clone(),
            orphans: self.orphans.clone(),
        }
    }

    /// Take over what a reload has built, and say how it went, or why everything goes on as it was.
    pub(super) async fn reload(&mut self, prepared: Result<Option<Prepared>, Refused>) {
        let prepared = match prepared {
            Ok(Some(prepared)) => prepared,
            Ok(None) => {
                let what = "nothing has changed that a channel uses";
                self.metrics.reloaded(true, what);
                tracing::info!("{what}");
                return;
            }
            Err(refused) => {
                self.metrics.reloaded(false, refused.in_a_line());
                refused.tell();
                tracing::error!("the reload was refused: everything goes on as it was");
                return;
            }
        };
        let Prepared { written, config, handlers, orphans, notes } = prepared;
        let Some(what) = self.exchange(written, config, handlers, notes.clone()).await else {
            let why = "the reload failed by a fault of handlerd's own";
            self.metrics.reloaded(false, why);
            tracing::error!("{why}");
            return;
        };
        self.orphans = orphans;
        self.metrics.reloaded(true, &what);
        tracing::info!("reloaded: {what}");
        notes.iter().for_each(|note| tracing::warn!("{note}"));
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
        let sources = self.live.iter().map(|live| Known {
            name: live.name.clone(),
            source: live.source.clone(),
            single: live.single.is_some(),
        });
        let plan = plan(&sources.collect::<Vec<_>>(), &config.channels);
        let mut next = self.build(&config, &plan, &handlers);
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
            let passed = || self.subscriber.passed();
            self.singles.looked((!self.subscription.is_empty()).then_some(passed)).await;
        }
        let succeeded = next.iter().filter_map(|next| self.crew.channel(next.place?));
        let succeeded = succeeded.map(|channel| Arc::downgrade(&channel)).collect();
        let (places, change) = self.switch(&plan, wanted.collect(), &mut next).await?;

        self.tell_taps_of_names(&config, &plan);
        // In place of the old one, which would keep counters of channels that are gone.
        self.show(&config, &next, &handlers, notes);
        let kept: BTreeSet<usize> = places.iter().copied().collect();
        let live = next.into_iter().zip(&*config.channels).zip(&places);
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
                if let Some(single) = &single {
                    single.settled().await;
                }
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

    /// Who looks on at a channel by a NAME that it doesn't have any more is told which it has.
    fn tell_taps_of_names(&self, config: &Config, plan: &Plan) {
        let names: BTreeSet<&Arc<str>> =
            config.channels.iter().map(|channel| &channel.name).collect();
        for (channel, before) in config.channels.iter().zip(&plan.before) {
            let before = before.map(|before| &self.live[before].name);
            if let Some(before) = before.filter(|before| !names.contains(before)) {
                self.taps.renamed(before, &channel.name);
            }
        }
    }

    /// This is what is seen from now on.
    fn show(&self, config: &Config, next: &[Next], handlers: &Handlers, warnings: Vec<String>) {
        let channel = |(config, next): (&config::Channel, &Next)| {
            let stream = next.stream.as_ref().map(|stream| &stream.source);
            let single = next.single.as_ref().map(|single| &single.lane);
            view::Channel::new(config, &next.channel, stream, single)
        };
        let handler = |(name, handler): (&Arc<str>, &Arc<_>)| {
            view::Handler::new(&config.handlers[name], Arc::<PluginHandler>::clone(handler))
        };
        let channels = config.channels.iter().zip(next).map(channel).collect();
        self.view.set(channels, handlers.iter().map(handler).collect(), warnings);
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
        self.view.tidy_up();
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
