//! `handlerd status`: how a running daemon is.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::console::{BAD, DIM, GOOD, NAME, Out, WARN};
use super::exit::{Code, OrExit, Outcome};
use super::figures::{by_word, bytes, grouped, seconds, span, table};
use super::inside::{self, DaemonArgs};
use super::load;
use super::show::escaped;
use crate::status::{Channel, Handler, Role, State, Status};
use crate::view::Problem;

/// Say how a running daemon is: what is wrong first, then its channels and handlers.
///
/// Numbers are sums since its start; `handlerd top` shows rates.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd status
  handlerd --config /etc/handlerd/config.toml status --json
  handlerd status --pid 4711

Exit codes: 0 it has answered, whatever it says, 64 several daemons run and --pid doesn't say which,
69 no daemon runs, or it doesn't answer; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// Print all of it as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Ask, and print.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let found = args.daemon.find(config)?;
    let text = load::runtime()?.block_on(inside::status_text(&found));
    let text = text.map_err(|no_answer| no_answer.into_fault(&found))?;
    let mut out = Out::text();
    if args.json {
        let json: serde_json::Value = serde_json::from_slice(&text).or_exit(Code::Unavailable)?;
        out.line(format_args!("{json:#}"))?;
        return Ok(Code::Success);
    }
    let status = inside::read_status(&text).map_err(|no_answer| no_answer.into_fault(&found))?;
    for line in lines(&status, now()) {
        out.line(line)?;
    }
    Ok(Code::Success)
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn safe(text: &str) -> String {
    escaped(text.as_bytes())
}

/// What a channel is beside running as usual: the leader or a standby of a channel that is single, or
/// taken out by a reload and not done yet.
pub fn state(channel: &Channel) -> &'static str {
    match &channel.single {
        _ if channel.ending => "ending",
        Some(single) if single.leads => "leads",
        Some(_) => "standby",
        None => "",
    }
}

/// What is wrong, in sentences.
pub fn wrongs(status: &Status, now: u64) -> Vec<String> {
    let stalled = status.stalled.iter().cloned().map(Problem::Stalled);
    let mut wrongs: Vec<String> = stalled.map(|stalled| stalled.to_string()).collect();
    for redis in status.redis.iter().filter(|redis| !redis.connected) {
        let role = match redis.role {
            Role::Source => "no messages come",
            Role::Outputs => "outputs wait for it",
        };
        wrongs.push(format!("connection {} is away: {role}", redis.connection));
    }
    wrongs.extend(status.not_ready.iter().cloned());
    for channel in &status.channels {
        let (name, lost) = (&channel.name, channel.dropped.values().sum());
        if lost > 0 {
            let reasons = by_word(&channel.dropped);
            wrongs.push(format!("channel {name} lost {}: {reasons}", grouped(lost)));
        }
        if channel.dead_letters > 0 {
            let dead = grouped(channel.dead_letters);
            let letters = if channel.dead_letters == 1 { "dead letter" } else { "dead letters" };
            wrongs.push(format!("channel {name} made {dead} {letters} (handlerd dead list)"));
        }
    }
    if let Some(last) = status.reload.last.as_ref().filter(|last| !last.ok) {
        let ago = span(now.saturating_sub(last.at_ms));
        wrongs.push(format!("the last reload, {ago} ago, failed: {}", last.message));
    }
    wrongs.extend(status.warnings.iter().cloned());
    wrongs.iter().map(|sentence| safe(sentence)).collect()
}

fn lines(status: &Status, now: u64) -> Vec<String> {
    let state = match (status.state, status.ready) {
        (State::Draining, _) => format!("{WARN}draining{WARN:#}"),
        (State::Running, true) => format!("{GOOD}running{GOOD:#}"),
        (State::Running, false) => format!("{BAD}running, not ready{BAD:#}"),
    };
    let mut lines = vec![format!(
        "handlerd {}, process {}, {}, for {}: {state}",
        safe(&status.version),
        status.pid,
        safe(&status.config),
        span(status.uptime_ms)
    )];
    lines.extend(wrongs(status, now).iter().map(|wrong| format!("{BAD}!{BAD:#} {wrong}")));
    let reload = &status.reload;
    if status.reconnects + reload.ok + reload.failed > 0 {
        lines.push(format!(
            "{DIM}{} reconnects, {} reloads, {} failed reloads{DIM:#}",
            grouped(status.reconnects),
            grouped(reload.ok),
            grouped(reload.failed)
        ));
    }
    if !status.channels.is_empty() {
        lines.push(String::new());
        lines.extend(channels(&status.channels));
    }
    if !status.handlers.is_empty() {
        lines.push(String::new());
        let heads = ["HANDLER", "CALLS", "FAILED", "P50", "P99", "PLUGIN"];
        lines.extend(with_head(&rows(heads, status.handlers.iter().map(handler)), 1..5));
    }
    lines
}

fn channels(channels: &[Channel]) -> Vec<String> {
    let heads = [
        "CHANNEL", "RECEIVED", "HANDLED", "OUT", "DEAD", "LOST", "QUEUE", "PENDING", "LAG",
        "STATE", "SOURCE",
    ];
    let row = |channel: &Channel| {
        let stream = channel.stream.as_ref();
        let number = |n: Option<u64>| n.map_or("-".to_owned(), grouped);
        [
            safe(&channel.name),
            grouped(channel.received),
            grouped(channel.handled),
            grouped(channel.delivered.values().sum()),
            grouped(channel.dead_letters),
            grouped(channel.dropped.values().sum()),
            format!("{} of {}", bytes(channel.queue_bytes), bytes(channel.queue_limit)),
            number(stream.map(|stream| stream.pending)),
            number(stream.and_then(|stream| stream.lag)),
            state(channel).to_owned(),
            safe(&channel.source),
        ]
    };
    let mut rows = rows(heads, channels.iter().map(row));
    // Most daemons have none.
    if channels.iter().all(|channel| state(channel).is_empty()) {
        rows.iter_mut().for_each(|row| drop(row.remove(9)));
    }
    with_head(&rows, 1..9)
}

fn handler(handler: &Handler) -> [String; 6] {
    let time = |n: f64| if handler.seconds.count == 0 { "-".to_owned() } else { seconds(n) };
    let failed: u64 = handler.failures.values().sum();
    let kinds = match failed {
        0 => String::new(),
        _ => format!(" ({})", safe(&by_word(&handler.failures))),
    };
    [
        safe(&handler.name),
        grouped(handler.calls),
        format!("{}{kinds}", grouped(failed)),
        time(handler.seconds.p50),
        time(handler.seconds.p99),
        safe(&handler.plugin),
    ]
}

fn rows<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Vec<Vec<String>> {
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head).chain(rows.map(|row| row.to_vec())).collect()
}

/// A table whose head matters less and whose first column are names.
fn with_head(rows: &[Vec<String>], numbers: std::ops::Range<usize>) -> Vec<String> {
    let styled = |(at, line): (usize, String)| match (at, line.split_once(' ')) {
        (0, _) => format!("{DIM}{line}{DIM:#}"),
        (_, Some((name, rest))) => format!("{NAME}{name}{NAME:#} {rest}"),
        (_, None) => format!("{NAME}{line}{NAME:#}"),
    };
    table(rows, numbers).into_iter().enumerate().map(styled).collect()
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::{Bucket, LastReload, Redis, Reload, Seconds, Single, Stream};

    /// A daemon with one of everything.
    pub fn example() -> Status {
        let words = |words: &[(&str, u64)]| -> BTreeMap<String, u64> {
            words.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect()
        };
        Status {
            version: "0.1.0".into(),
            pid: 4711,
            config: "/etc/handlerd/config.toml".into(),
            uptime_ms: 3_600_000,
            state: State::Running,
            ready: false,
            not_ready: vec!["channel chat: not subscribed to \"chat\"".into()],
            stalled: vec![],
            redis: vec![
                Redis { connection: "redis".into(), role: Role::Source, connected: true },
                Redis { connection: "eu".into(), role: Role::Outputs, connected: false },
            ],
            reconnects: 2,
            channels: vec![
                Channel {
                    name: "chat".into(),
                    source: "subscribe \"chat\"".into(),
                    handlers: vec!["redact".into()],
                    received: 1_234_567,
                    handled: 1_234_000,
                    delivered: words(&[("publish", 1_234_000), ("log", 5)]),
                    dropped: words(&[("overflow", 500), ("failed", 67)]),
                    queue_bytes: 4 << 20,
                    queue_limit: 16 << 20,
                    ..Channel::default()
                },
                Channel {
                    name: "orders".into(),
                    source: "stream \"orders\"".into(),
                    dead_letters: 3,
                    ready: true,
                    stream: Some(Stream { pending: 17, lag: Some(42), ..Stream::default() }),
                    ..Channel::default()
                },
            ],
            handlers: vec![Handler {
                name: "redact".into(),
                plugin: "plugins/redact.wasm".into(),
                sha256: "00".into(),
                calls: 1_234_067,
                failures: words(&[("trap", 67)]),
                seconds: Seconds {
                    count: 1_234_067,
                    sum: 12.0,
                    p50: 0.000_01,
                    p99: 0.0021,
                    buckets: vec![Bucket { le: Some(0.000_01), calls: 1_234_067 }],
                },
            }],
            reload: Reload {
                ok: 1,
                failed: 1,
                asked: 1,
                last: Some(LastReload { at_ms: 1000, ok: false, message: "no\u{1b}[2J".into() }),
            },
            warnings: vec!["old.wasm is gone".into()],
        }
    }

    #[test]
    fn who_leads_and_what_is_ending_has_a_column_where_there_is_such_a_channel() {
        let mut status = example();
        let single = |leads| Some(Single { leads, ..Single::default() });
        status.channels[0].single = single(true);
        status.channels[1].single = single(false);
        let old = Channel { name: "old".into(), ending: true, ..Channel::default() };
        status.channels.push(old);
        let rows: Vec<String> = channels(&status.channels)
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect();
        assert!(rows[0].ends_with("LAG  STATE    SOURCE"), "{rows:#?}");
        assert!(rows[1].ends_with("  -  leads    subscribe \"chat\""), "{rows:#?}");
        assert!(rows[2].ends_with(" 42  standby  stream \"orders\""), "{rows:#?}");
        assert!(rows[3].starts_with("old ") && rows[3].ends_with("  -  ending"), "{rows:#?}");
    }

    #[test]
    fn what_is_wrong_comes_first_and_columns_stand_beneath_each_other() {
        let lines = lines(&example(), 61_000);
        let plain: Vec<String> =
            lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(
            plain,
            [
                "handlerd 0.1.0, process 4711, /etc/handlerd/config.toml, for 1h: running, not ready",
                "! connection eu is away: outputs wait for it",
                "! channel chat: not subscribed to \"chat\"",
                "! channel chat lost 567: failed 67, overflow 500",
                "! channel orders made 3 dead letters (handlerd dead list)",
                "! the last reload, 1m ago, failed: no\\u{1b}[2J",
                "! old.wasm is gone",
                "2 reconnects, 1 reloads, 1 failed reloads",
                "",
                "CHANNEL   RECEIVED    HANDLED        OUT  DEAD  LOST                QUEUE  PENDING  LAG  SOURCE",
                "chat     1,234,567  1,234,000  1,234,005     0   567  4.0 MiB of 16.0 MiB        -    -  subscribe \"chat\"",
                "orders           0          0          0     3     0           0 B of 0 B       17   42  stream \"orders\"",
                "",
                "HANDLER      CALLS        FAILED    P50     P99  PLUGIN",
                "redact   1,234,067  67 (trap 67)  10 µs  2.1 ms  plugins/redact.wasm",
            ]
        );
    }
}
