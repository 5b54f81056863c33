//! How long the calls of a handler take: a histogram of atomics, without a lock.
//!
//! Filled by whoever calls a handler, read by those who look at the daemon, from outside as the
//! numbers of a status. Knows neither.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::status::{self, Bucket};

/// Upper bounds of the buckets in nanoseconds, each inclusive; one bucket more holds what took
/// longer. A small plugin answers within a microsecond, and a call may be given minutes.
const BOUNDS: [u64; 22] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// The calls of one handler.
#[derive(Debug, Default)]
pub struct Timing {
    calls: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Timing {
    /// So many messages were handled in one go, each in its share of the time. Two additions,
    /// however many they are.
    pub fn observe(&self, messages: u64, took: Duration) {
        let took = took.as_nanos().try_into().unwrap_or(u64::MAX);
        let Some(each) = u64::checked_div(took, messages) else { return };
        let bucket = BOUNDS.partition_point(|bound| *bound < each);
        self.calls[bucket].fetch_add(messages, Relaxed);
        self.nanoseconds.fetch_add(took, Relaxed);
    }

    /// What it holds now.
    pub fn snapshot(&self) -> Snapshot {
        let calls = std::array::from_fn(|bucket| self.calls[bucket].load(Relaxed));
        Snapshot { calls, nanoseconds: self.nanoseconds.load(Relaxed) }
    }
}

/// What a [`Timing`] held at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    calls: [u64; BUCKETS],
    nanoseconds: u64,
}

impl Snapshot {
    /// All calls.
    pub fn count(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// What buckets hold that a status tells of. One with a bound that isn't known here (another
    /// version's) goes to the next that is.
    pub fn of(seconds: &status::Seconds) -> Snapshot {
        let mut calls = [0; BUCKETS];
        for Bucket { le, calls: more } in &seconds.buckets {
            let known = |le: &f64| BOUNDS.partition_point(|bound| self::seconds(*bound) < *le);
            calls[le.as_ref().map_or(BUCKETS - 1, known)] += more;
        }
        Snapshot { calls, nanoseconds: (seconds.sum * 1e9) as u64 }
    }

    /// What came since that one.
    pub fn since(&self, before: &Snapshot) -> Snapshot {
        let more = |bucket: usize| self.calls[bucket].saturating_sub(before.calls[bucket]);
        let nanoseconds = self.nanoseconds.saturating_sub(before.nanoseconds);
        Snapshot { calls: std::array::from_fn(more), nanoseconds }
    }

    /// In a few words.
    pub fn status(&self) -> status::Seconds {
        let buckets = self.buckets().into_iter().filter(|(_, calls)| *calls > 0);
        let bucket = |(le, calls): (f64, u64)| Bucket { le: le.is_finite().then_some(le), calls };
        status::Seconds {
            count: self.count(),
            sum: self.sum(),
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            buckets: buckets.map(bucket).collect(),
        }
    }

    /// The seconds that all of them took together.
    pub fn sum(&self) -> f64 {
        seconds(self.nanoseconds)
    }

    /// Each bucket's upper bound in seconds, and how many calls it holds beyond the one before.
    pub fn buckets(&self) -> [(f64, u64); BUCKETS] {
        let bound = |bucket| BOUNDS.get(bucket).map_or(f64::INFINITY, |bound| seconds(*bound));
        std::array::from_fn(|bucket| (bound(bucket), self.calls[bucket]))
    }

    /// The seconds within which this share of the calls was over: as far as buckets tell it, evenly
    /// spread in each, and never more than the last bound. 0 where there were none.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = share * self.count() as f64;
        let (mut below, mut lower) = (0, 0.0);
        for (upper, calls) in self.buckets() {
            let through = below + calls;
            if calls > 0 && through as f64 >= rank {
                if upper.is_infinite() {
                    break;
                }
                return lower + (upper - lower) * (rank - below as f64).max(0.0) / calls as f64;
            }
            below = through;
            lower = if upper.is_finite() { upper } else { lower };
        }
        if below == 0 && self.count() == 0 { 0.0 } else { lower }
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_many_calls_that_share_its_time() {
        let timing = Timing::default();
        timing.observe(100, Duration::from_micros(200));
        timing.observe(1, Duration::from_millis(30));
        timing.observe(1, Duration::from_secs(60));
        timing.observe(0, Duration::from_secs(60));
        let seen = timing.snapshot();
        assert_eq!(seen.count(), 102);
        assert!((seen.sum() - 60.0302).abs() < 1e-9, "{}", seen.sum());
        let filled: Vec<(f64, u64)> =
            seen.buckets().into_iter().filter(|(_, calls)| *calls > 0).collect();
        assert_eq!(filled, [(2.5e-6, 100), (0.05, 1), (f64::INFINITY, 1)]);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let timing = Timing::default();
        timing.observe(1, Duration::from_micros(1));
        timing.observe(1, Duration::from_nanos(1_001));
        let buckets = timing.snapshot().buckets();
        assert_eq!(buckets[..2], [(1e-6, 1), (2.5e-6, 1)]);
    }

    #[test]
    fn what_came_between_two_looks_is_told_by_what_a_status_says() {
        let timing = Timing::default();
        timing.observe(1000, Duration::from_millis(5));
        let before = timing.snapshot().status();
        timing.observe(1, Duration::from_millis(30));
        timing.observe(1, Duration::from_secs(60));
        let now = timing.snapshot().status();
        let json = serde_json::to_string(&now).expect("JSON");
        let read = serde_json::from_str(&json).expect("the same");
        assert_eq!(now, read);
        let between = Snapshot::of(&read).since(&Snapshot::of(&before));
        assert_eq!(between.count(), 2);
        assert!((0.025..=0.05).contains(&between.quantile(0.5)), "{}", between.quantile(0.5));
        assert!(now.p50 < 0.000_01, "{}", now.p50);
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_call() {
        let timing = Timing::default();
        assert_eq!(timing.snapshot().quantile(0.5), 0.0);
        timing.observe(98, Duration::from_micros(98 * 7));
        timing.observe(2, Duration::from_millis(2 * 80));
        let seen = timing.snapshot();
        let (p50, p99) = (seen.quantile(0.5), seen.quantile(0.99));
        assert!((5e-6..10e-6).contains(&p50), "{p50}");
        assert!((0.05..=0.1).contains(&p99), "{p99}");
        timing.observe(1000, Duration::from_secs(20_000));
        assert_eq!(timing.snapshot().quantile(0.99), 10.0);
    }
}
