//! Tells of changed files: those of the plugin folder, those that handlers name elsewhere, and the
//! configuration's where that is wished.
//!
//! Used by the daemon. Says that something has changed and is whole, never what: whoever is told
//! looks at the bytes, and asks which files somebody is still writing. Links are followed: what they
//! lead to is watched where it really is.
//!
//! | module | owns |
//! | --- | --- |
//! | `trail` | through which links a path leads, and so which folders are to be watched |
//! | `place` | what has happened to one thing, and when that may be looked at |

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::sleep;

mod place;
mod trail;

use place::Place;
use trail::{Survey, is_plugin};

/// How often a folder that is not there is looked for.
const LOOK: Duration = Duration::from_secs(2);

/// How often links are gone through again because they led to folders that were not watched yet.
const AGAIN: usize = 4;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Plugin files.
    Plugins,
    /// The configuration, or somebody wants it to be read again.
    Config,
}

/// Watches.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    seen: Arc<Seen>,
    /// The folders that are watched, and which ones these were.
    watched: BTreeMap<PathBuf, Identity>,
    /// Folders that can't be.
    refused: BTreeMap<PathBuf, Trouble>,
    /// Whether all is watched that is to be.
    is_whole: bool,
}

/// Device and inode.
type Identity = (u64, u64);

/// The files that somebody is writing.
#[derive(Clone, Default)]
pub struct Unfinished(Option<Arc<Seen>>);

impl Unfinished {
    /// Whether this file is one of them. Links are followed.
    pub fn contains(&self, file: &Path) -> bool {
        let Some(seen) = &self.0 else { return false };
        let Ok(real) = std::fs::canonicalize(file) else { return false };
        seen.marks().places().any(|place| place.is_unfinished(&real))
    }
}

/// What the watcher's thread has seen.
struct Seen {
    marks: Mutex<Marks>,
    wake: Notify,
}

struct Marks {
    /// The plugin folder, with the files below.
    plugins: Place,
    /// Plugin files elsewhere. Nothing else in their folders matters.
    files: BTreeSet<PathBuf>,
    /// Where the configuration is watched.
    config: Option<Place>,
    /// Something may be elsewhere than it was.
    is_stale: bool,
    /// What was moved or removed and has watched folders in it, or is one.
    moved: BTreeSet<PathBuf>,
}

impl Marks {
    fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.config.iter_mut().chain([&mut self.plugins])
    }
}

impl Watch {
    /// Watch a plugin folder, plugin files wherever they are, and a configuration file where one is
    /// given. Where that can't be done the log says so once, and it is tried again.
    pub fn new<'a>(
        plugin_dir: &Path,
        files: impl IntoIterator<Item = &'a Path>,
        config: Option<&Path>,
    ) -> Self {
        let plugin_dir = absolute(plugin_dir);
        let marks = Marks {
            plugins: Place::new(&plugin_dir),
            files: elsewhere(&plugin_dir, files).collect(),
            config: config.map(|config| Place::new(&absolute(config))),
            is_stale: true,
            moved: BTreeSet::new(),
        };
        let seen = Arc::new(Seen { marks: Mutex::new(marks), wake: Notify::new() });
        let told = seen.clone();
        let watcher = notify::recommended_watcher(move |event| told.note(event));
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!("changed files are not noticed by themselves: {error}; SIGHUP has them looked at");
            })
            .ok();
        let (watched, refused) = (BTreeMap::new(), BTreeMap::new());
        let mut watch = Watch { watcher, seen, watched, refused, is_whole: true };
        watch.look();
        watch
    }

    /// Whether the configuration is watched.
    pub fn is_of_config(&self) -> bool {
        self.seen.marks().config.is_some()
    }

    /// The plugin folder is this one from now on, and the plugin files elsewhere are these. They are
    /// looked for, and the configuration, where they are by now: a folder further up may have been
    /// moved, of which nothing tells.
    pub fn follow<'a>(&mut self, plugin_dir: &Path, files: impl IntoIterator<Item = &'a Path>) {
        let plugin_dir = absolute(plugin_dir);
        {
            let mut marks = self.seen.marks();
            if marks.plugins.path != plugin_dir {
                marks.plugins = Place::new(&plugin_dir);
            }
            marks.files = elsewhere(&plugin_dir, files).collect();
            marks.is_stale = true;
        }
        self.look();
    }

    /// These plugin files are watched, too, before they are read.
    pub fn follow_also<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) {
        {
            let mut marks = self.seen.marks();
            let plugin_dir = marks.plugins.path.clone();
            let before = marks.files.len();
            marks.files.extend(elsewhere(&plugin_dir, files));
            if marks.files.len() == before {
                return;
            }
            marks.is_stale = true;
        }
        self.look();
    }

    /// What is being written: always as it is when it is asked.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished(Some(self.seen.clone()))
    }

    /// Wait until something has changed, and is whole again.
    pub async fn next(&mut self) -> Changed {
        loop {
            self.look();
            let now = Instant::now();
            let next = {
                let mut marks = self.seen.marks();
                // A new configuration may want the new plugins.
                if marks.config.as_mut().is_some_and(|config| config.take(now)) {
                    return Changed::Config;
                }
                if marks.plugins.take(now) {
                    return Changed::Plugins;
                }
                marks.places().filter_map(|place| place.due()).min()
            };
            let pause = next.map(|next| next.saturating_duration_since(now));
            let pause = if self.is_whole { pause } else { Some(pause.unwrap_or(LOOK).min(LOOK)) };
            match pause {
                Some(pause) => {
                    tokio::select! { () = self.seen.wake.notified() => {}, () = sleep(pause) => {} }
                }
                None => self.seen.wake.notified().await,
            }
        }
    }

    /// Watch what isn't watched yet, where something may be elsewhere than before.
    fn look(&mut self) {
        // Until all was watched before it was looked at.
        for _ in 0..AGAIN {
            let is_stale = std::mem::take(&mut self.seen.marks().is_stale);
            if self.watcher.is_none() || (self.is_whole && !is_stale) || !self.look_once() {
                return;
            }
            self.seen.marks().is_stale = true;
        }
    }

    /// Whether folders are watched that were not.
    fn look_once(&mut self) -> bool {
        let seen = self.seen.clone();
        let (plugins, files, config) = {
            let marks = seen.marks();
            let config = marks.config.as_ref().map(|config| config.path.clone());
            (marks.plugins.path.clone(), marks.files.clone(), config)
        };
        let plugins = Survey::of_folder(&plugins).and_files(&files);
        let config = config.as_deref().map(Survey::of_file);
        let now = Instant::now();
        let (wanted, moved) = {
            let mut marks = seen.marks();
            self.is_whole = plugins.trouble.is_none();
            marks.plugins.set(plugins, now);
            if let (Some(place), Some(survey)) = (&mut marks.config, config) {
                place.set(survey, now);
            }
            let folders = |place: &mut Place| {
                let folders = place.survey().map(Survey::folders).unwrap_or_default();
                folders.into_iter().map(Path::to_owned).collect::<Vec<_>>()
            };
            let wanted: BTreeSet<PathBuf> = marks.places().flat_map(folders).collect();
            (wanted, std::mem::take(&mut marks.moved))
        };
        let left: Vec<_> =
            self.watched.keys().filter(|dir| !wanted.contains(*dir)).cloned().collect();
        left.iter().for_each(|dir| self.unwatch(dir));
        self.refused.retain(|dir, _| wanted.contains(dir));
        let mut is_new = false;
        for dir in wanted {
            let was_moved = moved.iter().any(|moved| dir.starts_with(moved));
            is_new |= self.watch(dir, was_moved, now);
        }
        is_new
    }

    /// Watch a folder unless it is watched already and `was_moved` is false; whether it is now and was
    /// not.
    fn watch(&mut self, dir: PathBuf, was_moved: bool, now: Instant) -> bool {
        let identity = identity(&dir);
        let before = self.watched.get(&dir).copied();
        if before.is_some() && before == identity && !was_moved {
            return false;
        }
        if before.is_some() {
            // The one that was moved away would go on being watched.
            self.unwatch(&dir);
        }
        let Some(watcher) = &mut self.watcher else { return false };
        match watcher.watch(&dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                // It may be another one by now: then it is watched the next time.
                self.watched.insert(dir.clone(), identity.unwrap_or_default());
                if self.refused.remove(&dir).is_some() || before.is_some() {
                    self.seen.marks().missed(&dir, now);
                }
                true
            }
            Err(error) => {
                self.is_whole = false;
                let why = error.to_string();
                self.refused.entry(dir.clone()).or_default().tell(&dir, &why, now);
                false
            }
        }
    }

    fn unwatch(&mut self, dir: &Path) {
        self.watched.remove(dir);
        if let Some(watcher) = &mut self.watcher {
            // It may be gone already.
            let _ = watcher.unwatch(dir);
        }
    }
}

impl Marks {
    /// What happened in this folder may not have been seen.
    fn missed(&mut self, dir: &Path, now: Instant) {
        let is_in = |place: &Place| place.survey().is_some_and(|at| at.folders().contains(dir));
        self.places().filter(|place| is_in(place)).for_each(|place| place.change(now));
    }

    /// Take note of what has happened; whether it matters.
    fn note(&mut self, event: &Event, now: Instant) -> bool {
        // Events were lost: anything may have changed.
        if event.need_rescan() {
            self.places().for_each(|place| place.lose(now));
            self.is_stale = true;
            return true;
        }
        let is_other_bytes =
            matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)));
        let is_of_rights = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        let is_away =
            matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let mut matters = false;
        for path in &event.paths {
            let (mut concerns, mut holds, mut other_rights) = (false, false, false);
            for place in self.places() {
                let Some(survey) = place.survey() else { continue };
                if is_of_rights {
                    // Who couldn't be read may be whole now, and its bytes are the same.
                    if survey.has_other_rights(path) {
                        (concerns, other_rights) = (true, true);
                        place.change(now);
                    }
                    continue;
                }
                // Also one that was moved away: another may be in its place.
                holds |= is_away && survey.folders().iter().any(|dir| dir.starts_with(path));
                if survey.concerns(path) {
                    concerns = true;
                    place.note(path, &event.kind, now);
                }
            }
            if holds {
                self.moved.insert(path.clone());
            }
            self.is_stale |= holds || other_rights || (concerns && !is_other_bytes);
            matters |= holds || concerns;
        }
        matters
    }
}

impl Seen {
    /// Called by the watcher's thread.
    fn note(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) => {
                if self.marks().note(&event, Instant::now()) {
                    self.wake.notify_one();
                }
            }
            Err(error) => tracing::warn!("watching files: {error}"),
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a folder can't be watched.
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    /// Whether the log has said it.
    is_told: bool,
}

impl Trouble {
    /// Say that changes in this folder are seen when somebody asks for it; not when it is so for a
    /// moment only, in which another is put in its place.
    fn tell(&mut self, dir: &Path, why: &str, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if self.is_told || now.duration_since(since) < LOOK {
            return;
        }
        self.is_told = true;
        let dir = dir.display();
        tracing::warn!(
            "changes in the folder {dir} are not noticed by themselves: {why}; SIGHUP has them looked at"
        );
    }
}

fn identity(dir: &Path) -> Option<Identity> {
    std::fs::metadata(dir).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Those of the files that aren't watched with the folder.
fn elsewhere<'a>(
    folder: &Path,
    files: impl IntoIterator<Item = &'a Path>,
) -> impl Iterator<Item = PathBuf> {
    let is_in_it = |file: &Path| file.parent() == Some(folder) && is_plugin(file);
    files.into_iter().map(absolute).filter(move |file| !is_in_it(file))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests;
