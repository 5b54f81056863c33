//! What runs, for those who look at the daemon, and what can be said of it.
//!
//! The daemon makes the [`View`], and sets its [`Outline`] again at each reload. The endpoints (and
//! whoever else shows how things go) ask it; numbers are read where they are counted, when somebody
//! asks. Never touches Redis or a message, and never shows a payload or a secret.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::chain;
use crate::config;
use crate::status::{self, Role, State, Status};
use crate::telemetry::{ChannelMetrics, Flag, Metrics};

mod channel;
mod problem;

pub use channel::Channel;
pub use problem::{Problem, Trouble};

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
#[derive(Clone, Default)]
pub struct Outline {
    /// In the order of the configuration.
    pub channels: Vec<Arc<Channel>>,
    /// Those that reloads have taken out, the latest last; some are done with everything by now.
    ending: Vec<Arc<Channel>>,
    /// By name; behind them those that only channels have which reloads have taken out.
    handlers: Vec<Handler>,
    /// What an operator should know since the last reload, in sentences: a removed plugin file that is
    /// still in use, keys that need a restart.
    pub warnings: Vec<String>,
}

/// A handler that runs.
#[derive(Clone)]
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

    /// This is what runs from now on. What ran before and doesn't any more is seen until it is done
    /// with what it has in hand.
    pub fn set(&self, channels: Vec<Channel>, handlers: Vec<Handler>, warnings: Vec<String>) {
        let before = self.outline();
        let channels: Vec<Arc<Channel>> = channels.into_iter().map(Arc::new).collect();
        let queues: HashSet<_> =
            channels.iter().map(|channel| Arc::as_ptr(&channel.queue)).collect();
        let ran = before.channels.iter().filter(|ran| !queues.contains(&Arc::as_ptr(&ran.queue)));
        let ends = ran.map(|channel| Arc::new(channel.ending()));
        let ending = before.ending.iter().cloned().chain(ends).collect();
        let mut handlers = handlers;
        let names: HashSet<_> = handlers.iter().map(|handler| handler.name.clone()).collect();
        handlers.extend(before.handlers.iter().filter(|h| !names.contains(&h.name)).cloned());
        self.outline.store(Arc::new(Outline { channels, ending, handlers, warnings }.tidy()));
    }

    /// Let go of what reloads have taken out and what is done with everything.
    pub fn tidy_up(&self) {
        let now = self.outline();
        if !now.ending.is_empty() {
            self.outline.store(Arc::new((*now).clone().tidy()));
        }
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
        let draining = self.draining.get().then_some(Problem::Draining);
        let outline = self.outline();
        let channels = outline.channels.iter().flat_map(|channel| channel.problems());
        draining.into_iter().chain(channels).map(|problem| problem.to_string()).collect()
    }

    /// All that is wrong now, whether or not it is in the way of a source.
    pub fn problems(&self) -> Vec<Problem> {
        let outline = self.outline();
        let all = outline.all();
        let mut problems: Vec<Problem> = all.iter().flat_map(|c| c.problems()).collect();
        problems.extend(self.stalled().into_iter().map(Problem::Stalled));
        let failed = self.metrics.reloads().last.filter(|last| !last.ok);
        problems.extend(failed.map(|last| Problem::ReloadFailed(last.message)));
        problems.extend(self.config_refused());
        problems
    }

    /// That another configuration is in the file than runs, where the last reload was one of plugins.
    fn config_refused(&self) -> Option<Problem> {
        let last_is_fine = self.metrics.reloads().last.is_some_and(|last| last.ok);
        self.metrics.why_refused().filter(|_| last_is_fine).map(Problem::ConfigRefused)
    }

    /// Each connection of these channels once for each thing that it is for.
    pub fn redis(&self, channels: &[Arc<Channel>]) -> Vec<status::Redis> {
        let mut redis = Vec::new();
        let running = || channels.iter().filter(|channel| !channel.is_ending);
        if running().next().is_some() {
            let all_streams = running().all(|channel| channel.is_stream());
            let subscribed = all_streams || self.metrics.subscription.get();
            let streams = running().filter(|channel| channel.is_stream());
            let mut troubles = streams.flat_map(|channel| channel.metrics().stream.troubles());
            let connected = subscribed && !troubles.any(|(_, trouble)| trouble.away);
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
        let all = outline.all();
        let draining = self.draining.get();
        let mut not_ready: Vec<String> =
            draining.then(|| Problem::Draining.to_string()).into_iter().collect();
        let mut warnings = outline.warnings.clone();
        let channels = all.iter().map(|channel| {
            let problems = channel.problems();
            let wrong = if channel.is_ending { &mut warnings } else { &mut not_ready };
            wrong.extend(problems.iter().map(ToString::to_string));
            channel.status(problems.is_empty())
        });
        let channels = channels.collect();
        warnings.extend(self.config_refused().map(|problem| problem.to_string()));
        warnings.extend((self.unkept)().1);
        let failures = self.metrics.failures();
        let handlers = outline.handlers(&all).map(|handler| handler.status(&failures));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config: self.config.display().to_string(),
            uptime_ms: self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            state: if draining { State::Draining } else { State::Running },
            ready: not_ready.is_empty(),
            not_ready,
            stalled: self.stalled(),
            redis: self.redis(&all),
            reconnects: self.metrics.totals().reconnects,
            channels,
            handlers: handlers.collect(),
            reload: self.metrics.reloads(),
            warnings,
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Outline {
    /// The channels that run, and behind them those that reloads have taken out and that have
    /// something in hand. One of these may have the NAME of another channel; who has the counters of
    /// one that stands before it has none of its own.
    pub fn all(&self) -> Vec<Arc<Channel>> {
        let mut all = self.channels.clone();
        if self.ending.is_empty() {
            return all;
        }
        let mut counters = self.counters();
        let busy: Vec<_> =
            self.ending.iter().filter(|c| c.has_something_in_hand(&counters)).collect();
        all.extend(busy.into_iter().map(|channel| {
            match counters.insert(Arc::as_ptr(&channel.metrics)) {
                true => channel.clone(),
                false => Arc::new(channel.uncounted()),
            }
        }));
        all
    }

    /// The counters of the channels that run.
    fn counters(&self) -> HashSet<*const ChannelMetrics> {
        self.channels.iter().map(|channel| Arc::as_ptr(&channel.metrics)).collect()
    }

    /// The handlers of these channels.
    pub fn handlers<'a>(&'a self, of: &'a [Arc<Channel>]) -> impl Iterator<Item = &'a Handler> {
        let used: HashSet<&Arc<str>> = of.iter().flat_map(|channel| &channel.handlers).collect();
        self.handlers.iter().filter(move |handler| used.contains(&handler.name))
    }

    /// Without what is done with everything.
    fn tidy(mut self) -> Self {
        let counters = self.counters();
        self.ending.retain(|ending| !ending.is_done(&counters));
        let channels = self.channels.iter().chain(&self.ending);
        let used: HashSet<_> = channels.flat_map(|channel| channel.handlers.clone()).collect();
        self.handlers.retain(|handler| used.contains(&handler.name));
        self
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
        let seconds = seen.as_ref().map(|seen| seen.timing.snapshot().status()).unwrap_or_default();
        status::Handler {
            name: self.name.to_string(),
            plugin: self.plugin.display().to_string(),
            sha256: seen.map(|seen| seen.sha256).unwrap_or_default(),
            calls: seconds.count,
            failures: of_this.map(|((_, kind), n)| ((*kind).to_owned(), *n)).collect(),
            seconds,
        }
    }
}
