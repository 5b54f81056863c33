//! The hold on a message whose outputs and whose being done are written in one step: an entry of a
//! stream, or a message of a channel with `single = true`.

use std::sync::Arc;

use super::lane::Lane;
use crate::broker::stream::{Entry, Finish};
use crate::telemetry::DropReason;

/// The hold of a worker on such a message.
#[derive(Debug)]
pub enum Hold {
    /// An entry of a stream.
    Entry(Entry),
    /// A message of a channel that is single.
    Ticket(Ticket),
}

impl Hold {
    /// Whether what is in line to be written leaves room for more.
    pub fn has_room(&self) -> bool {
        match self {
            Hold::Entry(entry) => entry.has_room(),
            Hold::Ticket(ticket) => ticket.lane.has_room(),
        }
    }

    /// Wait until that is so.
    pub async fn room(&self) {
        match self {
            Hold::Entry(entry) => entry.room().await,
            Hold::Ticket(ticket) => ticket.lane.room().await,
        }
    }

    /// Whether it isn't to be handled: it is only counted as dropped, in its turn.
    pub fn is_dropped(&self) -> bool {
        matches!(self, Hold::Ticket(Ticket { dropped: Some(_), .. }))
    }

    /// Put it in line without outputs: its handlers have failed. Answers whether that is counted when it
    /// is written; what another has handled by then is not lost.
    pub fn fail(self) -> bool {
        match self {
            Hold::Entry(entry) => {
                entry.finish(Finish::new());
                false
            }
            Hold::Ticket(ticket) => {
                ticket.lane.finish(ticket.number, Finish::new(), Some(DropReason::Failed));
                true
            }
        }
    }

    /// Put it in line: these outputs are written with the note that it is done. Never waits.
    pub fn finish(self, finish: Finish) {
        match self {
            Hold::Entry(entry) => entry.finish(finish),
            Hold::Ticket(ticket) => ticket.lane.finish(ticket.number, finish, ticket.dropped),
        }
    }
}

impl From<Entry> for Hold {
    fn from(entry: Entry) -> Self {
        Hold::Entry(entry)
    }
}

/// One message of a channel that is single.
pub struct Ticket {
    pub(super) lane: Arc<Lane>,
    /// The how-manieth of this daemon it is.
    pub(super) number: u64,
    /// It can't be handled, for this reason.
    pub(super) dropped: Option<DropReason>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {}", self.number)
    }
}
