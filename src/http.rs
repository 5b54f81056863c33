//! The endpoints for looking at the daemon: `/metrics`, `/healthz`, `/readyz`, `/status`.
//!
//! Started by the daemon, and stopped by it as the last of all, so that it can be looked at while it
//! drains. Owns the listening socket and whoever is connected to it: nothing that they do, or don't,
//! is waited for by anybody else (`clients` gives the place of a slow one to the next). Answers GET
//! only and shows neither secrets nor payloads, so `Host` need not be checked: a page of another site
//! that gets itself an answer by a false name learns numbers, and changes nothing.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::answer::{self, Answer};
use crate::clients::Clients;
use crate::openmetrics;
use crate::telemetry::printable;
use crate::view::View;

/// Before a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// Bytes of a path that is not there which are shown.
const SHOWN: usize = 100;

/// The endpoints; they end when this is dropped.
pub struct Server {
    _task: JoinSet<()>,
}

impl Server {
    /// Listen here, as soon as that is possible, and say what this view shows.
    pub fn start(listen: SocketAddr, view: Arc<View>) -> Server {
        let mut task = JoinSet::new();
        task.spawn(async move {
            // Whatever happens here is nothing to the daemon.
            while AssertUnwindSafe(serve(listen, &view)).catch_unwind().await.is_err() {
                tracing::error!(
                    "the HTTP endpoints failed by a fault of handlerd's own and are started again"
                );
                sleep(AGAIN).await;
            }
        });
        Server { _task: task }
    }
}

/// For ever.
async fn serve(listen: SocketAddr, view: &Arc<View>) {
    let listener = bind(listen).await;
    let router = router(view);
    let mut clients = Clients::new("the HTTP endpoints");
    clients.serve(|cx| listener.poll_accept(cx), &router).await;
}

/// Listen, as soon as the address can be had; each new reason why not is said once.
async fn bind(listen: SocketAddr) -> TcpListener {
    let mut said = None;
    loop {
        let error = match TcpListener::bind(listen).await {
            Ok(listener) => {
                tracing::info!("metrics, health and status at http://{listen}");
                return listener;
            }
            Err(error) => error,
        };
        if said.replace(error.kind()) == Some(error.kind()) {
            tracing::debug!("still nothing at {listen}: {error}");
        } else {
            tracing::warn!(
                "no metrics, health and status at {listen}: {error}; it is tried every {} s, and \
                 messages are handled meanwhile; [http] listen says another address, or false",
                AGAIN.as_secs()
            );
        }
        sleep(AGAIN).await;
    }
}

/// What the endpoints share.
#[derive(Clone)]
struct Shared {
    view: Arc<View>,
    metrics: Arc<Answer<String>>,
    status: Arc<Answer<String>>,
    not_ready: Arc<Answer<Vec<String>>>,
}

impl Shared {
    fn new(view: &Arc<View>) -> Self {
        let [metrics, status, not_ready] = [(); 3].map(|()| view.clone());
        let json = move || Some(serde_json::to_string_pretty(&status.status()).ok()? + "\n");
        Shared {
            view: view.clone(),
            metrics: Arc::new(Answer::new(move || openmetrics::render(&metrics).ok())),
            status: Arc::new(Answer::new(json)),
            not_ready: Arc::new(Answer::new(move || Some(not_ready.not_ready()))),
        }
    }
}

fn router(view: &Arc<View>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n")
        })
        .fallback(nothing)
        .with_state(Shared::new(view))
}

async fn metrics(State(shared): State<Shared>) -> Response {
    page(openmetrics::CONTENT_TYPE, shared.metrics.get().await)
}

async fn status(State(shared): State<Shared>) -> Response {
    page("application/json", shared.status.get().await)
}

async fn healthz(State(shared): State<Shared>) -> Response {
    lines("ok", shared.view.stalled())
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match shared.not_ready.get().await {
        Some(wrong) => lines("ready", wrong.to_vec()),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The names of all, for who is lost.
async fn nothing(uri: Uri) -> Response {
    let path = printable(uri.path().as_bytes(), SHOWN);
    let text = format!("there is no {path}; there are /metrics, /healthz, /readyz and /status\n");
    (StatusCode::NOT_FOUND, text).into_response()
}

/// 200 with this word, or 503 with what is wrong, one a line.
fn lines(fine: &str, wrong: Vec<String>) -> Response {
    if wrong.is_empty() {
        return format!("{fine}\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n") + "\n").into_response()
}

fn page(content_type: &'static str, text: Option<Arc<String>>) -> Response {
    match text {
        Some(text) => ([(CONTENT_TYPE, content_type)], answer::body(text)).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
