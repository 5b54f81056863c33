//! Looks where the files really are, and has their folders watched.
//!
//! In a thread of its own, which is asked by [`super::Watch`] and alone waits for a disk that doesn't
//! answer: one look at a time, and nobody waits for its end.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::place::Place;
use super::trail::Survey;
use super::{LOOK, Seen};

/// How often links are gone through again because they led to folders that were not watched yet.
const AGAIN: usize = 4;

/// Device and inode.
type Identity = (u64, u64);

/// What the thread has.
struct Looker {
    watcher: RecommendedWatcher,
    seen: Arc<Seen>,
    /// The folders that are watched, and which ones these were.
    watched: BTreeMap<PathBuf, Identity>,
    /// Folders that can't be.
    refused: BTreeMap<PathBuf, Trouble>,
    /// Whether all is watched that is to be.
    is_whole: bool,
}

/// Start the thread; it ends when it can't be asked any more. `None` where nothing can be watched, which
/// the log says.
pub(super) fn start(seen: &Arc<Seen>) -> Option<SyncSender<()>> {
    let told = seen.clone();
    let watcher = notify::recommended_watcher(move |event| told.note(event));
    let unwatched = |error: &dyn std::fmt::Display| {
        tracing::warn!(
            "changed files are not noticed by themselves: {error}; SIGHUP has them looked at"
        );
    };
    let watcher = watcher.inspect_err(|error| unwatched(error)).ok()?;
    let (ask, asked) = sync_channel(1);
    let mut looker = Looker {
        watcher,
        seen: seen.clone(),
        watched: BTreeMap::new(),
        refused: BTreeMap::new(),
        is_whole: true,
    };
    // None of the runtime's threads: it would be waited for when that ends.
    let thread = std::thread::Builder::new().name("handlerd-watch".into()).spawn(move || {
        while asked.recv().is_ok() {
            looker.look();
            looker.seen.looked(looker.is_whole);
        }
    });
    thread.inspect_err(|error| unwatched(error)).ok()?;
    Some(ask)
}

impl Looker {
    /// Watch what isn't watched yet.
    fn look(&mut self) {
        // Until all was watched before it was looked at.
        for _ in 0..AGAIN {
            let is_stale = std::mem::take(&mut self.seen.marks().is_stale);
            if (self.is_whole && !is_stale) || !self.look_once() {
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
        let survey = Survey::of_folder(&plugins).and_files(&files);
        let config = config.as_deref().map(Survey::of_file);
        let now = Instant::now();
        let (wanted, moved) = {
            let mut marks = seen.marks();
            if marks.plugins.path != plugins {
                // It was the one before.
                return true;
            }
            self.is_whole = survey.trouble.is_none();
            marks.plugins.set(survey, now);
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
        match self.watcher.watch(&dir, RecursiveMode::NonRecursive) {
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
        // It may be gone already.
        let _ = self.watcher.unwatch(dir);
    }
}

/// That a folder can't be watched.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
    /// Whether the log has said it.
    pub(super) is_told: bool,
}

impl Trouble {
    /// Say that changes in this folder are seen when somebody asks for it; not when it is so for a
    /// moment only, in which another is put in its place.
    pub(super) fn tell(&mut self, dir: &Path, why: &str, now: Instant) {
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
