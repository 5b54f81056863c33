//! Which streams the dead letters are in.

use super::table::named;
use crate::cli::exit::Fault;
use crate::cli::show::meant;
use crate::config::Config;

/// A channel of the configuration, and the stream that keeps its dead letters.
type Keeper<'c> = (&'c str, Option<&'c str>);

/// The streams that the configuration keeps dead letters of these channels in; of all, when none
/// is named.
///
/// # Errors
/// Exit code 64 for a channel that there isn't, or that keeps none.
pub(super) fn of_channels(config: &Config, names: &[String]) -> Result<Vec<String>, Fault> {
    let keepers: Vec<Keeper<'_>> = config.channels.iter().map(keeper).collect();
    choose(&keepers, names).map_err(|reason| {
        let file = config.file.display();
        Fault::usage(format_args!("{file} has {reason}; or name the stream by --stream KEY"))
    })
}

fn keeper(channel: &crate::config::Channel) -> Keeper<'_> {
    (&channel.name, channel.dead_letter.as_deref())
}

/// The streams, none twice; or what there isn't.
fn choose(keepers: &[Keeper<'_>], names: &[String]) -> Result<Vec<String>, String> {
    let mut streams = Vec::new();
    if names.is_empty() {
        streams.extend(keepers.iter().filter_map(|(_, stream)| *stream));
        if streams.is_empty() {
            return Err("no channel that keeps dead letters".to_owned());
        }
    }
    for name in names {
        match keepers.iter().find(|(channel, _)| channel == name) {
            Some((_, Some(stream))) => streams.push(stream),
            Some((_, None)) => {
                return Err(format!("no dead letters for channel {}", named(name)));
            }
            None => {
                let hint = meant(name, keepers.iter().map(|(channel, _)| *channel));
                return Err(format!("no channel {}{hint}", named(name)));
            }
        }
    }
    Ok(unique(streams.into_iter().map(str::to_owned)))
}

/// The same in the same order, none twice.
pub(super) fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut unique = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_those_of_the_named_channels_or_of_all() {
        let keepers = [
            ("orders", Some("orders.dead")),
            ("chat", None),
            ("bills", Some("shared")),
            ("refunds", Some("shared")),
        ];
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(&keepers, &names)
        };
        let ok = |streams: &[&str]| Ok(streams.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(of(&[]), ok(&["orders.dead", "shared"]));
        assert_eq!(of(&["refunds", "orders", "bills"]), ok(&["shared", "orders.dead"]));
        assert_eq!(of(&["chat"]), Err("no dead letters for channel chat".into()));
        let wrong = of(&["oders"]).unwrap_err();
        assert_eq!(wrong, "no channel oders (did you mean \"orders\"?)");
        let nowhere = choose(&keepers[1..2], &[]);
        assert_eq!(nowhere, Err("no channel that keeps dead letters".into()));
    }
}
