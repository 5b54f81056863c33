//! `handlerd dead delete`: remove dead letters for good.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use super::select::{Filters, by_filters, by_ids};
use super::table::Table;
use super::{Place, count, fault};
use crate::cli::console::Out;
use crate::cli::exit::{Code, Fault, Outcome};
use crate::config::EntryId;

/// Remove dead letters for good.
///
/// Those that are named, or those that the filters let through: then it is asked for, on a
/// terminal, and elsewhere --yes must say it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd dead delete 1700000000123-0 --stream orders.dead
  handlerd dead delete --stream orders.dead --kind reject --until 30days --dry-run
  handlerd dead delete --stream orders.dead --yes         all of them

Exit codes: 0 they are removed, 1 the answer was no, 64 without ids and --yes where nobody can be
asked, 65 the key is no stream or an id no dead letter, 66 an id isn't there (then none is removed),
69 Redis can't be reached or refuses.")]
pub struct Args {
    /// Ids, as `handlerd dead list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<EntryId>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    place: Place,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Only show which would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Delete.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    if !args.ids.is_empty() && !args.filters.is_empty() {
        return Err(Fault::usage("ids and filters don't go together: the ids say all"));
    }
    let must_ask = args.ids.is_empty() && !args.yes && !args.dry_run;
    if must_ask && !can_ask() {
        return Err(Fault::usage("without ids, --yes must say that all of them are meant"));
    }
    let mut desk = args.place.open(&args.filters.channels, config)?;
    let mut out = Out::text();
    let mut table = args.dry_run.then(|| Table::of(desk.streams.len()));
    // Only the ids are kept: there may be many, and large ones.
    let mut chosen: Vec<(String, Vec<EntryId>)> = Vec::new();
    let mut choose = |stream: &str, page: &[super::select::Selected]| {
        let ids = page.iter().map(|selected| selected.id);
        match chosen.last_mut() {
            Some((last, chosen)) if last == stream => chosen.extend(ids),
            _ => chosen.push((stream.to_owned(), ids.collect())),
        }
        match &mut table {
            Some(table) => table.rows(&mut out, stream, page),
            None => Ok(()),
        }
    };
    if args.ids.is_empty() {
        by_filters(
            &mut desk,
            &args.filters,
            |_, _| {},
            |_, stream, page| choose(stream, &page).map(|()| true),
        )?;
    } else {
        let found = by_ids(&mut desk, &args.ids)?;
        found.iter().try_for_each(|(stream, page)| choose(stream, page))?;
    }
    let total: u64 = chosen.iter().map(|(_, ids)| ids.len() as u64).sum();
    if args.dry_run {
        out.line(format_args!("would remove {}", count(total)))?;
        return Ok(Code::Success);
    }
    if total > 0 && must_ask && !ask(total)? {
        out.line("removed no dead letters")?;
        return Ok(Code::Failed);
    }
    let mut removed = 0;
    for (stream, ids) in chosen {
        let removing = desk.letters.remove(&stream, &ids);
        removed += desk.runtime.block_on(removing).map_err(fault)?;
    }
    out.line(format_args!("removed {}", count(removed)))?;
    Ok(Code::Success)
}

fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Whether the answer is yes.
fn ask(total: u64) -> Result<bool, Fault> {
    let io = |error| Fault::say(Code::Io, format_args!("can't ask: {error}"));
    let mut stderr = anstream::stderr();
    write!(stderr, "remove {} for good? [y/N] ", count(total)).map_err(io)?;
    stderr.flush().map_err(io)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(io)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
