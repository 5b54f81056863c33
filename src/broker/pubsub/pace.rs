//! When the session lets others go on that wait for its thread: the workers with what was read.
//!
//! As a rule after each read, so that what came is handled while it is warm. But handlers may take their
//! time, and with as many of them as there are threads the session would read a little only after a turn
//! of each: Redis, whose patience is short, would end the connection, and what is lost then is not even
//! counted. So after a long time it reads as often as it would have done meanwhile. What there is no room
//! for overflows in the queues, where that is counted.

use std::time::{Duration, Instant};

/// What others take between two reads at most while all of them are quick: a stint of the crew's.
const QUICK: Duration = Duration::from_millis(1);

/// Reads in a row at most: some ten milliseconds of work.
const MOST: u32 = 64;

/// What has not been read by then doesn't wait: what comes later is another flood, or none.
const SOON: Duration = Duration::from_millis(20);

/// How often it may be read before others go on.
#[derive(Default)]
pub(super) struct Pace {
    /// Besides the next one, and until when.
    more: Option<(u32, Instant)>,
}

impl Pace {
    /// What was read at this time has been taken: let others go on, unless they had their time before.
    pub(super) async fn give_way(&mut self, read: Instant) {
        if self.goes_on(read) {
            return;
        }
        let gave = Instant::now();
        tokio::task::yield_now().await;
        let now = Instant::now();
        self.waited(now - gave, now);
    }

    fn goes_on(&mut self, now: Instant) -> bool {
        match &mut self.more {
            Some((more @ 1.., until)) if now < *until => {
                *more -= 1;
                true
            }
            _ => false,
        }
    }

    fn waited(&mut self, others: Duration, now: Instant) {
        let reads = u32::try_from(others.as_micros() / QUICK.as_micros()).unwrap_or(MOST).min(MOST);
        self.more = reads.checked_sub(1).map(|more| (more, now + SOON));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_long_time_it_is_read_as_often_as_it_would_have_been() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut reads_after = |others| {
            pace.waited(others, start);
            1 + std::iter::from_fn(|| pace.goes_on(start).then_some(())).count()
        };
        let micros = Duration::from_micros;
        assert_eq!([0, 300, 1_000, 1_999].map(|n| reads_after(micros(n))), [1; 4]);
        assert_eq!([2_000, 14_500, 64_000].map(|n| reads_after(micros(n))), [2, 14, 64]);
        assert_eq!(reads_after(Duration::from_secs(60)), 64, "and not for ever");
    }

    #[test]
    fn what_comes_later_is_read_as_usual() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.waited(Duration::from_secs(1), start);
        assert!(pace.goes_on(start + SOON / 2) && !pace.goes_on(start + SOON));
    }
}
