//! `cargo bench --bench stream`: how fast handlerd empties a stream, beside a bare loop.
//!
//! One run, one machine, one private Redis. Each contestant in its turn finds the same full stream,
//! round after round, and is measured from where a tenth of it is done until all is. Redis and the
//! contestant share the cores.
//!
//! | file | owns |
//! | --- | --- |
//! | `main.rs` | options, the order of things, the report |
//! | `bare.rs` | the bare loop, a process of its own |
//! | `drain.rs` | a full stream, who empties it, and how long that takes |
//! | `../common` | what the other benches need too |

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod drain;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fmt;

use clap::{Parser, Subcommand, ValueEnum};

use common::{machine, payload, progress, rate_and_share, table};
use drain::{Contestant, Stream, Work};
use support::Redis;

/// Measure handlerd on streams beside a bare loop on this machine.
///
/// Examples:
///   cargo bench --bench stream                    everything, about two minutes
///   cargo bench --bench stream -- --quick         a rough look
///   cargo bench --bench stream -- --only shared   one part of it
#[derive(Parser)]
#[command(name = "stream", verbatim_doc_comment)]
struct Options {
    /// One round of few entries: rough numbers
    #[arg(long)]
    quick: bool,
    /// How often each contestant has its turn [default: 5]
    #[arg(long)]
    rounds: Option<usize>,
    /// Entries of each turn; a third of them where each costs 50 µs [default: 200000]
    #[arg(long)]
    entries: Option<usize>,
    /// Entries that are read at once
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Bytes of a payload
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// What `cargo bench` says
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// The bare loop itself
    #[command(hide = true)]
    Bare { port: u16, batch: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One daemon with no, one and three plugins beside the bare loop
    Alone,
    /// One and two daemons on one group, with a handler that costs 50 µs
    Shared,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Role::Bare { port, batch }) = options.role {
        return Ok(bare::run(port, &drain::job(batch))?);
    }
    if !options.bench {
        println!("nothing is measured without optimisation; use: cargo bench --bench stream");
        return Ok(());
    }
    Bench::new(&options).run()
}

struct Bench<'a> {
    options: &'a Options,
    redis: Redis,
    rounds: usize,
    entries: usize,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options) -> Self {
        let (rounds, entries) = if options.quick { (1, 60_000) } else { (5, 200_000) };
        Bench {
            options,
            redis: Redis::start(),
            rounds: options.rounds.unwrap_or(rounds).max(1),
            entries: options.entries.unwrap_or(entries),
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn run(&self) -> anyhow::Result<()> {
        let machine = machine(&self.redis);
        let mut report = Report { machine, rounds: self.rounds, ..Report::default() };
        let Options { batch, size, .. } = *self.options;
        if self.wants(Part::Alone) {
            let contestants = [
                Contestant::new("bare loop", Work::Bare),
                Contestant::new("handlerd, no plugin", Work::Plugins(0)),
                Contestant::new("handlerd, one plugin", Work::Plugins(1)),
                Contestant::new("handlerd, three plugins", Work::Plugins(3)),
            ];
            let stream = Stream { entries: self.entries, payload: payload(size), batch };
            report.alone = self.measure(&stream, &contestants)?;
        }
        if self.wants(Part::Shared) {
            let contestants = [
                Contestant::new("one daemon", Work::Daemons(1)),
                Contestant::new("two daemons on one group", Work::Daemons(2)),
            ];
            let mut busy = drain::BUSY.as_bytes().to_vec();
            busy.resize(size.max(busy.len()), b'x');
            let stream = Stream { entries: self.entries / 3, payload: busy, batch };
            report.shared = self.measure(&stream, &contestants)?;
        }
        println!("\n{report}");
        Ok(())
    }

    /// Lines of a table: each contestant's rate, and its share of the first one's.
    fn measure(&self, stream: &Stream, contestants: &[Contestant]) -> anyhow::Result<Vec<String>> {
        let mut rates = vec![Vec::new(); contestants.len()];
        for round in 1..=self.rounds {
            for (contestant, rates) in contestants.iter().zip(&mut rates) {
                let rate = drain::measure(&self.redis, stream, contestant)?;
                progress(&format!("round {round}: {:<24} {rate:>9.0}/s", contestant.name));
                rates.push(rate);
            }
        }
        let line = |(contestant, own): (&Contestant, &Vec<f64>)| {
            let (rate, share) = rate_and_share(own, &rates[0]);
            format!("| {} | {rate:.0} | {share:.2} |", contestant.name)
        };
        Ok(contestants.iter().zip(&rates).map(line).collect())
    }
}

#[derive(Default)]
struct Report {
    machine: String,
    rounds: usize,
    alone: Vec<String>,
    shared: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; median of {} rounds", self.machine, self.rounds)?;
        table(f, "| reader | messages a second | share of the bare loop |", &self.alone)?;
        table(f, "| handler of 50 µs | messages a second | times one |", &self.shared)
    }
}
