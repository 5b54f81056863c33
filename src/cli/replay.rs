//! `handlerd replay`: what a stream's past would become now. Nothing is sent, no group is touched.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;
use serde_json::{Map, Value as Json, json};

use super::console::{self, BAD, DIM, GOOD, NAME, Out};
use super::dead::point_in_time;
use super::exit::{Code, Fault, OrExit, Outcome};
use super::load::{self, RedisArgs};
use super::show::{self, Form, escaped};
use super::r#try::find_channel;
use super::way::{self, Destination};
use crate::broker::past::{Past, PastError};
use crate::broker::stream::{MOST_HEADERS, UnfitKind, can_append};
use crate::chain::Chain;
use crate::config::{Address, Channel, Config, EntryId, Source};
use crate::dead_letter::{Field, PAYLOAD};
use crate::message::{Delivery, Header, Message};
use crate::plugin::Host;
use crate::{daemon, telemetry};

/// Run a stream's past through the chain as it is in the configuration now.
///
/// Prints what would come out of each entry and where it would go; with --against only what would
/// come out otherwise by another configuration. Nothing is sent, acknowledged or deleted, and a
/// failure is not tried again. Entries that come while this runs are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd replay orders --from 2h
  handlerd replay orders --from 2026-01-31 --to 2026-02-01 --against new.toml
  handlerd replay orders --from 1700000000123-0 --limit 1 --json

Exit codes: 0 all went through (with --against: the same in both), 1 some failed or differ, 64 the
channel has no stream, 65 a key is no stream, 66 a key isn't there, 69 Redis can't be reached or
refuses, 78 a configuration or a plugin in it is wrong; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// A channel of the configuration, whose source is a stream
    #[arg(value_name = "NAME")]
    channel: String,
    /// From this entry on: its id, or a time like "2h" (ago) or 2026-01-31T12:00:00Z [default: the
    /// oldest]
    #[arg(long, value_name = "ID|TIME", value_parser = first_of)]
    from: Option<EntryId>,
    /// Up to and with this entry, or before this time [default: the newest]
    #[arg(long, value_name = "ID|TIME", value_parser = last_of)]
    to: Option<EntryId>,
    /// Another configuration: show only what comes out otherwise by its channel of the same name
    #[arg(long, value_name = "OTHER_CONFIG")]
    against: Option<PathBuf>,
    /// At most so many entries, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    redis: RedisArgs,
    /// Show payloads as hex digits
    #[arg(long, conflicts_with = "json")]
    hex: bool,
    /// Print a JSON object for each entry, and one with the sums
    #[arg(long)]
    json: bool,
}

/// Replay.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    telemetry::log::to_terminal("warn").or_exit(Code::Usage)?;
    let config = load::config(config)?;
    let keys = streams(&config, &args.channel)?;
    let connector = args.redis.connector_or(|| with_streams(&config))?;
    let runtime = load::runtime()?;
    let host = load::host()?;
    let trial = runtime.block_on(Trial::prepare(config, &args.channel, &host))?;
    let against = match &args.against {
        Some(file) => {
            let other = load::config(Some(file))?;
            Some(runtime.block_on(Trial::prepare(other, &args.channel, &host))?)
        }
        None => None,
    };
    let to_terminal = std::io::stdout().is_terminal();
    // Between the lines on a terminal a bar would only be in the way.
    let hidden = against.is_none() && to_terminal;
    let mut replay = Replay {
        trial,
        against,
        form: if args.hex { Form::Hex } else { Form::Text },
        json: args.json,
        name_streams: keys.len() > 1,
        to_terminal,
        bar: console::progress_bar("{wide_bar} {msg}, {eta} left", hidden),
        out: Out::text(),
        sums: Sums::default(),
    };
    let from = args.from.unwrap_or_default();
    let to = args.to.unwrap_or(EntryId { ms: u64::MAX, seq: u64::MAX });
    let limit = args.limit.unwrap_or(u64::MAX);
    let replayed = runtime.block_on(async {
        let mut past = Past::connect(&connector).await.map_err(fault)?;
        for key in &keys {
            replay.stream(&mut past, key, (from, to), limit).await?;
        }
        Ok(())
    });
    replay.bar.finish_and_clear();
    // What was seen before an error is summed up, too.
    let code = replay.report()?;
    replayed.map(|()| code)
}

/// The streams of a channel.
fn streams(config: &Config, name: &str) -> Result<Vec<Arc<str>>, Fault> {
    let channel = find_channel(config, name)?;
    match &channel.source {
        Source::Stream(stream) => Ok(stream.keys.clone()),
        source @ (Source::Subscribe(_) | Source::Pattern(_)) => Err(Fault::usage(format_args!(
            "channel {} has no past: only streams keep what came, and its source is {}",
            way::shown(name),
            way::source(source)
        ))),
    }
}

fn with_streams(config: &Config) -> Result<crate::config::Connection, Fault> {
    match config.redis.address {
        Address::Embedded(_) => Err(Fault::say(
            Code::Config,
            format_args!(
                "Redis is embedded in {}, and that one has no streams",
                config.file.display()
            ),
        )),
        _ => Ok(config.redis.clone()),
    }
}

fn fault(error: PastError) -> Fault {
    let code = match &error {
        PastError::NotAStream { .. } => Code::Data,
        PastError::NotThere { .. } => Code::NoInput,
        PastError::Connect(_) | PastError::Lost { .. } | PastError::Refused { .. } => {
            Code::Unavailable
        }
    };
    Fault::new(code, error)
}

/// The first id that is meant: one as it is written, or the first of a time.
fn first_of(text: &str) -> Result<EntryId, String> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(EntryId { ms: place(text)?, seq: 0 }),
    }
}

/// The last id that is meant: one as it is written, all of a millisecond, or the last before a time.
fn last_of(text: &str) -> Result<EntryId, String> {
    match text.parse::<EntryId>() {
        Ok(id) if text.contains('-') => Ok(id),
        Ok(id) => Ok(EntryId { seq: u64::MAX, ..id }),
        Err(_) => Ok(EntryId { ms: place(text)?, seq: 0 }.before()),
    }
}

fn place(text: &str) -> Result<u64, String> {
    point_in_time(text).map_err(|form| format!("{form}, or an id like 1526919030474-55"))
}

/// What entries are tried on: the channel of one configuration.
struct Trial {
    /// The file of the configuration.
    file: String,
    chain: Chain,
    channel: Channel,
    payload_field: Arc<str>,
}

/// What became of an entry, or why it went nowhere.
type End = Result<Vec<Message>, Failed>;

/// Why an entry went nowhere: what its dead letter would say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    handler: Option<Arc<str>>,
    kind: &'static str,
    reason: String,
}

impl Failed {
    fn unfit(kind: UnfitKind, reason: String) -> Self {
        Failed { handler: None, kind: kind.as_str(), reason }
    }

    /// Whether it is the same failure in another chain. A handler's own words count; those about a
    /// trap have addresses in them.
    fn is_like(&self, other: &Failed) -> bool {
        let in_words = matches!(self.kind, "reject" | "retry");
        self.kind == other.kind && (!in_words || self.reason == other.reason)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(handler) = &self.handler {
            write!(f, "handler {}: ", way::shown(handler))?;
        }
        write!(f, "{}: {}", self.kind, escaped(self.reason.as_bytes()))
    }
}

impl Trial {
    async fn prepare(mut config: Config, name: &str, host: &Arc<Host>) -> Result<Self, Fault> {
        let channel = find_channel(&config, name)?.clone();
        // Only what this channel needs: another's broken plugin is not in the way.
        config.handlers.retain(|name, _| channel.handlers.contains(name));
        let handlers = load::handlers(&config, host).await?;
        let payload_field = match &channel.source {
            Source::Stream(stream) => stream.payload_field.clone(),
            Source::Subscribe(_) | Source::Pattern(_) => PAYLOAD.into(),
        };
        Ok(Trial {
            file: config.file.display().to_string(),
            chain: daemon::chain(&config, &channel, &handlers),
            channel,
            payload_field,
        })
    }

    async fn run(&self, key: &Arc<str>, id: EntryId, fields: &[Field]) -> End {
        let message = self.message(fields)?;
        let delivery = Arc::new(Delivery {
            table: self.channel.name.clone(),
            redis_channel: key.clone(),
            pattern: None,
            id: Some(id.to_string().into()),
            attempt: 1,
            received_at: id.ms,
        });
        let run = self.chain.run_observed(&delivery, message, |_, _| {}).await;
        let messages = run.map_err(|failure| Failed {
            handler: Some(failure.handler),
            kind: failure.kind.as_str(),
            reason: failure.reason,
        })?;
        for message in &messages {
            if way::destinations(&self.channel, key, message).iter().any(Destination::is_append) {
                can_append(&self.payload_field, message).map_err(|error| Failed {
                    handler: None,
                    kind: "output",
                    reason: format!("it can't be appended to a stream: {error}"),
                })?;
            }
        }
        Ok(messages)
    }

    /// The message that an entry is, by the rules of the daemon.
    fn message(&self, fields: &[Field]) -> Result<Message, Failed> {
        let unfit = |kind, reason| Err(Failed::unfit(kind, reason));
        let field = &*self.payload_field;
        let place = fields.iter().position(|(name, _)| name == field.as_bytes());
        let Some(place) = place else {
            return unfit(UnfitKind::NoPayload, format!("it has no field {field:?}"));
        };
        let payload = fields[place].1.clone();
        let max = self.channel.max_payload;
        if payload.len() > max {
            let reason = format!("{} bytes, max_payload is {max}", payload.len());
            return unfit(UnfitKind::TooLarge, reason);
        }
        if fields.len() > MOST_HEADERS {
            let reason =
                format!("it has {} fields; at most {MOST_HEADERS} can be handled", fields.len());
            return unfit(UnfitKind::TooLarge, reason);
        }
        let others = fields.iter().enumerate().filter(|(at, _)| *at != place);
        let headers = others.map(|(_, (name, value))| {
            Some((std::str::from_utf8(name).ok()?.to_owned(), value.clone()))
        });
        match headers.collect::<Option<Vec<Header>>>() {
            Some(headers) => Ok(Message { payload, headers, route: None }),
            None => unfit(UnfitKind::Name, "the name of a field is not UTF-8".to_owned()),
        }
    }

    fn print(&self, key: &str, end: &End, form: Form, lines: &mut Vec<String>) {
        let messages = match end {
            Ok(messages) => messages,
            Err(failed) => return lines.push(format!("  {BAD}failed{BAD:#}: {failed}")),
        };
        if messages.is_empty() {
            lines.push(format!("  {DIM}(nothing: its way ends here){DIM:#}"));
        }
        for message in messages {
            let to = way::destinations(&self.channel, key, message);
            let to: Vec<String> = to.iter().map(ToString::to_string).collect();
            let to = if to.is_empty() { "nowhere".to_owned() } else { to.join(", ") };
            lines.push(format!("  {GOOD}->{GOOD:#} {to}"));
            lines.extend(form.message(message).into_iter().map(|line| format!("     {line}")));
        }
    }

    fn json(&self, key: &str, end: &End) -> Map<String, Json> {
        let (name, value) = match end {
            Ok(messages) => {
                let outputs = messages.iter().map(|message| {
                    let mut output = show::message_json(message);
                    let to = way::destinations(&self.channel, key, message);
                    output.insert("to".into(), to.iter().map(Destination::json).collect());
                    Json::Object(output)
                });
                ("outputs", outputs.collect())
            }
            Err(Failed { handler, kind, reason }) => (
                "failure",
                json!({ "handler": handler.as_deref(), "kind": kind, "reason": reason }),
            ),
        };
        Map::from_iter([(name.to_owned(), value)])
    }
}

/// How many entries came to which end.
#[derive(Default)]
struct Sums {
    entries: u64,
    /// With --against: the same came out of both.
    same: u64,
    /// With --against: something else came out.
    differ: u64,
    /// They failed; with --against, in both the same way.
    failed: u64,
}

struct Replay {
    trial: Trial,
    against: Option<Trial>,
    form: Form,
    json: bool,
    name_streams: bool,
    /// Lines and the bar may be on the same terminal.
    to_terminal: bool,
    bar: ProgressBar,
    out: Out,
    sums: Sums,
}

impl Replay {
    async fn stream(
        &mut self,
        past: &mut Past,
        key: &Arc<str>,
        (from, to): (EntryId, EntryId),
        limit: u64,
    ) -> Result<(), Fault> {
        let mut range = past.range(key, from, to).await.map_err(fault)?;
        let mut first = None;
        loop {
            let page = past.next(&mut range).await.map_err(fault)?;
            if page.is_empty() {
                return Ok(());
            }
            for (id, fields) in page {
                if self.sums.entries == limit || self.out.is_closed() {
                    return Ok(());
                }
                let begin = first.get_or_insert(id).ms;
                self.bar.set_length(range.to().ms.saturating_sub(begin));
                self.bar.set_position(id.ms.saturating_sub(begin));
                self.entry(key, id, &fields).await?;
            }
            self.bar.set_message(entries(self.sums.entries));
        }
    }

    async fn entry(&mut self, key: &Arc<str>, id: EntryId, fields: &[Field]) -> Result<(), Fault> {
        self.sums.entries += 1;
        let here = self.trial.run(key, id, fields).await;
        let Some(against) = &self.against else {
            self.sums.failed += u64::from(here.is_err());
            return self.show(key, id, &here, None);
        };
        let there = against.run(key, id, fields).await;
        match (&here, &there) {
            (Ok(here), Ok(there)) if here == there => self.sums.same += 1,
            (Err(here), Err(there)) if here.is_like(there) => self.sums.failed += 1,
            _ => {
                self.sums.differ += 1;
                return self.show(key, id, &here, Some(&there));
            }
        }
        Ok(())
    }

    fn show(
        &mut self,
        key: &str,
        id: EntryId,
        here: &End,
        there: Option<&End>,
    ) -> Result<(), Fault> {
        let there = self.against.as_ref().zip(there);
        let mut lines = Vec::new();
        if self.json {
            let mut object = self.trial.json(key, here);
            object.insert("stream".into(), key.into());
            object.insert("id".into(), id.to_string().into());
            if let Some((against, there)) = there {
                object.insert("against".into(), Json::Object(against.json(key, there)));
            }
            lines.push(Json::Object(object).to_string());
        } else {
            let stream = match self.name_streams {
                true => format!(" {DIM}{}{DIM:#}", way::shown(key)),
                false => String::new(),
            };
            lines.push(format!("{NAME}{id}{NAME:#}{stream}"));
            if let Some((against, there)) = there {
                lines.push(format!("  {DIM}by {}:{DIM:#}", escaped(against.file.as_bytes())));
                against.print(key, there, self.form, &mut lines);
                lines.push(format!("  {DIM}by {}:{DIM:#}", escaped(self.trial.file.as_bytes())));
            }
            self.trial.print(key, here, self.form, &mut lines);
        }
        let Replay { bar, out, .. } = self;
        let lines = lines.join("\n");
        if self.to_terminal { bar.suspend(|| out.line(lines)) } else { out.line(lines) }
    }

    fn report(&mut self) -> Result<Code, Fault> {
        let Sums { entries, same, differ, failed } = self.sums;
        let text = match (self.json, self.against.is_some()) {
            (true, true) => {
                json!({ "entries": entries, "same": same, "differ": differ, "failed": failed })
                    .to_string()
            }
            (true, false) => json!({ "entries": entries, "failed": failed }).to_string(),
            (false, true) => {
                let entries = self::entries(entries);
                format!("{entries}: {same} the same, {differ} differ, {failed} failed in both")
            }
            (false, false) => format!("{}: {failed} failed", self::entries(entries)),
        };
        self.out.line(text)?;
        Ok(if differ + failed == 0 { Code::Success } else { Code::Failed })
    }
}

/// `1 entry`, `2 entries`.
fn entries(n: u64) -> String {
    if n == 1 { "1 entry".to_owned() } else { format!("{n} entries") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_ids_or_times() {
        let id = |ms, seq| Ok(EntryId { ms, seq });
        assert_eq!(first_of("5-1"), id(5, 1));
        assert_eq!(first_of("5"), id(5, 0));
        assert_eq!(last_of("5-1"), id(5, 1));
        assert_eq!(last_of("5"), id(5, u64::MAX));
        assert_eq!(first_of("2023-11-14"), id(1_699_920_000_000, 0));
        assert_eq!(last_of("2023-11-14"), id(1_699_919_999_999, u64::MAX));
        assert!(first_of("2h").expect("a time") < last_of("1h").expect("a time"));
        assert!(first_of("yesterday").unwrap_err().contains("an id like"));
    }
}
