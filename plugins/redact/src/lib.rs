//! Masks words and whatever matches regular expressions. README.md tells the settings.

mod redactor;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message, plugin};
use redactor::Redactor;

/// Compiled once for each instance, by `prepare`.
static REDACTOR: OnceLock<Redactor> = OnceLock::new();

fn prepare() -> Result<(), String> {
    let redactor = settings::redactor(Settings::read()?)?;
    // A second call, which the interface doesn't provide for, would find the same settings.
    let _ = REDACTOR.set(redactor);
    Ok(())
}

fn handle(_channel: String, mut message: Message) -> Result<Vec<Message>, Failure> {
    let redactor = REDACTOR.get().ok_or_else(|| Failure::retry("setup has not run"))?;
    if let Some(masked) = redactor.mask(&message.payload) {
        message.payload = masked;
    }
    Ok(vec![message])
}

plugin!(handle, setup = prepare);
