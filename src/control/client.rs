//! The connections of the control socket: not many, and none that stands still.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at once; who comes beyond waits for one to end.
const MOST: usize = 64;

/// Who hasn't asked anything by then is cut off: others may want the place.
const ASK: Duration = Duration::from_secs(2);

/// Who doesn't read for so long is cut off.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a connection that could not be taken (no more open files).
const PAUSE: Duration = Duration::from_secs(1);

/// Takes connections.
pub struct Clients {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

impl Clients {
    pub fn new(listener: UnixListener) -> Self {
        Clients { listener, places: Arc::new(Semaphore::new(MOST)) }
    }
}

impl axum::serve::Listener for Clients {
    type Io = Client;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Client, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let place = self.places.clone().acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let ask = Some(Box::pin(tokio::time::sleep(ASK)));
                    return (Client { stream, ask, patience: None, _place: place }, address);
                }
                Err(error) => {
                    tracing::debug!("the control socket can't take a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing is asked, or what is written isn't read.
pub struct Client {
    stream: UnixStream,
    /// Runs until something is answered.
    ask: Option<Pin<Box<Sleep>>>,
    /// Runs while something can't be written.
    patience: Option<Pin<Box<Sleep>>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// The answer of a write; an error instead when there has been none for too long.
    fn within_patience<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &mut self.ask {
            Some(ask) if read.is_pending() => {
                ready!(ask.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ask = None;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.within_patience(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
