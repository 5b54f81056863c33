//! `handlerd plugin …`: begin a plugin, look at plugin files and at the interface.

use std::path::Path;

use clap::Subcommand;

use super::exit::Outcome;

mod inspect;
mod list;
mod new;
mod wit;

/// Begin a plugin, look at plugin files, and at the interface they are made for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd plugin new shout
  handlerd plugin list
  handlerd plugin inspect plugins/redact.wasm
  handlerd plugin wit --out my-plugin/wit")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    New(new::Args),
    List(list::Args),
    Inspect(inspect::Args),
    Wit(wit::Args),
}

/// Do what the second verb says.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    match args.verb {
        Verb::New(args) => new::main(args, config),
        Verb::List(args) => list::main(args, config),
        Verb::Inspect(args) => inspect::main(args),
        Verb::Wit(args) => wit::main(args),
    }
}
