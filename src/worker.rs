//! A channel's workers: queue to chain to outputs.
