//! What handlerd calls in guests: one file an exported interface.

pub(super) mod batch;
pub(super) mod handler;
pub(super) mod setup;
