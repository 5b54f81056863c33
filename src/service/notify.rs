//! What systemd is told over its notification socket, as sd_notify(3) says.
//!
//! Used by `handlerd run`, the daemon and the supervisor. Sending never waits, whether or not
//! anybody reads: what must arrive (ready, reloading, stopping) is kept and sent later, the rest is
//! said again soon anyway. Without `NOTIFY_SOCKET` nothing of this happens. The socket is this
//! process's alone: the child that compiles plugins has an empty environment.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

/// While plugins are loaded: how often more time is asked for, and how much.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(30);

/// What a stop may take beyond `drain_timeout`.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Bytes of a status that are sent at most. systemd takes datagrams of 4096.
const LONGEST_STATUS: usize = 1000;

/// The service manager. Clones are the same.
#[derive(Clone)]
pub struct Notify(Arc<Inner>);

struct Inner {
    socket: Option<Socket>,
    watchdog: Option<Duration>,
    /// The end has begun: that is the status from then on.
    stops: AtomicBool,
}

impl Notify {
    /// As this process's environment says.
    pub fn of_environment() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| {
            let opened = Socket::open(&address);
            let refused = |error| {
                let address = address.display();
                tracing::warn!("systemd can't be told anything: NOTIFY_SOCKET={address}: {error}");
            };
            opened.map_err(refused).ok()
        });
        let watchdog = socket.as_ref().and_then(|_| sd_notify::watchdog_enabled());
        Notify(Arc::new(Inner { socket, watchdog, stops: AtomicBool::new(false) }))
    }

    /// How often the watchdog is to be fed: at half of the time after which systemd would act.
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.watchdog.map(|limit| limit / 2).filter(|period| !period.is_zero())
    }

    /// Everything is built and runs; also the end of a reload, whether or not it succeeded.
    pub fn ready(&self) {
        self.must_send(&[NotifyState::Ready]);
    }

    /// A reload begins; [`Self::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.must_send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!("systemd isn't told of the reload, no clock: {error}"),
        }
    }

    /// The end begins, and may take this time and a little more, whatever the unit says.
    pub fn stopping(&self, drain_timeout: Duration) {
        let status = "stopping: what was taken is finished";
        self.0.stops.store(true, Relaxed);
        let more = extension(drain_timeout.saturating_add(STOP_MARGIN));
        self.must_send(&[NotifyState::Stopping, NotifyState::Status(status), more]);
    }

    /// How things go, in words.
    pub fn status(&self, text: &str) {
        if self.0.stops.load(Relaxed) {
            return;
        }
        let text = &text[..text.floor_char_boundary(LONGEST_STATUS)];
        self.send(&[NotifyState::Status(text)]);
    }

    /// Every loop comes around.
    pub fn feed_watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Do what precedes [`Self::ready`], which may take long, and say so.
    pub async fn while_starting<F: Future>(&self, what: &str, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        self.status(what);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(EXTEND_EVERY) => self.send(&[extension(EXTEND_BY)]),
            }
        }
    }

    /// Send what could not be sent before.
    pub fn catch_up(&self) {
        if let Some(socket) = &self.0.socket {
            socket.catch_up();
        }
    }

    fn must_send(&self, states: &[NotifyState<'_>]) {
        if let Some(socket) = &self.0.socket {
            lock(&socket.owed).push_back(datagram(states));
            socket.catch_up();
        }
    }

    /// Left out where nobody reads at the moment.
    fn send(&self, states: &[NotifyState<'_>]) {
        if let Some(socket) = &self.0.socket
            && socket.catch_up()
        {
            socket.send(&datagram(states));
        }
    }
}

fn extension(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(time.as_micros().try_into().unwrap_or(u32::MAX))
}

fn datagram(states: &[NotifyState<'_>]) -> String {
    let line = |state: &NotifyState<'_>| state.to_string().replace('\n', " ");
    states.iter().map(line).collect::<Vec<_>>().join("\n")
}

struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// What must arrive and hasn't been taken yet.
    owed: Mutex<VecDeque<String>>,
    /// That it can't be sent was said.
    said: Mutex<bool>,
}

impl Socket {
    fn open(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(io::Error::other("it is neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Socket { socket, address, owed: Mutex::default(), said: Mutex::default() })
    }

    /// Whether nothing is owed any more.
    fn catch_up(&self) -> bool {
        let mut owed = lock(&self.owed);
        while let Some(next) = owed.front() {
            if !self.send(next) {
                return false;
            }
            owed.pop_front();
        }
        true
    }

    /// `false`: nobody reads at the moment. What can't be sent at all is given up, and said once.
    fn send(&self, datagram: &str) -> bool {
        match self.socket.send_to_addr(datagram.as_bytes(), &self.address) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                if !std::mem::replace(&mut *lock(&self.said), true) {
                    tracing::warn!("systemd can't be told anything over NOTIFY_SOCKET: {error}");
                }
                true
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(address: &OsStr) -> Notify {
        let socket = Some(Socket::open(address).expect("an address"));
        Notify(Arc::new(Inner { socket, watchdog: None, stops: AtomicBool::new(false) }))
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn who_does_not_read_is_not_waited_for_and_misses_nothing_that_matters() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let notify = over(path.as_os_str());
        for n in 0..10_000 {
            notify.status(&n.to_string());
        }
        notify.ready();
        notify.status("left out");
        notify.reloading();
        socket.set_nonblocking(true).expect("a socket");
        while socket.recv(&mut [0; 4096]).is_ok() {}
        socket.set_nonblocking(false).expect("a socket");
        notify.catch_up();
        assert_eq!(received(&socket), "READY=1");
        let reloading = received(&socket);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("one datagram");
        assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{time}");
    }

    #[test]
    fn an_abstract_name_is_an_address_and_a_status_is_one_line() {
        let name = format!("handlerd-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        let notify = over(OsStr::new(&format!("@{name}")));
        notify.status("one\nREADY=1");
        assert_eq!(received(&socket), "STATUS=one READY=1");
        notify.stopping(Duration::from_secs(10));
        let stopping = received(&socket);
        assert!(stopping.starts_with("STOPPING=1\nSTATUS=stopping"), "{stopping}");
        assert!(stopping.ends_with("\nEXTEND_TIMEOUT_USEC=15000000"), "{stopping}");
    }

    #[tokio::test]
    async fn a_long_start_is_given_more_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let socket = tokio::net::UnixDatagram::from_std(socket).expect("a socket");
        let mut said = Vec::new();
        let long = async {
            while said.len() < 2 {
                let mut bytes = Vec::with_capacity(4096);
                socket.recv_buf(&mut bytes).await.expect("a datagram");
                said.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        };
        over(path.as_os_str()).while_starting("loading", long).await;
        assert_eq!(said, ["STATUS=loading", "EXTEND_TIMEOUT_USEC=30000000"]);
    }

    #[test]
    fn a_socket_that_is_gone_is_said_and_given_up() {
        let notify = over(OsStr::new("/nowhere/at/all"));
        notify.ready();
        notify.catch_up();
        assert!(Socket::open(OsStr::new("vsock:2:1234")).is_err());
    }
}
