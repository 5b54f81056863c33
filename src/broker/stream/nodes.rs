//! Where a stream lives: at the address of its connection, or, in a Redis Cluster, at the node that
//! is said to have its slot.
//!
//! Asked by a stream's reader and by its finisher, each for its own connection. Nodes are learned by
//! what Redis refuses (`MOVED`) and never listed: so no right beside those of the work is needed.

use std::time::Duration;

use super::conn::Conn;
use super::lane::Lane;
use super::trouble::{State, Trouble};
use crate::broker::connection::Connector;
use crate::telemetry::{RateLimit, printable};

/// Two nodes that each name the other are asked again this often at most without a pause.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Nodes {
    home: Connector,
    /// The node that was named last.
    owner: Option<Connector>,
    /// The owner is tried next, not the connection's own address.
    at_owner: bool,
    followed: RateLimit,
}

impl Nodes {
    pub(super) fn new(home: &Connector) -> Self {
        Nodes {
            home: home.clone(),
            owner: None,
            at_owner: false,
            followed: RateLimit::new(FOLLOW_EVERY),
        }
    }

    /// Connect. After a failure the other of the two is tried next: the owner may be gone for good,
    /// and who owns the slot now is told by the other; or that one is gone.
    pub(super) async fn open(&mut self) -> Result<Conn, Trouble> {
        let next = self.owner.as_ref().filter(|_| self.at_owner).unwrap_or(&self.home);
        let opened = Conn::open(next).await;
        if opened.is_err() {
            self.turn();
        }
        opened
    }

    /// Take note of trouble. Whether a new connection leads on, without a pause.
    pub(super) fn follow(&mut self, lane: &Lane, trouble: &Trouble) -> bool {
        match trouble.state {
            State::Moved => {}
            // A node that is cut off from its Cluster says so; the other may see more.
            State::ClusterDown => {
                self.turn();
                return false;
            }
            _ => return false,
        }
        let here = self.owner.as_ref().filter(|_| self.at_owner).unwrap_or(&self.home);
        let Some(owner) = named(&trouble.text).and_then(|(host, port)| here.at(host, port)) else {
            return false;
        };
        let address = owner.address();
        if self.owner.as_ref().is_none_or(|known| known.address() != address) {
            tracing::info!(
                channel = &*lane.settings.table,
                stream = &*lane.key,
                "stream {}: the node {address} of the Redis Cluster has it",
                printable(lane.key.as_bytes(), 400)
            );
        }
        self.owner = Some(owner);
        self.at_owner = true;
        self.followed.admit().is_some()
    }

    fn turn(&mut self) {
        self.at_owner = !self.at_owner && self.owner.is_some();
    }
}

/// The host (empty: the one that was asked) and the port of "MOVED 3999 127.0.0.1:6381".
pub(in crate::broker) fn named(text: &str) -> Option<(&str, u16)> {
    let mut words = text.trim_start_matches('-').split_ascii_whitespace();
    let ("MOVED", _, node) = (words.next()?, words.next()?, words.next()?) else { return None };
    let (host, port) = node.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_read_from_what_redis_says() {
        for (text, node) in [
            ("MOVED 3999 127.0.0.1:6381", Some(("127.0.0.1", 6381))),
            ("-MOVED 3999 redis.example.com:6381", Some(("redis.example.com", 6381))),
            ("MOVED 3999 ::1:6381", Some(("::1", 6381))),
            ("MOVED 3999 :6381", Some(("", 6381))),
            ("MOVED 3999 127.0.0.1:", None),
            ("MOVED 3999", None),
            ("ASK 3999 127.0.0.1:6381", None),
        ] {
            assert_eq!(named(text), node, "{text}");
        }
    }
}
