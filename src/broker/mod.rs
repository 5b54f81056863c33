//! Redis: connections, the subscription, streams, the writers.
//!
//! Sole user of `redis` and of the RESP codec. Sources put messages into queues, writers take
//! commands from outputs; this module never runs a handler and knows nothing of plugins.

pub(crate) mod backoff;
mod commands;
pub mod connection;
mod credentials;
pub mod dead;
pub mod embedded;
pub mod past;
pub mod probe;
pub mod pubsub;
pub mod resp;
pub mod shell;
pub mod single;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod writer;
