//! `handlerd dead …`: work through the dead letters.

use std::path::Path;

use clap::Subcommand;
use tokio::runtime::Runtime;

use super::exit::{Code, Fault, Outcome};
use super::load::{self, RedisArgs};
use crate::broker::dead::{DeadError, DeadLetters};
use crate::config::{Address, Config, Connection};

mod delete;
mod list;
mod replay;
mod select;
mod show;
mod streams;
mod table;

pub(super) use select::point_in_time;

/// Look at messages that could not be handled, send them back, remove them.
///
/// They are in streams, each with the reason why it was given up.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd dead list orders --since 2h
  handlerd dead show 1700000000123-0
  handlerd dead replay --stream orders.dead --handler price --dry-run
  handlerd dead delete --stream orders.dead --kind reject --until 2026-01-31")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::Args),
    Show(show::Args),
    Replay(replay::Args),
    Delete(delete::Args),
}

/// Do what the second verb says.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    match args.verb {
        Verb::List(args) => list::main(args, config),
        Verb::Show(args) => show::main(args, config),
        Verb::Replay(args) => replay::main(args, config),
        Verb::Delete(args) => delete::main(args, config),
    }
}

/// Where the dead letters are.
#[derive(Debug, clap::Args)]
struct Place {
    /// A stream of dead letters; may be repeated [default: those of the configuration's channels]
    #[arg(long = "stream", value_name = "KEY")]
    streams: Vec<String>,
    #[command(flatten)]
    redis: RedisArgs,
}

/// An open place.
struct Desk {
    runtime: Runtime,
    letters: DeadLetters,
    streams: Vec<String>,
}

impl Place {
    /// Connects, and finds the streams: those that are named, else those that the configuration
    /// keeps the dead letters of these channels in.
    fn open(&self, channels: &[String], config: Option<&Path>) -> Result<Desk, Fault> {
        let (streams, connector) = if self.streams.is_empty() {
            let config = load::config(config)?;
            let streams = streams::of_channels(&config, channels)?;
            (streams, self.redis.connector_or(|| with_streams(config))?)
        } else {
            let streams = streams::unique(self.streams.iter().cloned());
            (streams, self.redis.connector_or(|| with_streams(load::config(config)?))?)
        };
        let runtime = load::runtime()?;
        let letters = runtime.block_on(DeadLetters::connect(&connector)).map_err(fault)?;
        Ok(Desk { runtime, letters, streams })
    }
}

/// The configuration's Redis, unless it is one that has no streams.
fn with_streams(config: Config) -> Result<Connection, Fault> {
    if matches!(config.redis.address, Address::Embedded(_)) {
        let file = config.file.display();
        return Err(Fault::say(
            Code::Config,
            format_args!(
                "Redis is embedded in {file}, and that one has no streams: name another by --url"
            ),
        ));
    }
    Ok(config.redis)
}

/// Exit code 65 for a key that is something else, 69 for everything that Redis doesn't do.
fn fault(error: DeadError) -> Fault {
    let code = match &error {
        DeadError::NotAStream { .. } => Code::Data,
        DeadError::Connect(_) | DeadError::Lost { .. } | DeadError::Refused { .. } => {
            Code::Unavailable
        }
    };
    Fault::new(code, error)
}

/// `1 dead letter`, `2 dead letters`.
fn count(n: u64) -> String {
    if n == 1 { "1 dead letter".to_owned() } else { format!("{n} dead letters") }
}
