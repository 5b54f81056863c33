//! Which streams have the dead letters.

use std::path::Path;

use crate::cli::exit::Fault;

/// The streams that are named, none twice.
///
/// # Errors
/// Exit code 64 when none is.
pub(super) fn find(
    named: &[String],
    _channels: &[String],
    _config: Option<&Path>,
) -> Result<Vec<String>, Fault> {
    if named.is_empty() {
        return Err(Fault::usage("name the stream of the dead letters by --stream KEY"));
    }
    let mut streams: Vec<String> = Vec::new();
    for stream in named {
        if !streams.contains(stream) {
            streams.push(stream.clone());
        }
    }
    Ok(streams)
}
