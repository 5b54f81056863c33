//! What becomes of a command, and who is told.

use std::fmt;
use std::sync::Arc;

use super::ledger::Kind;
use crate::telemetry::{ChannelMetrics, DropReason, Written};

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<'e> {
    /// Redis answered with success.
    Done,
    /// Redis answered with this error.
    Refused(&'e str),
    /// Handed to a connection that ended before the answer: it may have been carried out.
    Unknown,
    /// Never handed to a connection, and it won't be.
    Unsent,
}

impl Fate<'_> {
    /// The reason by which it is lost; `None` when it isn't.
    pub fn lost(self) -> Option<DropReason> {
        match self {
            Fate::Done => None,
            Fate::Refused(_) => Some(DropReason::Refused),
            Fate::Unknown => Some(DropReason::Unknown),
            Fate::Unsent => Some(DropReason::Shutdown),
        }
    }
}

/// Called once, when it is known what became of a command. Must neither wait nor panic, nor use
/// the writer.
pub type Receipt = Box<dyn FnOnce(Fate<'_>) + Send + Sync>;

/// Who is told of a command that is appended.
pub enum Owner<'o> {
    /// Its channel's counters: the usual case, which costs nothing for a single command.
    Channel(&'o Arc<ChannelMetrics>),
    /// Somebody who wants to know of this very one.
    Receipt(Receipt),
}

impl Owner<'_> {
    /// This became of it.
    pub(super) fn told(self, kind: Kind, fate: Fate<'_>) {
        Whose::from(self).told(kind, fate, 1);
    }
}

/// The same, kept.
pub(super) enum Whose {
    Nobody,
    Channel(Written),
    /// `None` once it has been told.
    Receipt(Option<Receipt>),
}

impl From<Owner<'_>> for Whose {
    fn from(owner: Owner<'_>) -> Self {
        match owner {
            Owner::Channel(metrics) => Whose::Channel(metrics.written()),
            Owner::Receipt(receipt) => Whose::Receipt(Some(receipt)),
        }
    }
}

impl Whose {
    /// Whether a further command of this owner needs no account of its own.
    pub(super) fn is(&self, owner: &Owner<'_>) -> bool {
        match (self, owner) {
            (Whose::Channel(ours), Owner::Channel(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }

    /// This became of so many commands of this kind; answers how many were somebody's.
    pub(super) fn told(&mut self, kind: Kind, fate: Fate<'_>, commands: u64) -> u64 {
        match self {
            Whose::Nobody => return 0,
            Whose::Channel(metrics) => match (fate.lost(), kind.output()) {
                (Some(reason), _) => metrics.lost(reason, commands),
                (None, Some(by)) => metrics.delivered.add(by, commands),
                (None, None) => {}
            },
            Whose::Receipt(receipt) => {
                if let Some(receipt) = receipt.take() {
                    receipt(fate);
                }
            }
        }
        commands
    }
}

impl fmt::Debug for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Whose::Nobody => "nobody's",
            Whose::Channel(_) => "a channel's",
            Whose::Receipt(_) => "with a receipt",
        })
    }
}
