//! Who is subscribed to what; the way of a published message to its receivers.
//!
//! One lock for all of it, held for as long as a message is handed to its receivers' outboxes: so
//! the messages of one publisher stay in order, and nobody waits for a client.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::client::Client;
use super::reply::Protocol;
use crate::broker::resp;
use crate::config::pattern::Pattern;

/// Clients by their ids.
type Clients = BTreeMap<u64, Arc<Client>>;

/// All clients, and what they are subscribed to.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    clients: Clients,
    channels: HashMap<Bytes, Clients>,
    patterns: HashMap<Bytes, Patterned>,
}

struct Patterned {
    pattern: Pattern,
    heads: Heads,
    clients: Clients,
}

/// The first bytes of a message, up to its channel: the rest is the same for all receivers, and
/// shared by them.
struct Heads {
    resp2: Bytes,
    resp3: Bytes,
}

impl Heads {
    const CHANNEL: Heads = Heads {
        resp2: Bytes::from_static(b"*3\r\n$7\r\nmessage\r\n"),
        resp3: Bytes::from_static(b">3\r\n$7\r\nmessage\r\n"),
    };

    fn of_pattern(pattern: &[u8]) -> Self {
        let head = |kind: &[u8]| {
            let mut head = kind.to_vec();
            resp::bulk(&mut head, b"pmessage");
            resp::bulk(&mut head, pattern);
            Bytes::from(head)
        };
        Heads { resp2: head(b"*4\r\n"), resp3: head(b">4\r\n") }
    }

    fn for_client(&self, client: &Client) -> Bytes {
        match client.protocol() {
            Protocol::Resp2 => self.resp2.clone(),
            Protocol::Resp3 => self.resp3.clone(),
        }
    }
}

/// What became of a published message.
pub(super) struct Published {
    /// Subscriptions that it reached.
    pub receivers: usize,
    /// What the publisher itself is to get, behind the answer to its PUBLISH, as in Redis.
    pub own: Vec<[Bytes; 2]>,
}

impl Hub {
    // Nothing that panics is done under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has come.
    pub fn enter(&self, address: String, server_address: String) -> Arc<Client> {
        let mut state = self.lock();
        state.last_id += 1;
        let client = Arc::new(Client::new(state.last_id, address, server_address));
        state.clients.insert(client.id, client.clone());
        client
    }

    /// A client has gone; it has unsubscribed from everything.
    pub fn leave(&self, client: &Client) {
        self.lock().clients.remove(&client.id);
    }

    /// All clients, in the order in which they came.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        self.lock().clients.values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().clients.len()
    }

    /// Subscribe to a name. The confirmation must wait in the outbox already.
    pub fn subscribe(&self, client: &Arc<Client>, channel: &Bytes) {
        let mut state = self.lock();
        state.channels.entry(channel.clone()).or_default().insert(client.id, client.clone());
    }

    /// No message of this name after this.
    pub fn unsubscribe(&self, client: &Client, channel: &Bytes) {
        let mut state = self.lock();
        if let Some(clients) = state.channels.get_mut(channel) {
            clients.remove(&client.id);
            if clients.is_empty() {
                state.channels.remove(channel);
            }
        }
    }

    /// Subscribe to a pattern. The confirmation must wait in the outbox already.
    pub fn subscribe_pattern(&self, client: &Arc<Client>, text: &Bytes, pattern: Pattern) {
        let heads = Heads::of_pattern(text);
        let mut state = self.lock();
        let new = || Patterned { pattern, heads, clients: Clients::new() };
        let entry = state.patterns.entry(text.clone()).or_insert_with(new);
        entry.clients.insert(client.id, client.clone());
    }

    /// No message of this pattern after this.
    pub fn unsubscribe_pattern(&self, client: &Client, text: &Bytes) {
        let mut state = self.lock();
        if let Some(entry) = state.patterns.get_mut(text) {
            entry.clients.remove(&client.id);
            if entry.clients.is_empty() {
                state.patterns.remove(text);
            }
        }
    }

    /// Hand a message to all who are subscribed: by its name first, then by patterns.
    pub fn publish(&self, publisher: u64, channel: &[u8], payload: &[u8]) -> Published {
        let mut published = Published { receivers: 0, own: Vec::new() };
        let mut tail = None;
        let mut deliver = |heads: &Heads, clients: &Clients| {
            let tail = tail.get_or_insert_with(|| tail_of(channel, payload));
            for client in clients.values() {
                let message = [heads.for_client(client), tail.clone()];
                if client.id == publisher {
                    published.own.push(message);
                    published.receivers += 1;
                } else if client.outbox.push(message) {
                    published.receivers += 1;
                }
            }
        };
        let state = self.lock();
        if let Some(clients) = state.channels.get(channel) {
            deliver(&Heads::CHANNEL, clients);
        }
        for entry in state.patterns.values() {
            if entry.pattern.matches_bytes(channel) {
                deliver(&entry.heads, &entry.clients);
            }
        }
        published
    }

    /// Names that somebody is subscribed to, sorted; those that match, where a pattern is given.
    pub fn channels(&self, pattern: Option<&Pattern>) -> Vec<Bytes> {
        let state = self.lock();
        let matches = |name: &&Bytes| pattern.is_none_or(|pattern| pattern.matches_bytes(name));
        let mut names: Vec<Bytes> = state.channels.keys().filter(matches).cloned().collect();
        drop(state);
        names.sort();
        names
    }

    /// How many clients are subscribed to this very name.
    pub fn subscribers(&self, channel: &[u8]) -> usize {
        self.lock().channels.get(channel).map_or(0, Clients::len)
    }

    /// How many names, and how many different patterns, somebody is subscribed to.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.channels.len(), state.patterns.len())
    }
}

/// Channel and payload, encoded once for all receivers: both protocols write strings alike.
fn tail_of(channel: &[u8], payload: &[u8]) -> Bytes {
    /// The headers of two strings, with room to spare.
    const HEADERS: usize = 32;
    let mut tail = Vec::with_capacity(channel.len() + payload.len() + HEADERS);
    resp::bulk(&mut tail, channel);
    resp::bulk(&mut tail, payload);
    tail.into()
}
