//! `handlerd plugin …`: look at plugin files, and at the interface they are made for.

use std::path::Path;

use clap::Subcommand;

use super::exit::Outcome;

mod inspect;
mod list;
mod wit;

/// Look at plugin files, and at the interface they are made for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd plugin list
  handlerd plugin inspect plugins/redact.wasm
  handlerd plugin wit --out my-plugin/wit")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::Args),
    Inspect(inspect::Args),
    Wit(wit::Args),
}

/// Do what the second verb says.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    match args.verb {
        Verb::List(args) => list::main(args, config),
        Verb::Inspect(args) => inspect::main(args),
        Verb::Wit(args) => wit::main(args),
    }
}
