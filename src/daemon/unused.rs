//! Plugin files that no channel uses: whether they could be used is said when they come.
//!
//! Looked at while nothing else is to be done, and given up for whatever is: compiling one may take
//! minutes. A broken one is a warning, and in nobody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::file::Patience;
use crate::plugin::Host;
use crate::telemetry::with_causes;
use crate::watch::Unfinished;

/// What a file was like when it was looked at. Good enough for a warning.
type Looks = (u64, Option<SystemTime>);

/// The files that are known.
pub(super) struct Unused {
    /// None before the folder has answered.
    known: Option<BTreeMap<PathBuf, Looks>>,
    disk: Patience,
}

/// How long looking at the folder may take: its disk may hang.
const LOOKING: Duration = Duration::from_secs(5);

impl Unused {
    /// Those that are there at the start are `handlerd plugin list`'s affair.
    pub(super) async fn new(config: &Config) -> Self {
        let mut unused = Unused { known: None, disk: Patience::new(LOOKING) };
        unused.known = unused.found(config).await;
        unused
    }

    /// Those that are there; none where the disk doesn't answer.
    async fn found(&self, config: &Config) -> Option<BTreeMap<PathBuf, Looks>> {
        let used: BTreeSet<PathBuf> = config.plugin_files().map(Path::to_owned).collect();
        let dir = config.plugin_dir.clone();
        self.disk.work(move || unused(&dir, &used)).await.ok()
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
        let Some(found) = self.found(config).await else { return };
        let Some(known) = &mut self.known else {
            self.known = Some(found);
            return;
        };
        known.retain(|file, _| found.contains_key(file));
        for (file, looks) in found {
            if known.get(&file) == Some(&looks) {
                continue;
            }
            if unfinished.contains(&file).await {
                known.remove(&file);
                continue;
            }
            let refusal = match host.inspect(&file).await {
                Ok(inspection) => inspection.refusal,
                // It may be as good as any, and is read again the next time.
                Err(error) if error.is_late() => {
                    tracing::warn!("no channel uses it: {}", with_causes(&error));
                    known.remove(&file);
                    continue;
                }
                Err(error) => Some(with_causes(&error)),
            };
            match refusal {
                Some(why) => tracing::warn!("no channel uses it, and none can: {why}"),
                None => {
                    tracing::info!("the plugin {} is there, and no channel uses it", file.display())
                }
            }
            known.insert(file, looks);
        }
    }
}

/// The plugin files of the folder that no handler is made of. Blocks.
fn unused(dir: &Path, used: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Looks> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeMap::new() };
    let looks = |file: PathBuf| {
        let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
        Some((file, (metadata.len(), metadata.modified().ok())))
    };
    let files = entries.flatten().map(|entry| entry.path());
    let is_plugin = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm");
    files.filter(is_plugin).filter(|file| !used.contains(file)).filter_map(looks).collect()
}
