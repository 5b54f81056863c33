//! The supervisor: asks every loop whether it comes around, feeds systemd's watchdog when all do,
//! and says in a line of words how things go.
//!
//! Run by the daemon beside its work, on no thread that a loop could hold up. Reads counters, and what
//! the view says is wrong; decides nothing and changes nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::notify::Notify;
use crate::heartbeat::{Heartbeats, ROUND};
use crate::telemetry::Metrics;
use crate::view::Problem;

/// How often the status is put into words.
const STATUS_EVERY: Duration = Duration::from_secs(3);

/// Names that a status lists before it only counts them.
const LISTED: usize = 5;

/// Tells what is wrong.
pub type Problems = Box<dyn Fn() -> Vec<Problem> + Send>;

/// See the module.
pub struct Watch {
    notify: Notify,
    heartbeats: Heartbeats,
    metrics: Arc<Metrics>,
    problems: Problems,
    stalled: Vec<String>,
    last: Last,
}

/// What was seen when the status was put into words last.
struct Last {
    at: Instant,
    received: u64,
    status: String,
}

impl Watch {
    /// Of these loops and counters.
    pub fn new(
        notify: Notify,
        heartbeats: Heartbeats,
        metrics: Arc<Metrics>,
        problems: Problems,
    ) -> Self {
        let last = Last { at: Instant::now(), received: 0, status: String::new() };
        Watch { notify, heartbeats, metrics, problems, stalled: Vec::new(), last }
    }

    /// Watch for ever.
    pub async fn run(mut self) -> Infallible {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status = interval_at(Instant::now() + ROUND, STATUS_EVERY);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let fed = self.notify.watchdog();
        let mut feeding = interval(fed.unwrap_or(ROUND));
        feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = rounds.tick() => {
                    self.heartbeats.ask();
                    self.look();
                    self.notify.catch_up();
                }
                _ = status.tick() => self.say(),
                _ = feeding.tick(), if fed.is_some() => {
                    if self.heartbeats.stalled().is_empty() {
                        self.notify.feed_watchdog();
                    }
                }
            }
        }
    }

    /// Log which loops stand still, once each.
    fn look(&mut self) {
        let stalled = self.heartbeats.stalled();
        for name in stalled.iter().filter(|name| !self.stalled.contains(name)) {
            tracing::error!("{name} stands still, by a fault of handlerd's own");
        }
        for name in self.stalled.iter().filter(|name| !stalled.contains(name)) {
            tracing::warn!("{name} goes on");
        }
        self.stalled = stalled;
    }

    fn say(&mut self) {
        let status = self.words(Instant::now());
        if status != self.last.status {
            self.notify.status(&status);
            self.last.status = status;
        }
    }

    /// How things go at this time, and how they went since the last.
    fn words(&mut self, now: Instant) -> String {
        let channels = self.metrics.channels();
        let seconds = now.saturating_duration_since(self.last.at).as_secs_f64().max(0.001);
        let received = channels.values().map(|channel| channel.received.get()).sum::<u64>();
        let rate = received.saturating_sub(self.last.received) as f64 / seconds;
        let count = channels.len();
        let mut text = match count {
            1 => "1 channel".to_owned(),
            _ => format!("{count} channels"),
        };
        let precision = usize::from(rate > 0.0 && rate < 10.0);
        text.push_str(&format!(", {rate:.precision$} messages a second"));
        let problems = (self.problems)();
        // What is of one kind is said together, in the order in which the kinds come.
        let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
        for (what, of) in problems.iter().map(Problem::in_short) {
            match kinds.iter_mut().find(|(kind, _)| *kind == what) {
                Some((_, names)) if names.contains(&of) => {}
                Some((_, names)) => names.push(of),
                None => kinds.push((what, vec![of])),
            }
        }
        for (what, names) in kinds {
            text.push_str(&format!("; {what}: {}", listed(&names)));
        }
        (self.last.at, self.last.received) = (now, received);
        text
    }
}

/// Some of the names, and how many more there are.
fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_status_says_how_many_and_what_is_wrong() {
        let metrics = Arc::new(Metrics::default());
        let chat = metrics.channel(&"chat".into());
        let orders = metrics.channel(&"orders".into());
        let problems = Arc::new(Mutex::new(Vec::new()));
        let told = problems.clone();
        let told = Box::new(move || told.lock().unwrap().clone());
        let notify = Notify::of_environment();
        let mut watch = Watch::new(notify, Heartbeats::default(), metrics.clone(), told);
        chat.received.add(10);
        orders.received.add(2);
        let later = watch.last.at + Duration::from_secs(2);
        assert_eq!(watch.words(later), "2 channels, 6.0 messages a second");

        let away = |channel: &str| {
            let (channel, connection) = (channel.into(), "eu".into());
            Problem::OutputsAway { channel, connection }
        };
        let (channel, names) = ("chat".into(), vec!["a".into(), "b".into()]);
        let unsubscribed = Problem::Unsubscribed { channel, names };
        *problems.lock().unwrap() = vec![
            unsubscribed,
            away("chat"),
            away("orders"),
            Problem::Stalled("hand 1".into()),
            Problem::ReloadFailed("config.toml:3:1: …".into()),
        ];
        let ill = "2 channels, 0 messages a second; not subscribed: chat; Redis is away for \
                   outputs: eu; stands still: hand 1; the last reload failed: config.toml:3:1: …";
        assert_eq!(watch.words(later), ill);

        problems.lock().unwrap().clear();
        let again = "2 channels, 0 messages a second";
        assert_eq!(watch.words(later), again, "what is over isn't said any more");
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
