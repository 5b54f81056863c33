//! What a reload changes, in words.

use std::sync::Arc;

use super::{Live, Running};
use crate::config::Config;
use crate::daemon::handlers::Handlers;
use crate::daemon::plan::Plan;

impl Running {
    /// What a reload changes, in words.
    pub(super) fn difference(&self, plan: &Plan, config: &Config, handlers: &Handlers) -> String {
        let names = |live: &Live| live.name.clone();
        let gone: Vec<Arc<str>> =
            plan.gone(self.live.len()).into_iter().map(|old| names(&self.live[old])).collect();
        let (mut new, mut renamed) = (Vec::new(), Vec::new());
        for (channel, before) in config.channels.iter().zip(&plan.before) {
            match before.map(|before| &self.live[before].name) {
                None => new.push(channel.name.clone()),
                Some(before) if *before != channel.name => {
                    renamed.push(format!("{before} to {}", channel.name).into());
                }
                Some(_) => {}
            }
        }
        let is_new = |(name, handler): (&Arc<str>, &Arc<_>)| {
            let before = self.handlers.get(name);
            before.is_none_or(|before| !Arc::ptr_eq(before, handler)).then(|| name.clone())
        };
        let changed = handlers.iter().filter_map(is_new).collect();
        let parts = [
            ("new channels", new),
            ("ended", gone),
            ("renamed", renamed),
            ("new or changed handlers", changed),
        ];
        let said = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let said: Vec<String> =
            said.map(|(what, names)| format!("{what} {}", listed(&names))).collect();
        let total = config.channels.len();
        let channels =
            if total == 1 { "1 channel".to_owned() } else { format!("{total} channels") };
        match said.is_empty() {
            true => channels,
            false => format!("{channels}; {}", said.join("; ")),
        }
    }
}

/// Names that a log line shows at most.
const NAMES_TOLD: usize = 10;

fn listed(names: &[Arc<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_TOLD).map(|name| &**name).collect();
    match names.len().saturating_sub(NAMES_TOLD) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
