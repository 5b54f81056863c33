//! What the status of a running daemon is made from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use super::{Channel, Handler, Redis, Reload, Role, State, Status, Stream};
use crate::broker::writer::Writer;
use crate::config::{self, Config, Source};
use crate::telemetry::{Count, DropReason, Metrics};
use crate::worker;

/// The parts of a daemon that tell how it is.
pub struct Parts {
    /// What it was built from.
    pub config: Config,
    /// In the order of `config`.
    pub channels: Vec<Arc<worker::Channel>>,
    /// The connections that are written to.
    pub writers: Vec<Writer>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// When it was started.
    pub started: Instant,
    /// Whether it takes no more messages.
    pub draining: AtomicBool,
}

impl Parts {
    /// How it is now.
    pub fn status(&self) -> Status {
        let away = |writer: &&Writer| writer.is_away();
        let sentence = |writer: &Writer| format!("connection {} is away", writer.name());
        let not_ready: Vec<String> = self.writers.iter().filter(away).map(sentence).collect();
        let draining = self.draining.load(Relaxed);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config: self.config.file.display().to_string(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            state: if draining { State::Draining } else { State::Running },
            ready: not_ready.is_empty() && !draining,
            not_ready,
            stalled: Vec::new(),
            redis: self.writers.iter().map(redis).collect(),
            reconnects: self.metrics.reconnects.get(),
            channels: self.config.channels.iter().zip(&self.channels).map(channel).collect(),
            handlers: self.config.handlers.values().map(|handler| self.handler(handler)).collect(),
            reload: Reload::default(),
            warnings: Vec::new(),
        }
    }

    fn handler(&self, handler: &config::Handler) -> Handler {
        let failures = self.metrics.failures();
        let failures = failures.iter().filter(|((name, _), _)| *name == handler.name);
        Handler {
            name: handler.name.to_string(),
            plugin: handler.plugin.display().to_string(),
            failures: failures.map(|((_, kind), n)| ((*kind).to_owned(), *n)).collect(),
            ..Handler::default()
        }
    }
}

fn redis(writer: &Writer) -> Redis {
    let connection = writer.name().to_string();
    Redis { connection, role: Role::Outputs, connected: !writer.is_away() }
}

fn channel((config, channel): (&config::Channel, &Arc<worker::Channel>)) -> Channel {
    let metrics = channel.queue.metrics();
    let lost = |reason: DropReason| (reason.as_str().to_owned(), metrics.dropped(reason));
    let dropped = DropReason::ALL.into_iter().map(lost).filter(|(_, n)| *n > 0).collect();
    let (source, stream) = match &config.source {
        Source::Subscribe(names) => (quoted("subscribe", names), None),
        Source::Pattern(patterns) => (quoted("pattern", patterns), None),
        Source::Stream(stream) => {
            let of = &metrics.stream;
            let figures = Stream {
                pending: of.pending(),
                lag: Some(of.lag()),
                in_hand: 0,
                claimed: of.claimed.get(),
                redelivered: of.redelivered.get(),
            };
            (quoted("stream", &stream.keys), Some(figures))
        }
    };
    let delivered = |n: &Count| BTreeMap::from([("all".to_owned(), n.get())]);
    Channel {
        name: config.name.to_string(),
        source,
        handlers: config.handlers.iter().map(|name| name.to_string()).collect(),
        received: metrics.received.get(),
        handled: metrics.handled.get(),
        delivered: delivered(&metrics.delivered),
        dead_letters: metrics.dead_letters.get(),
        dropped,
        queue_bytes: channel.queue.bytes() as u64,
        queue_limit: config.queue as u64,
        ready: true,
        gap_ms: metrics.gap_ms.get(),
        stream,
    }
}

/// `subscribe "a", "b"`
fn quoted(kind: &str, names: &[Arc<str>]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("{kind} {}", names.join(", "))
}
