//! The circle check.
use super::Config;
use super::channel::Places;
use super::reader::Reader;

/// Check.
pub(super) fn check(_reader: &Reader<'_>, _config: &Config, _places: &[Places]) {}
