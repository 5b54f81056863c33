//! Builds everything, then starts it; watches over it, changes it when it is told to, and drains it at
//! the end.
//!
//! Called by `handlerd run`. Nothing is started before all of it has been built, so a bad plugin
//! ends the start with no message touched, and a reload with the old left as it was. Owns every task:
//! none is detached, and one that ends early is a named event and is started again.
//!
//! ```text
//! run: wait for a signal, a changed file              this file
//!   reload: read and build anew, beside the old       reload.rs
//!     handlers: plugins, chains                       handlers.rs; unused.rs: those that nobody uses
//!   running: exchange channels, start, drain          running.rs
//!     plan: who goes on as whom                       plan.rs
//!     streams, singles, writers: what starts and ends by itself; memory: who may hold how much
//! ```

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::control::{Control, Inside};
use crate::heartbeat::Heartbeats;
use crate::http;
use crate::plugin::Host;
use crate::service::{self, Notify, Reload, Signals, Stop};
use crate::telemetry::{DropLog, Metrics, Totals};
use crate::watch::{Changed, Watch};

mod handlers;
mod memory;
mod plan;
mod reload;
mod running;
mod singles;
mod streams;
mod unused;
mod writers;

pub use handlers::{HandlerError, Handlers, chain, load_handlers};
use reload::Waiting;
use running::Running;
use unused::Unused;

/// What a run begins with.
pub struct Start {
    /// The configuration as it stands in its file.
    pub written: Config,
    /// The same, where the embedded broker is a Redis at an address like any other.
    pub config: Config,
    /// Its handlers.
    pub handlers: Handlers,
    /// What loaded them, and loads them again.
    pub host: Arc<Host>,
    /// Tells of changed files.
    pub watch: Watch,
}

/// Run until a signal asks for an end, and drain. Whatever happens meanwhile is lived with; what a
/// reload brings is exchanged.
pub async fn run(start: Start, signals: &mut Signals, notify: &Notify) -> Ended {
    let Start { written, config, handlers, host, watch } = start;
    let unused = Unused::new(&config).await;
    let (file, listen) = (config.file.clone(), config.http.listen);
    let heartbeats = Heartbeats::default();
    let mut running = Running::start(written, config, handlers, &heartbeats, &host).await;
    let drops = DropLog::new(&running.metrics);
    let (view, taps) = (running.view.clone(), running.taps.clone());
    let (metrics, seen) = (running.metrics.clone(), view.clone());
    let problems = Box::new(move || seen.problems());
    let supervisor = service::Watch::new(notify.clone(), heartbeats, metrics, problems);
    let _endpoints = listen.map(|listen| http::Server::start(listen, view.clone()));
    let shown = view.clone();
    let control = Control::start(&file, Inside { status: Arc::new(move || shown.status()), taps });
    notify.ready();
    // Until there is something to say: what was said last is that handlers are loaded.
    notify.status("running");
    let until_the_end = async {
        let signal = until_stopped(&mut running, &host, watch, unused, signals, notify).await;
        view.drain();
        tracing::info!("{signal}: no more messages are taken; what was taken is finished");
        notify.stopping(running.config.drain_timeout);
        tokio::select! {
            ended = running.drain(&mut signals.stop) => ended,
            never = refuse_reloads(&mut signals.reload) => match never {},
        }
    };
    let ended = tokio::select! {
        biased;
        ended = until_the_end => ended,
        never = drops.run() => match never {},
        never = supervisor.run() => match never {},
    };
    drops.report();
    control.stop().await;
    ended
}

/// Do what reloads ask for until a signal asks for an end; answers its name.
async fn until_stopped(
    running: &mut Running,
    host: &Arc<Host>,
    mut watch: Watch,
    mut unused: Unused,
    signals: &mut Signals,
    notify: &Notify,
) -> &'static str {
    let Signals { stop, reload: asked } = signals;
    let unfinished = watch.unfinished();
    let mut waiting = Waiting::new(watch.is_of_config());
    let mut config = running.config.clone();
    loop {
        // What is asked for doesn't wait for it, and the rest of it comes afterwards.
        let look = unused.look(&config, host, &unfinished);
        let next = async {
            tokio::select! {
                () = asked.next() => (Changed::Config, "SIGHUP", true),
                changed = watch.next() => (changed, waiting.why(changed), false),
            }
        };
        let (trigger, why, was_asked) = match meanwhile(running, stop, beside(look, next)).await {
            Ok(next) => next,
            Err(signal) => return signal,
        };
        tracing::info!("{why}: looking whether something is to be exchanged");
        notify.reloading();
        let before = running.before();
        let prepare = waiting.prepare(&before, host, trigger, &mut watch);
        let prepared = match meanwhile(running, stop, prepare).await {
            Ok(prepared) => prepared,
            Err(signal) => return signal,
        };
        let refused = waiting.refused.as_ref().map(|refused| refused.in_a_line().to_owned());
        running.metrics.refused(refused);
        tokio::select! {
            biased;
            signal = stop.next() => return signal,
            () = running.reload(prepared) => {}
        }
        if was_asked {
            running.metrics.reload_was_asked();
        }
        notify.ready();
        config = running.config.clone();
        let files = config.plugin_files().chain(waiting.wanted());
        let follow = watch.follow(&config.plugin_dir, files);
        if let Err(signal) = meanwhile(running, stop, follow).await {
            return signal;
        }
    }
}

/// While it ends: who asks for a reload is told that there is none.
async fn refuse_reloads(asked: &mut Reload) -> Infallible {
    loop {
        asked.next().await;
        tracing::warn!("SIGHUP: nothing is read again, the end has begun");
    }
}

/// Wait for this, and do the other as long as that takes: where it isn't done by then, it is given up.
async fn beside<T>(other: impl Future<Output = ()>, awaited: impl Future<Output = T>) -> T {
    let other = async {
        other.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        awaited = awaited => awaited,
        never = other => match never {},
    }
}

/// Do this, which may compile for long, and meanwhile what is to be done when something has ended that a
/// reload had left over: a stream may wait for that.
///
/// # Errors
/// With the name of a signal that asks for an end.
async fn meanwhile<T>(
    running: &mut Running,
    stop: &mut Stop,
    work: impl Future<Output = T>,
) -> Result<T, &'static str> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            signal = stop.next() => return Err(signal),
            done = &mut work => return Ok(done),
            () = running.changed() => {}
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Whether everything was finished in time.
    pub drained: bool,
    metrics: Arc<Metrics>,
    /// Entries of streams that were given back before the end and have been taken up again since.
    given_back: u64,
    /// Entries that were in hand at the end.
    left: u64,
}

impl Ended {
    /// The sums of the whole run, as they are by now.
    pub fn totals(&self) -> Totals {
        let mut totals = self.metrics.totals();
        // They came twice, and none of them stayed pending.
        totals.received -= self.given_back.min(totals.received);
        totals.pending -= self.given_back.min(totals.pending);
        totals.pending += self.left;
        totals
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            received,
            handled,
            delivered,
            dead_letters,
            left,
            takeover_gaps,
            pending,
            dropped,
            failures,
            reconnects,
            gap,
        } = &self.totals();
        let how = if self.drained { "stopped" } else { "stopped before everything was finished" };
        write!(f, "{how}: {received} received, {handled} handled, {delivered} delivered")?;
        if *dead_letters > 0 {
            write!(f, ", {dead_letters} dead letters")?;
        }
        if *left > 0 {
            write!(f, ", {left} left to other daemons")?;
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
        if *takeover_gaps > 0 {
            write!(f, ", {takeover_gaps} takeovers behind which messages may be missing")?;
        }
        let gap = gap.as_secs_f64();
        if *reconnects > 0 {
            write!(f, ", {reconnects} reconnects, at most {gap:.1} s without a subscription")?;
        } else if *takeover_gaps > 0 {
            write!(f, ", at most {gap:.1} s without a subscription")?;
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
