//! `handlerd dead list`: the dead letters, a line each.

use std::path::Path;

use super::select::{Filters, by_filters};
use super::table::{Table, as_json};
use super::{Place, count};
use crate::cli::console::{self, Out};
use crate::cli::exit::{Code, Outcome};

/// List dead letters, the oldest first.
///
/// A line has the beginning of the payload, with everything escaped that isn't printable.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd dead list orders
  handlerd dead list --stream orders.dead --handler price --kind trap --since 2h
  handlerd dead list --stream orders.dead --json | jq -r .reason | sort | uniq -c

Exit codes: 0 also when there are none, 65 the key is no stream, 69 Redis can't be reached or
refuses.")]
pub struct Args {
    /// Only of these channels, as --channel
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    place: Place,
    /// Print a JSON object for each, with everything that is known of it
    #[arg(long)]
    json: bool,
}

/// List.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let mut filters = args.filters;
    filters.channels.extend(args.names);
    let mut desk = args.place.open(&filters.channels, config)?;
    let mut out = Out::text();
    let mut table = Table::of(desk.streams.len());
    let (mut listed, mut entries) = (0, 0);
    let look = |looked, _| entries = looked;
    by_filters(&mut desk, &filters, look, |_, stream, page| {
        listed += page.len() as u64;
        if args.json {
            page.iter().try_for_each(|selected| out.line(as_json(stream, selected)))?;
        } else {
            table.rows(&mut out, stream, &page)?;
        }
        Ok(!out.is_closed())
    })?;
    if listed == 0 && !args.json {
        let such = if filters.is_empty() || entries == 0 { "" } else { " of this kind" };
        console::note(format_args!("there are no dead letters{such}"));
    } else if !args.json {
        console::note(count(listed));
    }
    Ok(Code::Success)
}
