//! `handlerd check`: whether the configuration and every plugin in it would do.

use std::path::Path;

use super::console::{GOOD, NAME, Out};
use super::exit::{Code, Outcome};
use super::{load, way};
use crate::config::Config;

/// Check the configuration and every plugin that it names.
///
/// Reads the configuration, looks for circles, loads each plugin (its exports and imports) and
/// runs its `setup`. Prints the way of each channel, and what is wrong with exit code 78.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  handlerd check --config /etc/handlerd/config.toml

Exit codes: 0 it would run, 78 the configuration or a plugin is wrong, 69 (with --connect) a Redis
can't be used.")]
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
    let handlers = runtime.block_on(load::handlers(&config, &host));
    let mut out = Out::text();
    print_ways(&config, &mut out)?;
    let handlers = handlers?;
    let _ = args.connect;
    let (channels, handlers) =
        (count(config.channels.len(), "channel"), count(handlers.len(), "handler"));
    out.line(format_args!("{GOOD}ok{GOOD:#}: {channels}, {handlers}"))?;
    Ok(Code::Success)
}

fn print_ways(config: &Config, out: &mut Out) -> Result<(), super::exit::Fault> {
    for channel in &config.channels {
        let (name, way) = (way::shown(&channel.name), way::of_channel(channel));
        out.line(format_args!("{NAME}{name}{NAME:#}: {way}"))?;
    }
    Ok(())
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
