//! `handlerd dead show`: all of one dead letter.

use std::path::Path;

use super::Place;
use super::select::by_ids;
use super::table::{as_json, full};
use crate::cli::console::Out;
use crate::cli::exit::{Code, Outcome};
use crate::config::EntryId;

/// Show everything of a dead letter.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd dead show 1700000000123-0 --stream orders.dead
  handlerd dead show 1700000000123-0 --stream orders.dead --raw > message.bin
  handlerd try orders --file message.bin      what would become of it now?

Exit codes: 0 it is shown, 65 it is no dead letter, 66 it isn't there, 69 Redis can't be reached or
refuses.")]
pub struct Args {
    /// Its id, as `handlerd dead list` shows it
    #[arg(value_name = "ID")]
    id: EntryId,
    #[command(flatten)]
    place: Place,
    /// Print the payload alone, byte for byte
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Show.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let mut desk = args.place.open(&[], config)?;
    let mut out = if args.raw { Out::bytes() } else { Out::text() };
    for (stream, found) in by_ids(&mut desk, &[args.id])? {
        for selected in &found {
            if args.raw {
                out.write(&selected.letter.payload)?;
            } else if args.json {
                out.line(as_json(&stream, selected))?;
            } else {
                full(&stream, selected).iter().try_for_each(|line| out.line(line))?;
            }
        }
    }
    Ok(Code::Success)
}
