//! Tells of changed files: those of the plugin folder, and the configuration's where that is wished.
//!
//! Used by the daemon. Says that something has changed and is whole, never what: whoever is told
//! looks at the bytes. A file that somebody writes is waited for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Nothing has happened for so long: who copies several files has got to the end.
const QUIET: Duration = Duration::from_millis(300);

/// So long a file that was written to and not closed is waited for after the last byte came. Then
/// it is looked at as it is.
const UNFINISHED: Duration = Duration::from_secs(30);

/// How often a folder that is not there is looked for.
const LOOK: Duration = Duration::from_secs(2);

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Files of the plugin folder.
    Plugins,
    /// The configuration, or somebody wants it to be read again.
    Config,
}

/// Watches.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    seen: Arc<Seen>,
    plugins: Folder,
    /// The folder of the configuration, when that is watched.
    config: Option<Folder>,
}

struct Folder {
    path: PathBuf,
    is_watched: bool,
    /// Whether it was tried to watch it before.
    is_known: bool,
    /// Whether the log has said that it can't be.
    told: bool,
}

impl Folder {
    fn new(path: &Path) -> Self {
        Folder { path: path.to_owned(), is_watched: false, is_known: false, told: false }
    }

    /// Try to watch it; whether that is so again, and something may have been missed.
    fn watch(&mut self, watcher: &mut RecommendedWatcher) -> bool {
        if self.is_watched {
            return false;
        }
        let was_known = std::mem::replace(&mut self.is_known, true);
        if was_known {
            // The one that was moved away would go on being watched.
            let _ = watcher.unwatch(&self.path);
        }
        match watcher.watch(&self.path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.is_watched = true;
                self.told = false;
                return was_known;
            }
            Err(error) if !self.told => {
                self.told = true;
                let path = self.path.display();
                tracing::warn!(
                    "changes in the folder {path} are not noticed by themselves: {}; SIGHUP has them \
                     looked at",
                    error.to_string()
                );
            }
            Err(_) => {}
        }
        false
    }
}

/// What the watcher's thread has seen.
struct Seen {
    marks: Mutex<Marks>,
    wake: Notify,
}

#[derive(Default)]
struct Marks {
    plugins: Place,
    config: Place,
}

/// One of the two things that are watched.
#[derive(Default)]
struct Place {
    /// Of plugins the folder, of the configuration the file.
    path: PathBuf,
    /// When something happened last that nobody was told of.
    changed: Option<Instant>,
    /// Files that were written to since they were closed last, and when.
    open: HashMap<PathBuf, Instant>,
    /// The folder itself is gone.
    lost: bool,
}

impl Place {
    /// Take note of what has happened to one path.
    fn note(&mut self, path: &Path, kind: &EventKind, now: Instant) {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.open.remove(path);
            }
            EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
                self.open.insert(path.to_owned(), now);
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                self.open.remove(path);
            }
            EventKind::Create(_) | EventKind::Any | EventKind::Other => {}
            // Its times and rights may change; its bytes are the same.
            EventKind::Modify(_) | EventKind::Access(_) => return,
        }
        self.changed = Some(now);
    }

    /// When it may be looked at; `None` while there is nothing to see.
    fn settled(&self) -> Option<Instant> {
        let unfinished = self.open.values().max().map(|last| *last + UNFINISHED);
        let quiet = self.changed? + QUIET;
        Some(unfinished.map_or(quiet, |unfinished| unfinished.max(quiet)))
    }

    /// Whether it may be looked at now, of which is taken note.
    fn take(&mut self, now: Instant) -> bool {
        let is_settled = self.settled().is_some_and(|at| at <= now);
        if is_settled {
            self.changed = None;
            self.open.clear();
        }
        is_settled
    }
}

impl Watch {
    /// Watch a plugin folder, and a configuration file where one is given. Where that can't be done
    /// the log says so once, and it is tried again.
    pub fn new(plugin_dir: &Path, config: Option<&Path>) -> Self {
        let marks = Marks {
            plugins: Place { path: plugin_dir.to_owned(), ..Place::default() },
            config: Place { path: config.map(absolute).unwrap_or_default(), ..Place::default() },
        };
        let seen = Arc::new(Seen { marks: Mutex::new(marks), wake: Notify::new() });
        let told = seen.clone();
        let watcher = notify::recommended_watcher(move |event| told.note(event));
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!("changed files are not noticed by themselves: {error}; SIGHUP has them looked at");
            })
            .ok();
        let folder = |file: &Path| Folder::new(absolute(file).parent().unwrap_or(Path::new("/")));
        let mut watch =
            Watch { watcher, seen, plugins: Folder::new(plugin_dir), config: config.map(folder) };
        watch.look();
        watch
    }

    /// The plugin folder is this one from now on.
    pub fn follow(&mut self, plugin_dir: &Path) {
        if self.plugins.path == plugin_dir {
            return;
        }
        let before = std::mem::replace(&mut self.plugins, Folder::new(plugin_dir));
        // The configuration may be in the folder that is left.
        let is_shared = self.config.as_ref().is_some_and(|folder| folder.path == before.path);
        if let Some(watcher) = &mut self.watcher
            && before.is_watched
            && !is_shared
        {
            let _ = watcher.unwatch(&before.path);
        }
        self.seen.marks().plugins = Place { path: plugin_dir.to_owned(), ..Place::default() };
        self.look();
    }

    /// Wait until something has changed, and is whole again.
    pub async fn next(&mut self) -> Changed {
        loop {
            self.look();
            let now = Instant::now();
            let next = {
                let mut marks = self.seen.marks();
                // A new configuration may want the new plugins.
                if marks.config.take(now) {
                    return Changed::Config;
                }
                if marks.plugins.take(now) {
                    return Changed::Plugins;
                }
                self.plugins.is_watched &= !std::mem::take(&mut marks.plugins.lost);
                if let Some(config) = &mut self.config {
                    config.is_watched &= !std::mem::take(&mut marks.config.lost);
                }
                [marks.config.settled(), marks.plugins.settled()].into_iter().flatten().min()
            };
            let pause = next.map(|next| next.saturating_duration_since(now));
            let pause =
                if self.watches_all() { pause } else { Some(pause.unwrap_or(LOOK).min(LOOK)) };
            match pause {
                Some(pause) => {
                    tokio::select! { () = self.seen.wake.notified() => {}, () = sleep(pause) => {} }
                }
                None => self.seen.wake.notified().await,
            }
        }
    }

    fn watches_all(&self) -> bool {
        let config = self.config.as_ref().is_none_or(|folder| folder.is_watched);
        self.watcher.is_none() || (config && self.plugins.is_watched)
    }

    /// Watch what isn't watched yet. What was not there before, and is now, has changed.
    fn look(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        if self.plugins.watch(watcher) {
            self.seen.marks().plugins.changed = Some(Instant::now());
        }
        if let Some(folder) = &mut self.config
            && folder.watch(watcher)
        {
            self.seen.marks().config.changed = Some(Instant::now());
        }
    }
}

impl Seen {
    /// Called by the watcher's thread.
    fn note(&self, event: notify::Result<Event>) {
        let now = Instant::now();
        let mut marks = self.marks();
        match event {
            // Events were lost: anything may have changed.
            Ok(event) if event.need_rescan() => {
                marks.plugins.changed = Some(now);
                if !marks.config.path.as_os_str().is_empty() {
                    marks.config.changed = Some(now);
                }
            }
            Ok(event) => {
                for path in &event.paths {
                    let Marks { plugins, config } = &mut *marks;
                    if path.parent() == Some(&*plugins.path)
                        && path.extension().is_some_and(|extension| extension == "wasm")
                    {
                        plugins.note(path, &event.kind, now);
                    }
                    if *path == config.path {
                        config.note(path, &event.kind, now);
                    }
                    // Also one that was moved away: another may be in its place.
                    if matches!(
                        event.kind,
                        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                    ) {
                        plugins.lost |= *path == plugins.path;
                        config.lost |= config.path.parent() == Some(&**path);
                    }
                }
            }
            Err(error) => tracing::warn!("watching files: {error}"),
        }
        drop(marks);
        self.wake.notify_one();
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn told(watch: &mut Watch) -> Changed {
        tokio::time::timeout(PATIENCE, watch.next()).await.expect("something has changed")
    }

    async fn nothing(watch: &mut Watch, what: &str) {
        let told = tokio::time::timeout(3 * QUIET, watch.next()).await;
        assert!(told.is_err(), "{what}: {told:?}");
    }

    #[tokio::test]
    async fn a_file_is_told_of_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut watch = Watch::new(dir.path(), None);
        fs::write(dir.path().join("notes.txt"), "x").expect("written");
        nothing(&mut watch, "a file that is no plugin").await;
        let mut file = File::create(dir.path().join("a.wasm")).expect("made");
        file.write_all(b"half").expect("written");
        nothing(&mut watch, "half a file").await;
        file.write_all(b"whole").expect("written");
        drop(file);
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        nothing(&mut watch, "what was told already").await;
        fs::rename(dir.path().join("a.wasm"), dir.path().join("b.wasm")).expect("renamed");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        fs::remove_file(dir.path().join("b.wasm")).expect("removed");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
    }

    #[tokio::test]
    async fn the_configuration_is_watched_by_its_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("made");
        let config = dir.path().join("config.toml");
        fs::write(&config, "1").expect("written");
        let mut watch = Watch::new(&plugins, Some(&config));
        fs::write(dir.path().join("other.toml"), "x").expect("written");
        nothing(&mut watch, "another file").await;
        // As editors do it.
        fs::write(dir.path().join("config.toml~"), "2").expect("written");
        fs::rename(dir.path().join("config.toml~"), &config).expect("renamed");
        assert_eq!(told(&mut watch).await, Changed::Config);
    }

    #[tokio::test]
    async fn a_folder_that_comes_later_is_watched_then() {
        let dir = tempfile::tempdir().expect("a folder");
        let plugins = dir.path().join("plugins");
        let mut watch = Watch::new(&plugins, None);
        nothing(&mut watch, "nothing is there").await;
        fs::create_dir(&plugins).expect("made");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        fs::write(plugins.join("a.wasm"), "x").expect("written");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        fs::remove_dir_all(&plugins).expect("removed");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        fs::create_dir(&plugins).expect("made");
        fs::write(plugins.join("b.wasm"), "x").expect("written");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        let other = dir.path().join("other");
        fs::create_dir(&other).expect("made");
        watch.follow(&other);
        fs::write(other.join("c.wasm"), "x").expect("written");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        // Another one in its place.
        let next = dir.path().join("next");
        fs::create_dir(&next).expect("made");
        fs::rename(&other, dir.path().join("before")).expect("moved away");
        fs::rename(&next, &other).expect("moved there");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        fs::write(other.join("e.wasm"), "x").expect("written");
        assert_eq!(told(&mut watch).await, Changed::Plugins);
        fs::write(plugins.join("d.wasm"), "x").expect("written");
        nothing(&mut watch, "the folder before").await;
    }
}
