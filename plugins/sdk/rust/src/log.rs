//! Lines in the daemon's log. They carry the handler's name; the daemon caps how many bytes one
//! call may log (`max_log`, 64 KiB unless configured).

use crate::bindings::plugin::wasi::logging::logging::{self, Level};

/// Something went wrong that somebody should look at.
pub fn error(text: impl AsRef<str>) {
    logging::log(Level::Error, "", text.as_ref());
}

/// Something is odd, but the message is handled.
pub fn warn(text: impl AsRef<str>) {
    logging::log(Level::Warn, "", text.as_ref());
}

/// Something that is good to know in normal operation.
pub fn info(text: impl AsRef<str>) {
    logging::log(Level::Info, "", text.as_ref());
}

/// For whoever looks for a fault.
pub fn debug(text: impl AsRef<str>) {
    logging::log(Level::Debug, "", text.as_ref());
}

/// Finer than [`debug`].
pub fn trace(text: impl AsRef<str>) {
    logging::log(Level::Trace, "", text.as_ref());
}
