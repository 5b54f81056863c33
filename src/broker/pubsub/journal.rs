//! What the log says of a connection: lost and back once each, and each new reason why not.
//!
//! Told by the supervisor; decides nothing.

use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::roster::Roster;
use super::session::Ended;
use crate::broker::connection::{ConnectError, Connector, Link};

/// The story of one connection and those that replaced it.
pub(super) struct Journal {
    connection: Arc<str>,
    address: String,
    /// What the server of the present connection is.
    server: String,
    /// Since when nothing is subscribed; `None` while it is, and before the first time.
    lost: Option<Instant>,
    /// The last warning since names were subscribed, so as not to say it again.
    told: Option<String>,
}

impl Journal {
    /// Nothing has been connected yet.
    pub(super) fn new(connector: &Connector) -> Self {
        Journal {
            connection: connector.name().clone(),
            address: connector.address(),
            server: String::new(),
            lost: None,
            told: None,
        }
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&mut self, error: &ConnectError) {
        self.warn(format!("Redis can't be reached: {error}; it is tried until it works"));
    }

    /// A connection is open.
    pub(super) fn connected(&mut self, link: &Link) {
        let protocol = if link.resp3 { "" } else { ", RESP2" };
        self.server = match link.version.as_str() {
            "" => String::new(),
            version => format!(" (Redis {version}{protocol})"),
        };
    }

    /// Every name has its first answer.
    pub(super) fn subscribed(&mut self, roster: &Roster) {
        let Journal { connection, address, server, .. } = &*self;
        let names = format!("{} of {} names", roster.confirmed(), roster.names().len());
        match self.lost {
            None => info!(%connection, "subscribed to {names} at {address}{server}"),
            Some(since) => info!(
                %connection,
                "Redis is back, subscribed to {names} after {:.1} s: what was published meanwhile \
                 has not come",
                since.elapsed().as_secs_f32()
            ),
        }
        self.lost = None;
        self.told = None;
    }

    /// Nothing is wanted any more.
    pub(super) fn idle(&mut self) {
        let connection = &self.connection;
        info!(%connection, "no channel subscribes to anything: there is no connection for that");
        self.lost = None;
        self.told = None;
    }

    /// The connection ended.
    pub(super) fn lost(&mut self, ended: &Ended) {
        self.lost.get_or_insert(ended.since);
        self.warn(format!("the connection is lost: {}; connecting again", ended.why));
    }

    fn warn(&mut self, text: String) {
        let connection = &self.connection;
        if self.told.as_ref() == Some(&text) {
            debug!(%connection, "{text}");
        } else {
            warn!(%connection, "{text}");
            self.told = Some(text);
        }
    }
}
