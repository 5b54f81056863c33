//! One thing that is watched: what has happened to it, and when that may be looked at.
//!
//! Pure: the time is the caller's.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};

use super::look::Trouble;
use super::trail::Survey;

/// Nothing has happened for so long: who copies several files has got to the end.
pub(super) const QUIET: Duration = Duration::from_millis(300);

/// So long a change waits for other files that are being written, to be taken together with them;
/// and a file that has been written to for so long is worth a line in the log.
const TOGETHER: Duration = Duration::from_secs(5);

/// So long a change waits at most, where there are new ones without end.
const STEADY: Duration = Duration::from_secs(30);

/// So long a file that was written to and not closed is waited for after the last byte came. Then
/// it is looked at as it is.
const UNFINISHED: Duration = Duration::from_secs(30);

/// And so long at most after the first byte.
const ENDLESS: Duration = Duration::from_secs(600);

/// What is watched, and what has happened to it.
#[derive(Default)]
pub(super) struct Place {
    /// Of plugins the folder, of the configuration the file.
    pub(super) path: PathBuf,
    /// Whether it was looked for last where it was before.
    is_elsewhere: bool,
    /// None before it was looked for.
    survey: Option<Survey>,
    /// When something happened first and last that nobody was told of.
    changed: Option<(Instant, Instant)>,
    /// Files that were made empty or written to since they were closed last, where they really are.
    open: HashMap<PathBuf, Open>,
    /// That not all of it can be watched.
    trouble: Trouble,
}

/// A file that somebody writes.
#[derive(Debug)]
struct Open {
    first: Instant,
    last: Instant,
    /// Whether the log has said that it is waited for.
    told: bool,
    /// When it was no longer waited for.
    given_up: Option<Instant>,
}

impl Open {
    fn new(now: Instant) -> Self {
        Open { first: now, last: now, told: false, given_up: None }
    }

    /// When it is waited for no longer, or is to be looked at once more.
    fn ends(&self) -> Option<Instant> {
        match self.given_up {
            None => Some((self.last + UNFINISHED).min(self.first + ENDLESS)),
            Some(at) => (self.last > at).then(|| self.last + UNFINISHED),
        }
    }

    fn was_silent(&self) -> bool {
        self.given_up.is_some_and(|at| at >= self.last + UNFINISHED)
    }

    fn is_to_be_told(&self) -> Option<Instant> {
        (!self.told && self.given_up.is_none()).then(|| self.first + TOGETHER)
    }
}

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Place { path: path.to_owned(), ..Place::default() }
    }

    /// It has another path from now on. What has happened to files that it goes on with is still to be
    /// told of.
    pub(super) fn go_to(&mut self, path: &Path) {
        if self.path != path {
            self.path = path.to_owned();
            self.is_elsewhere = true;
            self.trouble = Trouble::default();
        }
    }

    /// Where to look from now on. What is elsewhere than before has changed, unless it is to be there; and
    /// so has what is another than before, unless it was `told` of.
    pub(super) fn set(&mut self, survey: Survey, told: &BTreeSet<PathBuf>, now: Instant) {
        let is_moved = self.before().is_some_and(|before| !before.is_as(&survey));
        if is_moved || self.is_untold(&survey, told) {
            self.change(now);
        }
        self.is_elsewhere = false;
        self.open.retain(|path, _| survey.concerns(path));
        match &survey.trouble {
            Some(why) => self.trouble.tell(&self.path, why, now),
            None => self.trouble = Trouble::default(),
        }
        self.survey = Some(survey);
    }

    /// Whether anything is another by now than when it was looked for last, and was not `told` of.
    pub(super) fn is_untold(&self, survey: &Survey, told: &BTreeSet<PathBuf>) -> bool {
        self.before().is_some_and(|before| before.has_changed(survey, told))
    }

    /// What it was when it was looked for last, where it is still to be there.
    fn before(&self) -> Option<&Survey> {
        self.survey.as_ref().filter(|_| !self.is_elsewhere)
    }

    /// As it was when it was looked for last.
    pub(super) fn survey(&self) -> Option<&Survey> {
        self.survey.as_ref()
    }

    /// Something about it is another than before.
    pub(super) fn change(&mut self, now: Instant) {
        let (first, _) = self.changed.unwrap_or((now, now));
        self.changed = Some((first, now));
    }

    /// Events were lost: anything may have happened.
    pub(super) fn lose(&mut self, now: Instant) {
        self.open.clear();
        self.change(now);
    }

    /// Take note of what has happened to one path, where that really is.
    pub(super) fn note(&mut self, path: &Path, kind: &EventKind, now: Instant) {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.open.remove(path);
            }
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
                return self.write(path, now);
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                self.open.remove(path);
            }
            EventKind::Create(_) | EventKind::Any | EventKind::Other => {}
            // Its times may change, and it is read; its bytes are the same.
            EventKind::Modify(_) | EventKind::Access(_) => return,
        }
        self.change(now);
    }

    fn write(&mut self, path: &Path, now: Instant) {
        let open = self.open.entry(path.to_owned()).or_insert_with(|| Open::new(now));
        if open.was_silent() {
            *open = Open::new(now);
        }
        open.last = now;
    }

    /// Whether somebody writes any file, and it is waited for.
    pub(super) fn has_unfinished(&self) -> bool {
        self.open.values().any(|open| open.given_up.is_none())
    }

    /// Whether somebody writes this file, and it is waited for.
    pub(super) fn is_unfinished(&self, real: &Path) -> bool {
        self.open.get(real).is_some_and(|open| open.given_up.is_none())
    }

    /// When it may be looked at; `None` while there is nothing to see.
    fn settled(&self) -> Option<Instant> {
        let (first, last) = self.changed?;
        let quiet = last + QUIET;
        let settled = if self.has_unfinished() { quiet.max(first + TOGETHER) } else { quiet };
        Some(settled.min(first + STEADY))
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        let open = self.open.values().flat_map(|open| [open.ends(), open.is_to_be_told()]);
        open.flatten().chain(self.settled()).min()
    }

    /// Whether it may be looked at now, of which is taken note.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.tend(now);
        let is_settled = self.settled().is_some_and(|at| at <= now);
        if is_settled {
            self.changed = None;
        }
        is_settled
    }

    /// Say what is waited for, and give up what has been waited for long enough.
    fn tend(&mut self, now: Instant) {
        let mut ended = false;
        for (path, open) in &mut self.open {
            let path = path.display();
            if open.ends().is_some_and(|at| at <= now) {
                open.given_up = Some(now);
                ended = true;
                tracing::warn!(
                    "{path} was written to {} s ago for the last time and never closed: it is looked at \
                     as it is",
                    now.duration_since(open.last).as_secs()
                );
            } else if open.is_to_be_told().is_some_and(|at| at <= now) {
                open.told = true;
                tracing::info!(
                    "{path} is being written: it is looked at when it is closed, or when nothing has \
                     come for {} s; other files are not held up",
                    UNFINISHED.as_secs()
                );
            }
        }
        if ended {
            self.change(now);
        }
    }
}

/// Asks the disk.
pub(super) fn is_empty_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange};

    use super::*;

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const MADE: EventKind = EventKind::Create(CreateKind::File);

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_file_that_is_written_for_ever_holds_up_no_other() {
        let (mut place, start) = (Place::default(), Instant::now());
        let (slow, other) = (Path::new("/p/slow.wasm"), Path::new("/p/other.wasm"));
        place.note(slow, &WRITTEN, start);
        place.note(other, &CLOSED, start + SECOND);
        // For a while they may belong together.
        assert!(!place.take(start + 2 * SECOND));
        place.note(slow, &WRITTEN, start + 6 * SECOND);
        assert!(place.take(start + 6 * SECOND));
        assert!(place.is_unfinished(slow) && !place.is_unfinished(other));
        // Alone it isn't looked at until it is closed.
        place.note(slow, &WRITTEN, start + 30 * SECOND);
        assert!(!place.take(start + 40 * SECOND));
        place.note(slow, &CLOSED, start + 50 * SECOND);
        assert!(!place.is_unfinished(slow));
        assert!(place.take(start + 51 * SECOND));
        assert_eq!(place.due(), None);
    }

    #[test]
    fn a_file_that_is_never_closed_is_looked_at_as_it_is() {
        let (mut place, start) = (Place::default(), Instant::now());
        let file = Path::new("/p/a.wasm");
        place.note(file, &WRITTEN, start);
        assert!(!place.take(start + 29 * SECOND) && place.is_unfinished(file));
        assert!(!place.take(start + 30 * SECOND) && !place.is_unfinished(file));
        assert!(place.take(start + 31 * SECOND));
        assert_eq!(place.due(), None);
        // It goes on, and is waited for once more; though not for ever.
        let again = start + 60 * SECOND;
        for second in 0..700 {
            let now = again + second * SECOND;
            place.note(file, &WRITTEN, now);
            assert_eq!(place.take(now), second == 601, "{second}");
            assert_eq!(place.is_unfinished(file), second < 600, "{second}");
        }
        // The bytes after that are looked at as well, when no more come.
        assert!(!place.take(again + 728 * SECOND));
        assert!(!place.take(again + 729 * SECOND), "it is quiet a moment later");
        assert!(place.take(again + 730 * SECOND));
        assert_eq!(place.due(), None);
    }

    #[test]
    fn a_folder_that_is_missing_for_a_moment_is_not_complained_of() {
        let (mut place, start) = (Place::new(Path::new("/p")), Instant::now());
        let missing = || Survey::of_folder(Path::new("/nowhere/at/all"));
        let mut is_told_after = |survey, seconds: u32| {
            place.set(survey, &BTreeSet::new(), start + seconds * SECOND);
            place.trouble.is_told
        };
        assert!(!is_told_after(missing(), 0) && !is_told_after(missing(), 1));
        assert!(!is_told_after(Survey::default(), 2));
        assert!(!is_told_after(missing(), 3) && is_told_after(missing(), 5));
        assert!(!is_told_after(Survey::default(), 6));
    }

    #[test]
    fn changes_without_end_are_looked_at_now_and_then() {
        let (mut place, start) = (Place::default(), Instant::now());
        let step = QUIET / 2;
        let looks = (0..1000).filter(|n| {
            let now = start + *n * step;
            place.note(Path::new("/p/a.wasm"), &CLOSED, now);
            place.take(now)
        });
        assert_eq!(looks.count(), 4);
    }

    #[test]
    fn a_file_that_was_made_empty_is_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let (empty, whole) = (dir.path().join("empty.wasm"), dir.path().join("whole.wasm"));
        let (mut place, start) = (Place::default(), Instant::now());
        std::fs::write(&empty, "").expect("a file");
        assert!(is_empty_file(&empty));
        place.note(&empty, &WRITTEN, start);
        assert!(!place.take(start + SECOND) && place.is_unfinished(&empty));
        place.note(&empty, &CLOSED, start + SECOND);
        assert!(place.take(start + 2 * SECOND));
        // As by a hard link: nobody will close it.
        std::fs::write(&whole, "x").expect("a file");
        assert!(!is_empty_file(&whole));
        place.note(&whole, &MADE, start + 3 * SECOND);
        assert!(place.take(start + 4 * SECOND));
    }
}
