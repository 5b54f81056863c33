//! Counts messages by key. Knows nothing of settings, nor of the clock.

use std::borrow::Cow;
use std::collections::VecDeque;

use handlerd_plugin::{Failure, Message};
use lru::LruCache;
use shared::{Invalid, Pointer};

/// Longer keys, in bytes, are refused, so that so many keys are so much memory.
pub const LONGEST_KEY: usize = 256;

/// What has passed, and what may.
pub struct Throttle {
    /// How many messages may pass in any span of `per`, at least 1.
    pub limit: usize,
    /// In milliseconds.
    pub per: u64,
    pub key: Key,
    pub over: Over,
    pub invalid: Invalid,
    /// When the last messages of a key passed, the earliest first: at most `limit` of them. The key
    /// that came longest ago is forgotten when a new one needs the room.
    pub passed: LruCache<String, VecDeque<u64>>,
}

/// What is counted for itself.
pub enum Key {
    /// Each Redis channel.
    Channel,
    /// Each value there.
    Value(Pointer),
}

/// What becomes of a message beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Its way ends.
    Drop,
    /// It fails, for good.
    Reject,
}

impl Throttle {
    /// The message, where it may pass at `now`: in milliseconds, of any clock.
    pub fn handle(
        &mut self,
        channel: &str,
        message: Message,
        now: u64,
    ) -> Result<Vec<Message>, Failure> {
        let key = match &self.key {
            Key::Channel => Ok(Cow::Borrowed(channel)),
            Key::Value(pointer) => pointer.find(&message.payload),
        };
        let key = key.and_then(|key| match key.len() {
            ..=LONGEST_KEY => Ok(key),
            long => Err(format!("the key has {long} bytes: it may have {LONGEST_KEY}")),
        });
        match key {
            Err(reason) => self.invalid.answer(message, reason),
            Ok(key) if self.may_pass(&key, now) => Ok(vec![message]),
            Ok(_) if self.over == Over::Drop => Ok(Vec::new()),
            Ok(key) => Err(Failure::Reject(format!(
                "`{key}` has had {} messages within {} ms",
                self.limit, self.per
            ))),
        }
    }

    /// Whether one more of this key may pass; if so, it is counted.
    fn may_pass(&mut self, key: &str, now: u64) -> bool {
        let passed = self.passed.get_or_insert_mut_ref(key, VecDeque::new);
        // A distance, not an age: once the clock is set back, nothing counts that passed later than
        // now and `per`.
        while passed.front().is_some_and(|then| now.abs_diff(*then) >= self.per) {
            passed.pop_front();
        }
        let may_pass = passed.len() < self.limit;
        if may_pass {
            passed.push_back(now);
        }
        may_pass
    }
}
