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
    pub fn note(&mut self, now: Instant, error: &str, command: &Oldest) {
        let code = error.split(' ').next().unwrap_or_default();
        let name = printable(&command.name, TEXT_SHOWN);
        let mut key = format!("{code} {} {name}", command.kind.as_str());
        if !self.seen.contains_key(&key) && self.seen.len() >= TOLD_APART {
            key = String::new();
        }
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
    pub fn tick(&mut self, now: Instant) {
        if self.seen.is_empty() {
            return;
        }
        let due = |seen: &Seen| now - seen.logged >= PERIOD;
        for seen in self.seen.values().filter(|seen| due(seen) && seen.held_back > 0) {
            self.log(&seen.text, seen.held_back);
        }
        self.seen.retain(|_, seen| {
            let keep = !due(seen) || seen.held_back > 0;
            if due(seen) {
                (seen.logged, seen.held_back) = (now, 0);
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
        "WRONGTYPE" => "; the key holds something else: use another one, or rename that",
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::super::ledger::Kind;
    use super::*;

    /// Runs it and answers the lines it logs.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, work);
        let text = lines.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }

    fn push(name: &str) -> Oldest {
        Oldest { kind: Kind::Push, name: name.into() }
    }

    #[test]
    fn a_flood_of_refusals_is_a_few_lines_that_tell_how_many() {
        let start = Instant::now();
        let mut refusals = Refusals::new("redis".into());
        let lines = logged(|| {
            for n in 0..1000 {
                refusals.note(start, "WRONGTYPE no\nlist", &push("a"));
                refusals.note(start, "NOPERM no", &push(&format!("b{n}")));
            }
            refusals.tick(start + PERIOD / 2);
        });
        assert_eq!(
            lines[0],
            "WARN RPUSH to \"a\" was refused: WRONGTYPE no\\nlist; the key holds something else: \
             use another one, or rename that connection=\"redis\" times=1"
        );
        assert!(lines[1].contains("RPUSH to \"b0\" was refused: NOPERM no; `handlerd check"));
        assert_eq!(lines.len(), TOLD_APART + 1);

        let lines = logged(|| {
            refusals.tick(start + PERIOD);
            refusals.tick(start + 2 * PERIOD);
            refusals.tick(start + 3 * PERIOD);
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().any(|line| line.ends_with("times=999")), "{lines:?}");
        let others = format!("times={}", 1000 - TOLD_APART);
        assert!(lines.iter().any(|line| line.ends_with(&others)), "{lines:?}");
        assert!(refusals.seen.is_empty());
    }
}
