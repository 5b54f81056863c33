//! Tells of changed files: those of the plugin folder, those that handlers name elsewhere, and the
//! configuration's where that is wished.
//!
//! Used by the daemon. Says that something has changed and is whole, never what: whoever is told
//! looks at the bytes, and asks which files somebody is still writing. Links are followed: what they
//! lead to is watched where it really is.
//!
//! | module | owns |
//! | --- | --- |
//! | `stamp` | what tells a thing from another, and from itself as it was |
//! | `trail` | through which links a path leads, and so which folders are to be watched |
//! | `look` | the thread that looks at the disk, and the folders that are watched |
//! | `place` | what has happened to one thing, and when that may be looked at |

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::Event;
use notify::event::{AccessKind, AccessMode, DataChange, EventKind, ModifyKind};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::file::Patience;

mod look;
mod place;
mod stamp;
mod trail;

use place::{Place, is_empty_file};
use stamp::{Rights, Stamp};
use trail::{Survey, is_plugin};

/// How often a folder that is not there is looked for; and for so long what has happened waits for a look
/// that goes on.
const LOOK: Duration = Duration::from_secs(2);

/// So long it is waited at most until the files are watched: their disk may hang.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

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
    seen: Arc<Seen>,
    /// Has it looked where the files are; none where nothing can be watched.
    ask: Option<SyncSender<()>>,
    /// Looks where a file really is.
    files: Patience,
}

/// The files that somebody is writing.
#[derive(Clone, Default)]
pub struct Unfinished(Option<(Arc<Seen>, Patience)>);

impl Unfinished {
    /// Whether this file is one of them. Links are followed.
    pub async fn contains(&self, file: &Path) -> bool {
        let Some((seen, files)) = &self.0 else { return false };
        // Mostly there is none, and no disk is asked.
        if !seen.marks().places().any(|place| place.has_unfinished()) {
            return false;
        }
        let file = file.to_owned();
        let real = files.work(move || std::fs::canonicalize(file)).await;
        let Ok(Ok(real)) = real else { return false };
        seen.marks().places().any(|place| place.is_unfinished(&real))
    }
}

/// What the watcher's thread has seen.
struct Seen {
    marks: Mutex<Marks>,
    wake: Notify,
    /// Wakes whoever waits for the end of a look.
    looked: Notify,
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
    /// Since when it is looked where everything is.
    looking: Option<Instant>,
    /// When that was done last, and whether all was watched then that is to be.
    looked: Option<Instant>,
    is_whole: bool,
    /// What events have told of since it was looked at last.
    told: BTreeSet<PathBuf>,
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
    pub async fn new<'a>(
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
            looking: None,
            looked: None,
            is_whole: true,
            told: BTreeSet::new(),
            moved: BTreeSet::new(),
        };
        let (wake, looked) = (Notify::new(), Notify::new());
        let seen = Arc::new(Seen { marks: Mutex::new(marks), wake, looked });
        let files = Patience::new(LONGEST_LOOK);
        let watch = Watch { ask: look::start(&seen), seen, files };
        watch.look().await;
        watch
    }

    /// Whether the configuration is watched.
    pub fn is_of_config(&self) -> bool {
        self.seen.marks().config.is_some()
    }

    /// The plugin folder is this one from now on, and the plugin files elsewhere are these. They are
    /// looked for, and the configuration, where they are by now.
    pub async fn follow<'a>(
        &mut self,
        plugin_dir: &Path,
        files: impl IntoIterator<Item = &'a Path>,
    ) {
        let plugin_dir = absolute(plugin_dir);
        {
            let mut marks = self.seen.marks();
            marks.plugins.go_to(&plugin_dir);
            marks.files = elsewhere(&plugin_dir, files).collect();
            marks.is_stale = true;
        }
        self.look().await;
    }

    /// These plugin files are watched, too, before they are read; whether one was not until now.
    pub async fn follow_also<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) -> bool {
        {
            let mut marks = self.seen.marks();
            let plugin_dir = marks.plugins.path.clone();
            let before = marks.files.len();
            marks.files.extend(elsewhere(&plugin_dir, files));
            if marks.files.len() == before {
                return false;
            }
            marks.is_stale = true;
        }
        self.look().await;
        true
    }

    /// What is being written: always as it is when it is asked.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished(Some((self.seen.clone(), self.files.clone())))
    }

    /// Wait until something has changed, and is whole again.
    pub async fn next(&mut self) -> Changed {
        loop {
            let now = Instant::now();
            let next = {
                let mut marks = self.seen.marks();
                if marks.is_to_be_looked(now) {
                    self.ask(&mut marks, now);
                }
                // What it sees belongs to what has happened, unless its disk hangs.
                if marks.is_looking(now) {
                    marks.looking.map(|since| since + LOOK)
                } else if marks.config.as_mut().is_some_and(|config| config.take(now)) {
                    // Before the plugins: a new configuration may want the new ones.
                    return Changed::Config;
                } else if marks.plugins.take(now) {
                    return Changed::Plugins;
                } else {
                    let due = marks.places().filter_map(|place| place.due()).min();
                    due.into_iter().chain(marks.looks_again()).min()
                }
            };
            match next {
                Some(next) => {
                    let pause = next.saturating_duration_since(now);
                    tokio::select! { () = self.seen.wake.notified() => {}, () = sleep(pause) => {} }
                }
                None => self.seen.wake.notified().await,
            }
        }
    }

    /// Have it looked where everything is, unless that goes on.
    fn ask(&self, marks: &mut Marks, now: Instant) {
        let Some(ask) = &self.ask else {
            marks.is_stale = false;
            return;
        };
        if marks.looking.is_none() && ask.try_send(()).is_ok() {
            marks.looking = Some(now);
        }
    }

    /// Wait until everything is watched where it is now; not for ever.
    async fn look(&self) {
        let looked = async {
            loop {
                let mut looked = pin!(self.seen.looked.notified());
                looked.as_mut().enable();
                {
                    let mut marks = self.seen.marks();
                    if marks.is_stale {
                        self.ask(&mut marks, Instant::now());
                    }
                    if marks.looking.is_none() {
                        return;
                    }
                }
                looked.await;
            }
        };
        // Otherwise something may have happened before it was watched: see `Seen::looked`.
        let _ = timeout(LONGEST_LOOK, looked).await;
    }
}

impl Marks {
    /// Whether it is to be looked where everything is.
    fn is_to_be_looked(&self, now: Instant) -> bool {
        self.is_stale || self.looks_again().is_some_and(|at| at <= now)
    }

    /// When it is to be looked again for what isn't there.
    fn looks_again(&self) -> Option<Instant> {
        let waits = !self.is_whole && self.looking.is_none();
        self.looked.filter(|_| waits).map(|looked| looked + LOOK)
    }

    /// Whether that goes on, and not for so long that nobody waits for it.
    fn is_looking(&self, now: Instant) -> bool {
        self.looking.is_some_and(|since| now < since + LOOK)
    }

    /// Whether anything was found to be another by now and no event has told of it yet.
    fn are_untold(
        &self,
        plugins: &Survey,
        config: Option<&Survey>,
        told: &BTreeSet<PathBuf>,
    ) -> bool {
        let told = told.union(&self.told).cloned().collect();
        let is_untold = |(place, survey): (&Place, &Survey)| place.is_untold(survey, &told);
        is_untold((&self.plugins, plugins)) || self.config.iter().zip(config).any(is_untold)
    }

    /// What happened in this folder may not have been seen.
    fn missed(&mut self, dir: &Path, now: Instant) {
        let is_in = |place: &Place| place.survey().is_some_and(|at| at.folders().contains(dir));
        self.places().filter(|place| is_in(place)).for_each(|place| place.change(now));
    }

    /// Take note of what has happened; whether it matters.
    fn note(&mut self, event: &Event, looks: &[Look], now: Instant) -> bool {
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
        let is_read = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
        let mut matters = false;
        for (path, look) in event.paths.iter().zip(looks) {
            let (mut concerns, mut holds, mut other_rights) = (false, false, false);
            let mut is_told = false;
            for place in self.places() {
                let Some(survey) = place.survey() else { continue };
                is_told |= !is_read && survey.has_to_do_with(path);
                if is_of_rights {
                    // Who couldn't be read may be whole now, and its bytes are the same.
                    if survey.has_other_rights(path, look.rights) {
                        (concerns, other_rights) = (true, true);
                        place.change(now);
                    }
                    continue;
                }
                // Also one that was moved away: another may be in its place.
                holds |= is_away && survey.folders().iter().any(|dir| dir.starts_with(path));
                if survey.concerns(path) {
                    concerns = true;
                    // Of one that is empty the first bytes are still to come.
                    let kind = if look.is_empty { &WRITTEN } else { &event.kind };
                    place.note(path, kind, now);
                }
            }
            if is_told {
                self.told.insert(path.clone());
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

/// A file with bytes that are still to come.
const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));

/// What a path is found to be when something has happened to it.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// Whether it is a file that was just made and has nothing in it.
    is_empty: bool,
    rights: Option<Rights>,
}

impl Seen {
    /// What is to be known of a path beside the event. Nobody is held up while the disk is asked.
    fn look(&self, path: &Path, kind: &EventKind) -> Look {
        let is_made = matches!(kind, EventKind::Create(_));
        let is_of_rights = matches!(kind, EventKind::Modify(ModifyKind::Metadata(_)));
        let matters = |place: &mut Place| place.survey().is_some_and(|at| at.has_to_do_with(path));
        if !(is_made || is_of_rights) || !self.marks().places().any(matters) {
            return Look::default();
        }
        Look {
            is_empty: is_made && is_empty_file(path),
            rights: if is_of_rights { Stamp::of(path).map(|stamp| stamp.rights) } else { None },
        }
    }

    /// Called by the thread that looks, when it has.
    fn looked(&self, is_whole: bool) {
        {
            let (mut marks, now) = (self.marks(), Instant::now());
            let began = marks.looking.take();
            (marks.looked, marks.is_whole) = (Some(now), is_whole);
            // Nobody has waited for it: what happened meanwhile may not have been seen.
            if began.is_some_and(|began| now >= began + LONGEST_LOOK) {
                marks.places().for_each(|place| place.change(now));
            }
        }
        self.looked.notify_waiters();
        self.wake.notify_one();
    }

    /// Called by the watcher's thread.
    fn note(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) => {
                let look = |path| self.look(path, &event.kind);
                let looks: Vec<_> = event.paths.iter().map(|path| look(path)).collect();
                if self.marks().note(&event, &looks, Instant::now()) {
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
