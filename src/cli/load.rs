//! What several verbs begin with: the configuration, the plugin host, the handlers, a runtime.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::console;
use super::exit::{Code, Fault, OrExit};
use crate::broker::connection::Connector;
use crate::config::{Config, Connection, Loaded};
use crate::daemon::{self, HandlerError, Handlers};
use crate::plugin::{Host, PluginError};

/// Where the configuration is looked for unless `--config` says it.
const PLACES: [&str; 2] = ["config.toml", "/etc/handlerd/config.toml"];

/// The file that `--config` names, else the first of the usual ones that is there.
///
/// # Errors
/// Exit code 78 when there is none.
pub fn find_config(explicit: Option<&Path>) -> Result<PathBuf, Fault> {
    if let Some(file) = explicit {
        return Ok(file.to_owned());
    }
    // A link to nothing is said to be one.
    let found = PLACES.iter().map(Path::new).find(|file| file.exists() || file.is_symlink());
    found.map(Path::to_owned).ok_or_else(|| {
        let places = PLACES.map(|place| format!("./{place}").replace(".//", "/")).join(" nor ");
        Fault::say(
            Code::Config,
            format_args!(
                "there is no configuration: neither {places} exists; copy config.toml and the \
                 folder plugins of handlerd's repository here, or name another one by --config FILE"
            ),
        )
    })
}

/// Whether the file is found in this folder without `--config`.
pub fn is_usual(file: &Path) -> bool {
    find_config(None).is_ok_and(|found| found == file)
}

/// Read the configuration; its warnings are printed.
///
/// # Errors
/// Exit code 78, with every error that was found.
pub fn config(explicit: Option<&Path>) -> Result<Config, Fault> {
    let loaded = config_with_warnings(explicit)?;
    let colour = console::stderr_has_colour();
    loaded.warnings.iter().for_each(|warning| console::note(warning.render(colour)));
    Ok(loaded.config)
}

/// Read the configuration; its warnings are the caller's to tell.
///
/// # Errors
/// As for [`config`].
pub fn config_with_warnings(explicit: Option<&Path>) -> Result<Loaded, Fault> {
    let file = find_config(explicit)?;
    Config::load(&file).map_err(|errors| {
        let count = errors.count();
        let errors_are = if count == 1 { "1 error".into() } else { format!("{count} errors") };
        let text = errors.render(console::stderr_has_colour());
        let bad = console::BAD;
        let end = format!("{bad}{}: {errors_are}{bad:#}", file.display());
        Fault::rendered(Code::Config, format!("{text}\n\n{end}"))
    })
}

/// Which Redis a verb talks to.
#[derive(Debug, clap::Args)]
pub struct RedisArgs {
    /// The Redis [default: that of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl RedisArgs {
    /// Connects to `--url`, else to `[redis]` of the configuration.
    ///
    /// # Errors
    /// Exit code 64 for a URL that is none, 78 for a configuration that is wrong or missing.
    pub fn connector(&self, explicit: Option<&Path>) -> Result<Connector, Fault> {
        self.connector_or(|| Ok(config(explicit)?.redis))
    }

    /// Connects to `--url`, else to what a configuration says that the caller has.
    ///
    /// # Errors
    /// Exit code 64 for a URL that is none, and what `configured` says.
    pub fn connector_or(
        &self,
        configured: impl FnOnce() -> Result<Connection, Fault>,
    ) -> Result<Connector, Fault> {
        let connection = match &self.url {
            Some(url) => {
                let wrong = |e| Fault::usage(format_args!("--url can't be used: {e}"));
                Connection::from_url(url).map_err(wrong)?
            }
            None => configured()?,
        };
        Ok(Connector::new(&connection))
    }
}

/// The bytes of a file that is a message.
///
/// # Errors
/// Exit code 66 when it can't be read.
pub fn payload_file(file: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(file)
        .map_err(|e| Fault::say(Code::NoInput, format_args!("can't read {}: {e}", file.display())))
}

/// What loads plugins.
///
/// # Errors
/// Exit code 70 when this machine can't run WebAssembly.
pub fn host() -> Result<Arc<Host>, Fault> {
    Host::new(Host::default_cache_dir()).or_exit(Code::Software)
}

/// Every handler of the configuration, loaded and set up.
///
/// # Errors
/// The code of [`refusal_code`], with every handler that can't be had.
pub async fn handlers(config: &Config, host: &Arc<Host>) -> Result<Handlers, Fault> {
    daemon::load_handlers(config, host).await.map_err(|errors| {
        let code = refusal_code(&errors);
        errors.iter().for_each(console::error);
        Fault::said(code)
    })
}

/// What handlers that can't be had are the fault of: 78 is the configuration's and the plugins', and
/// will be so at the next start. 70 is the machine's alone, where the next start may go better: a
/// service manager tries again.
pub fn refusal_code(errors: &[HandlerError]) -> Code {
    let of_machine = errors.iter().all(|refused| is_of_the_machine(&refused.error));
    if of_machine { Code::Software } else { Code::Config }
}

fn is_of_the_machine(error: &PluginError) -> bool {
    match error {
        PluginError::Engine { .. } | PluginError::Compile { of_machine: true, .. } => true,
        error => error.is_late(),
    }
}

/// A plugin file that was named on the command line can't be used.
pub fn plugin_fault(error: PluginError) -> Fault {
    let code = match &error {
        PluginError::Read { .. } | PluginError::NotAFile { .. } => Code::NoInput,
        PluginError::Setup { .. } => Code::Config,
        error if is_of_the_machine(error) => Code::Software,
        _ => Code::Data,
    };
    Fault::new(code, error)
}

/// The runtime of a verb.
///
/// # Errors
/// Exit code 70 when the machine gives no threads.
pub fn runtime() -> Result<Runtime, Fault> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // It is looked for what has come after every few tasks: some are plugins that compute until they are
    // made to give way, and after 61 of them, as is the default, Redis has long ended the subscription.
    builder.enable_all().thread_name("handlerd").event_interval(4);
    // With one thread only, whatever stands still with it takes along who would say so.
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        builder.worker_threads(2);
    }
    builder.build().or_exit(Code::Software)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn only_faults_of_the_machine_may_be_gone_at_the_next_start() {
        let of_machine = || PluginError::Engine { reason: "there are no threads".into() };
        let of_file =
            || PluginError::NotAPlugin { file: "x.wasm".into(), reason: "it is empty".into() };
        let compile = |of_machine| PluginError::Compile {
            file: "x.wasm".into(),
            reason: "it failed".into(),
            of_machine,
        };
        let code = |errors: Vec<PluginError>| {
            let refused = |error| HandlerError { handler: "x".into(), error };
            refusal_code(&errors.into_iter().map(refused).collect::<Vec<_>>())
        };
        assert_eq!(code(vec![of_machine(), of_machine()]), Code::Software);
        assert_eq!(code(vec![of_file()]), Code::Config);
        assert_eq!(code(vec![of_machine(), of_file()]), Code::Config);
        assert_eq!(code(vec![compile(true), of_machine()]), Code::Software);
        assert_eq!(code(vec![compile(true), compile(false)]), Code::Config);
        let hangs = PluginError::Read { file: "x.wasm".into(), source: ErrorKind::TimedOut.into() };
        let missing =
            PluginError::Read { file: "x.wasm".into(), source: ErrorKind::NotFound.into() };
        assert_eq!((code(vec![hangs]), code(vec![missing])), (Code::Software, Code::Config));
        assert_eq!(plugin_fault(compile(true)).code, Code::Software);
        assert_eq!(plugin_fault(compile(false)).code, Code::Data);
    }
}
