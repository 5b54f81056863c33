//! A plugin under a name: what a chain calls.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::InstancePre;

use super::PluginError;
use super::failure::Fault;
use super::file::hex;
use super::guest_log::{Speaker, escape};
use super::host::Host;
use super::import::Settings;
use super::instance::{Fate, Instance, Room, State};
use super::judge::Exports;
use super::pool::{Lease, Pool};
use super::ticker::Pulse;
use crate::chain::{self, HandlerFuture, Seen, Transit};
use crate::config::{self, HandlerLimits, InstancePolicy};
use crate::timing::Timing;

/// A plugin, compiled, judged and linked: shared by the handlers that are made of it.
pub(super) struct Plugin {
    pub(super) pre: InstancePre<State>,
    pub(super) exports: Exports,
}

/// What every instance of a handler is made from.
pub(super) struct Blueprint {
    pub(super) plugin: Arc<Plugin>,
    pub(super) limits: HandlerLimits,
    pub(super) settings: Settings,
    pub(super) speaker: Arc<Speaker>,
    pub(super) pulse: Pulse,
    pub(super) room: Room,
}

/// A plugin under a name, with its settings, limits and instances. Made by [`Host::load`].
pub struct PluginHandler {
    config: config::Handler,
    sha256: [u8; 32],
    blueprint: Blueprint,
    pool: Arc<Pool>,
    timing: Arc<Timing>,
    /// Its thread makes the calls end on time.
    _host: Arc<Host>,
}

impl PluginHandler {
    /// Make it, and a first instance, whose `setup` is the test of the settings.
    pub(super) async fn new(
        host: Arc<Host>,
        plugin: Arc<Plugin>,
        sha256: [u8; 32],
        config: &config::Handler,
    ) -> Result<Self, PluginError> {
        let file = config.plugin.file_name().unwrap_or(config.plugin.as_os_str());
        let file = file.to_string_lossy().into_owned();
        let speaker = Speaker::new(file, config.name.clone(), config.limits.max_log);
        let settings =
            config.config.iter().map(|(key, value)| (key.as_str().into(), value.expose().into()));
        let blueprint = Blueprint {
            plugin,
            limits: config.limits,
            settings: settings.collect(),
            speaker: Arc::new(speaker),
            pulse: host.pulse().clone(),
            room: host.room().clone(),
        };
        let pool = Arc::new(Pool::new(config.limits.instances));
        host.pools().add(&pool);
        let handler = PluginHandler {
            config: config.clone(),
            sha256,
            blueprint,
            pool,
            timing: host.timing(&config.name),
            _host: host,
        };
        let first = handler.made().await.map_err(|fault| PluginError::Setup {
            handler: config.name.to_string(),
            file: config.plugin.clone(),
            reason: escape(&fault.reason).into_owned(),
        })?;
        // A fresh one may serve one message, and this one has served none.
        handler.pool.give(first);
        Ok(handler)
    }

    /// The table it was made by.
    pub fn config(&self) -> &config::Handler {
        &self.config
    }

    /// The sum of the plugin file it was made of.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// An instance that waits or a new one, as soon as it may be used.
    async fn made(&self) -> Result<Lease, Fault> {
        self.pool.wait(async || Instance::new(&self.blueprint).await.map(Box::new)).await
    }

    /// Handle messages from the front; answers how many. The clock is read twice, however many
    /// they are.
    async fn measured(&self, messages: &mut [Transit]) -> usize {
        let began = Instant::now();
        let handled = self.call(messages).await;
        self.timing.observe(handled as u64, began.elapsed());
        handled
    }

    async fn call(&self, messages: &mut [Transit]) -> usize {
        let mut lease = match self.pool.take() {
            Some(lease) => lease,
            // Boxed, as is whatever else happens seldom: what a call's future may ever need is
            // moved and kept at each call.
            None => match Box::pin(self.made()).await {
                Ok(lease) => lease,
                Err(fault) => {
                    messages[0].outcome = Err(fault.of(&self.config.name));
                    return 1;
                }
            },
        };
        let most = match self.config.instance {
            InstancePolicy::Reuse => messages.len(),
            InstancePolicy::Fresh => 1,
        };
        let (handled, fate) =
            lease.instance.handle(&self.blueprint, &self.config.name, &mut messages[..most]).await;
        match (fate, self.config.instance) {
            (Fate::Keep, InstancePolicy::Reuse) => self.pool.give(lease),
            (Fate::Drop, _) | (_, InstancePolicy::Fresh) => drop(lease),
        }
        handled
    }

    /// How many instances wait for a message.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.pool.waiting()
    }
}

impl chain::Handler for PluginHandler {
    fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    fn handle<'a>(&'a self, messages: &'a mut [Transit]) -> HandlerFuture<'a> {
        Box::pin(self.measured(messages))
    }

    fn seen(&self) -> Option<Seen> {
        Some(Seen {
            sha256: hex(&self.sha256),
            timing: self.timing.clone(),
            instances: self.pool.instances(),
        })
    }
}
