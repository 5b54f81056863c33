//! `cargo bench --bench relay`: how fast handlerd passes messages on, beside a bare relay.
//!
//! One run, one machine, one private Redis: the bare relay and handlerd with no, one and three
//! plugins get the same messages in turn, round after round, so that whatever else the machine
//! does meets all of them. Publisher, Redis, relay and subscriber share its cores.
//!
//! | file | owns |
//! | --- | --- |
//! | `main.rs` | options, the order of things, the report |
//! | `bare.rs` | the bare relay, a process of its own |
//! | `load.rs` | publisher and subscriber: throughput and latency |
//! | `contestant.rs` | what is measured: processes and their configs |
//! | `../common` | what the other benches need too |

mod bare;
#[path = "../common/mod.rs"]
mod common;
mod contestant;
mod load;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};

use common::{median, payload, progress, rate_and_share};
use contestant::Contestant;
use load::Commands;
use report::{Latency, Report};
use support::{Handlerd, Redis};

/// Measure handlerd beside a bare relay on this machine.
///
/// Examples:
///   cargo bench --bench relay                        everything, about six minutes
///   cargo bench --bench relay -- --quick             a rough look, about a minute
///   cargo bench --bench relay -- --only throughput   one part of it
#[derive(Parser)]
#[command(name = "relay", verbatim_doc_comment)]
struct Options {
    /// One round, one second each: rough numbers
    #[arg(long)]
    quick: bool,
    /// How often each contestant has its turn [default: 5]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each turn [default: 3]
    #[arg(long)]
    seconds: Option<f64>,
    /// Names in the test of many names, and channels in the test of many channels
    #[arg(long, default_value_t = 10_000)]
    many: usize,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// handlerd with so many plugins, beside the bare relay
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 3], value_name = "0|1|3")]
    plugins: Vec<usize>,
    /// Payloads of so many bytes
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1024])]
    sizes: Vec<usize>,
    /// Messages that the publisher writes at once: 1 is what Redis sees of many publishers, each with
    /// a message now and then, 128 of one that pipelines deeply
    #[arg(long, value_delimiter = ',', default_values_t = [1, 128])]
    pipeline: Vec<usize>,
    /// What `cargo bench` says
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// The bare relay itself
    #[command(hide = true)]
    Bare { port: u16, from: String, to: String },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Messages a second of 64 B and 1 KB, and memory under load
    Throughput,
    /// Latency at 1,000 messages a second
    Latency,
    /// Time from exec to subscribed
    Start,
    /// Many names in one channel, and many channels of one name
    Many,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Role::Bare { port, from, to }) = &options.role {
        return Ok(bare::run(*port, from, to)?);
    }
    if !options.bench {
        println!("nothing is measured without optimisation; use: cargo bench --bench relay");
        return Ok(());
    }
    Bench::new(&options).run()
}

struct Bench<'a> {
    options: &'a Options,
    redis: Redis,
    rounds: usize,
    time: Duration,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options) -> Self {
        // Nobody is cut for reading slowly: what is lost would not be measured.
        let redis = Redis::with("client-output-buffer-limit pubsub 0 0 0");
        let (rounds, seconds) = if options.quick { (1, 1.0) } else { (5, 3.0) };
        let time = Duration::from_secs_f64(options.seconds.unwrap_or(seconds));
        Bench { options, redis, rounds: options.rounds.unwrap_or(rounds).max(1), time }
    }

    fn wants(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn run(&self) -> anyhow::Result<()> {
        let mut report = Report::new(&self.redis, self.rounds, self.time);
        if self.wants(Part::Start) {
            self.start(&mut report);
        }
        if self.wants(Part::Throughput) || self.wants(Part::Latency) {
            let contestants = contestant::all(&self.redis, &self.options.plugins);
            report.idle(&contestants);
            if self.wants(Part::Throughput) {
                for &pipeline in &self.options.pipeline {
                    for &size in &self.options.sizes {
                        self.throughput(size, pipeline.max(1), &contestants, &mut report)?;
                    }
                }
                report.loaded(&contestants);
            }
            if self.wants(Part::Latency) {
                self.latency(&contestants, &mut report)?;
            }
        }
        if self.wants(Part::Many) {
            self.many(&mut report)?;
        }
        println!("\n{report}");
        Ok(())
    }

    fn measure(&self, commands: &Commands, out: &str, expected: &str) -> anyhow::Result<f64> {
        let warm_up = self.time / 4;
        let found = load::throughput(self.redis.port(), commands, out, warm_up, self.time)?;
        let sample = String::from_utf8_lossy(&found.sample).into_owned();
        anyhow::ensure!(sample.contains(expected), "{sample:?} came, without {expected:?}");
        Ok(found.per_second)
    }

    fn throughput(
        &self,
        size: usize,
        pipeline: usize,
        contestants: &[Contestant],
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut rates = vec![Vec::new(); contestants.len()];
        for round in 1..=self.rounds {
            for (contestant, rates) in contestants.iter().zip(&mut rates) {
                let commands =
                    Commands::new(std::slice::from_ref(&contestant.from), &payload(size), pipeline);
                let rate = self.measure(&commands, &contestant.to, contestant.expected)?;
                progress(&format!(
                    "{size} B, {pipeline} a write, round {round}: {:<24} {rate:>9.0}/s",
                    contestant.name
                ));
                rates.push(rate);
            }
        }
        for (contestant, own) in contestants.iter().zip(&rates) {
            let (rate, share) = rate_and_share(own, &rates[0]);
            let load = format!("{size} B, {pipeline} a write");
            report.throughput(&load, contestant.name, rate, share);
        }
        Ok(())
    }

    fn latency(&self, contestants: &[Contestant], report: &mut Report) -> anyhow::Result<()> {
        let mut found: Vec<Latency> = contestants.iter().map(|_| Latency::default()).collect();
        for round in 1..=self.rounds {
            for (contestant, found) in contestants.iter().zip(&mut found) {
                let (port, Contestant { from, to, .. }) = (self.redis.port(), contestant);
                let histogram = load::latency(port, from, to, 1000, self.time)?;
                let (p50, p99) = found.add(&histogram);
                progress(&format!(
                    "1,000/s, round {round}: {:<20} p50 {p50:>7.1} µs  p99 {p99:>7.1} µs",
                    contestant.name
                ));
            }
        }
        for (contestant, found) in contestants.iter().zip(&found) {
            report.latency(contestant.name, found);
        }
        Ok(())
    }

    fn start(&self, report: &mut Report) {
        let times = if self.options.quick { 5 } else { 20 };
        let mut client = self.redis.client();
        let mut taken = Vec::new();
        // One more than counted: the first compiles, where the cache is cold.
        for n in 0..=times {
            let dir = Handlerd::folder();
            let config = contestant::config(&self.redis, "start", 3);
            let begin = Instant::now();
            let mut daemon = Handlerd::start_in(dir, &config, &[]);
            while client.subscribers("start.in") == 0 {
                assert!(daemon.runs(), "handlerd ended: {:?}", daemon.log());
                std::thread::sleep(Duration::from_micros(200));
            }
            let ms = begin.elapsed().as_secs_f64() * 1000.0;
            if n > 0 {
                taken.push(ms);
            }
            drop(daemon);
            while client.subscribers("start.in") > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        taken.sort_by(f64::total_cmp);
        progress(&format!("exec to subscribed: {taken:.0?} ms"));
        report.start(median(taken.iter().copied()), *taken.last().expect("one at least"));
    }

    fn many(&self, report: &mut Report) -> anyhow::Result<()> {
        let many = self.options.many;
        let contestants = contestant::many(&self.redis, many);
        report.many_idle(&contestants);
        for &pipeline in &self.options.pipeline {
            let load = format!("64 B, {pipeline} a write");
            let mut rates = vec![Vec::new(); contestants.len()];
            for round in 1..=self.rounds {
                for ((contestant, names), rates) in contestants.iter().zip(&mut rates) {
                    let commands = Commands::new(names, &payload(64), pipeline.max(1));
                    let rate = self.measure(&commands, &contestant.to, contestant.expected)?;
                    let name = contestant.name;
                    progress(&format!("{load}, round {round}: {name:<30} {rate:>9.0}/s"));
                    rates.push(rate);
                }
            }
            for ((contestant, _), own) in contestants.iter().zip(&rates) {
                let (rate, share) = rate_and_share(own, &rates[0]);
                report.many(&load, contestant.name, rate, share, contestant.peak_rss());
            }
        }
        Ok(())
    }
}
