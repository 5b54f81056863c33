//! The subscription.
