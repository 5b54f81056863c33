//! Who is subscribed to what; the way of a published message to its receivers.
//!
//! One lock for all of it, held for as long as a message is handed to its receivers' outboxes: so
//! the messages of one publisher stay in order, and nobody waits for a client.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::budget::{Budget, LIMIT, SUBSCRIPTIONS};
use super::client::Client;
use super::outbox::Closed;
use super::reply::Protocol;
use crate::broker::resp;
use crate::config::matcher::Matcher;

/// Clients by their ids.
type Clients = BTreeMap<u64, Arc<Client>>;

/// All clients, and what they are subscribed to.
pub(super) struct Hub {
    /// For all that clients take together.
    pub memory: Budget,
    /// For what they are subscribed to.
    pub subscriptions: Budget,
    state: Mutex<State>,
}

impl Default for Hub {
    fn default() -> Self {
        Hub {
            memory: Budget::new(LIMIT - SUBSCRIPTIONS),
            subscriptions: Budget::new(SUBSCRIPTIONS),
            state: Mutex::default(),
        }
    }
}

#[derive(Default)]
struct State {
    last_id: u64,
    clients: Clients,
    channels: HashMap<Bytes, Clients>,
    patterns: HashMap<Bytes, Patterned>,
}

struct Patterned {
    matcher: Matcher,
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
        let client = Arc::new(Client::new(state.last_id, address, server_address, &self.memory));
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
    pub fn subscribe_pattern(&self, client: &Arc<Client>, text: &Bytes, matcher: Matcher) {
        let heads = Heads::of_pattern(text);
        let mut state = self.lock();
        let new = || Patterned { matcher, heads, clients: Clients::new() };
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

    /// Hand a message to all who are subscribed: by its name first, then by patterns. `None` when
    /// there is no memory to keep it in.
    pub fn publish(&self, publisher: u64, channel: &[u8], payload: &[u8]) -> Option<Published> {
        let state = self.lock();
        let head = Heads::CHANNEL;
        let named = state.channels.get(channel).map(|clients| (&head, clients));
        let matching = state.patterns.values().filter(|entry| entry.matcher.matches(channel));
        let matching = matching.map(|entry| (&entry.heads, &entry.clients));
        let mut receivers = named.into_iter().chain(matching).peekable();
        let mut published = Published { receivers: 0, own: Vec::new() };
        if receivers.peek().is_none() {
            return Some(published);
        }
        let Some(tail) = self.memory.hold(tail_of(channel, payload)) else {
            relieve(&state.clients);
            return None;
        };
        for (heads, clients) in receivers {
            for client in clients.values() {
                let message = [heads.for_client(client), tail.clone()];
                if client.id == publisher {
                    published.own.push(message);
                    published.receivers += 1;
                } else if client.outbox.push(message) {
                    published.receivers += 1;
                }
            }
        }
        Some(published)
    }

    /// Do something while no message is handed out.
    pub fn between_messages(&self, what: impl FnOnce()) {
        let _state = self.lock();
        what();
    }

    /// Cut off the client that takes most: there is no memory for what another one wants.
    pub fn relieve(&self) {
        relieve(&self.lock().clients);
    }

    /// Names that somebody is subscribed to, sorted; those that match, where a pattern is given.
    pub fn channels(&self, pattern: Option<&Matcher>) -> Vec<Bytes> {
        let mut names: Vec<Bytes> = self.lock().channels.keys().cloned().collect();
        // Nobody waits for this one.
        names.retain(|name| pattern.is_none_or(|pattern| pattern.matches(name)));
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

fn relieve(clients: &Clients) {
    if let Some(client) = clients.values().max_by_key(|client| client.takes()) {
        client.outbox.close(Closed::TookMost);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_more_fits_a_message_is_refused_and_who_takes_most_goes() {
        let hub = Hub { memory: Budget::new(4000), ..Hub::default() };
        let enter = |name: &'static str| {
            let client = hub.enter(name.to_owned(), String::new());
            hub.subscribe(&client, &name.into());
            client
        };
        let (slow, quick) = (enter("slow"), enter("quick"));
        let publish = |name: &str| {
            hub.publish(0, name.as_bytes(), &[b'x'; 2000]).map(|published| published.receivers)
        };
        assert_eq!(publish("slow"), Some(1));
        assert_eq!(publish("quick"), None);
        assert_eq!((slow.outbox.closed(), quick.outbox.closed()), (Some(Closed::TookMost), None));
        assert_eq!(publish("quick"), Some(1));
    }
}
