//! The consumer's name: the host's, and an id that this instance keeps over restarts, so that it finds
//! its own pending entries again.
//!
//! The id is in a file of the state folder. Whoever uses it holds a lock on the file, so a second
//! daemon of the same folder takes, or makes, another.

use std::fs::{DirBuilder, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Daemons that may share a state folder.
const MOST: usize = 1_000;

/// A name, ours as long as this lives.
#[derive(Debug)]
pub struct Consumer {
    name: Arc<str>,
    _lock: Option<File>,
}

impl Consumer {
    /// The name of this instance. Without a state folder that can be written it is made for this run
    /// only, and that is logged.
    pub fn of_instance() -> Self {
        let kept = match state_folder() {
            Some(folder) => {
                Self::in_folder(&folder).map_err(|error| format!("{}: {error}", folder.display()))
            }
            None => Err("neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set".to_owned()),
        };
        kept.unwrap_or_else(|why| {
            tracing::warn!(
                "the consumer's name can't be kept: {why}; what is pending in it will be claimed \
                 after claim_idle, not taken up at once, when handlerd starts again"
            );
            Consumer { name: named(&random()), _lock: None }
        })
    }

    /// The name that is kept in this folder, which is made if it is missing.
    ///
    /// # Errors
    /// When the folder or its files can't be used.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        for n in 0..MOST {
            let path = folder.join(format!("instance-{n}"));
            let mut file =
                File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let mut id = String::new();
            file.read_to_string(&mut id)?;
            if !is_id(id.trim()) {
                id = random();
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(id.as_bytes())?;
                file.sync_all()?;
            }
            return Ok(Consumer { name: named(id.trim()), _lock: Some(file) });
        }
        Err(io::Error::other(format!("all of {MOST} instances are in use")))
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// systemd's, or the user's.
fn state_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folders) = variable("STATE_DIRECTORY") {
        // systemd lists several with colons in between.
        return std::env::split_paths(&folders).next();
    }
    match variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(state) => Some(state.join("handlerd")),
        None => Some(PathBuf::from(variable("HOME")?).join(".local/state/handlerd")),
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// From the random keys of a hash map.
pub(in crate::broker) fn random() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

fn named(id: &str) -> Arc<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "handlerd",
        host => host,
    };
    format!("{host}-{id}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_and_never_shared() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        // A child that another test has just forked holds the lock, too, until it is another program.
        let is_there_again = |name: &str| {
            (0..1_000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                **Consumer::in_folder(&folder).unwrap().name() == *name
            })
        };
        let first = Consumer::in_folder(&folder).unwrap();
        let second = Consumer::in_folder(&folder).unwrap();
        assert_ne!(first.name(), second.name());
        let name = first.name().clone();
        drop(first);
        assert!(is_there_again(&name));
        assert!(name.len() > 17, "{name}");
        std::fs::write(folder.join("instance-0"), "not an id\n").unwrap();
        let repaired = Consumer::in_folder(&folder).unwrap();
        assert_ne!(*repaired.name(), name);
        let repaired_name = repaired.name().clone();
        drop(repaired);
        assert!(is_there_again(&repaired_name));
    }
}
