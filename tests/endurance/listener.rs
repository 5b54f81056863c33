//! Subscribes to what is published, again and again, and counts how often each message was heard.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{feeder, ledger::Counts, message};

/// How often its thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// A thread that ends with it.
pub struct Listener {
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    heard: Mutex<Counts>,
}

impl Listener {
    /// Listen to `channel` at the Redis at this socket.
    pub fn start(socket: &Path, channel: &'static str) -> Listener {
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), heard: Mutex::default() });
        let (client, listening) = (feeder::client(socket), shared.clone());
        std::thread::spawn(move || {
            while !listening.stop.load(SeqCst) {
                // Fails whenever Redis is away; then it is tried again.
                let _ = listening.listen(&client, channel);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Listener { shared }
    }

    /// How often each was heard.
    pub fn heard(&self) -> Counts {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
    }
}

impl Shared {
    fn listen(&self, client: &redis::Client, channel: &str) -> redis::RedisResult<()> {
        let mut connection = client.get_connection()?;
        let mut subscription = connection.as_pubsub();
        subscription.subscribe(channel)?;
        subscription.set_read_timeout(Some(LOOK))?;
        while !self.stop.load(SeqCst) {
            match subscription.get_message() {
                Ok(heard) => {
                    let number = message::number(heard.get_payload_bytes());
                    self.heard.lock().unwrap_or_else(PoisonError::into_inner).add(number);
                }
                Err(e) if e.is_timeout() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
