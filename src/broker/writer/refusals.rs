//! What Redis refused, said without filling the log.
//!
//! The first refusal of a name for a reason is logged at once, those that follow are counted and
//! logged together. Counting in the metrics is not done here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Oldest;
use crate::telemetry::printable;

/// The same refusal is logged once in this time.
const PERIOD: Duration = Duration::from_secs(10);

/// Refusals told apart. Names can be as many as messages: further ones are logged as one.
const TOLD_APART: usize = 64;

/// Bytes of Redis's words that are shown.
const TEXT_SHOWN: usize = 500;

/// The refusals of one connection.
pub struct Refusals {
    connection: Arc<str>,
    seen: HashMap<String, Seen>,
}

struct Seen {
    logged: Instant,
    held_back: u64,
    /// The last line, without how often.
    text: String,
}

impl Refusals {
    pub fn new(connection: Arc<str>) -> Self {
        Refusals { connection, seen: HashMap::new() }
    }

    /// Redis answered this command with this error.
    pub fn note(&mut self, error: &str, command: &Oldest) {
        let code = error.split(' ').next().unwrap_or_default();
        let name = printable(&command.name, TEXT_SHOWN);
        let mut key = format!("{code} {} {name}", command.kind.as_str());
        if !self.seen.contains_key(&key) && self.seen.len() >= TOLD_APART {
            key = String::new();
        }
        let now = Instant::now();
        match self.seen.get_mut(&key) {
            Some(seen) if now - seen.logged < PERIOD => seen.held_back += 1,
            known => {
                let held_back = known.map_or(0, |seen| seen.held_back);
                let text = format!(
                    "{} to \"{name}\" was refused: {}{}",
                    command.kind.as_str(),
                    printable(error.as_bytes(), TEXT_SHOWN),
                    advice(code)
                );
                self.log(&text, 1 + held_back);
                self.seen.insert(key, Seen { logged: now, held_back: 0, text });
            }
        }
    }

    /// Say what was held back and is due; to be called now and then.
    pub fn tick(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        let due = |seen: &Seen| seen.logged.elapsed() >= PERIOD;
        for seen in self.seen.values().filter(|seen| due(seen) && seen.held_back > 0) {
            self.log(&seen.text, seen.held_back);
        }
        self.seen.retain(|_, seen| {
            let keep = !due(seen) || seen.held_back > 0;
            if due(seen) {
                (seen.logged, seen.held_back) = (Instant::now(), 0);
            }
            keep
        });
    }

    fn log(&self, text: &str, times: u64) {
        tracing::warn!(connection = &*self.connection, times, "{text}");
    }
}

/// What to do about an error, by its code.
fn advice(code: &str) -> &'static str {
    match code {
        "NOPERM" => "; `handlerd check --connect` prints the ACL line that would permit it",
        "WRONGTYPE" => "; the key holds something else than a list: push to another, or rename it",
        "OOM" => "; Redis is at its maxmemory: raise it, or let it evict (maxmemory-policy)",
        "READONLY" => "; this Redis is a replica: name its master in the connection's url",
        "MASTERDOWN" => "; this Redis is a replica that has lost its master",
        "MISCONF" => "; Redis can't save to its disk and takes no writes: its log says why",
        "NOREPLICAS" => "; Redis takes no writes while it has too few replicas",
        "LOADING" => "; Redis is reading its data",
        "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT" => {
            "; the key belongs to another node of this Redis Cluster: name that node in the \
             connection's url"
        }
        _ => "",
    }
}
