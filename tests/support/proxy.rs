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
    /// What begins with the next request that contains these bytes.
    snare: Mutex<Option<(Vec<u8>, Hole)>>,
    /// There is one.
    snared: AtomicBool,
    /// New connections are frozen, or mute, from the start.
    hole: Mutex<Option<Hole>>,
    /// Requests that came through late.
    late: Mutex<Vec<u8>>,
}

/// What a network does without either end being told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hole {
    /// Nothing passes in either direction, on no connection, until [`Proxy::thaw`]: then all that was
    /// sent arrives, late, whether or not its sender has given up the connection.
    Frozen,
    /// The same, but connections that are made from now on work.
    FrozenOld,
    /// Requests arrive, and no answer does; until [`Proxy::thaw`], after which new connections work.
    Mute,
    /// The subscriptions that there are bring nothing any more; all else works, new ones included.
    Deaf,
}

/// A connection through the proxy.
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// What comes from either side vanishes.
    silent: AtomicBool,
    /// What comes from either side waits.
    frozen: AtomicBool,
    /// What comes from the server vanishes.
    mute: AtomicBool,
    /// A subscription was asked for on it.
    subscribes: AtomicBool,
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
        // Somebody else may take a port between the look and the use: then the next one.
        let (port, listener) = std::iter::repeat_with(super::redis_server::free_port)
            .find_map(|port| Some((port, TcpListener::bind(("127.0.0.1", port)).ok()?)))
            .expect("there is no end of ports");
        let shared = Arc::new(Shared {
            target,
            closed: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            links: Mutex::default(),
            accepted: AtomicU64::new(0),
            snare: Mutex::default(),
            snared: AtomicBool::new(false),
            hole: Mutex::default(),
            late: Mutex::default(),
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

    /// Let this happen with the next request that contains these bytes, before it passes.
    pub fn snare(&self, request: &[u8], hole: Hole) {
        *lock(&self.shared.snare) = Some((request.to_vec(), hole));
        self.shared.snared.store(true, SeqCst);
    }

    /// Let this happen now.
    pub fn begin(&self, hole: Hole) {
        self.shared.begin(hole);
    }

    /// Whether what was asked for of a request has happened.
    pub fn has_snapped(&self) -> bool {
        !self.shared.snared.load(SeqCst)
    }

    /// What was frozen passes, and new connections work.
    pub fn thaw(&self) {
        *lock(&self.shared.hole) = None;
        self.shared.links().iter().for_each(|link| link.frozen.store(false, SeqCst));
    }

    /// Whether a request that contains these bytes has passed after it was frozen.
    pub fn has_come_late(&self, request: &[u8]) -> bool {
        contains(&lock(&self.shared.late), request)
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
        lock(&self.links)
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        if self.refuse.load(SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        self.accepted.fetch_add(1, SeqCst);
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let mut links = self.links();
        // Under the lock, so that no connection is forgotten when a hole begins or ends.
        let hole = *lock(&self.hole);
        let link = Arc::new(Link {
            client,
            server,
            silent: AtomicBool::new(self.silent.load(SeqCst)),
            frozen: AtomicBool::new(hole == Some(Hole::Frozen)),
            mute: AtomicBool::new(hole == Some(Hole::Mute)),
            subscribes: AtomicBool::new(false),
        });
        links.push(link.clone());
        drop(links);
        for upwards in [true, false] {
            let (link, shared) = (link.clone(), self.clone());
            std::thread::spawn(move || shared.pump(&link, upwards));
        }
    }

    /// Begin with what was asked for, if this is the request.
    fn snap(&self, bytes: &[u8]) {
        let mut snare = lock(&self.snare);
        let is_it = |(request, _): &mut (Vec<u8>, Hole)| contains(bytes, request);
        let Some((_, hole)) = snare.take_if(is_it) else { return };
        self.begin(hole);
        self.snared.store(false, SeqCst);
    }

    fn begin(&self, hole: Hole) {
        let links = self.links();
        *lock(&self.hole) = Some(hole);
        for link in links.iter() {
            match hole {
                Hole::Frozen | Hole::FrozenOld => link.frozen.store(true, SeqCst),
                Hole::Mute => link.mute.store(true, SeqCst),
                Hole::Deaf => link.mute.store(link.subscribes.load(SeqCst), SeqCst),
            }
        }
    }

    /// Wait as long as the link is frozen; answers whether it was.
    fn freeze(&self, link: &Link) -> bool {
        let was_frozen = link.frozen.load(SeqCst);
        while link.frozen.load(SeqCst) && !self.closed.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        was_frozen
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
            let read = from.read(&mut buffer[..most]);
            if let (true, true, Ok(n)) = (upwards, self.snared.load(SeqCst), &read) {
                self.snap(&buffer[..*n]);
            }
            if let (true, false, Ok(n)) = (upwards, link.subscribes.load(SeqCst), &read) {
                link.subscribes.store(contains(&buffer[..*n], b"SUBSCRIBE"), SeqCst);
            }
            // The end of a connection, too, is not heard of before.
            let was_frozen = self.freeze(link);
            let Ok(n @ 1..) = read else { break };
            if rate > 0 {
                // The slowness itself, not a wait for anything.
                std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
            }
            let vanishes = link.silent.load(SeqCst) || (!upwards && link.mute.load(SeqCst));
            if !vanishes && to.write_all(&buffer[..n]).is_err() {
                break;
            }
            if was_frozen && upwards {
                lock(&self.late).extend_from_slice(&buffer[..n]);
            }
        }
        // The end of one side is passed on, unless the link is silent: then nobody hears of it.
        if !link.silent.load(SeqCst) && (upwards || !link.mute.load(SeqCst)) {
            link.close();
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
