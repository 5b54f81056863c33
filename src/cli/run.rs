//! `handlerd run`: the daemon, until a signal ends it.

use std::path::Path;

use tracing::{error, info, warn};

use super::exit::{Code, Fault, OrExit, Outcome};
use super::{hint, load, way};
use crate::broker::embedded::{Broker, dialled};
use crate::config::{Address, Config, Loaded, log_lines};
use crate::daemon::Start;
use crate::service::{Notify, Signals};
use crate::telemetry::log::Writing;
use crate::watch::Watch;
use crate::{daemon, telemetry};

/// Run the daemon (also without any verb).
///
/// Reads the configuration and the plugins again at SIGHUP, and changed plugins by itself: everything
/// new is built and checked beside the old, then exchanged between two messages; when something is
/// wrong with it the old stays.
///
/// Ends at SIGTERM or Ctrl-C when everything that was taken is finished; a second one ends it at
/// once. Starting while Redis is away is no error: it is waited for.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "Example:
  handlerd run --config /etc/handlerd/config.toml

Exit codes: 0 stopped by a signal, 69 the embedded broker finds no port, 70 the machine has no
memory to compile a plugin, or a disk that doesn't answer, 78 the configuration or a plugin is
wrong or missing; and those of every verb, see handlerd --help.")]
pub struct Args {
    /// Also read the configuration again whenever its file changes, as SIGHUP does
    #[arg(long)]
    watch: bool,
}

/// Run.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let Loaded { config, warnings } = load::config_with_warnings(config)?;
    let log = telemetry::log::start(&config.log).or_exit(Code::Config)?;
    for warning in warnings {
        log_lines(&warning.render(false)).for_each(|line| warn!("{line}"));
    }
    let runtime = load::runtime()?;
    let outcome = runtime.block_on(run(config, args.watch, &log));
    // A name's look-up that is under way can't be given up, and nobody waits for it any more.
    runtime.shutdown_background();
    outcome
}

async fn run(mut config: Config, watch_config: bool, log: &Writing) -> Outcome {
    let mut signals = Signals::listen().or_exit(Code::Software)?;
    let notify = Notify::of_environment();
    let file = config.file.display();
    let channels = way::names(&config);
    info!("handlerd {} runs {file}: {channels}", env!("CARGO_PKG_VERSION"));
    let host = load::host()?;
    // Before the plugins are read: a file that changes after that is noticed.
    let watched = watch_config.then_some(&*config.file);
    let watch = Watch::new(&config.plugin_dir, config.plugin_files(), watched).await;
    let loading = format!("starting: loading handlers ({})", config.handlers.len());
    let handlers = tokio::select! {
        loaded = notify.while_starting(&loading, daemon::load_handlers(&config, &host)) => loaded.map_err(|errors| {
            let code = load::refusal_code(&errors);
            errors.iter().for_each(|refused| error!("{refused}"));
            Fault::said(code)
        })?,
        signal = signals.stop.next() => {
            info!("{signal}: stopped before the plugins were loaded");
            return Ok(Code::Success);
        }
    };
    let written = config.clone();
    let broker = start_broker(&mut config).await?;
    let start = Start { written, config, handlers, host, watch };
    let ended = daemon::run(start, &mut signals, &notify).await;
    if let Some(broker) = broker {
        tokio::select! {
            () = broker.stop() => {}
            signal = signals.stop.next() => warn!("{signal} again: the embedded broker's clients are left"),
        }
    }
    // There must be room for the last line, whatever was logged before, and its numbers are those of
    // all that was.
    log.finish();
    info!("{ended}");
    Ok(Code::Success)
}

/// Start the embedded broker, where there is one; it is then a Redis like any other, at the address
/// where it listens.
async fn start_broker(config: &mut Config) -> Result<Option<Broker>, Fault> {
    let Address::Embedded(embedded) = &config.redis.address else { return Ok(None) };
    let wanted = embedded.listen;
    let broker = Broker::start(wanted, &config.file).await.map_err(|refused| {
        error!("{refused}");
        Fault::said(Code::Unavailable)
    })?;
    let address = broker.address();
    let taken = match address.port() == wanted.port() {
        true => String::new(),
        false => format!(", because port {} is taken", wanted.port()),
    };
    info!("the embedded broker, for trying things, listens at {address}{taken}");
    if !address.ip().is_loopback() {
        warn!("whoever reaches {address} may read and write everything: there is no password");
    }
    if let Some(commands) = hint::commands(config, &broker) {
        info!("{commands}");
    }
    let dialled = dialled(address);
    let (host, port) = (dialled.ip().to_string(), dialled.port());
    config.redis.address = Address::Tcp { host, port };
    Ok(Some(broker))
}
