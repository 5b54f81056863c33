//! The table at the end of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fault::Fault;

/// How long each recovery took.
#[derive(Default)]
pub struct Times {
    flowing: Vec<Duration>,
    caught_up: Vec<Duration>,
}

/// All of them, by fault.
#[derive(Default)]
pub struct Report {
    faults: BTreeMap<Fault, Times>,
}

impl Report {
    /// A fault has passed; `caught_up` where that was waited for.
    pub fn passed(&mut self, fault: Fault, flowing: Duration, caught_up: Option<Duration>) {
        let times = self.faults.entry(fault).or_default();
        times.flowing.push(flowing);
        times.caught_up.extend(caught_up);
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.faults.values().map(|times| times.flowing.len()).sum()
    }

    /// The 99th percentile of the times after which messages flowed again.
    pub fn flowing_p99(&self) -> Duration {
        percentile(&self.all(|times| &times.flowing), 99).unwrap_or_default()
    }

    fn all(&self, which: impl Fn(&Times) -> &Vec<Duration>) -> Vec<Duration> {
        self.faults.values().flat_map(|times| which(times).iter().copied()).collect()
    }

    /// Print it, with these numbers first.
    pub fn print(&self, seed: u64, time: Duration, numbers: &[(&str, u64)]) {
        println!("\nseed {seed}, {} s, {} faults", time.as_secs(), self.count());
        for (name, number) in numbers {
            println!("{number:>9}  {name}");
        }
        let titles = ["times", "flowing p50", "p99", "caught up p50", "p99"];
        print_row("fault", &titles.map(str::to_owned));
        for (fault, times) in &self.faults {
            print_times(fault.name(), &times.flowing, &times.caught_up);
        }
        print_times("all", &self.all(|t| &t.flowing), &self.all(|t| &t.caught_up));
    }
}

fn print_times(name: &str, flowing: &[Duration], caught_up: &[Duration]) {
    let seconds = |times: &[Duration], p| {
        percentile(times, p).map_or("-".to_owned(), |time| format!("{:.3} s", time.as_secs_f64()))
    };
    let cells = [
        flowing.len().to_string(),
        seconds(flowing, 50),
        seconds(flowing, 99),
        seconds(caught_up, 50),
        seconds(caught_up, 99),
    ];
    print_row(name, &cells);
}

fn print_row(name: &str, cells: &[String; 5]) {
    let [times, a, b, c, d] = cells;
    println!("{name:<36} {times:>6} {a:>12} {b:>9} {c:>14} {d:>9}");
}

/// The smallest time that so many in a hundred don't exceed.
fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100);
    times.get(rank.saturating_sub(1)).copied()
}
