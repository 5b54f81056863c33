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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

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
    /// A page over all channels is made one at a time, beside the threads that handle messages.
    making: Arc<Semaphore>,
}

fn router(view: &Arc<View>) -> Router {
    let shared = Shared { view: view.clone(), making: Arc::new(Semaphore::new(1)) };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n")
        })
        .fallback(nothing)
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    shared.page(openmetrics::CONTENT_TYPE, |view| openmetrics::render(view).ok()).await
}

async fn status(State(shared): State<Shared>) -> Response {
    let json = |view: &Arc<View>| {
        let text = serde_json::to_string_pretty(&view.status()).ok()?;
        Some(text + "\n")
    };
    shared.page("application/json", json).await
}

async fn healthz(State(shared): State<Shared>) -> Response {
    lines("ok", shared.view.stalled())
}

async fn readyz(State(shared): State<Shared>) -> Response {
    shared
        .made(|view| Some(lines("ready", view.not_ready())))
        .await
        .unwrap_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response())
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

impl Shared {
    async fn page(
        &self,
        content_type: &'static str,
        make: impl FnOnce(&Arc<View>) -> Option<String> + Send + 'static,
    ) -> Response {
        match self.made(make).await {
            Some(text) => ([(CONTENT_TYPE, content_type)], text).into_response(),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    async fn made<T: Send + 'static>(
        &self,
        make: impl FnOnce(&Arc<View>) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let turn = self.making.clone().acquire_owned().await.ok()?;
        let view = self.view.clone();
        let made = tokio::task::spawn_blocking(move || {
            let made = make(&view);
            drop(turn);
            made
        });
        made.await.ok()?
    }
}
