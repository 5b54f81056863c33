//! What becomes of a message that could not be handled: whether it is tried again, and when.
//!
//! Called by the workers, after each failed try. A pure leaf beside `chain`: it waits for nothing,
//! keeps nothing from one decision to the next and reads no clock, so that a decision can be
//! repeated.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::chain::FailureKind;
pub use crate::config::Retries;

/// The pause before the second try, at least. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Where pauses stop growing: who waits for something else to come back should not find out much
/// later than it did.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Tries after which the pause has long stopped growing; counting further would only take time.
const GROWN_UP: u32 = 20;

/// `retries` and `retry_for` of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often.
    pub retries: Retries,
    /// How long after the first failure another try may begin; `None` is without end.
    pub retry_for: Option<Duration>,
}

/// What to do with a message whose try has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this pause.
    Again {
        /// How long to wait.
        pause: Duration,
    },
    /// Dead letter, or where there is none, drop and count it.
    GiveUp,
}

impl Settings {
    /// Decide. `attempts` counts the tries so far, so it is 1 after the first; `since_first` is the
    /// time since the first of them failed. `seed` is what the pause is jittered by: messages with
    /// different seeds don't all come back at once, and the same seed gives the same pause.
    pub fn decide(
        &self,
        kind: FailureKind,
        attempts: u32,
        since_first: Duration,
        seed: u64,
    ) -> Verdict {
        let Some(asked) = wish(kind) else { return Verdict::GiveUp };
        match self.retries {
            Retries::Times(times) if attempts > times => return Verdict::GiveUp,
            Retries::Times(_) | Retries::Forever => {}
        }
        let pause = pause(attempts, seed);
        let pause = match self.retry_for.map(|limit| limit.saturating_sub(since_first)) {
            // What the handler asked for isn't cut short: it said that sooner is of no use.
            Some(left) if left.is_zero() || left < asked => return Verdict::GiveUp,
            // The last try is made when the time is up, not left out because its pause is longer.
            Some(left) => pause.min(left),
            None => pause,
        };
        Verdict::Again { pause: pause.max(asked) }
    }
}

/// The least pause that makes sense; `None` where another try would do the same again.
fn wish(kind: FailureKind) -> Option<Duration> {
    match kind {
        FailureKind::Retry { after } => Some(after.unwrap_or_default()),
        FailureKind::Trap | FailureKind::Timeout | FailureKind::Memory | FailureKind::Setup => {
            Some(Duration::ZERO)
        }
        FailureKind::Reject | FailureKind::Output | FailureKind::Route => None,
    }
}

/// The pause after so many tries: between a length that doubles each time, and twice that.
fn pause(attempts: u32, seed: u64) -> Duration {
    let mut pauses = ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .with_jitter_seed(seed.wrapping_add(attempts.into()))
        .without_max_times()
        .build();
    let before = attempts.saturating_sub(1).min(GROWN_UP) as usize;
    pauses.nth(before).unwrap_or(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: FailureKind = FailureKind::Retry { after: None };
    const THRICE: Settings =
        Settings { retries: Retries::Times(3), retry_for: Some(Duration::from_secs(300)) };
    const FOREVER: Settings = Settings { retries: Retries::Forever, retry_for: None };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn pause_of(verdict: Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Again { pause } => Some(pause),
            Verdict::GiveUp => None,
        }
    }

    #[test]
    fn what_would_fail_again_is_given_up_at_once() {
        for kind in [FailureKind::Reject, FailureKind::Output, FailureKind::Route] {
            assert_eq!(FOREVER.decide(kind, 1, Duration::ZERO, 0), Verdict::GiveUp, "{kind:?}");
        }
        let passing = [
            RETRY,
            FailureKind::Trap,
            FailureKind::Timeout,
            FailureKind::Memory,
            FailureKind::Setup,
        ];
        for kind in passing {
            let verdict = THRICE.decide(kind, 1, Duration::ZERO, 0);
            assert!(matches!(verdict, Verdict::Again { .. }), "{kind:?}");
        }
    }

    #[test]
    fn retries_count_the_tries_after_the_first() {
        let tries = |settings: Settings| {
            (1..100)
                .take_while(|n| settings.decide(RETRY, *n, Duration::ZERO, 7) != Verdict::GiveUp)
                .count()
        };
        let times = |n| Settings { retries: Retries::Times(n), retry_for: None };
        assert_eq!(tries(times(0)), 0);
        assert_eq!(tries(times(1)), 1);
        assert_eq!(tries(times(3)), 3);
        assert_eq!(tries(FOREVER), 99);
        assert!(matches!(
            FOREVER.decide(RETRY, u32::MAX, seconds(1 << 40), 7),
            Verdict::Again { .. }
        ));
    }

    #[test]
    fn pauses_grow_up_to_a_limit_and_are_jittered() {
        let pause = |attempts, seed| {
            pause_of(FOREVER.decide(RETRY, attempts, Duration::ZERO, seed)).expect("again")
        };
        for seed in 0..50 {
            let mut least = FIRST_PAUSE;
            for attempts in 1..40 {
                let pause = pause(attempts, seed);
                // The jitter is a float's.
                assert!(pause + Duration::from_micros(1) >= least, "{attempts}: {pause:?}");
                assert!(pause <= 2 * least + Duration::from_micros(1), "{attempts}: {pause:?}");
                least = (2 * least).min(LONGEST_PAUSE);
            }
        }
        let first: std::collections::BTreeSet<_> = (0..50).map(|seed| pause(1, seed)).collect();
        assert!(first.len() > 40, "messages that fail together come back together: {first:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let pauses = |seed| -> Vec<Option<Duration>> {
            (1..9).map(|n| pause_of(FOREVER.decide(RETRY, n, seconds(n.into()), seed))).collect()
        };
        assert_eq!(pauses(42), pauses(42));
        assert_ne!(pauses(42), pauses(43));
    }

    #[test]
    fn a_pause_is_at_least_what_the_handler_asked_for() {
        let after = |ms| FailureKind::Retry { after: Some(Duration::from_millis(ms)) };
        let decide = |kind, since| pause_of(THRICE.decide(kind, 1, since, 5));
        assert_eq!(decide(after(60_000), Duration::ZERO), Some(seconds(60)));
        // One that is shorter than the usual pause doesn't hurry.
        assert_eq!(decide(after(1), Duration::ZERO), decide(RETRY, Duration::ZERO));
        // One that ends too late is not waited for, nor cut short.
        assert_eq!(decide(after(60_000), seconds(240)), Some(seconds(60)));
        assert_eq!(decide(after(60_001), seconds(240)), None);
        assert_eq!(decide(after(u64::MAX), Duration::ZERO), None);
        let for_ever = FOREVER.decide(after(u64::MAX), 1, Duration::ZERO, 5);
        assert_eq!(pause_of(for_ever), Some(Duration::from_millis(u64::MAX)));
    }

    #[test]
    fn the_last_try_is_made_when_the_time_is_up() {
        let limited = Settings { retry_for: Some(seconds(30)), ..FOREVER };
        let left = Duration::from_millis(100);
        assert_eq!(pause_of(limited.decide(RETRY, 9, seconds(30) - left, 1)), Some(left));
        assert_eq!(limited.decide(RETRY, 9, seconds(30), 1), Verdict::GiveUp);
        assert_eq!(limited.decide(RETRY, 9, seconds(31), 1), Verdict::GiveUp);
        let never = Settings { retry_for: Some(Duration::ZERO), ..FOREVER };
        assert_eq!(never.decide(RETRY, 1, Duration::ZERO, 1), Verdict::GiveUp);
    }
}
