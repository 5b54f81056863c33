//! Whether each consumer group of a stream has one channel: two would share its entries, each
//! getting some of them.

use std::collections::HashMap;

use super::channel::Places;
use super::reader::{Reader, header, quoted};
use super::{Config, Source};

/// Report streams that a second channel reads by the same group. Sources are all on `[redis]`.
pub(super) fn check(reader: &Reader<'_>, config: &Config, places: &[Places]) {
    let mut known: HashMap<(&str, &str), usize> = HashMap::new();
    for (number, (channel, places)) in config.channels.iter().zip(places).enumerate() {
        let Source::Stream(stream) = &channel.source else { continue };
        // A group that is missing has been reported.
        if stream.group.is_empty() {
            continue;
        }
        for (key, place) in stream.keys.iter().zip(&places.streams) {
            let first = *known.entry((key, &stream.group)).or_insert(number);
            if first != number {
                let message = format!(
                    "{} reads stream {} by the group {} already",
                    header("channels", &config.channels[first].name),
                    quoted(key),
                    quoted(&stream.group)
                );
                let help = "a channel gets every entry by a group of its own: use another `group`";
                reader.error(place, message, vec![help.to_owned()]);
            }
        }
    }
}
