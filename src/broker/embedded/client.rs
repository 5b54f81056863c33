//! A client as others see it: who it is, and its outbox.
//!
//! Its session owns the rest. Publishers put messages in; `CLIENT LIST` and `CLIENT KILL` of other
//! clients look at it.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::budget::Budget;
use super::outbox::{Closed, Outbox, SMALL};
use super::reply::{Protocol, Reply, encode};

/// One connection.
pub(super) struct Client {
    /// Never used for another client.
    pub id: u64,
    /// `127.0.0.1:40000`; of the local socket its name.
    pub address: String,
    /// The server's side.
    pub server_address: String,
    pub outbox: Outbox,
    /// Names and patterns that it is subscribed to.
    pub channels: AtomicUsize,
    pub patterns: AtomicUsize,
    /// Bytes of the command that it is in the midst of sending, as they are charged.
    pub unread: AtomicUsize,
    budget: Budget,
    since: Instant,
    resp3: AtomicBool,
    texts: Mutex<Texts>,
}

/// What a client says of itself.
#[derive(Clone, Default)]
pub(super) struct Texts {
    /// `CLIENT SETNAME`
    pub name: Bytes,
    /// `CLIENT SETINFO LIB-NAME`
    pub library: Bytes,
    /// `CLIENT SETINFO LIB-VER`
    pub version: Bytes,
    /// Its last command.
    pub command: &'static str,
}

impl Client {
    pub fn new(id: u64, address: String, server_address: String, budget: &Budget) -> Self {
        Client {
            id,
            address,
            server_address,
            outbox: Outbox::new(budget),
            channels: AtomicUsize::new(0),
            patterns: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            budget: budget.clone(),
            since: Instant::now(),
            resp3: AtomicBool::new(false),
            texts: Mutex::default(),
        }
    }

    pub fn protocol(&self) -> Protocol {
        if self.resp3.load(Relaxed) { Protocol::Resp3 } else { Protocol::Resp2 }
    }

    pub fn speak(&self, protocol: Protocol) {
        self.resp3.store(protocol == Protocol::Resp3, Relaxed);
    }

    /// What it says of itself.
    pub fn texts(&self) -> Texts {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Change what it says of itself.
    pub fn describe(&self, change: impl FnOnce(&mut Texts)) {
        change(&mut self.texts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether it is subscribed to anything.
    pub fn is_subscribed(&self) -> bool {
        self.channels.load(Relaxed) + self.patterns.load(Relaxed) > 0
    }

    /// Send an answer; one that can't be encoded ends the connection, where others would be taken
    /// for it.
    pub fn send(&self, reply: Reply) {
        match encode(reply, self.protocol()) {
            Ok(bytes) => self.push(bytes),
            Err(error) => {
                tracing::error!("an answer of the embedded broker can't be encoded: {error}");
                self.outbox.close(Closed::Killed);
            }
        }
    }

    fn push(&self, answer: Bytes) {
        let answer = if answer.len() <= SMALL { Some(answer) } else { self.budget.hold(answer) };
        match answer {
            Some(answer) => drop(self.outbox.push([answer])),
            None => self.outbox.close(Closed::NoMemory),
        }
    }

    /// Bytes that are kept for it alone, or that it has not read yet.
    pub fn takes(&self) -> usize {
        self.outbox.bytes() + self.unread.load(Relaxed)
    }

    /// A line of `CLIENT LIST`, without its end. Fields that mean nothing here are left out.
    pub fn line(&self) -> String {
        let Texts { name, library, version, command } = self.texts();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let (channels, patterns) = (self.channels.load(Relaxed), self.patterns.load(Relaxed));
        let mut line = String::new();
        // Writing to a String doesn't fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} name={} age={} flags={} db=0 sub={channels} psub={patterns} \
             ssub=0 omem={} cmd={command} user=default resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.server_address,
            text(&name),
            self.since.elapsed().as_secs(),
            if self.is_subscribed() { 'P' } else { 'N' },
            self.outbox.bytes(),
            self.protocol().number(),
            text(&library),
            text(&version),
        );
        line
    }
}
