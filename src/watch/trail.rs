//! The way that a path takes through symbolic links, and where else something may change that matters.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::stamp::{Rights, Stamp};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// The way of a path.
struct Trail {
    /// Each link on the way, or the first thing that is missing: where they really are.
    steps: BTreeSet<PathBuf>,
    /// What it leads to: where that really is.
    end: io::Result<PathBuf>,
}

impl Trail {
    fn of(path: &Path) -> Trail {
        let mut trail = Trail { steps: BTreeSet::new(), end: Ok(PathBuf::from("/")) };
        trail.end = trail.walk(path);
        trail
    }

    fn walk(&mut self, path: &Path) -> io::Result<PathBuf> {
        let mut at = PathBuf::from("/");
        // Names that are still to be gone through, the next one at the end.
        let mut names: Vec<OsString> = Vec::new();
        let push = |names: &mut Vec<OsString>, path: &Path| {
            names.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
        };
        push(&mut names, path);
        let mut links = 0;
        while let Some(name) = names.pop() {
            match Path::new(&name).components().next() {
                Some(Component::Normal(_)) => {}
                Some(Component::RootDir) => {
                    at = PathBuf::from("/");
                    continue;
                }
                Some(Component::ParentDir) => {
                    at.pop();
                    continue;
                }
                _ => continue,
            }
            let next = at.join(&name);
            let found = std::fs::symlink_metadata(&next);
            if !found.as_ref().is_ok_and(|found| !found.is_symlink()) {
                self.steps.insert(next.clone());
            }
            if !found?.is_symlink() {
                at = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::other("too many symbolic links lead to one another"));
            }
            push(&mut names, &std::fs::read_link(&next)?);
        }
        Ok(at)
    }

    /// All that matters if it leads to a file: the file, too.
    fn into_steps(self) -> BTreeSet<PathBuf> {
        self.steps.into_iter().chain(self.end.ok()).collect()
    }
}

/// What has to be watched for one thing, as it is now.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Where the folder really is, of which every plugin file matters.
    folder: Option<PathBuf>,
    /// What matters besides: links, what they lead to, what is missing.
    steps: BTreeSet<PathBuf>,
    /// The same for each file elsewhere that matters, too.
    files: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// All of it and the folders to be watched, as they were; `None` for what isn't there.
    known: BTreeMap<PathBuf, Option<Stamp>>,
    /// Why not all of it can be.
    pub(super) trouble: Option<String>,
}

impl Survey {
    /// Of a folder, its plugin files, and those that links in it lead to.
    pub(super) fn of_folder(path: &Path) -> Survey {
        let Trail { mut steps, end } = Trail::of(path);
        let read = |folder: PathBuf| Ok((std::fs::read_dir(&folder)?, folder));
        let (entries, folder) = match end.and_then(read) {
            Ok(found) => found,
            Err(error) => {
                let trouble = Some(error.to_string());
                return Survey { steps, trouble, ..Survey::default() }.with_stamps(Vec::new());
            }
        };
        let mut files = Vec::new();
        for entry in entries.flatten().filter(|entry| is_plugin(Path::new(&entry.file_name()))) {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                steps.append(&mut Trail::of(&folder.join(entry.file_name())).into_steps());
            } else {
                files.push(folder.join(entry.file_name()));
            }
        }
        Survey { folder: Some(folder), steps, ..Survey::default() }.with_stamps(files)
    }

    /// The same, and these files.
    pub(super) fn and_files(mut self, files: &BTreeSet<PathBuf>) -> Survey {
        for file in files {
            self.files.insert(file.clone(), Trail::of(file).into_steps());
        }
        self.with_stamps(Vec::new())
    }

    /// Of a file.
    pub(super) fn of_file(path: &Path) -> Survey {
        let trail = Trail::of(path);
        // A file that is missing for a moment is looked out for in its folder.
        Survey { steps: trail.into_steps(), ..Survey::default() }.with_stamps(Vec::new())
    }

    /// With all that matters as it is now, and these files.
    fn with_stamps(mut self, mut files: Vec<PathBuf>) -> Survey {
        files.extend(self.steps.iter().chain(self.files.values().flatten()).cloned());
        files.extend(self.folders().into_iter().map(Path::to_owned));
        for path in files {
            self.known.entry(path).or_insert_with_key(|path| Stamp::of(path));
        }
        self
    }

    /// Whether somebody else may read this by now than when it was looked at. Times, which a backup sets
    /// back, don't count.
    pub(super) fn has_other_rights(&self, path: &Path, now: Option<Rights>) -> bool {
        let before = self.known.get(path).copied().flatten();
        before.is_some_and(|before| now.is_some_and(|now| now != before.rights))
    }

    /// What this is about, as it was.
    pub(super) fn known(&self) -> impl Iterator<Item = (&Path, Option<Stamp>)> {
        self.known.iter().map(|(path, stamp)| (path.as_path(), *stamp))
    }

    /// Whether anything that both are about is another in the other, and was not `told` of.
    pub(super) fn has_changed(&self, other: &Survey, told: &BTreeSet<PathBuf>) -> bool {
        let mut known = self.known.iter();
        known.any(|(path, before)| {
            other.known.get(path).is_some_and(|now| now != before) && !told.contains(path)
        })
    }

    /// Whether anything that happens to this path may matter.
    pub(super) fn has_to_do_with(&self, path: &Path) -> bool {
        self.known.contains_key(path) || self.concerns(path)
    }

    /// Whether what happens to this path, as it really is, matters.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.steps.contains(path)
            || self.files.values().any(|steps| steps.contains(path))
            || (is_plugin(path) && self.folder.is_some() && path.parent() == self.folder.as_deref())
    }

    /// The folders to be watched.
    pub(super) fn folders(&self) -> BTreeSet<&Path> {
        let steps = self.steps.iter().chain(self.files.values().flatten());
        let parents = steps.filter_map(|step| step.parent());
        parents.chain(self.folder.as_deref()).collect()
    }

    /// Whether both are about the same places. Files that only one of them is about don't count.
    pub(super) fn is_as(&self, other: &Survey) -> bool {
        let is_elsewhere = |(file, steps): (&PathBuf, &BTreeSet<PathBuf>)| {
            other.files.get(file).is_some_and(|other| other != steps)
        };
        self.folder == other.folder
            && self.steps == other.steps
            && !self.files.iter().any(is_elsewhere)
    }
}

pub(super) fn is_plugin(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm")
}
