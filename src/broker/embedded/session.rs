//! One client's connection: bytes in, commands done in order, bytes out.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::command;
use super::hub::Hub;
use super::outbox::{Closed, LIMIT, Writer};
use super::reply::{self, Protocol, Reply, error};
use super::request::Requests;
use super::server::Server;
use crate::config::pattern::Pattern;

/// How long a client that is left, or at the end of the server, may take to read what waits.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

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
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
}

impl Session {
    pub fn new(server: Arc<Server>, address: String, server_address: String) -> Self {
        let client = server.hub.enter(address, server_address);
        Session {
            server,
            client,
            silence: Silence::None,
            leaving: false,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
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
        // No more messages for who goes; what waits is still written.
        drop(self);
        match client.outbox.closed() {
            None => {
                let _ = timeout(FLUSH_LIMIT, writer.flush(&client.outbox)).await;
                let _ = timeout(FLUSH_LIMIT, writer.into_inner().shutdown()).await;
            }
            Some(Closed::TooSlow) => tracing::warn!(
                "a client of the embedded broker was cut off, because it doesn't read and more \
                 than {} MiB waited for it: {}",
                LIMIT >> 20,
                client.line()
            ),
            Some(Closed::Killed) => {}
        }
    }

    async fn read(&mut self, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut requests = Requests::default();
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
            }
            if requests.fill(&mut from).await? == 0 {
                return Ok(());
            }
        }
    }

    /// The hub of the server.
    pub fn hub(&self) -> &Hub {
        &self.server.hub
    }

    pub fn subscribe(&mut self, channel: &Bytes) {
        // A copy: the argument holds all of what was read with it.
        let channel = Bytes::copy_from_slice(channel);
        let is_new = self.channels.insert(channel.clone());
        self.count();
        self.confirm("subscribe", Some(&channel));
        if is_new {
            self.hub().subscribe(&self.client, &channel);
        }
    }

    pub fn subscribe_pattern(&mut self, text: &Bytes, pattern: Pattern) {
        let text = Bytes::copy_from_slice(text);
        let is_new = self.patterns.insert(text.clone());
        self.count();
        self.confirm("psubscribe", Some(&text));
        if is_new {
            self.hub().subscribe_pattern(&self.client, &text, pattern);
        }
    }

    /// From these names; from all, where none is given.
    pub fn unsubscribe(&mut self, channels: &[Bytes]) {
        let channels = self.named_or_all(channels, |session| &session.channels);
        if channels.is_empty() {
            self.confirm("unsubscribe", None);
        }
        for channel in channels {
            if self.channels.remove(&channel) {
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
            if self.patterns.remove(&pattern) {
                self.hub().unsubscribe_pattern(&self.client, &pattern);
            }
            self.count();
            self.confirm("punsubscribe", Some(&pattern));
        }
    }

    fn named_or_all(&self, named: &[Bytes], all: fn(&Session) -> &BTreeSet<Bytes>) -> Vec<Bytes> {
        if named.is_empty() { all(self).iter().cloned().collect() } else { named.to_vec() }
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
        for channel in std::mem::take(&mut self.channels) {
            self.hub().unsubscribe(&self.client, &channel);
        }
        for pattern in std::mem::take(&mut self.patterns) {
            self.hub().unsubscribe_pattern(&self.client, &pattern);
        }
        self.count();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.forget_subscriptions();
        self.hub().leave(&self.client);
    }
}
