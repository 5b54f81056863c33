//! What two looks at a daemon say together: so much a second.

use crate::status::{Channel, Handler, Status};
use crate::timing::Snapshot;

/// A channel, and its rates where it was there at the look before.
#[derive(Clone, Debug)]
pub struct ChannelRow {
    /// As it is now.
    pub now: Channel,
    /// Messages a second.
    pub received: Option<f64>,
    /// Likewise.
    pub handled: Option<f64>,
    /// Writes a second.
    pub out: Option<f64>,
    /// Lost messages a second.
    pub dropped: Option<f64>,
}

/// A handler likewise.
#[derive(Clone, Debug)]
pub struct HandlerRow {
    /// As it is now.
    pub now: Handler,
    /// Calls a second.
    pub calls: Option<f64>,
    /// Failures a second.
    pub failures: Option<f64>,
    /// How long those calls took that came since; since the start where there was no look before.
    pub took: Snapshot,
}

/// Seconds between two looks at one daemon; `None` when it is another, or was started again.
fn between(before: Option<&Status>, now: &Status) -> Option<f64> {
    let before = before.filter(|before| before.pid == now.pid)?;
    let ms = now.uptime_ms.checked_sub(before.uptime_ms).filter(|ms| *ms > 0)?;
    Some(ms as f64 / 1000.0)
}

fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

/// The channels.
pub fn channels(before: Option<&Status>, now: &Status) -> Vec<ChannelRow> {
    let seconds = between(before, now);
    let row = |channel: &Channel| {
        let is_same = |was: &&Channel| was.name == channel.name && was.ending == channel.ending;
        let was = before.and_then(|before| before.channels.iter().find(is_same));
        let of = |number: fn(&Channel) -> u64| Some(rate(number(was?), number(channel), seconds?));
        ChannelRow {
            now: channel.clone(),
            received: of(|channel| channel.received),
            handled: of(|channel| channel.handled),
            out: of(|channel| channel.delivered.values().sum()),
            dropped: of(|channel| channel.dropped.values().sum()),
        }
    };
    now.channels.iter().map(row).collect()
}

/// The handlers.
pub fn handlers(before: Option<&Status>, now: &Status) -> Vec<HandlerRow> {
    let seconds = between(before, now);
    let row = |handler: &Handler| {
        let was = before.and_then(|before| before.handlers.iter().find(|h| h.name == handler.name));
        let of = |number: fn(&Handler) -> u64| Some(rate(number(was?), number(handler), seconds?));
        let before = seconds.and(was).map(|was| Snapshot::of(&was.seconds));
        let took = Snapshot::of(&handler.seconds);
        HandlerRow {
            took: before.map_or(took.clone(), |before| took.since(&before)),
            now: handler.clone(),
            calls: of(|handler| handler.calls),
            failures: of(|handler| handler.failures.values().sum()),
        }
    };
    now.handlers.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::example;
    use crate::status::Bucket;

    #[test]
    fn rates_are_by_the_daemons_own_clock_and_none_over_a_restart() {
        let before = example();
        let mut now = example();
        now.uptime_ms += 500;
        now.channels[0].received += 1000;
        now.handlers[0].calls += 10;
        now.handlers[0].seconds.buckets = vec![Bucket { le: Some(0.25), calls: 10 }];
        let rates = channels(Some(&before), &now);
        assert_eq!((rates[0].received, rates[0].handled), (Some(2000.0), Some(0.0)));
        let row = &handlers(Some(&before), &now)[0];
        assert_eq!((row.calls, row.took.count()), (Some(20.0), 10));
        assert!((0.1..=0.25).contains(&row.took.quantile(0.5)));
        now.pid += 1;
        assert_eq!(channels(Some(&before), &now)[0].received, None);
        assert_eq!(channels(None, &now)[0].received, None);
    }
}
