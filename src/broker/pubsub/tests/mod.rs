//! The subscription against a real Redis, and its parts.

mod bytes;
mod connection_lost;
mod delivery;
mod proxy;
mod rights;
mod silent;
mod support;
