//! The local socket of a running daemon: `GET /status`, and `GET /tap/NAME` for live samples.
//!
//! Started by `handlerd run` before the daemon and ended after it, so that it tells of the draining
//! too. Only reads: nothing that is asked here changes anything. Where the socket can't be made
//! that is said, the daemon works without it, and it is tried again. `clients` sees to it that nobody who
//! doesn't ask or read is waited for.

pub mod place;

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{self, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{FutureExt, stream};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::place::{Place, Trouble};
use crate::answer::{self, Answer};
use crate::clients::Clients;
use crate::status::Status;
use crate::tap::{Hub, Line, Listener, Refused, Wish};

/// How often it is looked whether the socket is still there, or can be made now.
const LOOK: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";

/// How long clients have to take what is left for them when the daemon ends.
const LAST: Duration = Duration::from_secs(1);

/// What can be seen of a daemon.
#[derive(Clone)]
pub struct Inside {
    /// Made anew for each who asks.
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// Where channels are looked on at.
    pub taps: Arc<Hub>,
}

/// The socket, as long as the daemon runs.
pub struct Control {
    taps: Arc<Hub>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Control {
    /// Listen from now on, for the daemon of this configuration.
    pub fn start(config: &Path, inside: Inside) -> Control {
        let (place, stop) = (Place::of_this_process(config), CancellationToken::new());
        let taps = inside.taps.clone();
        // Whoever hears that the daemon runs finds it.
        let first = place.listen();
        let task = tokio::spawn(run(place, first, inside, stop.clone()));
        Control { taps, stop, task }
    }

    /// Tell those who look on that it is over, and remove the socket.
    pub async fn stop(self) {
        self.taps.close();
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the control socket failed by a fault of handlerd's own: {error}");
        }
    }
}

/// Listen until stopped; whenever that can't be done, try again.
async fn run(
    place: Place,
    first: Result<tokio::net::UnixListener, Trouble>,
    inside: Inside,
    stop: CancellationToken,
) {
    let mut said: Option<Trouble> = None;
    let mut first = Some(first);
    while !stop.is_cancelled() {
        match first.take().unwrap_or_else(|| place.listen()) {
            Ok(listener) => {
                if said.take().is_some() {
                    tracing::info!("the control socket is there now: {}", place.path().display());
                }
                let serving = serve(&place, listener, &inside, &stop);
                if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
                    tracing::error!("the control socket failed by a fault of handlerd's own");
                }
            }
            Err(trouble) => {
                if said.as_ref() != Some(&trouble) {
                    tracing::warn!(
                        "`handlerd status`, `top`, `tap` and `reload` won't find this daemon, it \
                         has no control socket: {trouble}; it is tried again every {LOOK:?}"
                    );
                    said = Some(trouble);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Serve until stopped, or until somebody has removed the socket.
async fn serve(
    place: &Place,
    listener: tokio::net::UnixListener,
    inside: &Inside,
    stop: &CancellationToken,
) {
    let path = place.path();
    let file = || std::fs::symlink_metadata(&path).ok().map(|of| (of.dev(), of.ino()));
    let ours = file();
    let is_gone = async {
        while file() == ours {
            tokio::time::sleep(LOOK).await;
        }
    };
    let router = router(inside.clone());
    let mut clients = Clients::new("the control socket");
    tokio::select! {
        () = stop.cancelled() => {}
        () = is_gone => {}
        () = clients.serve(|cx| listener.poll_accept(cx), &router) => {}
    }
    if file() == ours {
        let _ = std::fs::remove_file(&path);
    }
    drop(listener);
    clients.finish(LAST).await;
}

fn router(inside: Inside) -> Router {
    let Inside { status: make, taps } = inside;
    let made = Arc::new(Answer::new(move || serde_json::to_vec(&make()).ok()));
    Router::new()
        .route("/status", get(async move || status(made.get().await)))
        .route("/tap/{name}", get(tap))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there are /status and /tap/NAME", vec![]))
        .with_state(taps)
}

fn status(made: Option<Arc<Vec<u8>>>) -> Response {
    match made {
        Some(text) => ([(header::CONTENT_TYPE, JSON)], answer::body(text)).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// What a tap's address says after the question mark.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TapQuery {
    rate: Option<u32>,
    bytes: Option<usize>,
    failures: Option<bool>,
}

impl TapQuery {
    fn wish(self) -> Result<Wish, String> {
        let usual = Wish::default();
        let rate = self.rate.unwrap_or(usual.rate);
        let bytes = self.bytes.unwrap_or(usual.bytes);
        let failures = self.failures.unwrap_or(usual.failures);
        if !(1..=Wish::MOST_RATE).contains(&rate) {
            return Err(format!("rate must be 1 to {}", Wish::MOST_RATE));
        }
        if bytes > Wish::MOST_BYTES {
            return Err(format!("bytes may be {} at most", Wish::MOST_BYTES));
        }
        Ok(Wish { rate, bytes, failures })
    }
}

async fn tap(
    State(taps): State<Arc<Hub>>,
    extract::Path(name): extract::Path<String>,
    query: Result<Query<TapQuery>, QueryRejection>,
) -> Response {
    let wish = query.map_err(|error| error.body_text()).and_then(|Query(query)| query.wish());
    let wish = match wish {
        Ok(wish) => wish,
        Err(sentence) => return refuse(StatusCode::BAD_REQUEST, &sentence, vec![]),
    };
    match taps.listen(&name, wish) {
        Ok(listener) => {
            let lines = stream::unfold(listener, next_line);
            let head = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (head, Body::from_stream(lines)).into_response()
        }
        Err(refused) => {
            let sentence = refused.to_string();
            match refused {
                Refused::Unknown { names } => refuse(
                    StatusCode::NOT_FOUND,
                    &sentence,
                    names.iter().map(|name| name.to_string()).collect(),
                ),
                Refused::Full => refuse(StatusCode::SERVICE_UNAVAILABLE, &sentence, vec![]),
            }
        }
    }
}

async fn next_line(mut listener: Listener) -> Option<(Result<Bytes, Infallible>, Listener)> {
    let line: Line = listener.next().await?;
    // All of it is text and numbers.
    let mut text = serde_json::to_vec(&line).ok()?;
    text.push(b'\n');
    Some((Ok(text.into()), listener))
}

/// Why something that was asked for isn't answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// A sentence.
    pub error: String,
    /// The channels that there are, where another was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
}

fn refuse(code: StatusCode, error: &str, channels: Vec<String>) -> Response {
    json(code, &Refusal { error: error.to_owned(), channels })
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let head = [(header::CONTENT_TYPE, JSON)];
            (code, head, text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
