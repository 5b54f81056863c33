//! Plugin files that no channel uses: whether they could be used is said when they come.
//!
//! Looked at while nothing else is to be done, and given up for whatever is: compiling one may take
//! minutes. A broken one is a warning, and in nobody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::plugin::Host;
use crate::telemetry::with_causes;
use crate::watch::Unfinished;

/// What a file was like when it was looked at. Good enough for a warning.
type Looks = (u64, Option<SystemTime>);

/// The files that are known.
pub(super) struct Unused {
    known: BTreeMap<PathBuf, Looks>,
}

impl Unused {
    /// Those that are there at the start are `handlerd plugin list`'s affair.
    pub(super) fn new(config: &Config) -> Self {
        Unused { known: unused(config) }
    }

    /// Look at those that have come or changed since the last time, one after the other. Who doesn't
    /// wait for the end of it has the rest looked at the next time.
    /// One that somebody is still writing comes later.
    pub(super) async fn look(
        &mut self,
        config: &Config,
        host: &Arc<Host>,
        unfinished: &Unfinished,
    ) {
        let mut found = unused(config);
        found.retain(|file, _| !unfinished.contains(file));
        self.known.retain(|file, _| found.contains_key(file));
        for (file, looks) in found {
            if self.known.get(&file) == Some(&looks) {
                continue;
            }
            let refusal = match host.inspect(&file).await {
                Ok(inspection) => inspection.refusal,
                Err(error) => Some(with_causes(&error)),
            };
            match refusal {
                Some(why) => tracing::warn!("no channel uses it, and none can: {why}"),
                None => {
                    tracing::info!("the plugin {} is there, and no channel uses it", file.display())
                }
            }
            self.known.insert(file, looks);
        }
    }
}

/// The plugin files of the folder that no handler is made of.
fn unused(config: &Config) -> BTreeMap<PathBuf, Looks> {
    let used: BTreeSet<&Path> = config.handlers.values().map(|handler| &*handler.plugin).collect();
    let Ok(entries) = std::fs::read_dir(&config.plugin_dir) else { return BTreeMap::new() };
    let looks = |file: PathBuf| {
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
        Some((file, (metadata.len(), metadata.modified().ok())))
    };
    let files = entries.flatten().map(|entry| entry.path());
    let is_plugin = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm");
    files.filter(is_plugin).filter(|file| !used.contains(&**file)).filter_map(looks).collect()
}
