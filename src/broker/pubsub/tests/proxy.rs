//! A proxy between handlerd and Redis that does what networks do, and worse.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What is done to one connection.
#[derive(Default)]
struct Treatment {
    /// Nothing gets through any more, in either direction; both ends stay open.
    frozen: AtomicBool,
    /// What Redis says of ended subscriptions doesn't get through.
    hides_unsubscribed: AtomicBool,
    /// What comes from Redis gets through up to so many bytes more, once it is set.
    lets_through: Mutex<Option<usize>>,
}

impl Treatment {
    /// How many of so many bytes from Redis get through now.
    fn passes(&self, bytes: usize) -> usize {
        let mut lets_through = self.lets_through.lock().unwrap();
        let Some(left) = &mut *lets_through else { return bytes };
        let passes = bytes.min(*left);
        *left -= passes;
        passes
    }
}

struct Passing {
    treatment: Arc<Treatment>,
    inject: mpsc::UnboundedSender<Vec<u8>>,
    _tasks: JoinSet<()>,
}

pub(super) struct Proxy {
    pub(super) port: u16,
    passing: Arc<Mutex<Vec<Passing>>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// To the Redis on this port. Ends when it is dropped.
    pub(super) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let passing = Arc::new(Mutex::new(Vec::new()));
        let mut accepting = JoinSet::new();
        let all = passing.clone();
        accepting.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                    all.lock().unwrap().push(pass(client, server));
                }
            }
        });
        Proxy { port, passing, _accepting: accepting }
    }

    /// End all connections.
    pub(super) fn cut(&self) {
        self.passing.lock().unwrap().clear();
    }

    /// Let nothing through on the connections that there are; new ones work.
    pub(super) fn freeze(&self) {
        self.treat(|treatment| treatment.frozen.store(true, Relaxed));
    }

    /// Let what was held back through.
    pub(super) fn thaw(&self) {
        self.treat(|treatment| treatment.frozen.store(false, Relaxed));
    }

    /// Let only so many bytes more through from Redis, until [`Self::flow`].
    pub(super) fn let_through(&self, bytes: usize) {
        self.treat(|treatment| *treatment.lets_through.lock().unwrap() = Some(bytes));
    }

    /// Whether as many have come through.
    pub(super) fn is_full(&self) -> bool {
        let passing = self.passing.lock().unwrap();
        passing.iter().all(|p| *p.treatment.lets_through.lock().unwrap() == Some(0))
    }

    /// Let everything through again.
    pub(super) fn flow(&self) {
        self.treat(|treatment| *treatment.lets_through.lock().unwrap() = None);
    }

    /// Hide that subscriptions ended.
    pub(super) fn hide_unsubscribed(&self) {
        self.treat(|treatment| treatment.hides_unsubscribed.store(true, Relaxed));
    }

    /// Send Redis a command in the client's name.
    pub(super) fn inject(&self, command: &str) {
        for passing in &*self.passing.lock().unwrap() {
            let _ = passing.inject.send(format!("{command}\r\n").into_bytes());
        }
    }

    fn treat(&self, treat: impl Fn(&Treatment)) {
        self.passing.lock().unwrap().iter().for_each(|passing| treat(&passing.treatment));
    }
}

fn pass(client: TcpStream, server: TcpStream) -> Passing {
    let treatment = Arc::new(Treatment::default());
    let (inject, injected) = mpsc::unbounded_channel();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut tasks = JoinSet::new();
    tasks.spawn(copy(from_client, to_server, treatment.clone(), Some(injected)));
    tasks.spawn(copy(from_server, to_client, treatment.clone(), None));
    Passing { treatment, inject, _tasks: tasks }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    treatment: Arc<Treatment>,
    mut injected: Option<mpsc::UnboundedReceiver<Vec<u8>>>,
) {
    let mut buffer = vec![0; 64 << 10];
    let from_server = injected.is_none();
    loop {
        let next = async {
            match &mut injected {
                Some(injected) => injected.recv().await,
                None => std::future::pending().await,
            }
        };
        let bytes = tokio::select! {
            n = from.read(&mut buffer) => match n {
                Ok(0) | Err(_) => return,
                Ok(n) => buffer[..n].to_vec(),
            },
            Some(command) = next => command,
        };
        while treatment.frozen.load(Relaxed) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let ended = bytes.windows(11).any(|w| w == b"unsubscribe");
        if from_server && ended && treatment.hides_unsubscribed.load(Relaxed) {
            continue;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let passes = if from_server { treatment.passes(rest.len()) } else { rest.len() };
            if passes == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            } else if to.write_all(&rest[..passes]).await.is_err() {
                return;
            }
            rest = &rest[passes..];
        }
    }
}
