//! About the message in hand. Outside of the handling function (in a setup function) all of it
//! answers as for nothing: an empty text, `None`, or 0.

pub use crate::bindings::plugin::handlerd::plugin::delivery::{
    attempt, id, pattern, received_at, table,
};
