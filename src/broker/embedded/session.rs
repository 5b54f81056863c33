//! One client's connection: bytes in, commands done in order, bytes out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::budget::{self, Charge};
use super::client::Client;
use super::command;
use super::hub::Hub;
use super::outbox::{Closed, LIMIT, Writer};
use super::reply::{self, Protocol, Reply, error};
use super::request::Requests;
use super::server::Server;
use crate::config::matcher::Matcher;

/// How long a client that is left, or at the end of the server, may take to read what waits.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How long a client's commands are done before others have their turn.
const TURN: Duration = Duration::from_millis(1);

/// Bytes that a client may be subscribed to: some 19,000 names.
const MOST_SUBSCRIBED: usize = 8 << 20;

/// What a subscription takes beside its text, here and in the hub.
const SUBSCRIPTION: usize = 400;

/// Which answers are left out (`CLIENT REPLY`). Messages come nevertheless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Silence {
    #[default]
    None,
    /// That of the present command, and of the next.
    Next,
    /// That of the present command.
    Present,
    All,
}

/// What belongs to one connection alone.
pub(super) struct Session {
    pub server: Arc<Server>,
    pub client: Arc<Client>,
    pub silence: Silence,
    /// Whether the client is to be left when its answers have been written.
    pub leaving: bool,
    channels: Subscriptions,
    patterns: Subscriptions,
    /// For both of them.
    subscribed: Charge,
}

/// Names or patterns, and what is charged for each.
type Subscriptions = BTreeMap<Bytes, usize>;

impl Session {
    pub fn new(server: Arc<Server>, address: String, server_address: String) -> Self {
        let client = server.hub.enter(address, server_address);
        let subscribed = server.hub.subscriptions.charge();
        Session {
            server,
            client,
            silence: Silence::None,
            leaving: false,
            channels: Subscriptions::new(),
            patterns: Subscriptions::new(),
            subscribed,
        }
    }

    /// Serve the client until it goes, is cut off, or the server stops.
    pub async fn run(
        mut self,
        from: impl AsyncRead + Unpin,
        to: impl AsyncWrite + Unpin,
        stop: CancellationToken,
    ) {
        let client = self.client.clone();
        let mut writer = Writer::new(to);
        tokio::select! {
            biased;
            _ = writer.run(&client.outbox) => {}
            _ = self.read(from) => {}
            () = stop.cancelled() => {}
        }
        if client.outbox.closed() == Some(Closed::NoMemory) {
            self.hub().relieve();
        }
        // No more messages for who goes; what waits is still written.
        drop(self);
        match client.outbox.closed() {
            None => {
                let _ = timeout(FLUSH_LIMIT, writer.flush(&client.outbox)).await;
                let _ = timeout(FLUSH_LIMIT, writer.into_inner().shutdown()).await;
            }
            Some(Closed::TooMuch) => tracing::warn!(
                "a client of the embedded broker was cut off, because more than {} MiB waited for \
                 it (it reads too slowly, or asked for too much at once): {}",
                LIMIT >> 20,
                client.line()
            ),
            Some(Closed::NoMemory | Closed::TookMost) => tracing::warn!(
                "a client of the embedded broker was cut off, because all its clients together \
                 took more than {} MiB: {}",
                budget::LIMIT >> 20,
                client.line()
            ),
            Some(Closed::Killed) => {}
        }
    }

    async fn read(&mut self, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut requests = Requests::new(&self.hub().memory);
        let mut turn = Instant::now();
        loop {
            loop {
                match requests.next() {
                    Ok(Some(request)) => command::handle(self, &request),
                    Ok(None) => break,
                    Err(garbage) => {
                        self.client.send(error(garbage.to_string()));
                        return Ok(());
                    }
                }
                if self.leaving || self.client.outbox.closed().is_some() {
                    return Ok(());
                }
                if turn.elapsed() >= TURN {
                    tokio::task::yield_now().await;
                    turn = Instant::now();
                }
            }
            let filled = requests.fill(&mut from).await;
            self.client.unread.store(requests.charged(), Relaxed);
            match filled {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    self.client.outbox.close(Closed::NoMemory);
                    return Err(error);
                }
                end => return end.map(drop),
            }
            turn = Instant::now();
        }
    }

    /// The hub of the server.
    pub fn hub(&self) -> &Hub {
        &self.server.hub
    }

    /// Subscribe to a name, and say so.
    ///
    /// # Errors
    /// The text of the error where there is no room for another one.
    pub fn subscribe(&mut self, channel: &Bytes) -> Result<(), String> {
        let is_new = !self.channels.contains_key(channel);
        // A copy: the argument holds all of what was read with it.
        let channel = Bytes::copy_from_slice(channel);
        if is_new {
            let bytes = self.charge(channel.len() + SUBSCRIPTION)?;
            self.channels.insert(channel.clone(), bytes);
        }
        self.count();
        self.confirm("subscribe", Some(&channel));
        if is_new {
            self.hub().subscribe(&self.client, &channel);
        }
        Ok(())
    }

    /// Subscribe to a pattern, and say so.
    ///
    /// # Errors
    /// As [`Session::subscribe`].
    pub fn subscribe_pattern(&mut self, text: &Bytes) -> Result<(), String> {
        /// The pattern itself, and as it stands in messages of both protocols.
        const COPIES: usize = 3;
        let matcher = (!self.patterns.contains_key(text)).then(|| Matcher::of_pattern(text));
        let text = Bytes::copy_from_slice(text);
        if let Some(matcher) = &matcher {
            let bytes = COPIES * text.len() + matcher.memory() + SUBSCRIPTION;
            let bytes = self.charge(bytes)?;
            self.patterns.insert(text.clone(), bytes);
        }
        self.count();
        self.confirm("psubscribe", Some(&text));
        if let Some(matcher) = matcher {
            self.hub().subscribe_pattern(&self.client, &text, matcher);
        }
        Ok(())
    }

    /// Charge another subscription: so many bytes.
    fn charge(&mut self, bytes: usize) -> Result<usize, String> {
        let all = self.subscribed.bytes() + bytes;
        if all > MOST_SUBSCRIBED {
            let most = MOST_SUBSCRIBED >> 20;
            return Err(format!(
                "ERR too many subscriptions: a client of handlerd's embedded broker may have \
                 {most} MiB of them"
            ));
        }
        if !self.subscribed.resize(all) {
            let most = budget::SUBSCRIPTIONS >> 20;
            return Err(format!(
                "ERR too many subscriptions: all clients of handlerd's embedded broker together \
                 may have {most} MiB of them"
            ));
        }
        Ok(bytes)
    }

    fn give_back(&mut self, bytes: usize) {
        // Less always fits.
        self.subscribed.resize(self.subscribed.bytes() - bytes);
    }

    /// From these names; from all, where none is given.
    pub fn unsubscribe(&mut self, channels: &[Bytes]) {
        let channels = self.named_or_all(channels, |session| &session.channels);
        if channels.is_empty() {
            self.confirm("unsubscribe", None);
        }
        for channel in channels {
            if let Some(bytes) = self.channels.remove(&channel) {
                self.give_back(bytes);
                self.hub().unsubscribe(&self.client, &channel);
            }
            self.count();
            self.confirm("unsubscribe", Some(&channel));
        }
    }

    /// From these patterns; from all, where none is given.
    pub fn unsubscribe_patterns(&mut self, patterns: &[Bytes]) {
        let patterns = self.named_or_all(patterns, |session| &session.patterns);
        if patterns.is_empty() {
            self.confirm("punsubscribe", None);
        }
        for pattern in patterns {
            if let Some(bytes) = self.patterns.remove(&pattern) {
                self.give_back(bytes);
                self.hub().unsubscribe_pattern(&self.client, &pattern);
            }
            self.count();
            self.confirm("punsubscribe", Some(&pattern));
        }
    }

    fn named_or_all(&self, named: &[Bytes], all: fn(&Session) -> &Subscriptions) -> Vec<Bytes> {
        if named.is_empty() { all(self).keys().cloned().collect() } else { named.to_vec() }
    }

    /// The answer for one name; without one, that there was none.
    pub fn confirm(&self, kind: &'static str, name: Option<&Bytes>) {
        let name = name.map_or(Reply::Null, |name| reply::string(name.clone()));
        let count = reply::number(self.channels.len() + self.patterns.len());
        self.client.send(reply::push(vec![reply::string(kind), name, count]));
    }

    fn count(&self) {
        self.client.channels.store(self.channels.len(), Relaxed);
        self.client.patterns.store(self.patterns.len(), Relaxed);
    }

    /// Whether it may do nothing but subscribe and unsubscribe, as Redis has it in RESP2.
    pub fn is_bound(&self) -> bool {
        self.client.is_subscribed() && self.client.protocol() == Protocol::Resp2
    }

    /// End all subscriptions without a word.
    pub fn forget_subscriptions(&mut self) {
        for channel in std::mem::take(&mut self.channels).into_keys() {
            self.hub().unsubscribe(&self.client, &channel);
        }
        for pattern in std::mem::take(&mut self.patterns).into_keys() {
            self.hub().unsubscribe_pattern(&self.client, &pattern);
        }
        self.give_back(self.subscribed.bytes());
        self.count();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.forget_subscriptions();
        self.hub().leave(&self.client);
    }
}
