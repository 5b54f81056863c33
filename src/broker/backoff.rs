//! How long to wait before something that failed is tried again. For whoever connects or writes,
//! the outputs included; when a message's handler is tried again is the policy's affair.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses without end: doubled from the first to the last, and up to as much again by chance, so
/// that many daemons don't come back at once.
pub(crate) fn backoff(first: Duration, last: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(last)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_by_chance_and_never_end() {
        let (first, last) = (Duration::from_millis(50), Duration::from_millis(500));
        // The jitter is a float's.
        let grain = Duration::from_micros(1);
        for _ in 0..20 {
            let mut least = first;
            for pause in backoff(first, last).take(40) {
                assert!(pause + grain >= least && pause <= 2 * least + grain, "{pause:?}");
                least = (2 * least).min(last);
            }
            assert_eq!(least, last);
            assert!(backoff(first, last).nth(10_000).is_some(), "it is tried for ever");
        }
        let firsts: std::collections::BTreeSet<_> =
            (0..50).filter_map(|_| backoff(first, last).next()).collect();
        assert!(firsts.len() > 40, "many daemons come back at once: {firsts:?}");
    }
}
