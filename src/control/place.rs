//! Where the control socket is, and how the verbs find it there.
//!
//! The folder is `$RUNTIME_DIRECTORY` under systemd, else `$XDG_RUNTIME_DIR/handlerd`, else a folder
//! of this user's own in the one for temporary files. The name is made of the configuration's file and
//! of the path by which that was called (a link may be changed, and is the same link to who asks), and
//! of the process's number: several daemons may run with one configuration. It is a file, unlike the broker's socket, so that the folder and the file say who
//! may look inside; a daemon that was killed leaves its file, and the next one removes it.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::config::identity::file_and_path;

/// Where systemd makes the folders of its services.
const SYSTEM: &str = "/run";

/// Hex digits that stand for the configuration's file, and for the path to it.
const DIGITS: usize = 16;

/// Bytes of a socket's path, at most (`sun_path` with its end).
const LONGEST: usize = 107;

/// Where the socket of a daemon belongs.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
    /// systemd made the folder, and its group may look inside.
    is_shared: bool,
    /// Of the file's name.
    name: String,
}

/// Why there is no socket, in a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(String);

impl Place {
    /// For this process, which runs with this configuration.
    pub fn of_this_process(config: &Path) -> Self {
        let (folder, is_shared) = match systemd_folder() {
            Some(folder) => (folder, true),
            None => (own_runtime_folder().unwrap_or_else(temporary_folder), false),
        };
        let name = format!("{}-{}.sock", file_and_path(config).concat(), std::process::id());
        Place { folder, is_shared, name }
    }

    /// The socket's path.
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Who may open it.
    pub fn mode(&self) -> u32 {
        if self.is_shared { 0o660 } else { 0o600 }
    }

    /// Listen there. What dead daemons left in the folder is removed first.
    ///
    /// # Errors
    /// A sentence.
    pub fn listen(&self) -> Result<tokio::net::UnixListener, Trouble> {
        let path = self.path();
        let length = path.as_os_str().len();
        if length > LONGEST {
            return Err(Trouble(format!(
                "its path {} has {length} bytes, and a socket's may have {LONGEST}; set \
                 XDG_RUNTIME_DIR to a folder with a shorter path",
                path.display()
            )));
        }
        self.prepare_folder()?;
        self.sweep();
        let listener = tokio::net::UnixListener::bind(&path).map_err(|error| self.cant(&error))?;
        let permissions = std::fs::Permissions::from_mode(self.mode());
        std::fs::set_permissions(&path, permissions).map_err(|error| self.cant(&error))?;
        Ok(listener)
    }

    fn prepare_folder(&self) -> Result<(), Trouble> {
        if self.is_shared {
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(self.cant(&error)),
            _ if is_own_folder(&self.folder) => Ok(()),
            _ => Err(Trouble(format!(
                "{} is no folder of this user's alone (mode 0700); remove it, or set \
                 XDG_RUNTIME_DIR to a folder that is",
                self.folder.display()
            ))),
        }
    }

    fn cant(&self, error: &io::Error) -> Trouble {
        let who = match self.is_shared {
            true => "RuntimeDirectory= of the unit makes it",
            false => "XDG_RUNTIME_DIR names the folder that it is in",
        };
        Trouble(format!(
            "can't make it in the folder {}: {error}; this user must be able to write there ({who})",
            self.folder.display()
        ))
    }

    /// Remove the sockets of daemons that are dead.
    fn sweep(&self) {
        let own = std::process::id();
        for (pid, path) in sockets(&self.folder, None) {
            // A number may be used again, ours included, which nobody else can have now.
            let is_dead = pid == own || !is_alive(pid);
            if is_dead
                && knock(&path) == Err(Errno::CONNREFUSED)
                && std::fs::remove_file(&path).is_ok()
            {
                tracing::debug!("removed {}, which a dead daemon left", path.display());
            }
        }
    }
}

/// A daemon whose socket was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its process.
    pub pid: u32,
    /// Its socket.
    pub path: PathBuf,
    /// Whether this user may open it.
    pub may_open: bool,
}

/// The daemons that run now: with this configuration, or any.
pub fn find(config: Option<&Path>) -> Vec<Found> {
    find_identity(config.map(file_and_path).as_ref())
}

/// `identity`: of a file, or of a path to it; either will do.
fn find_identity(identity: Option<&[String; 2]>) -> Vec<Found> {
    let mut found = Vec::new();
    for folder in folders() {
        for (pid, path) in sockets(&folder, identity) {
            let may_open = match knock(&path) {
                // One that stands still has a queue of those who wait, and that may be full.
                Ok(()) | Err(Errno::AGAIN) => true,
                Err(Errno::ACCESS) => false,
                Err(_) => continue,
            };
            found.push(Found { pid, path, may_open });
        }
    }
    found.sort_by_key(|found| found.pid);
    found.dedup_by_key(|found| found.pid);
    found
}

/// Whether somebody listens at a socket. Never waits.
fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

/// The daemon that runs now with the configuration of this one, which may be gone.
pub fn again(gone: &Found) -> Option<Found> {
    let identity = gone.path.file_name()?.to_str()?.split_once('-')?.0;
    let (file, path) = identity.split_at_checked(DIGITS)?;
    let identity = [file.to_owned(), path.to_owned()];
    find_identity(Some(&identity)).into_iter().find(|found| found.may_open)
}

/// All folders in which a daemon's socket may be that this user can open.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = systemd_folder().into_iter().collect();
    // `handlerd`, and those of several on one host: `handlerd-NAME` or `handlerd/NAME`.
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"handlerd"))
    };
    for folder in entries(Path::new(SYSTEM)).filter(is_ours) {
        folders.extend(entries(&folder).filter(|path| path.is_dir()));
        folders.push(folder);
    }
    folders.extend(own_runtime_folder());
    // Anybody can make a folder in the one for temporary files.
    folders.extend(Some(temporary_folder()).filter(|folder| is_own_folder(folder)));
    folders
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The sockets in a folder, of any configuration or of one, each with its process.
fn sockets(folder: &Path, identity: Option<&[String; 2]>) -> Vec<(u32, PathBuf)> {
    let parse = |path: PathBuf| {
        let (of, pid) = path.file_name()?.to_str()?.strip_suffix(".sock")?.split_once('-')?;
        let (of_file, of_path) = of.split_at_checked(DIGITS)?;
        let is_it = |[file, path]: &[String; 2]| of_file == file || of_path == path;
        let is_wanted = of_path.len() == DIGITS && identity.is_none_or(is_it);
        let pid = pid.parse().ok().filter(|_| is_wanted)?;
        Some((pid, path))
    };
    entries(folder).filter_map(parse).collect()
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn systemd_folder() -> Option<PathBuf> {
    // systemd lists several with colons in between.
    std::env::split_paths(&variable("RUNTIME_DIRECTORY")?).next()
}

fn own_runtime_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(variable("XDG_RUNTIME_DIR")?);
    folder.is_absolute().then(|| folder.join("handlerd"))
}

fn temporary_folder() -> PathBuf {
    std::env::temp_dir().join(format!("handlerd-{}", geteuid().as_raw()))
}

fn is_own_folder(folder: &Path) -> bool {
    let is_own = |of: Metadata| {
        of.is_dir() && of.uid() == geteuid().as_raw() && of.permissions().mode() & 0o077 == 0
    };
    // A link is none, wherever it leads.
    std::fs::symlink_metadata(folder).is_ok_and(is_own)
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path) -> Place {
        let name =
            format!("{}-{}.sock", file_and_path(Path::new("/c")).concat(), std::process::id());
        Place { folder: folder.to_owned(), is_shared: false, name }
    }

    #[tokio::test]
    async fn what_dead_daemons_left_is_removed_and_what_lives_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        let place = place(&folder);
        let listener = place.listen().unwrap();
        assert_eq!(std::fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        // Left by who had our number before us, and by one whose number nobody has.
        drop(listener);
        let dead = folder.join(format!("{}-{}.sock", "0".repeat(32), i32::MAX));
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let foreign = folder.join("other.sock");
        drop(std::os::unix::net::UnixListener::bind(&foreign).unwrap());
        let listener = place.listen().unwrap();
        assert_eq!((dead.exists(), foreign.exists()), (false, true));
        // One that lives is in the way of no other, and its number is its own.
        assert!(place.listen().is_err());
        assert!(place.path().exists());
        drop(listener);
    }

    #[tokio::test]
    async fn every_trouble_is_a_sentence_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let long = place(&dir.path().join("x".repeat(100))).listen().unwrap_err().to_string();
        assert!(long.contains("107") && long.contains("XDG_RUNTIME_DIR"), "{long}");
        let missing = place(&dir.path().join("a/b")).listen().unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
        let open = dir.path().join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        let open = place(&open).listen().unwrap_err().to_string();
        assert!(open.contains("0700"), "{open}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        let file = place(&dir.path().join("file")).listen().unwrap_err().to_string();
        assert!(file.contains("no folder"), "{file}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(place(&link).listen().is_err());
        let shared = Place { is_shared: true, ..place(&dir.path().join("none")) };
        let shared = shared.listen().unwrap_err().to_string();
        assert!(shared.contains("RuntimeDirectory="), "{shared}");
    }
}
