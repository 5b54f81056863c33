//! Builds everything, then starts it; watches over it, and drains it at the end.
//!
//! Called by `handlerd run`. Nothing is started before all of it has been built, so a bad plugin
//! ends the start with no message touched. Owns every task: none is detached, and one that ends
//! early is a named event and is started again.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::connection::Connector;
use crate::broker::pubsub::{self, Subscription};
use crate::broker::stream::{self, Taken};
use crate::broker::writer::Writer;
use crate::chain::{Chain, Handler, RunLimits};
use crate::config::{self, Config};
use crate::control::{Control, Inside};
use crate::crew::Crew;
use crate::output::Outputs;
use crate::plugin::{Host, PluginError};
use crate::policy;
use crate::queue::{Budget, Queue, Received, Workers};
use crate::service::Stop;
use crate::tap::Hub;
use crate::telemetry::{Metrics, RateLimit, Totals};
use crate::view::{self, Outline, View};
use crate::{http, worker};

/// A channel's failing handler is logged this often at most.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(1);

/// Time that is kept of `drain_timeout` for giving entries back to their streams.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Pause before a task that panicked is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// The handlers of a configuration, loaded and set up, by name.
pub type Handlers = BTreeMap<Arc<str>, Arc<dyn Handler>>;

/// A handler that can't be had, with why.
#[derive(Debug)]
pub struct HandlerError {
    /// NAME of the handler.
    pub handler: Arc<str>,
    /// Why not.
    pub error: PluginError,
}

/// Load every handler of the configuration, all at once.
///
/// # Errors
/// All those that can't be had, in the order of their names.
pub async fn load_handlers(
    config: &Config,
    host: &Arc<Host>,
) -> Result<Handlers, Vec<HandlerError>> {
    let loading = config.handlers.values().map(|handler| async move {
        let error = |error| HandlerError { handler: handler.name.clone(), error };
        let loaded = host.load(handler).await.map_err(error)?;
        Ok((handler.name.clone(), loaded as Arc<dyn Handler>))
    });
    let mut handlers = Handlers::new();
    let mut errors = Vec::new();
    for loaded in futures_util::future::join_all(loading).await {
        match loaded {
            Ok((name, handler)) => drop(handlers.insert(name, handler)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(handlers) } else { Err(errors) }
}

/// The chain of a channel, of handlers that have been loaded.
pub fn chain(config: &Config, channel: &config::Channel, handlers: &Handlers) -> Chain {
    let limits = channel.handlers.iter().map(|name| config.handlers[name].limits);
    let run_limits =
        limits.fold(RunLimits { max_outputs: 1, max_output: 0 }, |sum, limits| RunLimits {
            max_outputs: sum.max_outputs.max(limits.max_outputs),
            max_output: sum.max_output.max(limits.max_output),
        });
    let chain = channel.handlers.iter().map(|name| handlers[name].clone()).collect();
    Chain::new(chain, run_limits, channel.routes.clone())
}

/// Run until a signal asks for an end, and drain. Whatever happens meanwhile is lived with.
pub async fn run(config: Config, handlers: Handlers, stop: &mut Stop) -> Ended {
    let taps = Arc::new(Hub::default());
    let daemon = Daemon::build(&config, &handlers, &taps);
    // No loop is watched yet.
    let view = View::new(&config.file, daemon.metrics.clone(), Box::new(Vec::new));
    view.set(daemon.outline(&config, &handlers));
    let _endpoints = config.http.listen.map(|listen| http::Server::start(listen, view.clone()));
    let shown = view.clone();
    let inside = Inside { status: Arc::new(move || shown.status()), taps };
    let control = Control::start(&config.file, inside);
    let running = daemon.start();
    let signal = stop.next().await;
    view.drain();
    tracing::info!("{signal}: no more messages are taken; what was taken is finished");
    let ended = running.drain(config.drain_timeout, stop).await;
    control.stop().await;
    ended
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether everything was finished in time.
    pub drained: bool,
    /// The sums of the whole run.
    pub totals: Totals,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            received,
            handled,
            delivered,
            dead_letters,
            pending,
            dropped,
            failures,
            reconnects,
            gap,
        } = &self.totals;
        let how = if self.drained { "stopped" } else { "stopped before everything was finished" };
        write!(f, "{how}: {received} received, {handled} handled, {delivered} delivered")?;
        if *dead_letters > 0 {
            write!(f, ", {dead_letters} dead letters")?;
        }
        if *pending > 0 {
            write!(f, ", {pending} left pending")?;
        }
        let lost: u64 = dropped.values().sum();
        write!(f, ", {lost} lost")?;
        listed(f, dropped.iter().map(|(reason, n)| (reason.as_str(), n)))?;
        if !failures.is_empty() {
            write!(f, ", {} failures of handlers", failures.values().sum::<u64>())?;
            listed(f, failures.iter().map(|(kind, n)| (*kind, n)))?;
        }
        if *reconnects > 0 {
            let gap = gap.as_secs_f64();
            write!(f, ", {reconnects} reconnects, at most {gap:.1} s without a subscription")?;
        }
        Ok(())
    }
}

/// ` (word number, word number)`, or nothing.
fn listed<'a>(
    f: &mut fmt::Formatter<'_>,
    words: impl Iterator<Item = (&'a str, &'a u64)>,
) -> fmt::Result {
    let words: Vec<String> = words.map(|(word, n)| format!("{word} {n}")).collect();
    if words.is_empty() { Ok(()) } else { write!(f, " ({})", words.join(", ")) }
}

/// Everything, built and not started.
struct Daemon {
    metrics: Arc<Metrics>,
    writers: BTreeMap<Arc<str>, Writer>,
    channels: Vec<Arc<worker::Channel>>,
    subscriptions: Vec<Subscription>,
    /// Each with the place of its channel.
    streams: Vec<(usize, stream::Source)>,
    /// Our name in consumer groups; it is ours as long as this lives.
    consumer: Option<stream::consumer::Consumer>,
    source: Connector,
    taps: Arc<Hub>,
}

impl Daemon {
    fn build(config: &Config, handlers: &Handlers, taps: &Arc<Hub>) -> Self {
        let metrics = Arc::new(Metrics::default());
        let budget = Budget::new(config.memory);
        let source = Connector::new(&config.redis);
        let mut daemon = Daemon {
            metrics,
            writers: writers(config),
            channels: Vec::new(),
            subscriptions: Vec::new(),
            streams: Vec::new(),
            consumer: None,
            source,
            taps: taps.clone(),
        };
        for channel in &config.channels {
            let counts = daemon.metrics.channel(&channel.name);
            let outputs = Outputs::new(channel, &daemon.writers, counts.clone());
            let workers = Workers { most: channel.workers, order_by: channel.order_by.clone() };
            if let config::Source::Stream(stream) = &channel.source {
                let settings = daemon.stream_settings(config, channel, stream);
                let source = stream::Source::new(daemon.source.clone(), settings, &counts);
                let queue = Queue::of_stream(workers, counts);
                let finisher = Some(source.finisher());
                let place = daemon.channels.len();
                daemon.streams.push((place, source));
                daemon.add(config, channel, handlers, queue, outputs, finisher);
                continue;
            }
            let queue = Queue::new(
                workers,
                channel.queue,
                channel.overflow,
                &budget,
                counts,
                outputs.away(),
            );
            daemon.subscriptions.push(Subscription {
                source: channel.source.clone(),
                table: channel.name.clone(),
                max_payload: channel.max_payload,
                queue: queue.clone(),
            });
            daemon.add(config, channel, handlers, queue, outputs, None);
        }
        daemon
    }

    fn add(
        &mut self,
        config: &Config,
        channel: &config::Channel,
        handlers: &Handlers,
        queue: Arc<Queue>,
        outputs: Outputs,
        finisher: Option<stream::Finisher>,
    ) {
        self.channels.push(Arc::new(worker::Channel {
            name: channel.name.clone(),
            queue,
            chain: chain(config, channel, handlers),
            outputs,
            finisher,
            policy: policy::Settings { retries: channel.retries, retry_for: channel.retry_for },
            graveyard: channel
                .dead_letter
                .clone()
                .map(|stream| worker::Graveyard { stream, maxlen: channel.dead_letter_maxlen }),
            metrics: self.metrics.clone(),
            failure_log: RateLimit::new(FAILURE_LOG_PERIOD),
            tap: self.taps.tap(&channel.name),
        }));
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
        // All streams together hold no more than the queues may.
        let is_stream = |c: &&config::Channel| matches!(c.source, config::Source::Stream(_));
        let streams = config.channels.iter().filter(is_stream).count();
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
            hold: channel.queue.min(config.memory / streams.max(1)),
            forget: stream::Settings::FORGET,
        }
    }

    /// What is to be seen of it.
    fn outline(&self, config: &Config, handlers: &Handlers) -> Outline {
        let channel = |(place, (config, running)): (usize, (&config::Channel, _))| {
            let stream = self.streams.iter().find(|(of, _)| *of == place);
            let running: &Arc<worker::Channel> = running;
            view::Channel::new(config, running, stream.map(|(_, source)| source))
        };
        let pairs = config.channels.iter().zip(&self.channels);
        let handler = |(name, handler): (&Arc<str>, &Arc<dyn Handler>)| {
            view::Handler::new(&config.handlers[name], handler.clone())
        };
        Outline {
            channels: pairs.enumerate().map(channel).collect(),
            handlers: handlers.iter().map(handler).collect(),
            warnings: Vec::new(),
        }
    }

    fn start(self) -> Running {
        let stop_sources = CancellationToken::new();
        let stop_writers = CancellationToken::new();
        let mut tasks = JoinSet::new();

        for writer in self.writers.values() {
            let (writer, metrics, stop) =
                (writer.clone(), self.metrics.clone(), stop_writers.clone());
            let name = format!("the writer of {}", writer.name());
            tasks.spawn(keep_running(Task::Writer, name, move || {
                writer.clone().run(metrics.clone(), stop.clone())
            }));
        }
        let hands = std::thread::available_parallelism().map_or(1, usize::from);
        let crew = Crew::new(hands, self.channels, self.writers.values().cloned().collect());
        let stop_crew = CancellationToken::new();
        for hand in 1..=hands {
            let (crew, stop) = (crew.clone(), stop_crew.clone());
            tasks.spawn(keep_running(Task::Hand, format!("hand {hand}"), move || {
                crew.clone().work(stop.clone())
            }));
        }
        // After the crew: a queue that gets messages before somebody is told of them stands still.
        let sources = usize::from(!self.subscriptions.is_empty()) + self.streams.len();
        for (place, source) in self.streams.iter().cloned() {
            let (channel, stop) = (crew.channels()[place].clone(), stop_sources.clone());
            let name = format!("the stream of channel {}", channel.name);
            tasks.spawn(keep_running(Task::Source, name, move || {
                let channel = channel.clone();
                source.clone().run(Arc::new(move |taken| take(&channel, taken)), stop.clone())
            }));
        }
        let (source, subscriptions) = (self.source, self.subscriptions);
        let (metrics, stop) = (self.metrics.clone(), stop_sources.clone());
        if !subscriptions.is_empty() {
            tasks.spawn(keep_running(Task::Source, "the subscription".to_owned(), move || {
                pubsub::run(source.clone(), subscriptions.clone(), metrics.clone(), stop.clone())
            }));
        }
        Running {
            metrics: self.metrics,
            writers: self.writers,
            crew,
            sources,
            streams: self.streams.into_iter().map(|(_, source)| source).collect(),
            _consumer: self.consumer,
            stop_sources,
            stop_crew,
            stop_writers,
            tasks,
        }
    }
}

/// Entries that a stream's source hands on.
fn take(channel: &worker::Channel, taken: Vec<Taken>) {
    let mut messages = Vec::with_capacity(taken.len());
    for taken in taken {
        match taken {
            Taken::Message(received, entry) => {
                messages.push(Received { entry: Some(entry), ..received });
            }
            Taken::Unfit(unfit) => channel.unfit(unfit),
        }
    }
    channel.queue.push(&mut messages);
}

fn writers(config: &Config) -> BTreeMap<Arc<str>, Writer> {
    let mut writers = BTreeMap::new();
    for channel in &config.channels {
        for name in Outputs::connections(channel) {
            let connection = config.connections.get(name).unwrap_or(&config.redis);
            writers
                .entry(connection.name.clone())
                .or_insert_with(|| Writer::new(Connector::new(connection)));
        }
    }
    writers
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Source,
    Hand,
    Writer,
}

/// Run a task to its end; one that panics is named in the log and started again.
async fn keep_running<F: Future<Output = ()>>(
    task: Task,
    name: String,
    start: impl Fn() -> F,
) -> Task {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        tracing::error!("{name} failed by a fault of handlerd's own and is started again");
        tokio::time::sleep(RESTART_PAUSE).await;
    }
    task
}

struct Running {
    metrics: Arc<Metrics>,
    writers: BTreeMap<Arc<str>, Writer>,
    crew: Arc<Crew>,
    /// How many sources there are.
    sources: usize,
    streams: Vec<stream::Source>,
    _consumer: Option<stream::consumer::Consumer>,
    stop_sources: CancellationToken,
    stop_crew: CancellationToken,
    stop_writers: CancellationToken,
    tasks: JoinSet<Task>,
}

impl Running {
    /// Stop the sources only: the rest drains as its input ends. A second signal, or the end of
    /// the time, ends it at once, and what is left is counted.
    async fn drain(mut self, limit: Duration, stop: &mut Stop) -> Ended {
        let started = Instant::now();
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
            self.streams.iter().for_each(stream::Source::abandon);
            let given_back = async {
                while self.streams.iter().any(|source| source.left() > 0) {
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
            self.tasks.shutdown().await;
            self.crew.dissolved().await;
            self.crew.abandon();
            self.streams.iter().for_each(stream::Source::abandon);
            self.writers.values().for_each(Writer::abandon);
        }
        tracing::debug!("drained in {:?}", started.elapsed());
        let mut totals = self.metrics.totals();
        totals.pending += self.streams.iter().map(|source| source.left() as u64).sum::<u64>();
        Ended { drained, totals }
    }

    /// Sources, then the crew, then writers: each ends when what feeds it has ended.
    async fn finish(&mut self) {
        // A stream's source ends when everything that was begun is finished: what waits is given
        // back to it.
        self.crew.close_streams();
        self.join(Task::Source).await;
        self.crew.close();
        self.crew.idle().await;
        self.stop_crew.cancel();
        self.join(Task::Hand).await;
        for writer in self.writers.values() {
            writer.idle().await;
        }
        self.stop_writers.cancel();
        self.join(Task::Writer).await;
    }

    /// Wait for all tasks of a kind; those of the kinds before it have ended.
    async fn join(&mut self, kind: Task) {
        let mut left = match kind {
            Task::Source => self.sources,
            Task::Hand => self.tasks.len() - self.writers.len(),
            Task::Writer => self.tasks.len(),
        };
        while left > 0 {
            match self.tasks.join_next().await {
                Some(Ok(ended)) if ended == kind => left -= 1,
                Some(Ok(_)) => {}
                // One that can't even be started again: it is not waited for, and the rest drains.
                Some(Err(error)) => {
                    tracing::error!("a task was lost: {error}");
                    left -= 1;
                }
                None => break,
            }
        }
    }
}
