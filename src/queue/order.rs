//! `order_by`: messages with the same key are handled one after the other, whatever number of
//! workers there is. Owns the key of a message, and which keys are in hand.

use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};

use super::Received;
use crate::config::OrderBy;
use crate::message::Message;

/// How many take turns at a queue at a time, and what they keep the order of.
#[derive(Clone, Debug)]
pub struct Workers {
    /// So many.
    pub most: usize,
    /// With several: messages that are alike in this are handled in order.
    pub order_by: Option<OrderBy>,
}

impl From<usize> for Workers {
    fn from(most: usize) -> Self {
        Workers { most, order_by: None }
    }
}

/// What tells the messages apart that need no order among them. Two different ones may come out
/// equal: then these keep an order that nobody asked for.
pub(super) fn key(order_by: &OrderBy, message: &Message) -> u64 {
    let mut hasher = FxHasher::default();
    match order_by {
        OrderBy::Header(name) => {
            let value = message.headers.iter().find(|(header, _)| header == name);
            value.map(|(_, value)| value).hash(&mut hasher);
        }
        OrderBy::Pointer(pointer) => {
            let json = serde_json::from_slice::<serde_json::Value>(&message.payload).ok();
            let value = json.as_ref().and_then(|json| json.pointer(pointer));
            value.map(ToString::to_string).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// What a key that is in hand is about.
#[derive(Debug)]
struct InHand {
    /// [`Received::number`] of the first one with it.
    first: u64,
    /// Whether one that waits was not taken for it.
    waits: bool,
}

/// Keys of the messages in hand.
#[derive(Debug, Default)]
pub(super) struct Busy {
    keys: FxHashMap<u64, InHand>,
    /// So many of the first that wait have keys that are in hand: nobody need look at them again.
    pub(super) looked: usize,
}

impl Busy {
    /// Whether a message with this key may be taken, by somebody who has these in hand already.
    pub(super) fn allows(&mut self, key: u64, own: &[u64]) -> bool {
        match self.keys.get_mut(&key) {
            Some(in_hand) if !own.contains(&key) => {
                in_hand.waits = true;
                false
            }
            _ => true,
        }
    }

    /// Somebody has this in hand now.
    pub(super) fn take(&mut self, message: &Received, own: &mut Vec<u64>) {
        if let Entry::Vacant(key) = self.keys.entry(message.order) {
            own.push(*key.key());
            key.insert(InHand { first: message.number, waits: false });
        }
    }

    /// Whether one is in hand that has a lower number.
    pub(super) fn has_one_before(&self, number: u64) -> bool {
        self.keys.values().any(|in_hand| in_hand.first < number)
    }

    /// Nobody has these in hand any more, but for the one that stays.
    pub(super) fn release(&mut self, own: &mut Vec<u64>, stays: Option<u64>) {
        own.retain(|key| {
            if stays == Some(*key) {
                return true;
            }
            if self.keys.remove(key).is_some_and(|in_hand| in_hand.waits) {
                self.looked = 0;
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_alike_there_have_the_same_key() {
        let header = OrderBy::Header("user".into());
        let with = |value: &str| {
            let mut message = Message::new("x");
            message.headers.push(("user".into(), value.into()));
            message
        };
        assert_eq!(key(&header, &with("ann")), key(&header, &with("ann")));
        assert_ne!(key(&header, &with("ann")), key(&header, &with("bob")));
        assert_ne!(key(&header, &with("")), key(&header, &Message::new("x")));
        let pointer = OrderBy::Pointer("/user/id".into());
        let json = |text: &str| key(&pointer, &Message::new(text));
        assert_eq!(json(r#"{"user":{"id":7},"n":1}"#), json(r#"{"n":2, "user": {"id": 7}}"#));
        assert_ne!(json(r#"{"user":{"id":7}}"#), json(r#"{"user":{"id":"7"}}"#));
        // What has no such place, or is no JSON, is alike.
        assert_eq!(json("{}"), json("not JSON"));
    }
}
