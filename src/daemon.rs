//! Builds everything, runs it, drains it.
