//! What several of the plugins in this repository are made with: no plugin itself, and not part of
//! the SDK, whose users choose their own crates.

mod invalid;
#[cfg(feature = "jinja")]
pub mod jinja;
mod pointer;

pub use invalid::Invalid;
pub use pointer::Pointer;
