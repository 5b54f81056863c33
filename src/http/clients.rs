//! Who is connected to the endpoints: so many at once, each for one answer. Nobody waits for a slow one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Who is connected at once. Who comes beyond gets the place of the slowest: of those without a whole
/// request, or, where all have asked, without having read its answer.
const CONNECTIONS: usize = 64;

/// Who has so much time to read an answer isn't slow yet.
const READING: Duration = Duration::from_millis(200);

/// A request's head must have come by then.
const HEAD: Duration = Duration::from_secs(2);

/// A connection is over by then, whatever its other end does: it is good for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// The clients.
#[derive(Default)]
pub(super) struct Clients {
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
    /// Its answer is being made.
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
    /// See to it that there is a place for one more. Waits for answers that handlerd makes, and for
    /// nothing that a client does.
    pub(super) async fn make_room(&mut self) {
        if self.has_room() {
            return;
        }
        // Whoever has asked by now is seen to have.
        tokio::task::yield_now().await;
        while !self.has_room() {
            if let Some(slowest) = self.slowest() {
                self.connected.remove(slowest).task.abort();
                tracing::debug!("an HTTP client was cut off: it is slow, and its place is needed");
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
    pub(super) fn add(&mut self, stream: TcpStream, router: &Router) {
        let progress = Progress::default();
        let task = self.tasks.spawn(answer(stream, router.clone(), progress.clone()));
        self.connected.push(Client { task, progress });
    }
}

/// One request and its answer, or nothing, when its time is up.
async fn answer(stream: TcpStream, router: Router, progress: Progress) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        progress.set(Stage::Asked);
        let (answer, progress) = (router.call(request), progress.clone());
        async move {
            let answer = answer.await;
            progress.set(Stage::Answered(Instant::now()));
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(ANSWER, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("an HTTP connection ended: {error}"),
        Err(_) => tracing::debug!("an HTTP connection was cut off: it took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_slowest_is_who_has_not_asked_then_who_does_not_read_and_nobody_who_waits_for_us() {
        let mut clients = Clients::default();
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
}
