//! `handlerd dead replay`: dead letters back to where they came from, or elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use super::select::{Filters, Selected, by_filters, by_ids};
use super::table::{Table, named};
use super::{Desk, Place, count, fault};
use crate::broker::dead::{Errand, Kept, Outcome as Sent, Target};
use crate::cli::console::{self, Out};
use crate::cli::exit::{Code, Fault, Outcome};
use crate::config::EntryId;

/// Send dead letters back to where they came from.
///
/// A letter from a stream is appended to it again, with its headers; one from pub/sub is published
/// again, without. Each is removed in the same step, so that two who do this at once send it once,
/// and one that can't be sent stays. Those that come while this runs are left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd dead replay 1700000000123-0 --stream orders.dead
  handlerd dead replay --stream orders.dead --handler price --since 1day --dry-run
  handlerd dead replay --stream orders.dead --all --to-stream orders.second-try

A letter that nobody on this Redis is subscribed for would be lost: it stays.

Exit codes: 0 all were sent, 1 nobody was subscribed for some, 64 it isn't said which, 65 the key is
no stream, 66 an id isn't there (then nothing is sent), 69 Redis can't be reached or refuses.")]
pub struct Args {
    /// Ids, as `handlerd dead list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<EntryId>,
    #[command(flatten)]
    filters: Filters,
    /// All of them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Place,
    /// Append them to this stream instead
    #[arg(long, value_name = "KEY", conflicts_with = "to_channel")]
    to_stream: Option<String>,
    /// Publish them on this Redis channel instead
    #[arg(long, value_name = "REDIS_CHANNEL")]
    to_channel: Option<String>,
    /// Only show which would be sent where
    #[arg(long)]
    dry_run: bool,
}

/// Entries looked at, of all.
const BAR: &str = "{wide_bar} {pos} of {len} looked at, {eta} left";

/// Replay.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    if !args.ids.is_empty() && (args.all || !args.filters.is_empty()) {
        return Err(Fault::usage("ids and filters don't go together: the ids say all"));
    }
    if args.ids.is_empty() && args.filters.is_empty() && !args.all {
        return Err(Fault::usage("say which: ids, filters (--channel, --kind, …) or --all"));
    }
    let mut desk = args.place.open(&args.filters.channels, config)?;
    let elsewhere = match (&args.to_stream, &args.to_channel) {
        (Some(stream), _) => Some(Target::Stream(stream.clone())),
        (None, Some(channel)) => Some(Target::Channel(channel.clone())),
        (None, None) => None,
    };
    if let Some(Target::Stream(to)) = &elsewhere
        && desk.streams.contains(to)
    {
        let to = named(to);
        return Err(Fault::usage(format_args!("--to-stream {to} is where they are already")));
    }
    let table = args.dry_run.then(|| Table::of(desk.streams.len()));
    let mut replay = Replay { elsewhere, table, out: Out::text(), done: Done::default() };
    let bar = console::progress_bar(BAR, args.dry_run);
    let sending = if args.ids.is_empty() {
        let look = |looked, entries| {
            bar.set_length(entries);
            bar.set_position(looked);
        };
        by_filters(&mut desk, &args.filters, look, |desk, stream, page| {
            replay.page(desk, stream, &page)
        })
    } else {
        by_ids(&mut desk, &args.ids).and_then(|streams| {
            streams
                .iter()
                .try_for_each(|(stream, page)| replay.page(&mut desk, stream, page).map(drop))
        })
    };
    bar.finish_and_clear();
    // What was done before an error is said, too.
    let code = replay.report()?;
    sending.map(|()| code)
}

struct Replay {
    /// `None`: where each came from.
    elsewhere: Option<Target>,
    /// Where nothing is to be sent: shows what would be.
    table: Option<Table>,
    out: Out,
    done: Done,
}

/// What has come of it so far.
#[derive(Default)]
struct Done {
    sent: BTreeMap<Target, u64>,
    gone: u64,
    kept: BTreeMap<Kept, u64>,
    /// It ended before the end.
    stopped: bool,
}

impl Replay {
    /// Send these; false when it makes no sense to go on.
    fn page(&mut self, desk: &mut Desk, stream: &str, page: &[Selected]) -> Result<bool, Fault> {
        let errands: Vec<Errand> = page
            .iter()
            .map(|Selected { id, letter }| {
                let target = self.elsewhere.clone().unwrap_or_else(|| Target::origin(letter));
                Errand::new(*id, letter, target)
            })
            .collect();
        if let Some(table) = &mut self.table {
            table.rows(&mut self.out, stream, page)?;
            errands.into_iter().for_each(|errand| self.done.sent(errand.target));
            return Ok(!self.out.is_closed());
        }
        let outcomes = desk.runtime.block_on(desk.letters.replay(stream, &errands));
        let mut refused = 0;
        for (errand, outcome) in errands.iter().zip(outcomes.map_err(fault)?) {
            match outcome {
                Sent::Replayed => self.done.sent(errand.target.clone()),
                Sent::Gone => self.done.gone += 1,
                Sent::Kept(kept) => {
                    refused += usize::from(matches!(kept, Kept::Refused { .. }));
                    *self.done.kept.entry(kept).or_default() += 1;
                }
            }
        }
        // A whole page refused: so would the next be.
        self.done.stopped = refused == page.len();
        Ok(!self.done.stopped)
    }

    /// Say what was done.
    fn report(mut self) -> Result<Code, Fault> {
        let Done { sent, gone, kept, stopped } = &self.done;
        let sends = if self.table.is_some() { "would send" } else { "sent" };
        for (target, n) in sent {
            let to = match target {
                Target::Stream(key) => format!("stream {}", named(key)),
                Target::Channel(channel) => format!("Redis channel {}", named(channel)),
            };
            self.out.line(format_args!("{sends} {} to {to}", count(*n)))?;
        }
        if sent.is_empty() {
            self.out.line(format_args!("{sends} no dead letters"))?;
        }
        if *gone > 0 {
            let gone = count(*gone);
            console::note(format_args!("{gone} had been taken by somebody else meanwhile"));
        }
        for (why, n) in kept {
            let stays = if *n == 1 { "stays" } else { "stay" };
            console::warning(format_args!("{} {stays} where it was: {why}", count(*n)));
        }
        if *stopped {
            console::note("what comes after them was not tried");
        }
        Ok(match kept.keys().find(|why| !matches!(why, Kept::Unheard { .. })) {
            Some(_) => Code::Unavailable,
            None if kept.is_empty() => Code::Success,
            None => Code::Failed,
        })
    }
}

impl Done {
    fn sent(&mut self, target: Target) {
        *self.sent.entry(target).or_default() += 1;
    }
}
