//! What the verbs that look into a running daemon begin with: which one it is, and a question to it.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::exit::{Code, Fault};
use super::load;
use crate::control::Refusal;
use crate::control::place::{self, Found};
use crate::status::Status;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon it is tried again where too many others wait to be taken.
const QUEUE: Duration = Duration::from_millis(10);

/// Which daemon is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct DaemonArgs {
    /// The daemon that is this process, whatever its configuration [default: the one that runs with
    /// the configuration]
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

impl DaemonArgs {
    /// The daemon that is meant.
    ///
    /// # Errors
    /// Exit code 69 when there is none, or this user may not ask it; 64 when it could be several.
    pub fn find(&self, config: Option<&Path>) -> Result<Found, Fault> {
        let unavailable = |sentence: String| Err(Fault::say(Code::Unavailable, sentence));
        let (mut found, whose) = if let Some(pid) = self.pid {
            let mut found = place::find(None);
            found.retain(|found| found.pid == pid);
            (found, format!("as process {pid}"))
        } else {
            match load::find_config(config) {
                Ok(file) => (place::find(Some(&file)), format!("with {}", file.display())),
                // Without a configuration that could be meant, any daemon is.
                Err(_) => (place::find(None), "here".to_owned()),
            }
        };
        match &found[..] {
            [] => unavailable(format!(
                "no handlerd runs {whose}, as far as this user can see{}",
                others()
            )),
            [only] if only.may_open => Ok(found.remove(0)),
            [only] => unavailable(format!(
                "the handlerd of process {} lets its own user and group look inside, and this user \
                 is neither: try it as root, or as the user that it runs as",
                only.pid
            )),
            several => Err(Fault::usage(format_args!(
                "several handlerds run {whose}; say which is meant: {}",
                pids(several)
            ))),
        }
    }
}

/// Those that run with other configurations.
fn others() -> String {
    match &place::find(None)[..] {
        [] => "; `handlerd run` starts one".to_owned(),
        others => format!("; of others there are: {}", pids(others)),
    }
}

fn pids(found: &[Found]) -> String {
    let pids: Vec<String> = found.iter().map(|found| format!("--pid {}", found.pid)).collect();
    pids.join(", ")
}

/// An answer, while it comes.
pub struct Answer {
    /// What comes.
    pub body: Incoming,
    /// The connection, as long as this lives.
    _connection: JoinSet<()>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The daemon says why.
    Refused(StatusCode, Refusal),
    /// It isn't there, or stands still.
    Broken(String),
}

impl NoAnswer {
    /// For a verb that can do nothing about it.
    pub fn into_fault(self, found: &Found) -> Fault {
        let reason = match self {
            NoAnswer::Refused(_, refusal) => refusal.error,
            NoAnswer::Broken(reason) => reason,
        };
        let pid = found.pid;
        Fault::say(Code::Unavailable, format_args!("the handlerd of process {pid}: {reason}"))
    }
}

/// Ask a daemon for this path.
///
/// # Errors
/// When it doesn't answer, or with a refusal.
pub async fn ask(found: &Found, path: &str) -> Result<Answer, NoAnswer> {
    let asking = tokio::time::timeout(PATIENCE, send(found, path));
    asking.await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> NoAnswer {
    NoAnswer::Broken(format!("it doesn't answer within {PATIENCE:?}"))
}

async fn send(found: &Found, path: &str) -> Result<Answer, NoAnswer> {
    let broken = |error: &dyn std::fmt::Display| NoAnswer::Broken(error.to_string());
    let stream = connect(&found.path).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            NoAnswer::Broken("it has ended".to_owned())
        }
        _ => broken(&error),
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let mut tasks = JoinSet::new();
    // How it ends is seen by who reads.
    tasks.spawn(async move { drop(connection.await) });
    let request = Request::get(path).header(header::HOST, "handlerd").body(Empty::<Bytes>::new());
    let request = request.map_err(|e| broken(&e))?;
    let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let code = response.status();
    let mut answer = Answer { body: response.into_body(), _connection: tasks };
    if code.is_success() {
        return Ok(answer);
    }
    let text = answer.all().await?;
    let plain = |_| Refusal { error: String::from_utf8_lossy(&text).into(), channels: vec![] };
    Err(NoAnswer::Refused(code, serde_json::from_slice(&text).unwrap_or_else(plain)))
}

/// Connect, as soon as the daemon has taken others who came before.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(QUEUE).await,
            connected => return connected,
        }
    }
}

impl Answer {
    async fn all(&mut self) -> Result<Bytes, NoAnswer> {
        let all = (&mut self.body).collect().await;
        all.map(|all| all.to_bytes()).map_err(|e| NoAnswer::Broken(e.to_string()))
    }
}

/// The JSON of a daemon's status.
///
/// # Errors
/// As [`ask`].
pub async fn status_text(found: &Found) -> Result<Bytes, NoAnswer> {
    let asking = async { ask(found, "/status").await?.all().await };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(silent()))
}

/// A daemon's status.
///
/// # Errors
/// As [`ask`], and when it is another version's.
pub fn read_status(text: &[u8]) -> Result<Status, NoAnswer> {
    let other = |e| NoAnswer::Broken(format!("its status is another version's than mine: {e}"));
    serde_json::from_slice(text).map_err(other)
}
