//! A configuration and its plugins read anew, and built beside what runs.
//!
//! Called when something has changed, or is said to have. Touches nothing that runs.

use std::sync::Arc;

use super::HandlerError;
use super::handlers::{Handlers, Reloaded, reload_handlers};
use super::running::Running;
use crate::config::{Config, Connection};
use crate::plugin::{Host, PluginError};
use crate::watch::{Changed, Unfinished};

/// What is to run from now on.
pub(super) struct Prepared {
    /// As it stands in the file.
    pub(super) written: Config,
    /// With what needs a restart left as it is.
    pub(super) config: Config,
    pub(super) handlers: Handlers,
    /// What whoever looks after the daemon should know.
    pub(super) notes: Vec<String>,
}

/// Why everything stays as it is.
pub(super) struct Refused {
    /// Sentences, one a line.
    pub(super) why: String,
    /// Whether it may be taken as it is when a plugin file that somebody is writing is whole.
    pub(super) is_early: bool,
}

impl Refused {
    fn because(why: String) -> Self {
        Refused { why, is_early: false }
    }
}

/// Build what is to run. `None` when that is what runs. A plugin file that is unfinished is left for
/// later.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) async fn prepare(
    running: &Running,
    host: &Arc<Host>,
    changed: Changed,
    unfinished: &Unfinished,
) -> Result<Option<Prepared>, Refused> {
    let written = match changed {
        Changed::Plugins => running.written.clone(),
        Changed::Config => read(&running.written).await?,
    };
    let (config, mut notes) = fitted(written.clone(), running);
    let Reloaded { handlers, orphans } =
        reload_handlers(&config, host, &running.handlers, unfinished).await.map_err(refused)?;
    if changed == Changed::Plugins && same(&handlers, &running.handlers) && orphans.is_empty() {
        return Ok(None);
    }
    notes.extend(orphans.iter().map(|name| {
        let file = config.handlers[name].plugin.display();
        format!(
            "the plugin file {file} is gone; handler {name} goes on with what it was, until handlerd \
             is started again"
        )
    }));
    Ok(Some(Prepared { written, config, handlers, notes }))
}

/// Whether these are the very same handlers.
fn same(some: &Handlers, others: &Handlers) -> bool {
    some.len() == others.len()
        && some.values().zip(others.values()).all(|(one, other)| Arc::ptr_eq(one, other))
}

/// Read the file again.
async fn read(before: &Config) -> Result<Config, Refused> {
    let file = before.file.clone();
    let in_use: Vec<_> = before.handlers.values().map(|handler| handler.plugin.clone()).collect();
    let reading = tokio::task::spawn_blocking(move || Config::load_again(&file, &in_use)).await;
    let loaded = reading
        .map_err(|e| Refused::because(format!("reading the configuration ended early: {e}")))?;
    let loaded = loaded.map_err(|errors| Refused::because(errors.render(false)))?;
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.render(false));
    }
    Ok(loaded.config)
}

/// What of it can be had without a restart, and what can't.
fn fitted(written: Config, running: &Running) -> (Config, Vec<String>) {
    let mut notes = Vec::new();
    let mut config = written.clone();
    let mut left = |key: String| {
        notes.push(format!("{key} has changed: that takes effect when handlerd is started again"));
    };
    if written.redis != running.started.redis {
        left("[redis]".to_owned());
    }
    config.redis = running.config.redis.clone();
    let changed = |name: &Arc<str>, connection: &Connection| {
        running.connection(name).is_some_and(|runs| runs != connection)
    };
    for (name, connection) in &mut config.connections {
        if changed(name, connection) {
            left(format!("[connections.{name}]"));
            running.connection(name).into_iter().for_each(|runs| *connection = runs.clone());
        }
    }
    if written.log != running.started.log {
        left("[log]".to_owned());
    }
    if written.http != running.started.http {
        left("[http]".to_owned());
    }
    (config, notes)
}

fn refused(errors: Vec<HandlerError>) -> Refused {
    let is_early =
        errors.iter().all(|refused| matches!(refused.error, PluginError::Unfinished { .. }));
    let sentences = errors.into_iter().map(|error| error.to_string());
    Refused { why: sentences.collect::<Vec<_>>().join("\n"), is_early }
}
