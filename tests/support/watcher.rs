//! A subscriber of the test's own that keeps everything that comes, in order.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::{PATIENCE, Redis};

/// A message as a subscriber got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The Redis channel.
    pub channel: String,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Got {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// Subscribes and collects on a thread that ends with its Redis.
pub struct Watcher {
    seen: Arc<(Mutex<Vec<Got>>, Condvar)>,
}

impl Watcher {
    /// Subscribe; answers when Redis has confirmed.
    pub fn subscribe(redis: &Redis, channels: &[&str]) -> Watcher {
        Watcher::start(redis, channels, &[])
    }

    /// Subscribe to patterns.
    pub fn psubscribe(redis: &Redis, patterns: &[&str]) -> Watcher {
        Watcher::start(redis, &[], patterns)
    }

    fn start(redis: &Redis, channels: &[&str], patterns: &[&str]) -> Watcher {
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (ready, confirmed) = std::sync::mpsc::channel();
        let mut client = redis.client();
        let names: Vec<String> = channels.iter().map(|&name| name.into()).collect();
        let patterns: Vec<String> = patterns.iter().map(|&name| name.into()).collect();
        let shared = seen.clone();
        std::thread::spawn(move || {
            let mut pubsub = client.raw().as_pubsub();
            for name in &names {
                pubsub.subscribe(name).expect("SUBSCRIBE");
            }
            for pattern in &patterns {
                pubsub.psubscribe(pattern).expect("PSUBSCRIBE");
            }
            ready.send(()).expect("the test waits");
            // Ends when Redis does: the connection is cut then.
            while let Ok(message) = pubsub.get_message() {
                let channel: Vec<u8> = message.get_channel().expect("a channel");
                let got = Got {
                    channel: String::from_utf8_lossy(&channel).into_owned(),
                    payload: message.get_payload_bytes().to_vec(),
                };
                lock(&shared.0).push(got);
                shared.1.notify_all();
            }
        });
        confirmed.recv_timeout(PATIENCE).expect("the subscription is confirmed");
        Watcher { seen }
    }

    /// Wait until `enough` of what was seen so far; answers a copy of it.
    #[track_caller]
    pub fn wait_until(&self, what: &str, enough: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let seen = lock(&self.seen.0);
        let waiting = self.seen.1.wait_timeout_while(seen, PATIENCE, |seen| !enough(seen));
        let (seen, timeout) = waiting.unwrap_or_else(std::sync::PoisonError::into_inner);
        if timeout.timed_out() {
            let last: Vec<String> =
                seen.iter().rev().take(5).map(|got| brief(&got.payload)).collect();
            panic!("waited {PATIENCE:?} in vain for {what}; {} came, last {last:?}", seen.len());
        }
        seen.clone()
    }

    /// Wait for at least so many messages; answers all of them.
    #[track_caller]
    pub fn wait_count(&self, n: usize) -> Vec<Got> {
        self.wait_until(&format!("{n} messages"), |seen| seen.len() >= n)
    }

    /// Wait for at least so many messages; answers their payloads as text.
    #[track_caller]
    pub fn wait_texts(&self, n: usize) -> Vec<String> {
        self.wait_count(n).iter().map(Got::text).collect()
    }

    /// Wait for this payload; answers everything up to then.
    #[track_caller]
    pub fn wait_payload(&self, payload: &str) -> Vec<Got> {
        self.wait_until(&format!("{payload:?}"), |seen| {
            seen.iter().any(|got| got.payload == payload.as_bytes())
        })
    }

    /// How many came so far.
    pub fn count(&self) -> usize {
        lock(&self.seen.0).len()
    }

    /// What came so far.
    pub fn all(&self) -> Vec<Got> {
        lock(&self.seen.0).clone()
    }

    /// Forget what came so far.
    pub fn clear(&self) {
        lock(&self.seen.0).clear();
    }
}

fn lock(seen: &Mutex<Vec<Got>>) -> MutexGuard<'_, Vec<Got>> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The first bytes of a payload, for a failed test's message.
pub fn brief(payload: &[u8]) -> String {
    String::from_utf8_lossy(&payload[..payload.len().min(80)]).into_owned()
}
