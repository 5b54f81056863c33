//! A configuration and its plugins read anew, and built beside what runs.
//!
//! Called when something has changed, or is said to have. Touches nothing that runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::HandlerError;
use super::handlers::{Handlers, Reloaded, reload_handlers};
use crate::config::{Config, Connection, log_lines};
use crate::file::Patience;
use crate::plugin::{Host, PluginError};
use crate::watch::{Changed, Unfinished, Watch};

/// How long reading the configuration may take, with the files that it names: a network's may hang.
const READING: Duration = Duration::from_secs(20);

/// What runs while something new is built beside it.
pub(super) struct Before {
    /// As it stood in the file at the start.
    pub(super) started: Config,
    /// As it stood in the file when it was taken.
    pub(super) written: Config,
    /// As it runs.
    pub(super) config: Config,
    pub(super) handlers: Handlers,
    /// Handlers whose file was gone.
    pub(super) orphans: Vec<Arc<str>>,
}

/// What is to run from now on.
pub(super) struct Prepared {
    /// As it stands in the file.
    pub(super) written: Config,
    /// With what needs a restart left as it is.
    pub(super) config: Config,
    pub(super) handlers: Handlers,
    /// Handlers whose file is gone.
    pub(super) orphans: Vec<Arc<str>>,
    /// What whoever looks after the daemon should know.
    pub(super) notes: Vec<String>,
}

/// Why everything stays as it is.
#[derive(Clone)]
pub(super) struct Refused {
    /// Sentences, one a line.
    pub(super) why: String,
    /// Whether it may be taken as it is when a plugin file that somebody is writing is whole.
    is_early: bool,
    /// The plugin files that it wants, as far as they are known.
    wanted: Vec<PathBuf>,
}

impl Refused {
    fn because(why: String) -> Self {
        Refused { why, is_early: false, wanted: Vec::new() }
    }

    /// The first of the sentences.
    pub(super) fn in_a_line(&self) -> &str {
        log_lines(&self.why).next().unwrap_or_default()
    }

    /// All of them in the log.
    pub(super) fn tell(&self) {
        log_lines(&self.why).for_each(|line| tracing::error!("{line}"));
    }
}

/// The configuration as it stands in its file, where that was refused when it was read last.
pub(super) struct Waiting {
    pub(super) refused: Option<Refused>,
    /// Whether it is read by itself.
    is_watched: bool,
    files: Patience,
}

impl Waiting {
    /// The one that runs is the one in the file.
    pub(super) fn new(is_watched: bool) -> Self {
        Waiting { refused: None, is_watched, files: Patience::new(READING) }
    }

    /// Whether it is to be read again when plugin files have changed.
    pub(super) fn is_tried_again(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.is_early || self.is_watched)
    }

    /// Why something is looked at, in words.
    pub(super) fn why(&self, changed: Changed) -> &'static str {
        match changed {
            Changed::Config => "the configuration has changed",
            Changed::Plugins if self.is_tried_again() => {
                "plugin files have changed, and the configuration is tried again"
            }
            Changed::Plugins => "plugin files have changed",
        }
    }

    /// The plugin files for which it is tried again when they change.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Path> {
        let refused = self.refused.as_ref().filter(|_| self.is_tried_again());
        refused.into_iter().flat_map(|refused| &refused.wanted).map(|file| &**file)
    }

    /// Build what is to run. Where a configuration waits for plugin files that have changed, and is
    /// still refused, they are exchanged in the one that runs.
    ///
    /// # Errors
    /// As for [`prepare`].
    pub(super) async fn prepare(
        &mut self,
        before: &Before,
        host: &Arc<Host>,
        changed: Changed,
        watch: &mut Watch,
    ) -> Result<Option<Prepared>, Refused> {
        let unfinished = &watch.unfinished();
        if changed == Changed::Config || self.is_tried_again() {
            let read = loop {
                let read = read(&before.written, &self.files).await;
                let missing =
                    read.as_ref().err().map(|refused| &refused.wanted[..]).unwrap_or_default();
                // One that comes from now on is noticed, and it may have come before that.
                if !watch.follow_also(missing.iter().map(|file| &**file)).await {
                    break read;
                }
            };
            let prepared = match read {
                Ok(written) => {
                    // A file that changes after it was read is noticed.
                    watch.follow_also(written.plugin_files()).await;
                    let wanted = written.plugin_files().map(Path::to_owned).collect();
                    let prepared = prepare(before, host, Some(written), unfinished).await;
                    prepared.map_err(|refused| Refused { wanted, ..refused })
                }
                Err(refused) => Err(refused),
            };
            let earlier = std::mem::replace(&mut self.refused, prepared.as_ref().err().cloned());
            let Some(refused) = self.refused.as_ref().filter(|_| changed == Changed::Plugins)
            else {
                return prepared;
            };
            // What was said already isn't said for each file that comes.
            if earlier.is_none_or(|earlier| earlier.why != refused.why) {
                refused.tell();
                tracing::error!("the configuration is still refused");
            }
        }
        prepare(before, host, None, unfinished).await
    }
}

/// Build what is to run by this configuration, or by the one that runs where only plugin files have
/// changed. `None` when that is what runs. A plugin file that is unfinished is left for later.
///
/// # Errors
/// Everything that is wrong with it.
async fn prepare(
    before: &Before,
    host: &Arc<Host>,
    written: Option<Config>,
    unfinished: &Unfinished,
) -> Result<Option<Prepared>, Refused> {
    let is_new = written.is_some();
    let written = written.unwrap_or_else(|| before.written.clone());
    let (config, mut notes) = fitted(written.clone(), before);
    let Reloaded { handlers, orphans } =
        reload_handlers(&config, host, &before.handlers, unfinished).await.map_err(refused)?;
    // One whose file is there again is to be seen as one like any other.
    let is_same = same(&handlers, &before.handlers) && orphans == before.orphans;
    if !is_new && is_same {
        return Ok(None);
    }
    notes.extend(orphans.iter().map(|name| {
        let file = config.handlers[name].plugin.display();
        format!(
            "the plugin file {file} is gone; handler {name} goes on with what it was, and handlerd \
             can't be started again before there is one"
        )
    }));
    Ok(Some(Prepared { written, config, handlers, orphans, notes }))
}

/// Whether these are the very same handlers.
fn same(some: &Handlers, others: &Handlers) -> bool {
    some.len() == others.len()
        && some.values().zip(others.values()).all(|(one, other)| Arc::ptr_eq(one, other))
}

/// Read the file again.
async fn read(before: &Config, files: &Patience) -> Result<Config, Refused> {
    let file = before.file.clone();
    let in_use: Vec<_> = before.plugin_files().map(Path::to_owned).collect();
    let reading = files.work(move || Config::load_again(&file, &in_use)).await;
    let loaded = reading.map_err(|unread| {
        let file = before.file.display();
        Refused::because(format!(
            "the configuration {file}, or a file or folder that it names, {unread}; SIGHUP has it \
             read again"
        ))
    })?;
    let loaded = loaded.map_err(|errors| Refused {
        wanted: errors.missing().to_vec(),
        ..Refused::because(errors.render(false))
    })?;
    for warning in &loaded.warnings {
        log_lines(&warning.render(false)).for_each(|line| tracing::warn!("{line}"));
    }
    Ok(loaded.config)
}

/// What of it can be had without a restart, and what can't.
fn fitted(written: Config, before: &Before) -> (Config, Vec<String>) {
    let Before { started, config: running, .. } = before;
    let mut notes = Vec::new();
    let mut config = written.clone();
    let mut left = |key: String| {
        notes.push(format!("{key} has changed: that takes effect when handlerd is started again"));
    };
    if written.redis != started.redis {
        left("[redis]".to_owned());
    }
    config.redis = running.redis.clone();
    let changed = |name: &Arc<str>, connection: &Connection| {
        running.connections.get(name).is_some_and(|runs| runs != connection)
    };
    for (name, connection) in &mut config.connections {
        if changed(name, connection) {
            left(format!("[connections.{name}]"));
            let runs = running.connections.get(name);
            runs.into_iter().for_each(|runs| *connection = runs.clone());
        }
    }
    if written.log != started.log {
        left("[log]".to_owned());
    }
    if written.http != started.http {
        left("[http]".to_owned());
    }
    (config, notes)
}

fn refused(errors: Vec<HandlerError>) -> Refused {
    let is_early =
        errors.iter().all(|refused| matches!(refused.error, PluginError::Unfinished { .. }));
    let sentences = errors.into_iter().map(|error| error.to_string());
    let why = sentences.collect::<Vec<_>>().join("\n");
    Refused { is_early, ..Refused::because(why) }
}
