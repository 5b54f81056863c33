//! What the benches share: figures and tables, what the machine is, a payload, a little RESP.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod resp;

use std::fmt;

use crate::support::Redis;

/// What every message that has passed `announce`, or a bare contestant, has in it.
pub const ANNOUNCED: &str = "Received message '";

/// The middle of some numbers.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let (lower, upper) = (numbers[(numbers.len() - 1) / 2], numbers[numbers.len() / 2]);
    f64::midpoint(lower, upper)
}

/// The middle of some rates, and of how each compares with its neighbour in time in `base`.
pub fn rate_and_share(rates: &[f64], base: &[f64]) -> (f64, f64) {
    let shares = rates.iter().zip(base).map(|(own, base)| own / base);
    (median(rates.iter().copied()), median(shares))
}

/// The payload that rates are measured with.
pub fn payload(size: usize) -> Vec<u8> {
    let text = b"The quick brown fox jumps over the lazy dog, and the dog minds not. ";
    text.iter().copied().cycle().take(size).collect()
}

/// Processor, kernel and Redis.
pub fn machine(redis: &Redis) -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info: String = redis.run(&["INFO", "server"]);
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    format!(
        "{cpu}, {cores} cores, Linux {}, Redis {}",
        kernel.trim(),
        version.unwrap_or("?").trim()
    )
}

/// A table in Markdown; nothing when it has no lines.
pub fn table(f: &mut fmt::Formatter<'_>, head: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    let columns = head.matches('|').count() - 1;
    writeln!(f, "\n{head}\n|{}", " --- |".repeat(columns))?;
    lines.iter().try_for_each(|line| writeln!(f, "{line}"))
}

/// Say how far it is.
pub fn progress(text: &str) {
    eprintln!("{text}");
}
