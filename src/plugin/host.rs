//! What the daemon and the commands hold: the engine, the cache, and all that plugins share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::cache::Cache;
use super::compile::{Compiler, Trouble};
use super::file::{self, FileKind, PluginFile};
use super::guest_log::escape;
use super::handler::{Plugin, PluginHandler};
use super::instance::{Room, State};
use super::pool::Pools;
use super::ticker::{Pulse, Ticker};
use super::{PluginError, engine, import, judge};
use crate::config;
use crate::file::Patience;
use crate::timing::Timing;

/// Makes plugins into handlers. One for the whole daemon; safe to use from many tasks at once.
///
/// Dropping the last reference (each [`PluginHandler`] holds one) stops its thread.
pub struct Host {
    engine: Engine,
    linker: Linker<State>,
    cache: Arc<Cache>,
    files: Patience,
    compiler: Compiler,
    /// As many compilations at once as the machine has cores.
    compiling: Semaphore,
    compiled: AtomicU64,
    /// What is loaded, by the file's sum; the inner lock is held while a file is compiled, so that
    /// it is compiled once for all handlers that are made of it.
    loaded: Mutex<HashMap<[u8; 32], Arc<Slot>>>,
    pools: Arc<Pools>,
    room: Room,
    /// Of each handler that there is: who is loaded anew under its name goes on with it.
    timings: Mutex<HashMap<Arc<str>, Weak<Timing>>>,
    ticker: Ticker,
}

/// A plugin, while a handler is made of it.
type Slot = tokio::sync::Mutex<Weak<Plugin>>;

/// How a [`Host`] is made otherwise than usual.
pub struct Builder {
    cache_dir: PathBuf,
    in_process: bool,
    program: Option<(PathBuf, Vec<std::ffi::OsString>)>,
    room: Option<Room>,
}

impl Builder {
    /// Compile in this process, without limits: for tests, whose own program has no such verb.
    pub fn compile_in_process(mut self) -> Self {
        self.in_process = true;
        self
    }

    /// Compile by another program that does what [`super::compile::child_main`] does.
    pub fn compile_by(
        mut self,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
    ) -> Self {
        self.program = Some((program.into(), args.into_iter().map(Into::into).collect()));
        self
    }

    /// Have at most so many instances of all plugins together, instead of as many as the system's
    /// limit of memory maps allows.
    pub fn instances(mut self, instances: usize) -> Self {
        self.room = Some(Room::for_instances(instances));
        self
    }

    /// Make the host.
    ///
    /// # Errors
    /// When the engine doesn't run on this machine.
    pub fn build(self) -> Result<Arc<Host>, PluginError> {
        let broken = |reason: String| PluginError::Engine { reason };
        let engine = engine::engine().map_err(|e| broken(format!("{e:#}")))?;
        let linker = import::linker(&engine).map_err(|e| broken(format!("{e:#}")))?;
        let cache = Arc::new(Cache::open(self.cache_dir, &engine));
        let compiler = match self.program {
            _ if self.in_process => Compiler::InProcess,
            Some((program, args)) => Compiler::Child { program, args },
            None => Compiler::this_program(),
        };
        let pools = Arc::new(Pools::default());
        let swept = pools.clone();
        let ticker = Ticker::start(engine.clone(), move |now| swept.sweep(now))
            .map_err(|e| broken(format!("no thread for it: {e}")))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Arc::new(Host {
            engine,
            linker,
            cache,
            files: file::patience(),
            compiler,
            compiling: Semaphore::new(cores),
            compiled: AtomicU64::new(0),
            loaded: Mutex::default(),
            pools,
            room: self.room.unwrap_or_else(Room::of_this_system),
            timings: Mutex::default(),
            ticker,
        }))
    }
}

/// What a file is: what `handlerd plugin inspect` prints.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What kind of WebAssembly, if any.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Of the whole file.
    pub sha256: [u8; 32],
    /// Names with versions, in the file's order. Of a core module without a component type, the
    /// core names.
    pub exports: Vec<String>,
    /// Names with versions, in the file's order.
    pub imports: Vec<String>,
    /// Version of handlerd:plugin that it is made for; none unless it exports a handler.
    pub interface_version: Option<String>,
    /// Whether it exports `setup`.
    pub has_setup: bool,
    /// Why it would be refused as a plugin; none when it would be taken.
    pub refusal: Option<String>,
}

impl Host {
    /// A host that keeps compiled plugins in this folder, which it makes if need be.
    ///
    /// # Errors
    /// When the engine doesn't run on this machine.
    pub fn new(cache_dir: PathBuf) -> Result<Arc<Host>, PluginError> {
        Host::builder(cache_dir).build()
    }

    /// The same, for whom it must be otherwise than usual.
    pub fn builder(cache_dir: PathBuf) -> Builder {
        Builder { cache_dir, in_process: false, program: None, room: None }
    }

    /// Where compiled plugins are kept unless something else is said: systemd's cache folder for
    /// the service, else the user's.
    pub fn default_cache_dir() -> PathBuf {
        let folder = |name: &str| {
            let value = std::env::var_os(name)?;
            // systemd separates several folders by colons; the first is the service's own.
            let first = value.to_string_lossy().split(':').next().map(PathBuf::from)?;
            first.is_absolute().then_some(first)
        };
        // systemd's own folder may be readable to others; ours in it is not.
        folder("CACHE_DIRECTORY")
            .map(|dir| dir.join("plugins"))
            .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("handlerd")))
            .or_else(|| folder("HOME").map(|dir| dir.join(".cache/handlerd")))
            .unwrap_or_else(|| std::env::temp_dir().join("handlerd-cache"))
    }

    /// Make a handler of a plugin: read it, compare its sum with the pin, compile it unless the
    /// cache has it, judge what it exports and imports, make a first instance and run its `setup`.
    ///
    /// # Errors
    /// Whatever of that fails, as a sentence about the file.
    pub async fn load(
        self: &Arc<Self>,
        config: &config::Handler,
    ) -> Result<Arc<PluginHandler>, PluginError> {
        self.load_unless(config, None).await
    }

    /// The same, but answer the one from `before` if the file still has the bytes it was made of. It
    /// must have been made by the same table.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn load_unless(
        self: &Arc<Self>,
        config: &config::Handler,
        before: Option<&Arc<PluginHandler>>,
    ) -> Result<Arc<PluginHandler>, PluginError> {
        let file = self.read(&config.plugin).await?;
        let sha256 = file.sha256;
        if let Some(before) = before
            && *before.sha256() == sha256
        {
            return Ok(before.clone());
        }
        if let Some(pinned) = &config.sha256
            && *pinned != sha256
        {
            return Err(PluginError::Pin {
                file: config.plugin.clone(),
                pinned: file::hex(pinned),
                found: file::hex(&sha256),
            });
        }
        let sha256 = file.sha256;
        let plugin = self.plugin(&config.plugin, file).await?;
        Ok(Arc::new(PluginHandler::new(self.clone(), plugin, sha256, config).await?))
    }

    /// Look at a file without running anything of it. What can be compiled is, to see its types.
    ///
    /// # Errors
    /// Only when it can't be read: whatever else is wrong with it is the inspection's `refusal`.
    pub async fn inspect(&self, path: &Path) -> Result<Inspection, PluginError> {
        let file = self.read(path).await?;
        let mut inspection = Inspection {
            kind: FileKind::NotWasm,
            size: file.bytes.len() as u64,
            sha256: file.sha256,
            exports: Vec::new(),
            imports: Vec::new(),
            interface_version: None,
            has_setup: false,
            refusal: None,
        };
        if let Ok(outline) = file::outline(&file.bytes) {
            inspection.kind = outline.kind;
            // A core module's names may be any text.
            let shown =
                |names: Vec<String>| names.iter().map(|name| escape(name).into_owned()).collect();
            inspection.exports = shown(outline.exports);
            inspection.imports = shown(outline.imports);
        }
        let judged = match self.component(path, file).await {
            Ok(component) => {
                let names = judge::names(&self.engine, &component);
                inspection.exports = names.exports;
                inspection.imports = names.imports;
                self.judge(path, &component)
            }
            Err(error) => Err(error),
        };
        match judged {
            Ok(plugin) => {
                inspection.has_setup = plugin.exports.setup.is_some();
                inspection.interface_version = Some(plugin.exports.version);
            }
            Err(error) => inspection.refusal = Some(error.to_string()),
        }
        Ok(inspection)
    }

    /// How many plugins were compiled since the start: none when the cache had all of them.
    pub fn compilations(&self) -> u64 {
        self.compiled.load(Relaxed)
    }

    /// How often what was compiled could not be kept for the next start, or what was kept not be used.
    pub fn cache_errors(&self) -> u64 {
        self.cache.errors()
    }

    /// Why the next start compiles again what this one has compiled, and what to do, in a sentence;
    /// none when it doesn't.
    pub fn cache_trouble(&self) -> Option<String> {
        self.cache.trouble_now()
    }

    pub(super) fn pulse(&self) -> &Pulse {
        self.ticker.pulse()
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What a handler of this name counts its calls in.
    pub(super) fn timing(&self, handler: &Arc<str>) -> Arc<Timing> {
        let mut timings = self.timings.lock().unwrap_or_else(PoisonError::into_inner);
        timings.retain(|_, timing| timing.strong_count() > 0);
        timings.get(handler).and_then(Weak::upgrade).unwrap_or_else(|| {
            let timing = Arc::default();
            timings.insert(handler.clone(), Arc::downgrade(&timing));
            timing
        })
    }

    #[cfg(test)]
    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    async fn read(&self, path: &Path) -> Result<PluginFile, PluginError> {
        let bytes = file::read(path, &self.files).await?;
        blocking(move || file::summed(bytes)).await
    }

    /// The plugin in a file: one for all handlers that are made of the same bytes.
    async fn plugin(&self, path: &Path, file: PluginFile) -> Result<Arc<Plugin>, PluginError> {
        let slot = {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            // Forget what nobody loads or uses.
            loaded.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot.try_lock().is_ok_and(|plugin| plugin.strong_count() > 0)
            });
            loaded.entry(file.sha256).or_default().clone()
        };
        let mut slot = slot.lock().await;
        if let Some(plugin) = slot.upgrade() {
            return Ok(plugin);
        }
        let component = self.component(path, file).await?;
        let plugin = Arc::new(self.judge(path, &component)?);
        *slot = Arc::downgrade(&plugin);
        Ok(plugin)
    }

    /// The component in a file, from the cache or compiled.
    async fn component(&self, path: &Path, file: PluginFile) -> Result<Component, PluginError> {
        let not_a_plugin = |reason| PluginError::NotAPlugin { file: path.to_owned(), reason };
        let outline = file::outline(&file.bytes).map_err(not_a_plugin)?;
        match outline.kind {
            FileKind::Component | FileKind::Module => {}
            FileKind::PlainModule => return Err(not_a_plugin(judge::plain_module(&outline))),
            FileKind::NotWasm => return Err(not_a_plugin(file::not_wasm(&file.bytes))),
        }
        let (cache, engine, sha256) = (self.cache.clone(), self.engine.clone(), file.sha256);
        match blocking(move || cache.get(&engine, &sha256)).await? {
            Ok(Some(component)) => return Ok(component),
            Ok(None) => {}
            Err(reason) => tracing::warn!(
                "what was kept of the compiled plugin {} is not used, and compiled again: {reason}",
                path.display()
            ),
        }
        self.compile(path, file).await
    }

    async fn compile(&self, path: &Path, file: PluginFile) -> Result<Component, PluginError> {
        let path = path.to_owned();
        let Ok(_turn) = self.compiling.acquire().await else {
            let reason = "handlerd is stopping".into();
            return Err(PluginError::Compile { file: path, reason, of_machine: true });
        };
        let began = Instant::now();
        let failed = |Trouble { reason, of_machine }| PluginError::Compile {
            file: path.clone(),
            reason,
            of_machine,
        };
        let artifact = self.compiler.compile(file.bytes).await.map_err(failed)?;
        let (cache, engine, sha256) = (self.cache.clone(), self.engine.clone(), file.sha256);
        let component = blocking(move || cache.put(&engine, &sha256, &artifact)).await?;
        let component = component.map_err(|reason| failed(Trouble::of_machine(reason)))?;
        self.compiled.fetch_add(1, Relaxed);
        tracing::info!("compiled {} in {} ms", path.display(), began.elapsed().as_millis());
        Ok(component)
    }

    /// Whether a component is a plugin that may run here; and link it.
    fn judge(&self, path: &Path, component: &Component) -> Result<Plugin, PluginError> {
        let file = || path.to_owned();
        let exports = judge::exports(component)
            .map_err(|reason| PluginError::NotAPlugin { file: file(), reason })?;
        let imports = judge::names(&self.engine, component).imports;
        judge::imports(&imports).map_err(|reason| PluginError::Import { file: file(), reason })?;
        let pre = self.linker.instantiate_pre(component).map_err(|e| PluginError::Import {
            file: file(),
            reason: judge::mismatch(&imports, &e),
        })?;
        Ok(Plugin { pre, exports })
    }
}

/// Do what blocks where it may. A panic of it is an error, not the daemon's end.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PluginError> {
    let ended = |e| PluginError::Engine { reason: format!("loading a plugin ended early: {e}") };
    tokio::task::spawn_blocking(work).await.map_err(ended)
}
