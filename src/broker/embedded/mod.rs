//! The embedded broker (`url = "embedded"`): a server in this process that speaks the Redis protocol
//! and has pub/sub only. It is for trying things.
//!
//! Started by `handlerd run`, which then connects to it like to any Redis. Answers what redis-cli
//! and the usual client libraries ask for; keeps nothing, asks for no password, and never waits for
//! a client: one that doesn't read is cut off.
//!
//! It shares the daemon's memory, so what it takes is bounded: 32 MiB may wait for a client, 8 MiB
//! may be what it is subscribed to, and 256 MiB is what all of them take together (`budget`).
//!
//! ```text
//! Broker: start, stop                                  this file
//!   place: a free port, the local socket               place.rs
//!   server: connections --> sessions                   server.rs
//!     session: bytes --> requests --> answers          session.rs
//!       request: bytes --> commands                    request.rs
//!       command: the table; about, clients, pubsub     command.rs, about.rs, clients.rs, pubsub.rs
//!       reply: answers --> bytes                       reply.rs
//!     hub: who is subscribed to what; publishing       hub.rs
//!       client: what others see of a session           client.rs
//!         outbox: what waits for a client              outbox.rs
//!     budget: what all clients may take together       budget.rs
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::identity::absolute;
use crate::telemetry::RateLimit;

mod about;
mod budget;
mod client;
mod clients;
mod command;
mod hub;
mod outbox;
mod place;
mod pubsub;
mod reply;
mod request;
mod server;
mod session;

pub use place::{StartError, dialled, local_socket};
use server::{Doors, Server};

/// A running embedded broker.
pub struct Broker {
    address: SocketAddr,
    is_findable: bool,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Broker {
    /// Listen at this address, or at the next free one of the 20 ports behind it, for the daemon of
    /// this configuration file.
    ///
    /// # Errors
    /// When no port is free, or the address isn't this machine's.
    pub async fn start(listen: SocketAddr, config: &Path) -> Result<Self, StartError> {
        let tcp = place::listen(listen).await?;
        let address = tcp.local_addr().map_err(|e| StartError::of(listen, e))?;
        let local = place::listen_locally(config);
        let is_findable = local.is_some();
        let server = Server {
            hub: hub::Hub::default(),
            address,
            config: absolute(config),
            since: Instant::now(),
            most_clients: place::most_clients(),
            http_log: RateLimit::new(server::LOG_PERIOD),
        };
        let stop = CancellationToken::new();
        let doors = Doors { tcp, local };
        let task = tokio::spawn(Arc::new(server).run(doors, stop.clone()));
        Ok(Broker { address, is_findable, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether `send` and `listen` with the same configuration find this one: not when another
    /// handlerd runs with it.
    pub fn is_findable(&self) -> bool {
        self.is_findable
    }

    /// End it: what waits for a client is still written, for a second at most.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the embedded broker failed by a fault of its own: {error}");
        }
    }
}
