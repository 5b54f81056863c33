//! Sends JSON messages where the value at a JSON Pointer says. README.md tells the settings.

mod router;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message, plugin};
use router::Router;

/// Made once for each instance, by `prepare`.
static ROUTER: OnceLock<Router> = OnceLock::new();

fn prepare() -> Result<(), String> {
    let router = settings::router(Settings::read()?)?;
    // A second call, which the interface doesn't provide for, would find the same settings.
    let _ = ROUTER.set(router);
    Ok(())
}

fn handle(_channel: String, message: Message) -> Result<Vec<Message>, Failure> {
    let router = ROUTER.get().ok_or_else(|| Failure::retry("setup has not run"))?;
    router.handle(message)
}

plugin!(handle, setup = prepare);
