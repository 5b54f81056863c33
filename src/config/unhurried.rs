//! Defaults for a machine that stands still for seconds at a time: tests run on such ones, and few of
//! them are about time.

use std::time::Duration;

/// What is used instead of a default: shorter than tests wait for the end of a daemon.
const LONG: Duration = Duration::from_secs(45);

/// A default; or a long time, in builds with debug assertions and only where the environment has the
/// variable `HANDLERD_TEST_UNHURRIED`.
pub(super) fn time(default: Duration) -> Duration {
    let is_asked_for =
        cfg!(debug_assertions) && std::env::var_os("HANDLERD_TEST_UNHURRIED").is_some();
    if is_asked_for { LONG } else { default }
}
