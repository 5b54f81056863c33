//! The numbers, as a table in Markdown.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::common::{self, median, table};
use crate::contestant::Contestant;
use crate::support::Redis;

/// The latencies of one contestant's rounds, in microseconds.
#[derive(Default)]
pub struct Latency {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Latency {
    /// Add a round; answers its p50 and p99.
    pub fn add(&mut self, histogram: &Histogram<u64>) -> (f64, f64) {
        let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let (p50, p99) = (micros(0.5), micros(0.99));
        self.p50.push(p50);
        self.p99.push(p99);
        (p50, p99)
    }
}

/// What was measured, and on what.
pub struct Report {
    machine: String,
    start: Vec<String>,
    throughput: Vec<String>,
    latency: Vec<String>,
    memory: Vec<String>,
    many: Vec<String>,
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Report {
    /// An empty report on this machine.
    pub fn new(redis: &Redis, rounds: usize, time: Duration) -> Report {
        let machine = format!("{}; median of {rounds} rounds of {time:?}", common::machine(redis));
        let [start, throughput, latency, memory, many] = Default::default();
        Report { machine, start, throughput, latency, memory, many }
    }

    /// Exec to subscribed, in milliseconds.
    pub fn start(&mut self, median: f64, most: f64) {
        self.start.push(format!("| {median:.0} ms | {most:.0} ms |"));
    }

    /// One contestant's throughput under a load.
    pub fn throughput(&mut self, load: &str, name: &str, rate: f64, ratio: f64) {
        self.throughput.push(format!("| {name} | {load} | {rate:.0} | {ratio:.2} |"));
    }

    /// One contestant's latency.
    pub fn latency(&mut self, name: &str, found: &Latency) {
        let p50 = median(found.p50.iter().copied());
        let p99 = median(found.p99.iter().copied());
        self.latency.push(format!("| {name} | {p50:.0} µs | {p99:.0} µs |"));
    }

    /// Memory before anything was sent.
    pub fn idle(&mut self, contestants: &[Contestant]) {
        self.memory =
            contestants.iter().map(|c| format!("| {} | {} |", c.name, mib(c.rss()))).collect();
    }

    /// Memory after the throughput was measured.
    pub fn loaded(&mut self, contestants: &[Contestant]) {
        for (line, contestant) in self.memory.iter_mut().zip(contestants) {
            line.push_str(&format!(" {} |", mib(contestant.peak_rss())));
        }
    }

    /// Memory of many names and channels before anything was sent.
    pub fn many_idle(&mut self, contestants: &[(Contestant, Vec<String>)]) {
        for (contestant, names) in contestants {
            let (name, names) = (contestant.name, names.len());
            let idle = mib(contestant.rss());
            eprintln!("many: {name}: {names} names, {idle} before anything was sent");
        }
    }

    /// Throughput and memory of many names or channels.
    pub fn many(&mut self, load: &str, name: &str, rate: f64, ratio: f64, rss: u64) {
        let rss = mib(rss);
        self.many.push(format!("| {name} | {load} | {rate:.0} | {ratio:.2} | {rss} |"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        let idle_only = self.throughput.is_empty();
        let memory = match idle_only {
            true => "| relay | resident, idle |",
            false => "| relay | resident, idle | at most, under load |",
        };
        for (head, lines) in [
            (
                "| relay | messages | messages a second | share of the bare relay |",
                &self.throughput,
            ),
            ("| relay at 1,000 messages a second | p50 | p99 |", &self.latency),
            (memory, &self.memory),
            ("| exec to subscribed, warm cache: median | at most |", &self.start),
            (
                "| handlerd, one plugin | messages | messages a second | share of one name | resident at most |",
                &self.many,
            ),
        ] {
            table(f, head, lines)?;
        }
        Ok(())
    }
}
