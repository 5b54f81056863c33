//! Which dead letters: by id, or by what they are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Desk, fault};
use crate::broker::dead::Found;
use crate::cli::console;
use crate::cli::exit::{Code, Fault};
use crate::cli::show::escaped;
use crate::config::EntryId;
use crate::dead_letter::{DeadLetter, NotADeadLetter};

/// Entries that are no dead letters of which each is told; more are counted.
const TOLD: u64 = 3;

/// Which dead letters, by what they are: all of these must be true of them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Filters {
    /// Only of this channel (its NAME in the configuration); may be repeated
    #[arg(long = "channel", value_name = "NAME")]
    pub channels: Vec<String>,
    /// Only those that failed in this handler; may be repeated
    #[arg(long = "handler", value_name = "NAME")]
    handlers: Vec<String>,
    /// Only of this kind (reject, retry, trap, timeout, memory, …); may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Only those whose reason has this in it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those that were given up since then: "2h" (ago), or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    since: Option<u64>,
    /// Only those that were given up before: "2h" (ago), or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    until: Option<u64>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Filters {
    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        let Filters { channels, handlers, kinds, reason, since, until, limit } = self;
        channels.is_empty()
            && handlers.is_empty()
            && kinds.is_empty()
            && reason.is_none()
            && since.is_none()
            && until.is_none()
            && limit.is_none()
    }

    fn match_letter(&self, letter: &DeadLetter) -> bool {
        let among = |names: &[String], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|n| n == name))
        };
        among(&self.channels, Some(&letter.channel))
            && among(&self.handlers, letter.blame.handler.as_deref())
            && among(&self.kinds, Some(&letter.blame.kind))
            && self.reason.as_ref().is_none_or(|part| letter.blame.reason.contains(part.as_str()))
            && self.since.is_none_or(|since| letter.time >= since)
            && self.until.is_none_or(|until| letter.time < until)
    }
}

/// A dead letter that was selected.
pub(super) struct Selected {
    /// Its id in its stream.
    pub id: EntryId,
    /// What it is.
    pub letter: DeadLetter,
}

/// Hear of the dead letters of all streams that the filters let through, page by page, until
/// `take` answers false. `look` hears how many entries were looked at, and how many there are.
pub(super) fn by_filters(
    desk: &mut Desk,
    filters: &Filters,
    mut look: impl FnMut(u64, u64),
    mut take: impl FnMut(&mut Desk, &str, Vec<Selected>) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut left = filters.limit.unwrap_or(u64::MAX);
    let mut foreign = Foreign::default();
    for stream in desk.streams.clone() {
        let opened = desk.runtime.block_on(desk.letters.open(&stream));
        let mut pages = opened.map_err(fault)?;
        let mut looked = 0;
        while left > 0 {
            let page = desk.runtime.block_on(pages.next(&mut desk.letters)).map_err(fault)?;
            if page.is_empty() {
                break;
            }
            looked += page.len() as u64;
            let mut selected = Vec::new();
            for Found { id, letter } in page {
                match letter {
                    Ok(letter) if left > 0 && filters.match_letter(&letter) => {
                        left -= 1;
                        selected.push(Selected { id, letter });
                    }
                    Ok(_) => {}
                    Err(error) => foreign.note(&stream, id, &error),
                }
            }
            look(looked, pages.length().max(looked));
            if !selected.is_empty() && !take(desk, &stream, selected)? {
                return Ok(());
            }
        }
    }
    foreign.end();
    Ok(())
}

/// The dead letters with these ids, in this order; with each, its stream.
///
/// # Errors
/// Exit code 66 when one isn't there, 64 when several streams have it, 65 when it is no dead
/// letter.
pub(super) fn by_ids(
    desk: &mut Desk,
    ids: &[EntryId],
) -> Result<Vec<(String, Vec<Selected>)>, Fault> {
    let mut selected: Vec<(String, Vec<Selected>)> = Vec::new();
    let mut seen: Vec<EntryId> = Vec::new();
    for stream in desk.streams.clone() {
        let got = desk.runtime.block_on(desk.letters.get(&stream, &unique(ids)));
        let mut of_stream = Vec::new();
        for Found { id, letter } in got.map_err(fault)? {
            if seen.contains(&id) {
                return Err(Fault::usage(format_args!(
                    "there is an entry {id} in several streams: say which by --stream KEY"
                )));
            }
            let refused = |error| Fault::say(Code::Data, refusal(&stream, id, &error));
            of_stream.push(Selected { id, letter: letter.map_err(refused)? });
        }
        seen.extend(of_stream.iter().map(|selected| selected.id));
        selected.push((stream, of_stream));
    }
    let missing: Vec<String> =
        unique(ids).iter().filter(|id| !seen.contains(id)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        let streams: Vec<String> = desk.streams.iter().map(|s| escaped(s.as_bytes())).collect();
        let (missing, streams) = (missing.join(", "), streams.join(", "));
        return Err(Fault::say(
            Code::NoInput,
            format_args!("there is no entry {missing} in {streams}"),
        ));
    }
    selected.retain(|(_, of_stream)| !of_stream.is_empty());
    Ok(selected)
}

fn unique(ids: &[EntryId]) -> Vec<EntryId> {
    let mut unique = Vec::new();
    for id in ids {
        if !unique.contains(id) {
            unique.push(*id);
        }
    }
    unique
}

/// Entries that somebody else wrote: told, and left alone.
#[derive(Default)]
struct Foreign(u64);

impl Foreign {
    fn note(&mut self, stream: &str, id: EntryId, error: &NotADeadLetter) {
        self.0 += 1;
        if self.0 <= TOLD {
            console::warning(refusal(stream, id, error));
        }
    }

    fn end(self) {
        if self.0 > TOLD {
            let more = self.0 - TOLD;
            console::warning(format_args!("{more} more entries are no dead letters"));
        }
    }
}

fn refusal(stream: &str, id: EntryId, error: &NotADeadLetter) -> String {
    format!("entry {id} of {} is no dead letter: {error}", escaped(stream.as_bytes()))
}

/// Milliseconds since 1970 of a time as people write it: so long ago, or a date in UTC.
pub(in crate::cli) fn point_in_time(text: &str) -> Result<u64, String> {
    point_before(SystemTime::now(), text)
}

fn point_before(now: SystemTime, text: &str) -> Result<u64, String> {
    let text = text.trim();
    let time = if let Ok(ago) = humantime::parse_duration(text) {
        now.checked_sub(ago).unwrap_or(UNIX_EPOCH)
    } else {
        let is_day = text.len() == "2026-01-31".len();
        let date = if is_day { format!("{text}T00:00:00Z") } else { text.to_owned() };
        humantime::parse_rfc3339_weak(&date)
            .map_err(|_| "write it like 2h, \"1day 12h\", 2026-01-31 or 2026-01-31T12:00:00Z")?
    };
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::{Blame, Origin};

    fn letter() -> DeadLetter {
        DeadLetter {
            payload: Vec::new(),
            headers: Vec::new(),
            channel: "orders".into(),
            origin: Origin::PubSub { channel: "orders".into() },
            blame: Blame {
                handler: Some("price".into()),
                kind: "trap".into(),
                reason: "unreachable executed".into(),
            },
            attempts: 1,
            time: 1000,
        }
    }

    #[test]
    fn each_filter_lets_through_what_it_names() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let default = Filters::default;
        let orders = || names(&["chat", "orders"]);
        for (filters, through) in [
            (default(), true),
            (Filters { channels: orders(), ..default() }, true),
            (Filters { channels: names(&["order"]), ..default() }, false),
            (Filters { handlers: names(&["price"]), ..default() }, true),
            (Filters { handlers: names(&["prices"]), ..default() }, false),
            (Filters { kinds: names(&["retry", "trap"]), ..default() }, true),
            (Filters { kinds: names(&["retry"]), ..default() }, false),
            (Filters { reason: Some("executed".into()), ..default() }, true),
            (Filters { reason: Some("Executed".into()), ..default() }, false),
            (Filters { since: Some(1000), until: Some(1001), ..default() }, true),
            (Filters { since: Some(1001), ..default() }, false),
            (Filters { until: Some(1000), ..default() }, false),
            (Filters { channels: orders(), kinds: names(&["retry"]), ..default() }, false),
        ] {
            assert_eq!(filters.match_letter(&letter()), through, "{filters:?}");
        }
        let mut nobody = letter();
        nobody.blame.handler = None;
        assert!(!Filters { handlers: names(&["price"]), ..default() }.match_letter(&nobody));
        assert!(default().match_letter(&nobody));
        assert!(default().is_empty() && !Filters { limit: Some(1), ..default() }.is_empty());
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let at = |text: &str| point_before(now, text);
        assert_eq!(at("2h"), Ok(1_699_992_800_000));
        assert_eq!(at(" 1day 12h "), Ok(1_699_870_400_000));
        assert_eq!(at("100years"), Ok(0));
        assert_eq!(at("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert_eq!(at("2023-11-14 22:13:20.5"), Ok(1_700_000_000_500));
        assert_eq!(at("2023-11-14"), Ok(1_699_920_000_000));
        for text in ["", "2", "yesterday", "2023-13-14", "2023-11-1é", "14.11.2023"] {
            assert!(at(text).is_err(), "{text:?}");
        }
    }
}
