//! `handlerd run`: the daemon, until a signal ends it.

use std::path::Path;

use tracing::{error, info};

use super::exit::{Code, Fault, OrExit, Outcome};
use super::{load, way};
use crate::config::Config;
use crate::service::Stop;
use crate::{daemon, telemetry};

/// Run the daemon (also without any verb).
///
/// Ends at SIGTERM or Ctrl-C when everything that was taken is finished; a second one ends it at
/// once. Starting while Redis is away is no error: it is waited for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  handlerd run --config /etc/handlerd/config.toml

Exit codes: 0 stopped by a signal, 78 the configuration or a plugin is wrong.")]
pub struct Args {}

/// Run.
pub fn main(_: Args, config: Option<&Path>) -> Outcome {
    let config = load::config(config)?;
    telemetry::init(&config.log).or_exit(Code::Config)?;
    let runtime = load::runtime()?;
    let outcome = runtime.block_on(run(config));
    // A name's look-up that is under way can't be given up, and nobody waits for it any more.
    runtime.shutdown_background();
    outcome
}

async fn run(config: Config) -> Outcome {
    let mut stop = Stop::listen().or_exit(Code::Software)?;
    let file = config.file.display();
    let channels = way::names(&config);
    info!("handlerd {} runs {file}: {channels}", env!("CARGO_PKG_VERSION"));
    let host = load::host()?;
    let handlers = tokio::select! {
        loaded = daemon::load_handlers(&config, &host) => loaded.map_err(|errors| {
            errors.into_iter().for_each(|refused| error!("{}", load::refusal(refused)));
            Fault::said(Code::Config)
        })?,
        signal = stop.next() => {
            info!("{signal}: stopped before the plugins were loaded");
            return Ok(Code::Success);
        }
    };
    let ended = daemon::run(config, handlers, stop).await;
    info!("{ended}");
    Ok(Code::Success)
}
