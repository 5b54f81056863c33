//! Who may hold how much of `[limits] memory`.

use crate::config::{Channel, Config, Source};

/// Bytes that a stream's channel may have in hand: its share, if all channels had the same.
pub(super) fn hold(config: &Config, channel: &Channel) -> usize {
    channel.queue.min(config.memory / config.channels.len().max(1))
}

/// Bytes that the queues of all pub/sub channels together may hold: what streams don't.
pub(super) fn queues_memory(config: &Config) -> usize {
    let is_stream = |channel: &&Channel| matches!(channel.source, Source::Stream(_));
    let streams = config.channels.iter().filter(is_stream);
    config.memory - streams.map(|channel| hold(config, channel)).sum::<usize>()
}

#[cfg(test)]
mod tests;
