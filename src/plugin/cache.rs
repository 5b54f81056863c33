//! Compiled plugins on disk, so that a second start compiles nothing.
//!
//! An entry is native code that the daemon will run: it is taken only from a folder that is the
//! daemon's own, written aside and put in place whole, and never changed afterwards (it is
//! mapped into memory). Its name is the sum of the plugin and of all that compiling depends on;
//! what is damaged is compiled again.

use std::fs::{File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::{NamedTempFile, TempDir};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::PluginError;
use super::file::hex;

/// Part of every name: raised when what is kept of a plugin changes otherwise than by its version.
const FORMAT: u32 = 3;

/// Entries unused for so long are removed when a new one comes.
const KEEP: Duration = Duration::from_secs(60 * 24 * 3600);

/// Behind the artifact: four bytes that say that the rest is ours, then its CRC-32.
const TRAILER: [u8; 4] = *b"hdlr";
const TRAILER_LENGTH: u64 = 8;

/// The folder.
pub(super) struct Cache {
    dir: PathBuf,
    /// Where the folder given can't be used: goes when the daemon does.
    _temporary: Option<TempDir>,
    /// What artifacts depend on beside the plugin.
    environment: u64,
}

impl Cache {
    /// Open the folder, making it if need be, or a temporary one where that can't be: with a
    /// warning.
    ///
    /// # Errors
    /// When there is no temporary one either.
    pub(super) fn open(dir: PathBuf, engine: &Engine) -> Result<Cache, PluginError> {
        let environment = environment(engine);
        let reason = match private_folder(&dir) {
            Ok(()) => return Ok(Cache { dir, _temporary: None, environment }),
            Err(reason) => reason,
        };
        // systemd's folder goes before the user's (`Host::default_cache_dir`).
        let by_systemd = std::env::var_os("CACHE_DIRECTORY").is_some();
        let variable = if by_systemd { "CACHE_DIRECTORY" } else { "XDG_CACHE_HOME" };
        tracing::warn!(
            "compiled plugins can't be kept in {}: {reason}; they are compiled at every start. Make \
             that folder this user's own (chown), or start it with {variable}=FOLDER, a folder that \
             this user can write to",
            dir.display()
        );
        let temporary = tempfile::Builder::new()
            .prefix("handlerd-")
            .permissions(PermissionsExt::from_mode(0o700))
            .tempdir()
            .map_err(|e| PluginError::Cache {
                reason: format!(
                    "{} can't be used ({reason}), nor can a temporary one be made in {} ({e})",
                    dir.display(),
                    std::env::temp_dir().display()
                ),
            })?;
        let dir = temporary.path().to_owned();
        Ok(Cache { dir, _temporary: Some(temporary), environment })
    }

    /// Where it is; not the folder asked for if that can't be used.
    #[cfg(test)]
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it is gone when the daemon ends.
    #[cfg(test)]
    pub(super) fn is_temporary(&self) -> bool {
        self._temporary.is_some()
    }

    fn entry(&self, sha256: &[u8; 32]) -> PathBuf {
        self.dir.join(format!("{}-{:016x}.cwasm", hex(sha256), self.environment))
    }

    /// The compiled plugin; none if it isn't here. Blocks.
    ///
    /// # Errors
    /// A sentence, when what is here must not be used.
    pub(super) fn get(
        &self,
        engine: &Engine,
        sha256: &[u8; 32],
    ) -> Result<Option<Component>, String> {
        let path = self.entry(sha256);
        load(engine, &path).map_err(|reason| format!("{}: {reason}", path.display()))
    }

    /// A file to compile into, which goes again unless [`Self::put`] places it. Blocks.
    pub(super) fn aside(&self) -> std::io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(".compiling-").tempfile_in(&self.dir)
    }

    /// Put an artifact in its place, and load it. Blocks.
    pub(super) fn put(
        &self,
        engine: &Engine,
        sha256: &[u8; 32],
        aside: NamedTempFile,
    ) -> Result<Component, String> {
        self.remove_unused();
        let path = self.entry(sha256);
        seal(aside.as_file())
            .and_then(|()| aside.as_file().sync_all())
            .map_err(|e| format!("can't write {}: {e}", aside.path().display()))?;
        aside.persist(&path).map_err(|e| format!("can't write {}: {}", path.display(), e.error))?;
        load(engine, &path)?.ok_or_else(|| format!("{} vanished", path.display()))
    }

    /// Remove what nobody has asked for in a long time: former versions, of plugins and of this
    /// program.
    fn remove_unused(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let unused = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > KEEP));
            if unused && (name.ends_with(".cwasm") || name.starts_with(".compiling-")) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// What artifacts depend on beside the plugin: the engine with its settings and this processor,
/// and the tools that encode core modules, which go with our version.
fn environment(engine: &Engine) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    (FORMAT, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    hasher.finish()
}

/// Make the folder, or see that it is the daemon's alone.
fn private_folder(dir: &Path) -> Result<(), String> {
    let make = || {
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    };
    make().map_err(|e| format!("it can't be made: {e}"))?;
    let metadata = std::fs::metadata(dir).map_err(|e| format!("it can't be looked at: {e}"))?;
    if !metadata.is_dir() {
        return Err("it is not a folder".into());
    }
    is_ours(&metadata)?;
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700))
            .map_err(|e| format!("its permissions can't be set: {e}"))?;
    }
    // Root may do what a read-only file system doesn't allow: only trying tells.
    tempfile::Builder::new()
        .prefix(".compiling-")
        .tempfile_in(dir)
        .map_err(|e| format!("it can't be written to: {e}"))?;
    Ok(())
}

/// Whether only this user can have written it. Others' native code is never run.
fn is_ours(metadata: &Metadata) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(format!("it belongs to user {}, and this is user {user}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!("others may write to it (mode {:o})", metadata.mode() & 0o7777));
    }
    Ok(())
}

/// Write the trailer behind an artifact.
fn seal(mut file: &File) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = crc32fast::Hasher::new();
    let length = checksum(file, u64::MAX, &mut hasher)?;
    file.seek(SeekFrom::Start(length))?;
    file.write_all(&TRAILER)?;
    file.write_all(&hasher.finalize().to_le_bytes())
}

fn checksum(file: &File, limit: u64, hasher: &mut crc32fast::Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut file = file.take(limit);
    let mut length = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(length);
        }
        hasher.update(&buffer[..n]);
        length += n as u64;
    }
}

/// Load an entry: none if there is none.
fn load(engine: &Engine, path: &Path) -> Result<Option<Component>, String> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = match File::options().read(true).custom_flags(nofollow).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("it can't be opened: {e}")),
    };
    let metadata = file.metadata().map_err(|e| format!("it can't be looked at: {e}"))?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    is_ours(&metadata)?;
    check_seal(&file, metadata.len())?;
    // Its age is what decides whether it is kept.
    let _ = file.set_modified(SystemTime::now());
    // SAFETY: the file is whole, as this program wrote it, and only this user can write to it or
    // to its folder; entries are never written to once they are in place.
    match unsafe { Component::deserialize_file(engine, path) } {
        Ok(component) => Ok(Some(component)),
        // A file system without the right to execute can't be mapped: it is copied instead.
        Err(mapped) => {
            let bytes = std::fs::read(path).map_err(|e| format!("it can't be read: {e}"))?;
            // SAFETY: as above.
            unsafe { Component::deserialize(engine, bytes) }
                .map(Some)
                .map_err(|_| format!("it can't be loaded: {mapped:#}"))
        }
    }
}

fn check_seal(mut file: &File, length: u64) -> Result<(), String> {
    let damaged = || "it is damaged".to_owned();
    let unreadable = |e: std::io::Error| format!("it can't be read: {e}");
    let artifact = length.checked_sub(TRAILER_LENGTH).ok_or_else(damaged)?;
    let mut hasher = crc32fast::Hasher::new();
    checksum(file, artifact, &mut hasher).map_err(unreadable)?;
    let mut trailer = [0; TRAILER_LENGTH as usize];
    file.read_exact(&mut trailer).map_err(unreadable)?;
    let sound = trailer[..4] == TRAILER && trailer[4..] == hasher.finalize().to_le_bytes();
    if sound { Ok(()) } else { Err(damaged()) }
}
