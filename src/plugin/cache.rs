//! Compiled plugins on disk, so that a second start compiles nothing.
//!
//! An entry is native code that the daemon will run: it is taken only from a folder that is the
//! daemon's own, written aside and put in place whole, and never changed afterwards (it is
//! mapped into memory). Its name is the sum of the plugin and of all that compiling depends on;
//! what is damaged is compiled again. What can't be written, on a full disk for instance, is loaded
//! from memory, said and counted: a plugin that is compiled can be used.

use std::fs::{File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use tempfile::{NamedTempFile, TempDir};
use wasmtime::Engine;
use wasmtime::component::Component;

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
    /// None where not even a temporary one can be used: what is compiled is kept in memory alone.
    dir: Option<PathBuf>,
    /// Where the folder given can't be used: goes when the daemon does.
    _temporary: Option<TempDir>,
    /// What artifacts depend on beside the plugin.
    environment: u64,
    /// A sentence, while what is compiled isn't kept for the next start.
    trouble: Mutex<Option<String>>,
    /// How often something could not be kept, or what was kept not be used.
    errors: AtomicU64,
}

/// Why an artifact was not written, and what to do.
struct Unwritten {
    reason: String,
    remedy: &'static str,
}

impl Cache {
    /// Open the folder, making it if need be, or a temporary one where that can't be: with a
    /// warning.
    pub(super) fn open(dir: PathBuf, engine: &Engine) -> Cache {
        let mut cache = Cache {
            dir: None,
            _temporary: None,
            environment: environment(engine),
            trouble: Mutex::default(),
            errors: AtomicU64::new(0),
        };
        let Err(reason) = private_folder(&dir) else {
            cache.dir = Some(dir);
            return cache;
        };
        let temporary = tempfile::Builder::new()
            .prefix("handlerd-")
            .permissions(PermissionsExt::from_mode(0o700))
            .tempdir();
        let reason = match &temporary {
            Ok(_) => reason,
            Err(e) => {
                let place = std::env::temp_dir();
                format!("{reason}, nor for now in {} ({e})", place.display())
            }
        };
        cache._temporary = temporary.ok();
        cache.dir = cache._temporary.as_ref().map(|temporary| temporary.path().to_owned());
        let remedy = "make that folder this user's own (chown)";
        let trouble = sentence(&dir, &Unwritten { reason, remedy });
        tracing::warn!("{trouble}");
        *cache.trouble() = Some(trouble);
        cache
    }

    /// Where it is; not the folder asked for if that can't be used.
    #[cfg(test)]
    pub(super) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Whether it is gone when the daemon ends.
    #[cfg(test)]
    pub(super) fn is_temporary(&self) -> bool {
        self._temporary.is_some()
    }

    /// How often what is compiled could not be kept, or what was kept not be used.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Why the next start compiles again what this one has compiled, and what to do; none when it
    /// doesn't.
    pub(super) fn trouble_now(&self) -> Option<String> {
        self.trouble().clone()
    }

    /// A lock whose holder panicked is still good: it is held for single steps only.
    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, dir: &Path, sha256: &[u8; 32]) -> PathBuf {
        dir.join(format!("{}-{:016x}.cwasm", hex(sha256), self.environment))
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
        let Some(dir) = &self.dir else { return Ok(None) };
        let path = self.entry(dir, sha256);
        load(engine, &path).map_err(|reason| {
            self.errors.fetch_add(1, Relaxed);
            format!("{}: {reason}", path.display())
        })
    }

    /// Put an artifact in its place, and load it; from memory where it can't be put there. Blocks.
    ///
    /// # Errors
    /// A sentence, when it can't be loaded at all.
    pub(super) fn put(
        &self,
        engine: &Engine,
        sha256: &[u8; 32],
        artifact: &[u8],
    ) -> Result<Component, String> {
        let unwritten = match self.write(sha256, artifact) {
            Ok(path) => match load(engine, &path) {
                Ok(Some(component)) => {
                    self.kept();
                    return Ok(component);
                }
                Ok(None) => Unwritten::by("it vanished at once", ALLOW),
                Err(reason) => {
                    // Nobody has it yet.
                    let _ = std::fs::remove_file(&path);
                    Unwritten::by(reason, "look after that disk")
                }
            },
            Err(unwritten) => unwritten,
        };
        // SAFETY: it is what this program's compiler has just answered.
        let component = unsafe { Component::deserialize(engine, artifact) }
            .map_err(|e| format!("what the compiler made can't be loaded: {e:#}"))?;
        self.not_kept(&unwritten);
        Ok(component)
    }

    /// Write an artifact aside and put it in its place; answers that.
    fn write(&self, sha256: &[u8; 32], artifact: &[u8]) -> Result<PathBuf, Unwritten> {
        let dir = self.dir.as_ref().ok_or_else(|| Unwritten::by("there is no folder", ALLOW))?;
        self.remove_unused(dir);
        // The kernel ends who writes more.
        let longest = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        if artifact.len() as u64 + TRAILER_LENGTH > longest {
            return Err(Unwritten::from(std::io::Error::from(ErrorKind::FileTooLarge)));
        }
        let is_gone =
            |e: &std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        let aside = match aside(dir) {
            // Somebody has removed the folder, or one that it is in: as whoever frees room does it.
            Err(e) if is_gone(&e) => {
                private_folder(dir).map_err(|reason| Unwritten::by(reason, ALLOW))?;
                aside(dir)?
            }
            made => made?,
        };
        let mut file = aside.as_file();
        file.write_all(artifact)?;
        file.write_all(&seal(artifact))?;
        // The disk may be full and say so only now.
        file.sync_all()?;
        let path = self.entry(dir, sha256);
        aside.persist(&path).map_err(|e| e.error)?;
        Ok(path)
    }

    /// Something is kept for the next start.
    fn kept(&self) {
        if self._temporary.is_some() {
            self.errors.fetch_add(1, Relaxed);
            return;
        }
        if self.trouble().take().is_some()
            && let Some(dir) = &self.dir
        {
            tracing::info!("compiled plugins are kept in {} again", dir.display());
        }
    }

    /// Something is not. That is said once for all that follow.
    fn not_kept(&self, unwritten: &Unwritten) {
        self.errors.fetch_add(1, Relaxed);
        let Some(dir) = &self.dir else { return };
        // Of a temporary folder the first trouble is the one to mend.
        let mut trouble = self.trouble();
        let said = sentence(dir, unwritten);
        if trouble.as_ref() == Some(&said) || self._temporary.is_some() {
            return;
        }
        tracing::warn!("{said}");
        *trouble = Some(said);
    }

    /// Remove what nobody has asked for in a long time: former versions, of plugins and of this
    /// program.
    fn remove_unused(&self, dir: &Path) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
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

/// What helps where a folder refuses.
const ALLOW: &str = "let this user write to it";

impl Unwritten {
    fn by(reason: impl Into<String>, remedy: &'static str) -> Self {
        Unwritten { reason: reason.into(), remedy }
    }
}

impl From<std::io::Error> for Unwritten {
    fn from(error: std::io::Error) -> Self {
        let remedy = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there",
            ErrorKind::FileTooLarge => "raise `ulimit -f`, or LimitFSIZE of the service",
            _ => ALLOW,
        };
        Unwritten::by(format!("a file can't be written there: {error}"), remedy)
    }
}

/// That what is compiled isn't kept in this folder, why, and what to do.
fn sentence(dir: &Path, Unwritten { reason, remedy }: &Unwritten) -> String {
    // systemd's folder goes before the user's (`Host::default_cache_dir`).
    let by_systemd = std::env::var_os("CACHE_DIRECTORY").is_some();
    let variable = if by_systemd { "CACHE_DIRECTORY" } else { "XDG_CACHE_HOME" };
    format!(
        "compiled plugins can't be kept in {}: {reason}. They are used all the same, and compiled again \
         at the next start: {remedy}, or start it with {variable}=FOLDER, a folder that this user can \
         write to",
        dir.display()
    )
}

/// What artifacts depend on beside the plugin: the engine with its settings and this processor,
/// and the tools that encode core modules, which go with our version.
fn environment(engine: &Engine) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    (FORMAT, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    hasher.finish()
}

/// A file in the folder that is to become an entry.
fn aside(dir: &Path) -> std::io::Result<NamedTempFile> {
    let made = tempfile::Builder::new().prefix(".compiling-").tempfile_in(dir);
    made.map_err(|e| {
        // Its name, which is another one each time, is in nobody's interest.
        let text = e.to_string();
        let what = text.split_once(" at path").map_or(&*text, |(what, _)| what);
        std::io::Error::new(e.kind(), what)
    })
}

/// Make the folder, or see that it is the daemon's alone.
fn private_folder(dir: &Path) -> Result<(), String> {
    // Of its parents the first that is in the way, or missing.
    for parent in dir.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        let made = if parent.is_dir() { Ok(()) } else { std::fs::create_dir(parent) };
        if let Err(e) = made
            && !parent.is_dir()
            && !parent.as_os_str().is_empty()
        {
            return Err(format!("the folder {} can't be made: {e}", parent.display()));
        }
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(format!("it can't be made: {e}"));
        }
        _ => {}
    }
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
    aside(dir).map(drop).map_err(|e| format!("it can't be written to: {e}"))
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

/// The trailer behind an artifact.
fn seal(artifact: &[u8]) -> [u8; TRAILER_LENGTH as usize] {
    let mut trailer = [0; TRAILER_LENGTH as usize];
    trailer[..4].copy_from_slice(&TRAILER);
    trailer[4..].copy_from_slice(&crc32fast::hash(artifact).to_le_bytes());
    trailer
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
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
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
