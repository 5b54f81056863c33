//! What runs, for those who look at the daemon, and what can be said of it.
//!
//! The daemon makes the [`View`], and sets its [`Outline`] again at each reload. The endpoints (and
//! whoever else shows how things go) ask it; numbers are read where they are counted, when somebody
//! asks. Never touches Redis or a message, and never shows a payload or a secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::broker::stream;
use crate::broker::writer::Writer;
use crate::chain;
use crate::config::{self, Output, Source};
use crate::queue::Queue;
use crate::status::{self, Role, Seconds, State, Status};
use crate::telemetry::{ChannelMetrics, DropReason, Flag, Metrics, OutputKind, printable};
use crate::worker;

/// Bytes of a Redis channel's name that are shown.
const SHOWN_NAME: usize = 200;

/// Tells the names of the loops that don't come around.
pub type Stalled = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Of compiled plugins: how often one could not be kept for the next start, and a sentence while that
/// is so.
pub type Unkept = Box<dyn Fn() -> (u64, Option<String>) + Send + Sync>;

/// The running daemon, seen from outside.
pub struct View {
    started: Instant,
    started_at: SystemTime,
    config: PathBuf,
    metrics: Arc<Metrics>,
    outline: ArcSwap<Outline>,
    draining: Flag,
    stalled: Stalled,
    unkept: Unkept,
}

/// What runs between two reloads.
#[derive(Default)]
pub struct Outline {
    /// In the order of the configuration.
    pub channels: Vec<Channel>,
    /// By name.
    pub handlers: Vec<Handler>,
    /// What an operator should know since the last reload, in sentences: a removed plugin file that is
    /// still in use, keys that need a restart.
    pub warnings: Vec<String>,
}

/// A channel that runs.
pub struct Channel {
    /// NAME of `[channels.NAME]`.
    pub name: Arc<str>,
    source: Source,
    handlers: Vec<Arc<str>>,
    /// The kinds of output that it may have.
    outputs: Vec<OutputKind>,
    queue: Arc<Queue>,
    limit: usize,
    writers: Vec<Writer>,
    stream: Option<stream::Source>,
    /// Whether one daemon at a time handles its messages.
    pub is_single: bool,
}

/// A handler that runs.
pub struct Handler {
    /// Its name.
    pub name: Arc<str>,
    plugin: PathBuf,
    handler: Arc<dyn chain::Handler>,
}

impl View {
    /// Of the daemon that begins now, with this configuration's file.
    pub fn new(
        config: &Path,
        metrics: Arc<Metrics>,
        stalled: Stalled,
        unkept: Unkept,
    ) -> Arc<View> {
        Arc::new(View {
            started: Instant::now(),
            started_at: SystemTime::now(),
            config: std::path::absolute(config).unwrap_or_else(|_| config.to_owned()),
            metrics,
            outline: ArcSwap::default(),
            draining: Flag::default(),
            stalled,
            unkept,
        })
    }

    /// This is what runs from now on.
    pub fn set(&self, outline: Outline) {
        self.outline.store(Arc::new(outline));
    }

    /// No more messages are taken.
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What runs now.
    pub fn outline(&self) -> Arc<Outline> {
        self.outline.load_full()
    }

    /// When the daemon was started.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// The names of the loops that don't come around.
    pub fn stalled(&self) -> Vec<String> {
        (self.stalled)()
    }

    /// How often a compiled plugin could not be kept for the next start.
    pub fn cache_errors(&self) -> u64 {
        (self.unkept)().0
    }

    /// Why not every source is read and what comes of it delivered: a sentence for each thing that
    /// is missing. Empty when all is well.
    pub fn not_ready(&self) -> Vec<String> {
        let draining =
            self.draining.get().then(|| "draining: no more messages are taken".to_owned());
        let outline = self.outline();
        draining.into_iter().chain(outline.channels.iter().flat_map(Channel::not_ready)).collect()
    }

    /// Each connection once for each thing that it is for.
    pub fn redis(&self) -> Vec<status::Redis> {
        let outline = self.outline();
        let channels = &outline.channels;
        let is_stream = |channel: &Channel| channel.stream.is_some();
        let mut redis = Vec::new();
        if !channels.is_empty() {
            let subscribed = channels.iter().all(is_stream) || self.metrics.subscription.get();
            let away = |channel: &Channel| {
                channel.metrics().stream.troubles().iter().any(|(_, trouble)| trouble.away)
            };
            let connected = subscribed && !channels.iter().filter(|c| is_stream(c)).any(away);
            let connection = config::OWN_CONNECTION.to_owned();
            redis.push(status::Redis { connection, role: Role::Source, connected });
        }
        let writers = channels.iter().flat_map(|channel| &channel.writers);
        let writers: BTreeMap<&str, bool> =
            writers.map(|writer| (&**writer.name(), !writer.is_away())).collect();
        redis.extend(writers.into_iter().map(|(name, connected)| status::Redis {
            connection: name.to_owned(),
            role: Role::Outputs,
            connected,
        }));
        redis
    }

    /// All of it.
    pub fn status(&self) -> Status {
        let outline = self.outline();
        let not_ready = self.not_ready();
        let failures = self.metrics.failures();
        let handlers = outline.handlers.iter().map(|handler| handler.status(&failures));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config: self.config.display().to_string(),
            uptime_ms: self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            state: if self.draining.get() { State::Draining } else { State::Running },
            ready: not_ready.is_empty(),
            not_ready,
            stalled: self.stalled(),
            redis: self.redis(),
            reconnects: self.metrics.totals().reconnects,
            channels: outline.channels.iter().map(Channel::status).collect(),
            handlers: handlers.collect(),
            reload: self.metrics.reloads(),
            warnings: outline.warnings.iter().cloned().chain((self.unkept)().1).collect(),
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Channel {
    /// Of this table, run by these workers; `stream` where that is its source.
    pub fn new(
        config: &config::Channel,
        running: &worker::Channel,
        stream: Option<&stream::Source>,
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
            limit: stream.map_or(config.queue, stream::Source::hold),
            writers: running.outputs.writers().cloned().collect(),
            stream: stream.cloned(),
            is_single: config.single,
        }
    }

    /// Its counters.
    pub fn metrics(&self) -> &ChannelMetrics {
        self.queue.metrics()
    }

    /// Whether its source is a stream.
    pub fn is_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Bytes that wait, and how many may.
    pub fn queue_bytes(&self) -> (usize, usize) {
        (self.queue.bytes(), self.limit)
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
        counted.into_iter().filter(|(reason, n)| *n > 0 || reason.may_be_of(self.is_stream()))
    }

    /// A sentence for each thing that is missing.
    fn not_ready(&self) -> Vec<String> {
        let name = &self.name;
        let mut missing = Vec::new();
        let unsubscribed = self.metrics().unsubscribed.names();
        if !unsubscribed.is_empty() {
            missing.push(format!("channel {name}: not subscribed to {}", listed(&unsubscribed)));
        }
        let what = if self.is_stream() { "stream" } else { "lease" };
        for (key, trouble) in self.metrics().stream.troubles() {
            missing.push(format!("channel {name}: {what} {}: {}", quoted(&key), trouble.text));
        }
        for writer in self.writers.iter().filter(|writer| writer.is_away()) {
            let connection = writer.name();
            missing.push(format!("channel {name}: the Redis {connection} of its outputs is away"));
        }
        missing
    }

    fn status(&self) -> status::Channel {
        let metrics = self.metrics();
        let (queue_bytes, queue_limit) = self.queue_bytes();
        let delivered = self.delivered().map(|(kind, n)| (kind.as_str().to_owned(), n));
        let dropped = DropReason::ALL.map(|reason| (reason, metrics.dropped(reason)));
        let dropped = dropped.into_iter().filter(|(_, n)| *n > 0);
        status::Channel {
            name: self.name.to_string(),
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
            ready: self.not_ready().is_empty(),
            gap_ms: metrics.gap_ms.get(),
            stream: self.stream.as_ref().map(|source| status::Stream {
                pending: metrics.stream.pending(),
                lag: metrics.stream.lag(),
                in_hand: source.in_hand() as u64,
                claimed: metrics.stream.claimed.get(),
                redelivered: metrics.stream.redelivered.get(),
            }),
            single: self.is_single.then(|| status::Single {
                leads: metrics.single.is_leader(),
                takeovers: metrics.single.takeovers.get(),
                gaps: metrics.single.gaps.get(),
            }),
        }
    }
}

impl Handler {
    /// Of this configuration.
    pub fn new(config: &config::Handler, handler: Arc<dyn chain::Handler>) -> Self {
        Handler { name: config.name.clone(), plugin: config.plugin.clone(), handler }
    }

    /// What is to be seen of it.
    pub fn seen(&self) -> Option<chain::Seen> {
        self.handler.seen()
    }

    fn status(&self, failures: &BTreeMap<(Arc<str>, &'static str), u64>) -> status::Handler {
        let of_this = failures.iter().filter(|((handler, _), _)| *handler == self.name);
        let seen = self.seen();
        let timing = seen.as_ref().map(|seen| seen.timing.snapshot());
        let seconds = timing.map(|timing| Seconds {
            count: timing.count(),
            sum: timing.sum(),
            p50: timing.quantile(0.5),
            p99: timing.quantile(0.99),
        });
        status::Handler {
            name: self.name.to_string(),
            plugin: self.plugin.display().to_string(),
            sha256: seen.map(|seen| seen.sha256).unwrap_or_default(),
            calls: seconds.map_or(0, |seconds| seconds.count),
            failures: of_this.map(|((_, kind), n)| ((*kind).to_owned(), *n)).collect(),
            seconds: seconds.unwrap_or_default(),
        }
    }
}

fn listed(names: &[Arc<str>]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    names.join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", printable(name.as_bytes(), SHOWN_NAME))
}
