//! Looks where the files really are, and has their folders watched.
//!
//! In a thread of its own, which is asked by [`super::Watch`] and alone waits for a disk that doesn't
//! answer: one look at a time, and nobody waits for its end. Now and then another thread glances at what
//! was found there, for what no event tells of: a file system that is mounted, a folder further up that is
//! exchanged, a file that another machine has written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::io::Errno;

use super::place::Place;
use super::stamp::{Identity, Stamp};
use super::trail::Survey;
use super::{LOOK, Seen};

/// How often links are gone through again because they led to folders that were not watched yet.
const AGAIN: usize = 4;

/// How often it is glanced at what was found.
pub(super) const GLANCE: Duration = Duration::from_secs(5);

/// So long it is waited for the event of what was found to be another: a look may be before it.
const LATE: Duration = Duration::from_millis(250);

/// What the thread has.
struct Looker {
    /// None as long as the system has none for us, which the log has said then.
    watcher: Option<RecommendedWatcher>,
    is_told: bool,
    seen: Arc<Seen>,
    /// The folders that are watched, and which ones these were.
    watched: BTreeMap<PathBuf, Option<Identity>>,
    /// Folders that can't be.
    refused: BTreeMap<PathBuf, Trouble>,
    /// Whether all is watched that is to be.
    is_whole: bool,
    /// Whoever glances has it, too.
    glancing: Arc<()>,
}

/// Start the thread; it ends when it can't be asked any more. `None` where there can be none, which the
/// log says.
pub(super) fn start(seen: &Arc<Seen>) -> Option<SyncSender<()>> {
    let (ask, asked) = sync_channel(1);
    let mut looker = Looker {
        watcher: None,
        is_told: false,
        seen: seen.clone(),
        watched: BTreeMap::new(),
        refused: BTreeMap::new(),
        is_whole: true,
        glancing: Arc::default(),
    };
    // None of the runtime's threads: it would be waited for when that ends.
    let thread = thread::Builder::new().name("handlerd-watch".into()).spawn(move || {
        loop {
            match asked.recv_timeout(GLANCE) {
                Ok(()) => {
                    looker.look();
                    looker.seen.looked(looker.is_whole);
                }
                Err(RecvTimeoutError::Timeout) => looker.glance(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    let unwatched = |error: &std::io::Error| {
        tracing::warn!(
            "changed files are not noticed by themselves: {error}; SIGHUP has them looked at"
        );
    };
    thread.inspect_err(unwatched).ok()?;
    Some(ask)
}

impl Looker {
    /// Watch what isn't watched yet.
    fn look(&mut self) {
        // Whoever hangs since before may do so for what nobody needs any more.
        self.glancing = Arc::default();
        // Until all was watched before it was looked at.
        for _ in 0..AGAIN {
            let is_stale = std::mem::take(&mut self.seen.marks().is_stale);
            if (self.is_whole && !is_stale) || !self.look_once() {
                return;
            }
            self.seen.marks().is_stale = true;
        }
    }

    /// Have somebody glance at what was found, unless one still does: a disk may hang, and who is asked
    /// to look elsewhere doesn't wait for it.
    fn glance(&mut self) {
        if Arc::strong_count(&self.glancing) > 1 {
            return;
        }
        let (seen, glancing) = (self.seen.clone(), self.glancing.clone());
        let thread = thread::Builder::new().name("handlerd-glance".into());
        // Where there can be none now there may be one the next time.
        let _ = thread.spawn(move || {
            glance(&seen);
            drop(glancing);
        });
    }

    /// Have a watcher. Whether there was none and is one now.
    fn begin(&mut self) -> bool {
        if self.watcher.is_some() {
            return false;
        }
        let told = self.seen.clone();
        match notify::recommended_watcher(move |event| told.note(event)) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                if self.is_told {
                    tracing::info!("changed files are noticed at once again");
                }
                std::mem::take(&mut self.is_told)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!(
                        "changed files are noticed late or not at all: {}; it is tried again, and SIGHUP \
                         has them looked at",
                        why(&error)
                    );
                }
                false
            }
        }
    }

    /// Whether folders are watched that were not.
    fn look_once(&mut self) -> bool {
        let seen = self.seen.clone();
        let was_blind = self.begin();
        let (plugins, files, config, told) = {
            let mut marks = seen.marks();
            let config = marks.config.as_ref().map(|config| config.path.clone());
            let told = std::mem::take(&mut marks.told);
            (marks.plugins.path.clone(), marks.files.clone(), config, told)
        };
        let survey = Survey::of_folder(&plugins).and_files(&files);
        let config = config.as_deref().map(Survey::of_file);
        if seen.marks().are_untold(&survey, config.as_ref(), &told) {
            thread::sleep(LATE);
        }
        let now = Instant::now();
        let (wanted, moved) = {
            let mut marks = seen.marks();
            // Of these, and of what has come meanwhile.
            let told = told.union(&marks.told).cloned().collect();
            if marks.plugins.path != plugins {
                // It was the one before.
                marks.told = told;
                return true;
            }
            self.is_whole = survey.trouble.is_none() && self.watcher.is_some();
            marks.plugins.set(survey, &told, now);
            if let (Some(place), Some(survey)) = (&mut marks.config, config) {
                place.set(survey, &told, now);
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
        if was_blind {
            seen.marks().places().for_each(|place| place.change(now));
        }
        is_new
    }

    /// Watch a folder unless it is watched already and `was_moved` is false; whether it is now and was
    /// not.
    fn watch(&mut self, dir: PathBuf, was_moved: bool, now: Instant) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let identity = Stamp::of(&dir).map(|stamp| stamp.identity);
        let before = self.watched.get(&dir).copied();
        if let Some(before) = before {
            if before.is_some() && before == identity && !was_moved {
                // It was mounted again, and the kernel doesn't say so: the one before tells nothing any
                // more. Otherwise this changes nothing.
                let _ = watcher.watch(&dir, RecursiveMode::NonRecursive);
                return false;
            }
            // The one that was moved away would go on being watched; it may be gone already.
            self.watched.remove(&dir);
            let _ = watcher.unwatch(&dir);
        }
        match watcher.watch(&dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                // It may be another one by now: then it is watched the next time.
                self.watched.insert(dir.clone(), identity);
                if self.refused.remove(&dir).is_some() || before.is_some() {
                    self.seen.marks().missed(&dir, now);
                }
                true
            }
            Err(error) => {
                self.is_whole = false;
                let why = why(&error);
                self.refused.entry(dir.clone()).or_default().tell(&dir, &why, now);
                false
            }
        }
    }

    fn unwatch(&mut self, dir: &Path) {
        self.watched.remove(dir);
        // It may be gone already.
        let _ = self.watcher.as_mut().map(|watcher| watcher.unwatch(dir));
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

/// Have it looked where something is another than when it was looked at last. Asks the disk, and nothing
/// else happens as long as all is the same.
fn glance(seen: &Seen) {
    let (known, told) = {
        let mut marks = seen.marks();
        let known: Vec<_> = marks
            .places()
            .filter_map(|place| place.survey())
            .flat_map(|survey| survey.known().map(|(path, stamp)| (path.to_owned(), stamp)))
            .collect();
        (known, std::mem::take(&mut marks.told))
    };
    if known.iter().all(|(path, before)| Stamp::of(path) == *before) {
        return;
    }
    {
        let mut marks = seen.marks();
        marks.told.extend(told);
        marks.is_stale = true;
    }
    seen.wake.notify_one();
}

/// Why something can't be watched.
fn why(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::Io(io) if io.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            "this user has as many watchers as there may be (fs.inotify.max_user_instances), or handlerd \
             as many open files"
                .to_owned()
        }
        ErrorKind::MaxFilesWatch => "this user watches as many folders and files as may be \
                                     (fs.inotify.max_user_watches)"
            .to_owned(),
        _ => error.to_string(),
    }
}
