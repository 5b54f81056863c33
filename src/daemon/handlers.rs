//! The handlers of a configuration, and the chains that are made of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::{fmt, io};

use crate::chain::{Chain, Handler, RunLimits};
use crate::config::{self, Config};
use crate::plugin::{Host, PluginError, PluginHandler};
use crate::telemetry::{printable, with_causes};
use crate::watch::Unfinished;

/// The handlers of a configuration, loaded and set up, by name.
pub type Handlers = BTreeMap<Arc<str>, Arc<PluginHandler>>;

/// A handler that can't be had, with why.
#[derive(Debug)]
pub struct HandlerError {
    /// NAME of the handler.
    pub handler: Arc<str>,
    /// Why not.
    pub error: PluginError,
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The others are about the file; whose it is helps to find the place in the configuration.
        if !matches!(self.error, PluginError::Setup { .. }) {
            write!(f, "handler {}: ", printable(self.handler.as_bytes(), 1 << 10))?;
        }
        f.write_str(&with_causes(&self.error))
    }
}

/// Load every handler of the configuration, all at once.
///
/// # Errors
/// All those that can't be had, in the order of their names.
pub async fn load_handlers(
    config: &Config,
    host: &Arc<Host>,
) -> Result<Handlers, Vec<HandlerError>> {
    let nothing = Unfinished::default();
    Ok(reload_handlers(config, host, &Handlers::new(), &nothing).await?.handlers)
}

/// What [`reload_handlers`] has loaded.
pub(super) struct Reloaded {
    pub(super) handlers: Handlers,
    /// Those whose file is gone: they go on as they are.
    pub(super) orphans: Vec<Arc<str>>,
}

/// The same, but those that have neither another file nor another table than before are the ones
/// that run already. One whose file is gone goes on, too, and so does one whose file somebody is
/// still writing.
pub(super) async fn reload_handlers(
    config: &Config,
    host: &Arc<Host>,
    before: &Handlers,
    unfinished: &Unfinished,
) -> Result<Reloaded, Vec<HandlerError>> {
    let load = async |handler: &config::Handler, before: Option<&Arc<PluginHandler>>| {
        let file = &handler.plugin;
        // Looked at before, so that not half of it is read; and after, because it may just have begun.
        if !unfinished.contains(file).await {
            let loaded = host.load_unless(handler, before).await;
            if loaded.is_ok() || !unfinished.contains(file).await {
                return loaded;
            }
        }
        before.cloned().ok_or_else(|| PluginError::Unfinished { file: file.clone() })
    };
    let load = &load;
    let loading = config.handlers.values().map(|handler| async move {
        let before = before.get(&handler.name).filter(|before| before.config() == handler);
        match (load(handler, before).await, before) {
            (Ok(loaded), _) => Ok((handler.name.clone(), loaded, false)),
            (Err(PluginError::Read { source, .. }), Some(before))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok((handler.name.clone(), before.clone(), true))
            }
            (Err(error), _) => Err(HandlerError { handler: handler.name.clone(), error }),
        }
    });
    let (mut handlers, mut orphans, mut errors) = (Handlers::new(), Vec::new(), Vec::new());
    for loaded in futures_util::future::join_all(loading).await {
        match loaded {
            Ok((name, handler, is_orphan)) => {
                orphans.extend(is_orphan.then(|| name.clone()));
                handlers.insert(name, handler);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(Reloaded { handlers, orphans }) } else { Err(errors) }
}

/// The chain of a channel, of handlers that have been loaded.
pub fn chain(config: &Config, channel: &config::Channel, handlers: &Handlers) -> Chain {
    let limits = channel.handlers.iter().map(|name| config.handlers[name].limits);
    let run_limits =
        limits.fold(RunLimits { max_outputs: 1, max_output: 0 }, |sum, limits| RunLimits {
            max_outputs: sum.max_outputs.max(limits.max_outputs),
            max_output: sum.max_output.max(limits.max_output),
        });
    let handler =
        |name| -> Arc<dyn Handler> { Handlers::get(handlers, name).cloned().expect(LOADED) };
    let chain = channel.handlers.iter().map(handler).collect();
    Chain::new(chain, run_limits, channel.routes.clone())
}

/// Why a handler is there.
const LOADED: &str = "every handler that a channel names was loaded";
