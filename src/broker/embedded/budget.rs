//! How much memory the clients of the embedded broker may take, all together: it is the daemon's.
//!
//! What can become large is charged before it is allocated, and given back when it is dropped.
//! What is bounded for each client, and small, isn't.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// Bytes that may be taken for all clients: half commands, answers and messages that wait, and
/// what they are subscribed to.
pub(super) const LIMIT: usize = 256 << 20;

/// Bytes of that for what all clients are subscribed to: each PUBLISH looks at every pattern, and
/// PUBSUB CHANNELS at every name.
pub(super) const SUBSCRIPTIONS: usize = 16 << 20;

/// So many bytes, and how many of them are taken.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    limit: usize,
    taken: Arc<AtomicUsize>,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Budget { limit, taken: Arc::default() }
    }

    /// Nothing of it yet.
    pub fn charge(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }

    /// Bytes that are charged for as long as anybody has them; `None` when there is no room.
    pub fn hold(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> Option<Bytes> {
        let mut charge = self.charge();
        let fits = charge.resize(bytes.as_ref().len() + HELD);
        fits.then(|| Bytes::from_owner(Held { bytes, _charge: charge }))
    }
}

/// What [`Budget::hold`] takes beside the bytes themselves.
const HELD: usize = 96;

struct Held<T> {
    bytes: T,
    _charge: Charge,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Charge {
    /// Make it so large; `false`, and no change, when that is more than there is.
    pub fn resize(&mut self, bytes: usize) -> bool {
        let Budget { limit, taken } = &self.budget;
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let take = |taken: usize| taken.checked_add(more).filter(|taken| taken <= limit);
            if taken.fetch_update(Relaxed, Relaxed, take).is_err() {
                return false;
            }
        } else {
            taken.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
        true
    }

    /// How large it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_than_there_is_and_all_comes_back() {
        let budget = Budget::new(1000);
        let taken = || budget.taken.load(Relaxed);
        let (mut one, mut other) = (budget.charge(), budget.charge());
        assert!(one.resize(600) && other.resize(400) && !other.resize(401));
        assert_eq!((one.bytes(), other.bytes(), taken()), (600, 400, 1000));
        assert!(one.resize(100) && other.resize(900));
        drop(one);
        assert_eq!(taken(), 900);
        drop(other);
        assert_eq!(taken(), 0);
        let held = budget.hold(vec![b'x'; 500]).expect("there is room");
        let copy = held.slice(1..2);
        assert!(budget.hold(vec![b'x'; 500]).is_none());
        drop(held);
        assert_eq!((copy, taken()), (Bytes::from_static(b"x"), 500 + HELD));
        assert_eq!(taken(), 0);
    }
}
