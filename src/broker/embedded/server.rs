//! Takes connections in, and ends them all at the end.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::session::Session;
use crate::telemetry::RateLimit;

/// Pause when no connection can be taken in, for lack of files perhaps; and before the loop is
/// started again after a fault of its own.
const PAUSE: Duration = Duration::from_millis(100);

/// One line in this time about each thing that clients could make it say very often.
pub(super) const LOG_PERIOD: Duration = Duration::from_secs(10);

/// What all sessions share.
pub(super) struct Server {
    pub hub: Hub,
    /// Where it listens.
    pub address: SocketAddr,
    /// The configuration that it belongs to.
    pub config: PathBuf,
    pub since: Instant,
    /// Most clients at once.
    pub most_clients: usize,
    /// For the line about browsers.
    pub http_log: RateLimit,
}

/// Where clients come in.
pub(super) struct Doors {
    pub tcp: TcpListener,
    /// The local socket, by which `send` and `listen` find the broker; `None` when another one of
    /// this configuration has it.
    pub local: Option<UnixListener>,
}

/// Who comes in.
enum Guest {
    Tcp(TcpStream, SocketAddr),
    Local(UnixStream),
}

impl Doors {
    async fn next(&self) -> io::Result<Guest> {
        let local = async {
            match &self.local {
                Some(local) => local.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            tcp = self.tcp.accept() => tcp.map(|(stream, address)| Guest::Tcp(stream, address)),
            local = local => local.map(|(stream, _)| Guest::Local(stream)),
        }
    }
}

impl Server {
    /// Serve until `stop`, whatever happens; then end every connection.
    pub async fn run(self: Arc<Self>, doors: Doors, stop: CancellationToken) {
        let mut sessions = JoinSet::new();
        loop {
            let serving = self.clone().serve(&doors, &mut sessions, &stop);
            if AssertUnwindSafe(serving).catch_unwind().await.is_ok() {
                break;
            }
            tracing::error!("the embedded broker failed by a fault of its own and goes on");
            tokio::time::sleep(PAUSE).await;
        }
        drop(doors);
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    }

    async fn serve(
        self: Arc<Self>,
        doors: &Doors,
        sessions: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let refusals = RateLimit::new(LOG_PERIOD);
        loop {
            let guest = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = sessions.join_next() => {
                    report(ended);
                    continue;
                }
                guest = doors.next() => guest,
            };
            match guest {
                Ok(guest) if self.hub.count() < self.most_clients => {
                    self.clone().receive(guest, sessions, stop);
                }
                Ok(guest) => {
                    refuse(guest);
                    if let Some(held_back) = refusals.admit() {
                        tracing::warn!(
                            "{} clients are connected to the embedded broker: {} refused",
                            self.most_clients,
                            held_back + 1
                        );
                    }
                }
                Err(error) => {
                    if refusals.admit().is_some() {
                        tracing::warn!("the embedded broker can't take a client in: {error}");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn receive(
        self: Arc<Self>,
        guest: Guest,
        sessions: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let stop = stop.clone();
        match guest {
            Guest::Tcp(stream, address) => {
                // One that can't be set up has gone already: its session finds that out.
                let _ = set_up(&stream);
                let server_address = self.address.to_string();
                let session = Session::new(self, address.to_string(), server_address);
                let (from, to) = stream.into_split();
                sessions.spawn(session.run(from, to, stop));
            }
            Guest::Local(stream) => {
                let session = Session::new(self, "local:0".to_owned(), "local:0".to_owned());
                let (from, to) = stream.into_split();
                sessions.spawn(session.run(from, to, stop));
            }
        }
    }
}

/// As Redis does it: nothing waits to be sent together, and a client that vanished is noticed.
fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(300));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Tell a client that there are too many; one that can't be told at once isn't waited for.
fn refuse(guest: Guest) {
    // Not by `try_write`: that believes that nothing can be written until the runtime has had a
    // look at the new connection.
    let socket = match &guest {
        Guest::Tcp(stream, _) => socket2::SockRef::from(stream),
        Guest::Local(stream) => socket2::SockRef::from(stream),
    };
    let _ = socket.send(b"-ERR max number of clients reached\r\n");
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a session of the embedded broker failed by a fault of its own: {error}");
    }
}
