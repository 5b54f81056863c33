//! `handlerd listen`: watch Redis channels from a shell.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::console::{self, DIM, NAME, Out};
use super::exit::{Code, Fault, OrExit, Outcome};
use super::load::{self, RedisArgs};
use super::show::{bytes_json, escaped};
use crate::broker::shell::{self, Heard};

/// Print what is published on Redis channels, a line for each message.
///
/// A line is the Redis channel, a space and the payload, with everything escaped that isn't
/// printable. A lost connection is made again, and the gap is told on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd listen chat chat.out
  handlerd listen --pattern 'room.*' --json
  handlerd listen images --raw --count 1 > picture.png

Exit codes: 0 --count is reached, 64 --url is none, 69 Redis can't be reached at first, or refuses,
78 the configuration is wrong or missing; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// Redis channels
    #[arg(value_name = "REDIS_CHANNEL", required_unless_present = "patterns")]
    channels: Vec<String>,
    /// A pattern of Redis channels, as PSUBSCRIBE reads it; may be repeated
    #[arg(short, long = "pattern", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Print the payloads alone, byte for byte; with a line end after each but the last of --count
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print a JSON object for each message
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    redis: RedisArgs,
}

/// Listen.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let connector = args.redis.connector(config)?;
    let mut printer = Printer {
        out: if args.raw { Out::bytes() } else { Out::text() },
        left: args.count,
        args: &args,
    };
    let mut fault = None;
    let hear = |heard: Heard<'_>| match printer.hear(heard) {
        Ok(flow) => flow,
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    };
    let listening = shell::listen(&connector, &args.channels, &args.patterns, hear);
    load::runtime()?.block_on(listening).or_exit(Code::Unavailable)?;
    fault.map_or(Ok(Code::Success), Err)
}

struct Printer<'a> {
    args: &'a Args,
    out: Out,
    /// Messages that are still to come; `None` is for ever.
    left: Option<u64>,
}

impl Printer<'_> {
    fn hear(&mut self, heard: Heard<'_>) -> Result<ControlFlow<()>, Fault> {
        match heard {
            Heard::Listening => {
                let names: Vec<String> = self
                    .args
                    .channels
                    .iter()
                    .chain(&self.args.patterns)
                    .map(|name| escaped(name.as_bytes()))
                    .collect();
                console::note(format_args!("{DIM}listening to {}{DIM:#}", names.join(", ")));
            }
            Heard::Lost { reason } => {
                console::warning(format_args!(
                    "{reason}; trying again, and what is sent meanwhile is missed"
                ));
            }
            Heard::Message { pattern, channel, payload } => {
                if let Some(left) = &mut self.left {
                    *left -= 1;
                }
                self.print(pattern, channel, payload)?;
                if self.left == Some(0) || self.out.is_closed() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn print(
        &mut self,
        pattern: Option<&[u8]>,
        channel: &[u8],
        payload: &[u8],
    ) -> Result<(), Fault> {
        if self.args.raw {
            let is_last = self.left == Some(0);
            self.out.write(payload)?;
            return if is_last { Ok(()) } else { self.out.write(b"\n") };
        }
        if self.args.json {
            let mut object: Map<String, Json> =
                [bytes_json("channel", channel)].into_iter().collect();
            object.extend(pattern.map(|pattern| bytes_json("pattern", pattern)));
            object.extend([bytes_json("payload", payload)]);
            return self.out.line(Json::Object(object));
        }
        let (channel, payload) = (escaped(channel), escaped(payload));
        self.out.line(format_args!("{NAME}{channel}{NAME:#} {payload}"))
    }
}
