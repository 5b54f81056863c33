//! The settings of this handler: `config = { … }` in its `[handlers.NAME]`.
//!
//! Strings come as they are written; other values (numbers, lists, tables) as JSON text.

use crate::bindings::plugin::wasi::config::store;

/// The setting `key`; `None` where there is none.
///
/// # Errors
/// A sentence, where the daemon couldn't read it.
pub fn get(key: &str) -> Result<Option<String>, String> {
    store::get(key).map_err(|error| format!("can't read the setting `{key}`: {}", text(error)))
}

/// All settings, as names and values.
///
/// # Errors
/// A sentence, where the daemon couldn't read them.
pub fn get_all() -> Result<Vec<(String, String)>, String> {
    store::get_all().map_err(|error| format!("can't read the settings: {}", text(error)))
}

fn text(error: store::Error) -> String {
    match error {
        store::Error::Upstream(text) | store::Error::Io(text) => text,
    }
}
