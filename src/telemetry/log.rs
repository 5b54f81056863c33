//! Where the log goes, and how its lines look.
//!
//! Set up once, by a verb. The daemon's lines are handed to a thread of their own, which alone waits
//! for whoever reads them; those of other verbs are written at once, between their results. Nothing
//! of this is called by whoever logs: that is `tracing`'s.
//!
//! | module | owns |
//! | --- | --- |
//! | `queue` | what waits to be written, the thread that writes it, what is dropped |
//! | `output` | which lines are outputs of a channel, and are counted as such |
//! | `sink` | standard error; journald, and standard error where that is away |
//! | `journal` | an event as a record of journald's protocol |

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{Log, LogFormat};

mod journal;
mod output;
mod queue;
mod sink;

pub use output::output_of;
pub use queue::dropped;

use queue::Queue;
use sink::{Journald, Sink, StandardError};

/// The target of the lines that `log = true` writes.
const OUTPUT_TARGET: &str = "handlerd::output";

/// At the end: for how long without any progress what waits is still waited for, and how long at
/// most. A pipe that nobody reads must not hold up the end.
const STUCK: Duration = Duration::from_secs(1);
const FLUSH: Duration = Duration::from_secs(5);

/// The daemon's log; when this is dropped, what waits is written.
pub struct Writing(Queue);

impl Writing {
    /// Wait until all that was logged is written, as far as somebody reads it.
    pub fn flush(&self) {
        self.0.flush(STUCK, FLUSH);
    }

    /// The same, at the end: lines of `log = true` that nobody has read by then are dropped, so that
    /// all of them are counted and there is room for the last line.
    pub fn finish(&self) {
        self.flush();
        self.0.give_up_outputs();
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The daemon's log, as `[log]` says. `RUST_LOG`, where it is set, is the filter instead.
///
/// # Errors
/// When a filter can't be read, when there is no thread for it, or when logs have been sent somewhere
/// before.
pub fn start(log: &Log) -> anyhow::Result<Writing> {
    let filter = filter(&log.level)?;
    let to_journal = match log.format {
        LogFormat::Journal => true,
        LogFormat::Auto => sink::is_journal(std::io::stderr()),
        LogFormat::Text | LogFormat::Json => false,
    };
    let to: Box<dyn Sink> = match to_journal {
        true => Box::new(Journald::new().context("journald can't be written to")?),
        false => Box::new(StandardError::default()),
    };
    let queue = Queue::start(to).context("the log has no thread")?;
    let writer = queue.clone();
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match (to_journal, log.format) {
        (true, _) => Box::new(journal::Records(queue.clone())),
        (false, LogFormat::Json) => {
            let lines = fmt::layer().json().flatten_event(true).with_ansi(false);
            Box::new(lines.log_internal_errors(false).with_writer(move || writer.clone()))
        }
        (false, _) => Box::new(text().with_writer(move || writer.clone())),
    };
    install(layer, filter)?;
    Ok(Writing(queue))
}

/// The log of a verb that is no daemon: text, at once, on standard error. `RUST_LOG` as for
/// [`start`].
///
/// # Errors
/// As for [`start`].
pub fn to_terminal(level: &str) -> anyhow::Result<()> {
    install(Box::new(text().with_writer(std::io::stderr)), filter(level)?)
}

/// Lines for people.
fn text() -> fmt::Layer<Registry> {
    fmt::layer()
        .with_target(false)
        // Otherwise a log that can't be written (a full disk, a reader that went away) is told to
        // standard error, which is the same log, and that panics.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => level.to_owned(),
    };
    // What `log = true` writes is an output, not a note on how things go.
    let outputs = if filter.contains(OUTPUT_TARGET) { "" } else { ",handlerd::output=info" };
    EnvFilter::try_new(format!("{filter}{outputs}"))
        .with_context(|| format!("the log level {filter:?} is not a filter of tracing"))
}

fn install(layer: Box<dyn Layer<Registry> + Send + Sync>, filter: EnvFilter) -> anyhow::Result<()> {
    let installed = tracing_subscriber::registry().with(layer).with(filter).try_init();
    installed.map_err(|error| anyhow::anyhow!("the log can't be set up: {error}"))
}
