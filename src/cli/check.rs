//! `handlerd check`: whether the configuration and every plugin in it would do.

use std::path::Path;
use std::sync::Arc;

use super::console::{self, BAD, GOOD, NAME, Out};
use super::exit::{Code, Fault, Outcome};
use super::{load, way};
use crate::broker::probe;
use crate::config::{Address, Config};
use crate::daemon::{self, HandlerError};

/// Check the configuration and every plugin that it names.
///
/// Reads the configuration, looks for circles, loads each plugin (its exports and imports) and
/// runs its `setup`. Prints the way of each channel, and what is wrong with exit code 78.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd check --config /etc/handlerd/config.toml
  handlerd check --connect

Exit codes: 0 it would run, 78 the configuration or a plugin is wrong, 69 (with --connect) a Redis
can't be used; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// Also connect to each Redis: its version, and what its ACL permits, without side effects
    #[arg(long)]
    connect: bool,
}

/// Check.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let config = load::config(config)?;
    let host = load::host()?;
    let runtime = load::runtime()?;
    let loaded = runtime.block_on(daemon::load_handlers(&config, &host));
    let refused = loaded.err().unwrap_or_default();
    let mut out = Out::text();
    print_ways(&config, &refused, &mut out)?;
    let refusal = (!refused.is_empty()).then(|| load::refusal_code(&refused));
    refused.iter().for_each(console::error);
    let mut unusable = Vec::new();
    if args.connect {
        if let Address::Embedded(embedded) = &config.redis.address {
            let listen = embedded.listen;
            out.line(format_args!(
                "redis: embedded, so there is nothing to connect to: `handlerd run` starts it at \
                 {listen}, or at the next free port"
            ))?;
        }
        let report = runtime.block_on(probe::probe(&config));
        out.write(report.to_string().as_bytes())?;
        let bad = report.connections.iter().filter(|connection| !connection.problems.is_empty());
        unusable.extend(bad.map(|bad| format!("{} ({})", way::shown(&bad.name), bad.address)));
    }
    if let Some(code) = refusal {
        return Ok(code);
    }
    if !unusable.is_empty() {
        let unusable = unusable.join(", ");
        let what =
            format_args!("the configuration can't work with {unusable}: see the problems above");
        return Err(Fault::say(Code::Unavailable, what));
    }
    let channels = count(config.channels.len(), "channel");
    let handlers = count(config.handlers.len(), "handler");
    out.line(format_args!("{GOOD}ok{GOOD:#}: {channels}, {handlers}"))?;
    Ok(Code::Success)
}

fn print_ways(config: &Config, refused: &[HandlerError], out: &mut Out) -> Result<(), Fault> {
    for channel in config.channels.iter() {
        let (name, way) = (way::shown(&channel.name), way::of_channel(channel));
        let is_refused = |handler: &Arc<str>| refused.iter().any(|error| error.handler == *handler);
        let (style, state) = match channel.handlers.iter().any(is_refused) {
            false => (GOOD, "ok"),
            true => (BAD, "refused"),
        };
        out.line(format_args!("{NAME}{name}{NAME:#}: {way} {style}{state}{style:#}"))?;
    }
    Ok(())
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
