//! `handlerd tap`: live samples of a channel of a running daemon.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use http_body_util::BodyExt;
use hyper::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::console::{self, BAD, DIM, GOOD, NAME, Out, WARN};
use super::exit::{Code, Fault, OrExit, Outcome};
use super::figures::{grouped, seconds};
use super::inside::{self, DaemonArgs, NoAnswer};
use super::load;
use super::show::{escaped, meant};
use crate::control::Refusal;
use crate::service::Stop;
use crate::tap::{Line, Sample, Shown, Then, Value, Wish};

/// Show what becomes of a channel's messages in a running daemon, as it happens.
///
/// Samples: what came in, what each handler made of it and how long that took, and where it went or
/// why it failed. The daemon is not slowed by it: what is too much is only counted. A reload that
/// changes the channel is gone along with. Ends at Ctrl-C, or when a reload has taken the channel out,
/// behind its last message, or renamed it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd tap chat
  handlerd tap orders --failures
  handlerd tap chat --rate 100 --count 1000 --json > sample.jsonl

Exit codes: 0 ended by Ctrl-C, by --count or because nobody reads, 64 there is no such channel, or
several daemons run and --pid doesn't say which, 66 a reload has taken the channel out or renamed it,
69 no daemon runs, or it has ended; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// A channel: NAME of [channels.NAME]
    name: String,
    /// Show at most so many messages a second
    #[arg(long, value_name = "N", default_value_t = Wish::default().rate,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Wish::MOST_RATE)))]
    rate: u32,
    /// Show so many bytes of each payload
    #[arg(long, value_name = "N", default_value_t = Wish::default().bytes as u64,
        value_parser = clap::value_parser!(u64).range(0..=Wish::MOST_BYTES as u64))]
    bytes: u64,
    /// End after so many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Show only messages that fail; what earlier handlers made of them is mostly not known
    #[arg(long)]
    failures: bool,
    /// Print a JSON object for each message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Look on.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    load::runtime()?.block_on(look_on(args, config))
}

async fn look_on(args: Args, config: Option<&Path>) -> Outcome {
    let mut stop = Stop::listen().or_exit(Code::Software)?;
    let found = args.daemon.find(config)?;
    let name = utf8_percent_encode(&args.name, NON_ALPHANUMERIC);
    let Args { rate, bytes, failures, .. } = args;
    let path = format!("/tap/{name}?rate={rate}&bytes={bytes}&failures={failures}");
    let mut answer = match inside::ask(&found, &path).await {
        Ok(answer) => answer,
        Err(NoAnswer::Refused(StatusCode::NOT_FOUND, refusal)) => {
            return Err(unknown(&args.name, &refusal));
        }
        Err(no_answer) => return Err(no_answer.into_fault(&found)),
    };
    let what = if failures { "what fails on" } else { "channel" };
    console::note(format_args!(
        "{DIM}looking at {what} {} of process {}; Ctrl-C ends{DIM:#}",
        escaped(args.name.as_bytes()),
        found.pid
    ));
    let mut printer = Printer { out: Out::text(), json: args.json, left: args.count };
    let mut buffer = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = answer.body.frame() => frame,
            _ = stop.next() => return Ok(Code::Success),
        };
        let Some(Ok(frame)) = frame else { break };
        buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if printer.line(&line)? {
                return Ok(Code::Success);
            }
        }
    }
    Err(Fault::say(
        Code::Unavailable,
        format_args!(
            "the handlerd of process {} has ended, or has cut this reader off because it was too \
             slow",
            found.pid
        ),
    ))
}

/// There is no such channel.
fn unknown(name: &str, refusal: &Refusal) -> Fault {
    let meant = meant(name, refusal.channels.iter().map(String::as_str));
    let names: Vec<String> = refusal.channels.iter().map(|name| escaped(name.as_bytes())).collect();
    let there = match names.len() {
        0 => "it has none".to_owned(),
        _ => format!("it has {}", names.join(", ")),
    };
    Fault::usage(format_args!("the daemon has no channel {name:?}{meant}; {there}"))
}

struct Printer {
    out: Out,
    json: bool,
    /// Messages that are still to come; `None` is for ever.
    left: Option<u64>,
}

impl Printer {
    /// Print a line that came; answers whether that was the last.
    fn line(&mut self, text: &[u8]) -> Result<bool, Fault> {
        let line: Line = serde_json::from_slice(text).or_exit(Code::Unavailable)?;
        if let Line::End { end, channel_is_gone } = line {
            let code = if channel_is_gone { Code::NoInput } else { Code::Unavailable };
            return Err(Fault::say(code, escaped(end.as_bytes())));
        }
        if self.json {
            self.out.write(text)?;
        } else {
            for line in lines(&line) {
                self.out.line(line)?;
            }
        }
        if let (Line::Sample(_), Some(left)) = (&line, &mut self.left) {
            *left -= 1;
        }
        Ok(self.left == Some(0) || self.out.is_closed())
    }
}

fn lines(line: &Line) -> Vec<String> {
    match line {
        Line::Sample(sample) => sample_lines(sample),
        Line::Missed { missed } => missed_line(*missed).into_iter().collect(),
        Line::End { .. } => Vec::new(),
    }
}

fn missed_line(missed: u64) -> Option<String> {
    (missed > 0).then(|| format!("{DIM}({} more, not shown){DIM:#}", grouped(missed)))
}

fn safe(text: &str) -> String {
    escaped(text.as_bytes())
}

fn sample_lines(sample: &Sample) -> Vec<String> {
    let mut lines: Vec<String> = missed_line(sample.missed).into_iter().collect();
    lines.push(title(sample));
    let names = sample.hops.iter().map(|hop| hop.handler.chars().count());
    let width = names.chain([2]).max().unwrap_or(2);
    let empty = String::new();
    message(&mut lines, &format!("{DIM}{:width$}  {empty:8}{DIM:#}", "in"), width, &sample.input);
    for hop in &sample.hops {
        let took = seconds(Duration::from_micros(hop.micros).as_secs_f64());
        let name = safe(&hop.handler);
        let head = |name: &str| format!("{NAME}{name:width$}{NAME:#}  {DIM}{took:>8}{DIM:#}");
        match &hop.outputs {
            None => lines.push(format!("  {}  {BAD}failed{BAD:#}", head(&name))),
            Some(outputs) if outputs.is_empty() => {
                lines.push(format!("  {}  {DIM}nothing goes on{DIM:#}", head(&name)));
            }
            Some(outputs) => {
                for (at, output) in outputs.iter().enumerate() {
                    let first =
                        if at == 0 { head(&name) } else { format!("{empty:width$}  {empty:8}") };
                    message(&mut lines, &first, width, output);
                }
            }
        }
        more(&mut lines, hop.more_outputs);
    }
    if let Some(failure) = &sample.failure {
        let then = match failure.then {
            Then::Again => "it is tried again",
            Then::DeadLetter => "it becomes a dead letter",
            Then::Dropped => "it is dropped",
        };
        let handler = failure.handler.as_deref().map_or(String::new(), |name| safe(name) + ": ");
        let (kind, reason) = (safe(&failure.kind), safe(&failure.reason));
        lines.push(format!("  {BAD}{kind}{BAD:#}  {handler}{reason}; {then}"));
    }
    destinations(&mut lines, sample);
    lines
}

/// `12:34:56.789Z chat 17-0, attempt 2`
fn title(sample: &Sample) -> String {
    // The year 9999 is the last that can be written.
    const LAST: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + Duration::from_millis(sample.received_at.min(LAST));
    let time = humantime::format_rfc3339_millis(time).to_string();
    let time = time.split_once('T').map_or(&*time, |(_, time)| time);
    let mut title = format!("{DIM}{time}{DIM:#} {GOOD}{}{GOOD:#}", safe(&sample.redis_channel));
    if let Some(pattern) = &sample.pattern {
        title.push_str(&format!(" {DIM}by {}{DIM:#}", safe(pattern)));
    }
    if let Some(id) = &sample.id {
        title.push_str(&format!(" {}", safe(id)));
    }
    if sample.attempt > 1 {
        title.push_str(&format!(" {WARN}attempt {}{WARN:#}", sample.attempt));
    }
    title
}

/// A message in lines, behind the first one's beginning.
fn message(lines: &mut Vec<String>, first: &str, width: usize, shown: &Shown) {
    let payload = match (&shown.payload, &shown.payload_hex) {
        (Some(text), _) => safe(text),
        (None, Some(hex)) => format!("{DIM}hex{DIM:#} {}", safe(hex)),
        (None, None) => String::new(),
    };
    let cut = shown.cut_from.map_or(String::new(), |n| format!("{DIM}… ({n} bytes in all){DIM:#}"));
    lines.push(format!("  {first}  {payload}{cut}").trim_end().to_owned());
    let indent = " ".repeat(width + 14);
    for (name, value) in &shown.headers {
        let value = match value {
            Value::Text(text) => safe(text),
            Value::Hex { hex } => format!("{DIM}hex{DIM:#} {}", safe(hex)),
        };
        lines.push(format!("{indent}{DIM}header{DIM:#} {}: {value}", safe(name)));
    }
    if shown.more_headers > 0 {
        lines.push(format!("{indent}{DIM}and {} headers{DIM:#}", shown.more_headers));
    }
    if let Some(route) = &shown.route {
        lines.push(format!("{indent}{DIM}route{DIM:#} {}", safe(route)));
    }
}

fn more(lines: &mut Vec<String>, messages: u64) {
    if messages > 0 {
        lines.push(format!("  {DIM}and {} messages{DIM:#}", grouped(messages)));
    }
}

/// Where the outputs went: those that went the same way are one line.
fn destinations(lines: &mut Vec<String>, sample: &Sample) {
    let Some(outputs) = &sample.outputs else { return };
    let mut ways: Vec<(&[String], u64)> = Vec::new();
    for output in outputs {
        match ways.last_mut() {
            Some((to, n)) if *to == &output.to[..] => *n += 1,
            _ => ways.push((&output.to, 1)),
        }
    }
    for (to, n) in ways {
        let to: Vec<String> = to.iter().map(|to| safe(to)).collect();
        let to = if to.is_empty() { "nowhere".to_owned() } else { to.join(", ") };
        let times = if n > 1 { format!("{n} messages ") } else { String::new() };
        lines.push(format!("  {GOOD}->{GOOD:#} {times}{to}"));
    }
    more(lines, sample.more_outputs);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Vec<String> {
        let line: Line = serde_json::from_str(text).unwrap();
        lines(&line).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    #[test]
    fn a_sample_is_read_from_top_to_bottom_and_moves_no_cursor() {
        let sample = r#"{"channel":"t","redis_channel":"room.1","pattern":"room.*","id":"7-0",
            "received_at":1000,"attempt":2,"missed":1990,
            "input":{"payload":"a\u001b[2Jb","cut_from":4096,"headers":[["lang","en"],["x",{"hex":"ff"}]]},
            "hops":[{"handler":"redact","micros":12,"outputs":[{"payload":"c"},{"payload_hex":"ff00","route":"vip"}]},
                    {"handler":"up","micros":1500,"outputs":[{"payload":"C"},{"payload_hex":"ff00","route":"vip"}],"more_outputs":3}],
            "outputs":[{"payload":"C","to":["publish out","log"]},{"payload_hex":"ff00","route":"vip","to":["publish vip"]}]}"#;
        assert_eq!(
            plain(sample),
            [
                "(1,990 more, not shown)",
                "00:00:01.000Z room.1 by room.* 7-0 attempt 2",
                "  in                a\\u{1b}[2Jb… (4096 bytes in all)",
                "                    header lang: en",
                "                    header x: hex ff",
                "  redact     12 µs  c",
                "                    hex ff00",
                "                    route vip",
                "  up        1.5 ms  C",
                "                    hex ff00",
                "                    route vip",
                "  and 3 messages",
                "  -> publish out, log",
                "  -> publish vip",
            ]
        );
    }

    #[test]
    fn a_failure_says_what_becomes_of_the_message() {
        let sample = r#"{"channel":"t","redis_channel":"c","received_at":0,"attempt":1,"missed":0,
            "input":{"payload":"m"},"hops":[{"handler":"h","micros":100000}],
            "failure":{"handler":"h","kind":"timeout","reason":"it took too long","then":"dead_letter"}}"#;
        assert_eq!(
            plain(sample)[1..],
            [
                "  in            m",
                "  h     100 ms  failed",
                "  timeout  h: it took too long; it becomes a dead letter",
            ]
        );
        assert_eq!(plain(r#"{"missed":3}"#), ["(3 more, not shown)"]);
    }
}
