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
//!   running: exchange channels, start, drain          running.rs; streams.rs, singles.rs: those that start and end
//!     plan: who goes on as whom                       plan.rs
//! ```

use std::fmt;
use std::sync::Arc;

use crate::config::Config;
use crate::plugin::Host;
use crate::service::{Hangup, Stop};
use crate::telemetry::Totals;
use crate::watch::{Changed, Watch};

mod handlers;
mod plan;
mod reload;
mod running;
mod singles;
mod streams;
mod unused;

pub use handlers::{HandlerError, Handlers, chain, load_handlers};
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
pub async fn run(start: Start, hangup: &mut Hangup, stop: &mut Stop) -> Ended {
    let Start { written, config, handlers, host, mut watch } = start;
    let mut unused = Unused::new(&config);
    let mut running = Running::start(written, config, handlers).await;
    let signal = loop {
        let (trigger, why) = tokio::select! {
            signal = stop.next() => break signal,
            () = hangup.next() => (Changed::Config, "SIGHUP"),
            changed = watch.next() => match changed {
                Changed::Config => (changed, "the configuration has changed"),
                Changed::Plugins => (changed, "files in the plugin folder have changed"),
            },
            () = running.changed() => continue,
        };
        tracing::info!("{why}: looking whether something is to be exchanged");
        let prepared = tokio::select! {
            biased;
            signal = stop.next() => break signal,
            prepared = reload::prepare(&running, &host, trigger) => prepared,
        };
        running.reload(prepared).await;
        watch.follow(&running.config.plugin_dir);
        tokio::select! {
            biased;
            signal = stop.next() => break signal,
            () = unused.look(&running.config, &host) => {}
        }
    };
    tracing::info!("{signal}: no more messages are taken; what was taken is finished");
    running.drain(stop).await
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
