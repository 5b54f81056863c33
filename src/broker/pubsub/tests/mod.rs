//! The subscription against a real Redis, and its parts.

mod bytes;
mod changes;
mod changes_in_trouble;
mod connection_lost;
mod delivery;
mod proxy;
mod rights;
mod silent;
mod support;
