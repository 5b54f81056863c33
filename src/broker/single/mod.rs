//! `single = true`: of several daemons that subscribe to the same, one at a time handles what comes,
//! and another goes on right behind the last message whose outputs were written.
//!
//! Started by the daemon, once for each such channel. The subscription brings every message here, in
//! every daemon; this decides whether it goes on to the queue. Runs no handler. Writes nothing that
//! isn't fenced: outputs, dead letters and the place up to where all is done are one script, which
//! does nothing for a daemon that has lost its lease.
//!
//! ```text
//! pubsub --> look_before: what is stored              before.rs
//! pubsub::router --> Lane: count, hold or hand on         lane.rs, state.rs, held.rs
//!                      Track: which message is which      track.rs, place.rs
//! worker --> Ticket --> Lane: in line to be finished      ticket.rs, lane/line.rs
//! Keeper: lease, marks, places, finishing                 keeper.rs; wire.rs: the four scripts
//!         --> Lane: leads, follows, leaves                lane/part.rs
//! ```
//!
//! How daemons agree on which message is meant: Redis has one order of all that is published, the same
//! for every connection. Whoever has come to be subscribed to all names of the channel publishes a
//! mark, which all of them get; "the 7th message behind mark 3" is then the same message for every
//! daemon that was subscribed at mark 3. A daemon that was not, knows that it can't tell, never
//! guesses, and counts what may be missing as a gap.

mod arrivals;
mod before;
mod held;
mod keeper;
mod lane;
mod place;
mod state;
mod ticket;
mod track;
mod wire;

pub use before::look_before;
pub use keeper::{Before, run};
pub use lane::Lane;
pub use ticket::Hold;

#[cfg(test)]
mod tests;

/// Why a channel can't be single in a Redis Cluster, and what to do.
pub const NO_CLUSTER: &str = "this is a Redis Cluster, and `single = true` is for one Redis: the nodes \
    of a Cluster have no common order of what is published, by which daemons tell each other where to \
    go on; name a Redis that is no Cluster in [redis], or remove `single`";

/// Begins the names that are handlerd's own in Redis.
pub const PREFIX: &str = "handlerd:single:";

/// The key of a channel's lease.
pub fn lease_key(channel: &str) -> String {
    format!("{PREFIX}{channel}")
}

/// The key of the hash that has the last mark, and up to where all is done.
pub fn state_key(channel: &str) -> String {
    format!("{PREFIX}{channel}:at")
}

/// The Redis channel of the marks.
pub fn mark_channel(channel: &str) -> String {
    format!("{PREFIX}{channel}:mark")
}
