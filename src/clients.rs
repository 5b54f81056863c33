//! Who is connected to a socket that the daemon answers at, of the endpoints or of `control`: so many
//! at once, each for one answer. Nobody waits for a slow one.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::HttpBody;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use self::patient::Patient;

mod patient;

/// Who is connected at once. Who comes beyond gets the place of the slowest: of those without a whole
/// request, or, where all have asked, without having read its answer.
const CONNECTIONS: usize = 64;

/// Who has so much time to read an answer isn't slow yet.
const READING: Duration = Duration::from_millis(200);

/// A request's head must have come by then.
const HEAD: Duration = Duration::from_secs(2);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// Pause after a connection that could not be taken, for want of files say.
const PAUSE: Duration = Duration::from_millis(100);

/// The clients of one socket.
pub struct Clients {
    /// What they are the clients of, for the log.
    of: &'static str,
    tasks: JoinSet<()>,
    /// In the order in which they came.
    connected: Vec<Client>,
}

struct Client {
    task: AbortHandle,
    progress: Progress,
}

/// How far a client has come. Clones are the same.
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<Stage>>);

#[derive(Clone, Copy, Default)]
enum Stage {
    /// It has not asked, or not to the end.
    #[default]
    Connected,
    /// Its answer is being made. That of one who looks on has no end, and is made as long as it reads:
    /// whoever gives such answers sees to it that they are few.
    Asked,
    /// It is to read its answer since then.
    Answered(Instant),
}

impl Progress {
    fn set(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn get(&self) -> Stage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    /// Nobody yet.
    pub fn new(of: &'static str) -> Self {
        Clients { of, tasks: JoinSet::new(), connected: Vec::new() }
    }

    /// Answer all who come, by a listener's `poll_accept`; for ever.
    pub async fn serve<S, A>(
        &mut self,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, A)>>,
        router: &Router,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut said = false;
        loop {
            match poll_fn(&mut accept).await {
                Ok((stream, _)) => {
                    said = false;
                    self.make_room().await;
                    self.add(stream, router);
                }
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!("{} can't take a connection: {error}", self.of);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Be done with all of them: who has asked has so much time to read what is left of its answer.
    pub async fn finish(mut self, time: Duration) {
        let is_idle = |client: &&Client| matches!(client.progress.get(), Stage::Connected);
        self.connected.iter().filter(is_idle).for_each(|client| client.task.abort());
        let end = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(time, end).await;
    }

    /// See to it that there is a place for one more. Waits for answers that handlerd makes, and for
    /// nothing that a client does.
    async fn make_room(&mut self) {
        if self.has_room() {
            return;
        }
        // Whoever has asked by now is seen to have.
        tokio::task::yield_now().await;
        while !self.has_room() {
            if let Some(slowest) = self.slowest() {
                self.connected.remove(slowest).task.abort();
                tracing::debug!(
                    "a client of {} was cut off: it is slow, and its place is needed",
                    self.of
                );
                return;
            }
            tokio::select! {
                _ = self.tasks.join_next() => {}
                () = sleep(READING) => {}
            }
        }
    }

    fn has_room(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.connected.retain(|client| !client.task.is_finished());
        self.connected.len() < CONNECTIONS
    }

    /// The place of whoever has been connected longest without a whole request; else of who has had its
    /// answer longest without reading it.
    fn slowest(&self) -> Option<usize> {
        let stages = || self.connected.iter().map(|client| client.progress.get()).enumerate();
        let idle = stages().find(|(_, stage)| matches!(stage, Stage::Connected));
        let answered = stages().filter_map(|(place, stage)| match stage {
            Stage::Answered(since) if since.elapsed() >= READING => Some((since, place)),
            _ => None,
        });
        idle.map(|(place, _)| place).or_else(|| Some(answered.min()?.1))
    }

    /// Answer one more.
    fn add<S>(&mut self, stream: S, router: &Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let progress = Progress::default();
        let task = self.tasks.spawn(answer(self.of, stream, router.clone(), progress.clone()));
        self.connected.push(Client { task, progress });
    }
}

/// One request and its answer.
async fn answer<S>(of: &'static str, stream: S, router: Router, progress: Progress)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        progress.set(Stage::Asked);
        let (answer, progress) = (router.call(request), progress.clone());
        async move {
            let answer = answer.await?;
            if answer.size_hint().exact().is_some() {
                progress.set(Stage::Answered(Instant::now()));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    if let Err(error) = connection.await {
        tracing::debug!("a connection to {of} ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_slowest_is_who_has_not_asked_then_who_does_not_read_and_nobody_who_waits_for_us() {
        let mut clients = Clients::new("a test");
        for _ in 0..3 {
            let task = clients.tasks.spawn(std::future::pending());
            clients.connected.push(Client { task, progress: Progress::default() });
        }
        let at = |stages: [Stage; 3]| {
            let connected = clients.connected.iter().zip(stages);
            connected.for_each(|(client, stage)| client.progress.set(stage));
            clients.slowest()
        };
        let now = Instant::now();
        let [long_ago, before] = [3, 2].map(|times| Stage::Answered(now - times * READING));
        let just_now = Stage::Answered(now + READING);
        assert_eq!(at([Stage::Asked, Stage::Connected, Stage::Connected]), Some(1));
        assert_eq!(at([long_ago, Stage::Asked, Stage::Connected]), Some(2));
        assert_eq!(at([before, long_ago, Stage::Asked]), Some(1));
        assert_eq!(at([just_now, Stage::Asked, Stage::Asked]), None);
    }

    #[tokio::test]
    async fn who_looks_on_is_not_slow_and_who_leaves_an_answer_unread_is() {
        let quiet = stream::pending::<io::Result<Bytes>>();
        let router = Router::new()
            .route("/long", get(async || vec![b'x'; 16 << 20]))
            .route("/endless", get(async || Body::from_stream(quiet)));
        let mut clients = Clients::new("a test");
        let mut ends = Vec::new();
        for path in ["/endless", "/long"] {
            let (mut end, stream) = UnixStream::pair().unwrap();
            clients.add(stream, &router);
            end.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
            // Its answer begins.
            end.read_u8().await.unwrap();
            ends.push(end);
        }
        sleep(READING).await;
        assert_eq!(clients.slowest(), Some(1));
    }
}
