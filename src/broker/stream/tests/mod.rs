//! The stream source against a real Redis.

mod chaos;
mod claims;
mod finish;
mod outages;
mod reading;
mod states;
mod support;
