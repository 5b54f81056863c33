//! Where the embedded broker listens, and how others find it there.
//!
//! Its port is the first free one. `send` and `listen` don't look for that: a foreign Redis might
//! have it. They go to a local socket in Linux's abstract namespace, whose name is made of the
//! configuration's path, and speak the same protocol there. The kernel removes it with the process,
//! so nothing stale is ever found, whatever the two processes' environments and users; who may use
//! it is who may use the port: everybody on this machine.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

use crate::config::identity::identity;

/// Ports behind the configured one that are tried as well: 6379 to 6399.
const FURTHER_PORTS: u16 = 20;

/// Most clients, as in Redis, where the limit of open files allows it.
const MOST_CLIENTS: u64 = 10_000;

/// Files that are left to the rest of the daemon.
const OTHER_FILES: u64 = 200;

/// Why the embedded broker can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Every port is taken.
    #[error(
        "the embedded broker finds no free port: {first} and those up to {last} are taken; write \
         another `listen` into [redis], or end who has them (`ss -ltnp` shows who)"
    )]
    Taken {
        /// The configured address.
        first: SocketAddr,
        /// The last port that was tried.
        last: u16,
    },
    /// Something else is wrong with the address.
    #[error(
        "the embedded broker can't listen at {address}: {source}; `listen` of [redis] names an \
         address of this machine and a port that this user may have"
    )]
    Io {
        /// The configured address, or a port behind it.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
}

impl StartError {
    pub(super) fn of(address: SocketAddr, source: io::Error) -> Self {
        StartError::Io { address, source }
    }
}

/// Listen at the address, or at the next free one of the ports behind it.
pub(super) async fn listen(first: SocketAddr) -> Result<TcpListener, StartError> {
    let last = first.port().saturating_add(FURTHER_PORTS);
    for port in first.port()..=last {
        let address = SocketAddr::new(first.ip(), port);
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(StartError::of(address, error)),
        }
    }
    Err(StartError::Taken { first, last })
}

/// Where the daemon itself connects to.
pub fn dialled(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// The path of the local socket of the daemon that runs with this configuration: in the abstract
/// namespace, so it begins with a zero byte and is in no folder.
pub fn local_socket(config: &Path) -> PathBuf {
    OsString::from_vec(format!("\0handlerd-{}", identity(config)).into_bytes()).into()
}

/// Listen at the local socket. That another has it is no error, but said.
pub(super) fn listen_locally(config: &Path) -> Option<UnixListener> {
    match UnixListener::bind(local_socket(config)) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(
                "another handlerd runs with this configuration: `handlerd send` and `handlerd \
                 listen` reach that one"
            );
            None
        }
        Err(error) => {
            tracing::warn!("`handlerd send` and `handlerd listen` won't find this broker: {error}");
            None
        }
    }
}

/// How many clients there may be at once, for which this process is permitted as many open files as
/// it may have.
pub(super) fn most_clients() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = MOST_CLIENTS + OTHER_FILES;
    let mut files = current.unwrap_or(u64::MAX);
    if files < wanted {
        let raised = wanted.min(maximum.unwrap_or(u64::MAX));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok() {
            files = raised;
        }
    }
    let clients = files.saturating_sub(OTHER_FILES).clamp(1, MOST_CLIENTS);
    usize::try_from(clients).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_no_folder_and_its_name_fits() {
        let socket = local_socket(Path::new("/etc/handlerd/config.toml"));
        assert!(socket.as_os_str().as_encoded_bytes().starts_with(b"\0handlerd-"));
        assert!(socket.as_os_str().len() < 108);
    }

    #[test]
    fn the_daemon_dials_what_it_listens_at() {
        for (listening, dialled_at) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
        ] {
            let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
            assert_eq!(dialled(parse(listening)), parse(dialled_at));
        }
    }
}
