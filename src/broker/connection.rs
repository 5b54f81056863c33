//! Opening a connection: TCP, TLS or a unix socket (by which other processes reach an embedded
//! broker, too), then HELLO, AUTH and SELECT.
//!
//! Called by the subscription, the writers and the verbs that talk to Redis. One attempt is made,
//! under time limits; trying again is the caller's. Never keeps a password (`credentials`): it is
//! read anew each time, so a rotated one is found.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::select;
use tokio::time::{interval, timeout};
use tokio_rustls::client::TlsStream;

use super::credentials::Credentials;
use super::embedded::local_socket;
use super::resp::{self, FrameReader};
use crate::config::{Address, Connection};
use crate::file::Patience;

/// How long the connection (with TLS) and Redis's greeting may take, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a name may take to become an address: a resolver asks its second server after 5 s.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a file of the configuration may take that is read before: a network's may hang.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// While an attempt to connect has no answer, another is begun beside it this often. One that fell
/// into a hole of the network stays there when the hole has gone, and messages must flow again
/// within 2 s of that.
const NEXT_ATTEMPT: Duration = Duration::from_millis(600);

/// The oldest Redis that is worked with.
const OLDEST: (u32, u32) = (6, 2);

/// Why a connection could not be opened. The caller knows which connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The network said no.
    #[error("{address}: {source}")]
    Io {
        /// Where to.
        address: String,
        /// What happened.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address}: no answer to {step} within {} s", limit.as_secs())]
    TimedOut {
        /// Where to.
        address: String,
        /// What was waited for.
        step: &'static str,
        /// How long.
        limit: Duration,
    },
    /// A file of the configuration could not be used.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No daemon runs with this configuration, whose Redis is embedded in it.
    #[error(
        "no handlerd runs with {config}, and Redis is embedded in it there; start it in another \
         terminal: handlerd --config {config}", config = config.display()
    )]
    NoDaemon {
        /// Which configuration.
        config: PathBuf,
    },
    /// Redis answered with an error.
    #[error("{address}: {command} was refused: {answer}{hint}")]
    Refused {
        /// Where to.
        address: String,
        /// Which command, without its arguments.
        command: &'static str,
        /// What Redis says.
        answer: String,
        /// What to do, or nothing.
        hint: &'static str,
    },
    /// Older than 6.2.
    #[error("{address}: this is Redis {version}; handlerd needs Redis or Valkey 6.2 or newer")]
    TooOld {
        /// Where to.
        address: String,
        /// What it says it is.
        version: String,
    },
}

/// Opens connections to one configured Redis.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<Connection>,
    files: Patience,
}

/// An open connection, greeted and authenticated.
pub struct Link {
    /// The bytes.
    pub stream: Stream,
    /// Whether RESP3 was agreed on.
    pub resp3: bool,
    /// What the server says it is ("7.0.15"); empty when it doesn't say.
    pub version: String,
    /// Whether it says that it is a replica.
    pub replica: bool,
    /// Whether it says that it is a node of a Redis Cluster.
    pub cluster: bool,
}

/// An answer of Redis, owned: for where speed doesn't matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A number.
    Number(i64),
    /// A string of any kind.
    Text(Vec<u8>),
    /// An error: its code and text.
    Error(String),
    /// Anything else.
    Other,
}

impl Link {
    /// Send commands in one go and read as many answers, without a time limit. Only while nothing
    /// else is under way on this connection, and nothing is subscribed to.
    ///
    /// # Errors
    /// When the connection breaks, or what comes isn't RESP.
    pub async fn ask(&mut self, commands: &[&[&[u8]]]) -> io::Result<Vec<Reply>> {
        let mut out = Vec::new();
        commands.iter().for_each(|command| resp::command(&mut out, command));
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        let mut reader = FrameReader::default();
        let mut replies = Vec::with_capacity(commands.len());
        while replies.len() < commands.len() {
            match reader.next_frame()? {
                Some(frame) if frame.is_push() => {}
                Some(frame) => {
                    replies.push(match (frame.error(), frame.integer(), frame.string()) {
                        (Some(error), ..) => {
                            Reply::Error(String::from_utf8_lossy(error).into_owned())
                        }
                        (_, Some(n), _) => Reply::Number(n),
                        (.., Some(text)) => Reply::Text(text.to_vec()),
                        _ => Reply::Other,
                    })
                }
                None => drop(reader.fill(&mut self.stream).await?),
            }
        }
        Ok(replies)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Link { stream: _, resp3, version, replica, cluster } = self;
        f.debug_struct("Link")
            .field("resp3", resp3)
            .field("version", version)
            .field("replica", replica)
            .field("cluster", cluster)
            .finish()
    }
}

impl Connector {
    /// For this connection of the configuration.
    pub fn new(config: &Connection) -> Self {
        Connector { config: Arc::new(config.clone()), files: Patience::new(FILE_TIMEOUT) }
    }

    /// To another node of the same Redis Cluster, with the same credentials and files. An empty host
    /// is the one that is connected to; `None` when there is no such host, over a unix socket.
    pub fn at(&self, host: &str, port: u16) -> Option<Self> {
        let known = match &self.config.address {
            Address::Tcp { host, .. } | Address::Tls { host, .. } => Some(host.as_str()),
            Address::Unix(_) | Address::Embedded(_) => None,
        };
        let host = if host.is_empty() { known? } else { host }.to_owned();
        let address = match &self.config.address {
            Address::Tls { .. } => Address::Tls { host, port },
            Address::Tcp { .. } | Address::Unix(_) => Address::Tcp { host, port },
            Address::Embedded(_) => return None,
        };
        let config = Arc::new(Connection { address, ..(*self.config).clone() });
        Some(Connector { config, files: self.files.clone() })
    }

    /// "redis", or NAME of `[connections.NAME]`.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Where it connects to, without any password.
    pub fn address(&self) -> String {
        self.config.address.to_string()
    }

    /// Open a connection. Not tried again after an error: that is the caller's.
    pub async fn connect(&self) -> Result<Link, ConnectError> {
        let credentials = Credentials::read(&self.config, &self.files).await?;
        // Once, not for each attempt: a look-up can't be given up, it goes on in its thread.
        let addresses = self.limit("the name's look-up", LOOKUP_TIMEOUT, self.look_up()).await?;
        let mut attempts = FuturesUnordered::new();
        let mut begin = interval(NEXT_ATTEMPT);
        loop {
            select! {
                Some(outcome) = attempts.next() => return outcome,
                _ = begin.tick() => attempts.push(self.attempt(&addresses, &credentials)),
            }
        }
    }

    async fn attempt(
        &self,
        addresses: &[SocketAddr],
        credentials: &Credentials,
    ) -> Result<Link, ConnectError> {
        let open = self.open(addresses, credentials);
        let stream = self.limit("the connection", STEP_TIMEOUT, open).await?;
        self.limit("HELLO", STEP_TIMEOUT, self.greet(stream, credentials)).await
    }

    /// The addresses of the host; none for a socket of this machine.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        match &self.config.address {
            Address::Unix(_) | Address::Embedded(_) => Ok(Vec::new()),
            Address::Tcp { host, port } | Address::Tls { host, port } => {
                let found = lookup_host((host.as_str(), *port)).await.map_err(|e| self.io(e))?;
                Ok(found.collect())
            }
        }
    }

    async fn limit<T>(
        &self,
        step: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let late = |_| ConnectError::TimedOut { address: self.address(), step, limit };
        timeout(limit, work).await.map_err(late)?
    }

    fn io(&self, source: io::Error) -> ConnectError {
        ConnectError::Io { address: self.address(), source }
    }

    async fn open(
        &self,
        addresses: &[SocketAddr],
        credentials: &Credentials,
    ) -> Result<Stream, ConnectError> {
        match &self.config.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|e| self.io(e))?;
                Ok(Stream::Unix(stream))
            }
            Address::Embedded(embedded) => {
                let stream = UnixStream::connect(local_socket(&embedded.config)).await;
                stream.map(Stream::Unix).map_err(|error| match error.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        ConnectError::NoDaemon { config: embedded.config.clone() }
                    }
                    _ => self.io(error),
                })
            }
            Address::Tcp { .. } => Ok(Stream::Tcp(self.tcp(addresses).await?)),
            Address::Tls { host, .. } => {
                let connector = credentials.tls.as_ref().ok_or_else(|| {
                    self.io(io::Error::other("there are no certificates for rediss://"))
                })?;
                let name = ServerName::try_from(host.clone())
                    .map_err(|e| self.io(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
                let tcp = self.tcp(addresses).await?;
                let tls = connector.connect(name, tcp).await.map_err(|e| self.io(e))?;
                Ok(Stream::Tls(Box::new(tls)))
            }
        }
    }

    async fn tcp(&self, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
        let stream = TcpStream::connect(addresses).await.map_err(|e| self.io(e))?;
        // None of these is on by default; without them a peer that vanished is never noticed.
        let set = || {
            stream.set_nodelay(true)?;
            let socket = socket2::SockRef::from(&stream);
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(10))
                .with_interval(Duration::from_secs(5));
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(Duration::from_secs(20)))
        };
        set().map_err(|e| self.io(e))?;
        Ok(stream)
    }

    async fn greet(&self, stream: Stream, credentials: &Credentials) -> Result<Link, ConnectError> {
        let mut talk = Talk { stream, reader: FrameReader::default(), connector: self };
        let password = &credentials.password;
        let user = self.config.username.as_deref().unwrap_or("default");

        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = password {
            hello.extend([b"AUTH", user.as_bytes(), password.expose().as_bytes()]);
        }
        hello.extend([b"SETNAME".as_slice(), b"handlerd"]);
        let (mut replica, mut cluster) = (false, false);
        let (resp3, version) = match talk.ask(&hello).await? {
            Answer::Map(pairs) => {
                replica = pairs.iter().any(|(k, v)| k == "role" && v != "master");
                cluster = pairs.iter().any(|(k, v)| k == "mode" && v == "cluster");
                let version = pairs.into_iter().find(|(k, _)| k == "version");
                (true, version.map(|(_, v)| v).unwrap_or_default())
            }
            Answer::Error(text) if no_such_command(&text) => {
                if let Some(password) = password {
                    let auth: [&[u8]; 3] = [b"AUTH", user.as_bytes(), password.expose().as_bytes()];
                    talk.expect_ok("AUTH", &auth).await?;
                }
                let info = talk.info().await?;
                let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
                cluster = value("redis_mode:").is_some_and(|mode| mode.trim() == "cluster");
                (false, value("redis_version:").unwrap_or_default().trim().to_owned())
            }
            Answer::Error(text) => return Err(self.refused("HELLO", text)),
            Answer::Other(_) => (true, String::new()),
        };
        if too_old(&version) {
            return Err(ConnectError::TooOld { address: self.address(), version });
        }
        if self.config.database != 0 {
            let number = self.config.database.to_string();
            talk.expect_ok("SELECT", &[b"SELECT", number.as_bytes()]).await?;
        }
        Ok(Link { stream: talk.stream, resp3, version, replica, cluster })
    }

    fn refused(&self, command: &'static str, answer: String) -> ConnectError {
        let hint = if answer.starts_with("WRONGPASS") || answer.starts_with("NOAUTH") {
            "; set `username` and `password_file` of this connection"
        } else if answer.starts_with("LOADING") {
            "; it is still reading its data"
        } else {
            ""
        };
        ConnectError::Refused { address: self.address(), command, answer, hint }
    }
}

fn no_such_command(answer: &str) -> bool {
    let answer = answer.to_ascii_lowercase();
    answer.contains("unknown command") || answer.contains("noproto")
}

fn too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    }
}

/// An answer during the greeting, owned: speed doesn't matter there.
enum Answer {
    Map(Vec<(String, String)>),
    Error(String),
    Other(String),
}

struct Talk<'a> {
    stream: Stream,
    reader: FrameReader,
    connector: &'a Connector,
}

impl Talk<'_> {
    async fn ask(&mut self, command: &[&[u8]]) -> Result<Answer, ConnectError> {
        let io = |e| self.connector.io(e);
        let mut out = Vec::new();
        resp::command(&mut out, command);
        self.stream.write_all(&out).await.map_err(io)?;
        loop {
            if let Some(frame) = self.reader.next_frame().map_err(io)? {
                let text = |bytes: Option<&[u8]>| {
                    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                };
                if let Some(error) = frame.error() {
                    return Ok(Answer::Error(text(Some(error))));
                }
                return Ok(match frame.items() {
                    Some(items) => Answer::Map(
                        items
                            .chunks(2)
                            .map(|kv| (text(kv[0].string), text(kv.get(1).and_then(|v| v.string))))
                            .collect(),
                    ),
                    None => Answer::Other(text(frame.string())),
                });
            }
            self.reader.fill(&mut self.stream).await.map_err(io)?;
        }
    }

    async fn expect_ok(
        &mut self,
        name: &'static str,
        command: &[&[u8]],
    ) -> Result<(), ConnectError> {
        match self.ask(command).await? {
            Answer::Error(text) => Err(self.connector.refused(name, text)),
            _ => Ok(()),
        }
    }

    /// Where there is no HELLO to tell what it is. INFO may be refused; then it stays unknown.
    async fn info(&mut self) -> Result<String, ConnectError> {
        match self.ask(&[b"INFO", b"server"]).await? {
            Answer::Other(info) => Ok(info),
            _ => Ok(String::new()),
        }
    }
}

/// Why a connection broke, for people: the end of its bytes is called by its name.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "Redis closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

/// The bytes of a connection, whatever carries them.
pub enum Stream {
    /// `redis://`
    Tcp(TcpStream),
    /// `rediss://`
    Tls(Box<TlsStream<TcpStream>>),
    /// `unix://`
    Unix(UnixStream),
}

macro_rules! delegate {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match $self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, cx)
    }
}
