//! The subscription against a real Redis.

mod delivery;
mod support;
