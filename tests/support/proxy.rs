//! A TCP proxy between handlerd and its Redis that can fail in the ways networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The proxy; its threads end with it.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    target: u16,
    closed: AtomicBool,
    /// New connections are closed at once.
    refuse: AtomicBool,
    /// New connections are half-open from the start.
    silent: AtomicBool,
    /// Bytes a second in each direction of each connection; 0: as fast as it goes.
    rate: AtomicU64,
    links: Mutex<Vec<Arc<Link>>>,
    accepted: AtomicU64,
}

/// A connection through the proxy.
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// What comes from either side vanishes.
    silent: AtomicBool,
}

impl Link {
    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Proxy {
    /// A proxy on a free port to this port of the same machine.
    pub fn to(target: u16) -> Proxy {
        let port = super::redis_server::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let shared = Arc::new(Shared {
            target,
            closed: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            links: Mutex::default(),
            accepted: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.closed.load(SeqCst) {
                    break;
                }
                accepting.accept(client);
            }
        });
        Proxy { shared, port }
    }

    /// `redis://127.0.0.1:PORT`, through the proxy.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Connections that were taken so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    /// Close all connections; new ones work.
    pub fn cut(&self) -> Instant {
        for link in self.shared.links().drain(..) {
            link.close();
        }
        Instant::now()
    }

    /// Close each new connection at once, or stop doing so.
    pub fn refuse(&self, on: bool) -> Instant {
        self.shared.refuse.store(on, SeqCst);
        Instant::now()
    }

    /// All connections stay open and nothing passes any more, in either direction, ever; new ones
    /// work. So a peer looks that vanished without a word.
    pub fn half_open(&self) -> Instant {
        for link in self.shared.links().drain(..) {
            link.silent.store(true, SeqCst);
            // Kept open by its threads.
        }
        Instant::now()
    }

    /// Whether new connections are half-open from the start.
    pub fn silence_new(&self, on: bool) -> Instant {
        self.shared.silent.store(on, SeqCst);
        Instant::now()
    }

    /// Bytes a second in each direction; 0: as fast as it goes.
    pub fn rate(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        self.cut();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        if self.refuse.load(SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        self.accepted.fetch_add(1, SeqCst);
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let silent = AtomicBool::new(self.silent.load(SeqCst));
        let link = Arc::new(Link { client, server, silent });
        self.links().push(link.clone());
        for upwards in [true, false] {
            let (link, shared) = (link.clone(), self.clone());
            std::thread::spawn(move || shared.pump(&link, upwards));
        }
    }

    fn pump(&self, link: &Link, upwards: bool) {
        let (mut from, mut to) = match upwards {
            true => (&link.client, &link.server),
            false => (&link.server, &link.client),
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            let rate = self.rate.load(SeqCst);
            let most = if rate == 0 { buffer.len() } else { (rate as usize / 50).clamp(1, 4096) };
            let Ok(n @ 1..) = from.read(&mut buffer[..most]) else { break };
            if rate > 0 {
                // The slowness itself, not a wait for anything.
                std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
            }
            if !link.silent.load(SeqCst) && to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        // The end of one side is passed on, unless the link is silent: then nobody hears of it.
        if !link.silent.load(SeqCst) {
            link.close();
        }
    }
}
