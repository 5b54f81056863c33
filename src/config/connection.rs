//! `[redis]` and `[connections.NAME]`: a Redis, who one is there, and how it is proved.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Secret;
use super::keys::Table as Keys;
use super::reader::{Reader, Table, Text, Value, header};
use crate::file;

mod address;
mod embedded;

pub use embedded::Embedded;
pub(super) use embedded::refuse_kind;

/// The systemd credential with the password of `[redis]`.
const CREDENTIAL: &str = "redis-password";

/// A Redis to connect to: `[redis]` or `[connections.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// "redis" for `[redis]`, else NAME.
    pub name: Arc<str>,
    /// Where.
    pub address: Address,
    /// The database number of the URL's path (of a unix socket's `?db=`); 0 unless it says
    /// another. Pub/sub doesn't know databases.
    pub database: u32,
    /// The ACL user, from `username` or the URL; `None` is Redis's "default".
    pub username: Option<String>,
    /// Where the password comes from, read again at every connect.
    pub password: Password,
    /// `tls`: files for `rediss://`.
    pub tls: TlsFiles,
}

/// Where a Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `redis://HOST:PORT`
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// `rediss://HOST:PORT`
    Tls {
        /// Name or address, without brackets; the certificate must be for it.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// `unix:///PATH`
    Unix(PathBuf),
    /// `embedded`; only of [redis].
    Embedded(Embedded),
}

impl Default for Address {
    /// `redis://127.0.0.1:6379`
    fn default() -> Self {
        Address::Tcp { host: "127.0.0.1".to_owned(), port: 6379 }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host_port = |f: &mut fmt::Formatter<'_>, scheme, host: &str, port| {
            if host.contains(':') {
                write!(f, "{scheme}://[{host}]:{port}")
            } else {
                write!(f, "{scheme}://{host}:{port}")
            }
        };
        match self {
            Address::Tcp { host, port } => host_port(f, "redis", host, port),
            Address::Tls { host, port } => host_port(f, "rediss", host, port),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Embedded(embedded) => embedded.fmt(f),
        }
    }
}

/// Where a password comes from. Two sources at once are a config error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// None is sent.
    None,
    /// It stands in the URL.
    Url(Secret),
    /// `password_file`, or for `[redis]` the systemd credential `redis-password`; a line end at
    /// its end is not part of it.
    File(PathBuf),
}

/// `tls`: PEM files, read again at every connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The client's private key.
    pub key_file: Option<PathBuf>,
}

impl Connection {
    /// The Redis of this machine, as when nothing is configured.
    fn local(name: &str) -> Self {
        Connection {
            name: name.into(),
            address: Address::default(),
            database: 0,
            username: None,
            password: Password::None,
            tls: TlsFiles::default(),
        }
    }

    /// A Redis by its URL alone, as a command line gives it.
    ///
    /// # Errors
    /// What is wrong and what to do. Nothing of the URL is in it: that may hold a password.
    pub fn from_url(url: &str) -> Result<Self, String> {
        let parts = address::parse(url).map_err(|(message, help)| format!("{message}: {help}"))?;
        let password = parts.password.map_or(Password::None, Password::Url);
        let address::Parts { address, database, username, .. } = parts;
        Ok(Connection { address, database, username, password, ..Connection::local("redis") })
    }

    /// `[redis]` when the file has no such table: still with the credential.
    pub(super) fn absent(reader: &Reader<'_>) -> Self {
        let password = credential(reader).map_or(Password::None, Password::File);
        Connection { password, ..Connection::local("redis") }
    }

    /// Read `[redis]` or a `[connections.NAME]` of this configuration file.
    pub(super) fn read(value: &Value<'_, '_>, name: &str, file: &Path) -> Self {
        let mut connection = Connection::local(name);
        let Some(table) = value.table(Keys::Connection) else { return connection };
        let url = table.get("url");
        let mut url_password = None;
        let mut is_known = url.is_none();
        let text = url.as_ref().and_then(|url| Some((url, url.text()?)));
        let is_embedded = text.as_ref().is_some_and(|(_, text)| text.value == embedded::URL);
        if is_embedded && name == "redis" {
            connection.address = Address::Embedded(embedded::read(&table, file));
            return connection;
        }
        if let Some(listen) = table.get("listen") {
            embedded::refuse_listen(&listen, name);
        }
        if let Some((value, text)) = text {
            if is_embedded {
                embedded::refuse_url(value, name);
            } else if let Some(parts) = read_url(value, &text) {
                is_known = true;
                connection.address = parts.address;
                connection.database = parts.database;
                connection.username = parts.username;
                url_password = parts.password;
            }
        } else if url.is_none() && name != "redis" {
            let help = "add url = \"redis://HOST:6379\"".to_owned();
            let message = format!("{} has no `url`", header("connections", name));
            value.reader.missing(&value.key_span, message, vec![help]);
        }
        read_username(&table, &mut connection);
        connection.password = read_password(&table, name, url_password);
        if let Some(tls) = table.get("tls") {
            let is_tls = matches!(connection.address, Address::Tls { .. });
            connection.tls = read_tls(&tls, is_tls || !is_known);
        }
        connection
    }
}

/// The address; what is wrong with it is reported without showing it, for it may hold a password.
fn read_url(value: &Value<'_, '_>, text: &Text) -> Option<address::Parts> {
    match address::parse(&text.value) {
        Ok(parts) => Some(parts),
        Err((message, help)) => {
            value.error(message, Some(help));
            None
        }
    }
}

fn read_username(table: &Table<'_, '_>, connection: &mut Connection) {
    let Some(value) = table.get("username") else { return };
    let Some(text) = value.text() else { return };
    if connection.username.is_some() {
        let help = "remove one of them".to_owned();
        value.error("the user is named twice: by `url` and by `username`", Some(help));
    } else if text.value.is_empty() {
        value
            .error("`username` is empty", Some("leave it out for Redis's default user".to_owned()));
    }
    connection.username = Some(text.value);
}

fn read_password(table: &Table<'_, '_>, name: &str, in_url: Option<Secret>) -> Password {
    let file = table.get("password_file").and_then(|value| Some((value.path()?, value)));
    let credential = if name == "redis" { credential(table.reader) } else { None };
    let two = |value: &Value<'_, '_>, first: &str, second: &str| {
        let message = format!("the password has two sources: {first} and {second}");
        value.error(message, Some("keep one of them".to_owned()));
    };
    let from_systemd = format!("the systemd credential `{CREDENTIAL}`");
    match (in_url, file, credential) {
        (Some(secret), Some((_, value)), _) => {
            two(&value, "`url`", "`password_file`");
            Password::Url(secret)
        }
        (Some(secret), None, Some(_)) => {
            if let Some(url) = table.get("url") {
                two(&url, "`url`", &from_systemd);
            }
            Password::Url(secret)
        }
        (None, Some((file, value)), Some(credential)) if file != credential => {
            two(&value, "`password_file`", &from_systemd);
            Password::File(file)
        }
        (Some(secret), None, None) => Password::Url(secret),
        (None, Some((file, value)), _) => {
            check_file(&value, &file);
            Password::File(file)
        }
        (None, None, Some(credential)) => Password::File(credential),
        (None, None, None) => Password::None,
    }
}

/// The file of the credential, where systemd gave it.
fn credential(reader: &Reader<'_>) -> Option<PathBuf> {
    let file = reader.environment.credential(CREDENTIAL)?;
    match file.try_exists() {
        Ok(exists) => exists.then_some(file),
        // Seen in a container whose mounts aren't shared: systemd leaves a folder that is root's.
        Err(error) => {
            let message = format!(
                "whether there is a systemd credential `{CREDENTIAL}` can't be seen: {error}; \
                 [redis] goes without it"
            );
            let help = "its folder is $CREDENTIALS_DIRECTORY, which the user handlerd runs as must be \
                        able to read; in a container systemd needs shared mounts for that";
            reader.about_file(&file, &message, help.to_owned());
            None
        }
    }
}

fn read_tls(value: &Value<'_, '_>, is_used: bool) -> TlsFiles {
    let Some(table) = value.table(Keys::Tls) else { return TlsFiles::default() };
    let file = |key| {
        let value = table.get(key)?;
        let file = value.path()?;
        check_file(&value, &file);
        Some(file)
    };
    if !is_used {
        let help = "write rediss:// in `url`, or remove `tls`".to_owned();
        value.error("`tls` is for rediss:// addresses only", Some(help));
    }
    let files = TlsFiles {
        ca_file: file("ca_file"),
        cert_file: file("cert_file"),
        key_file: file("key_file"),
    };
    let present = |key| table.get(key).is_some();
    if present("cert_file") != present("key_file") {
        let (has, lacks) = if present("cert_file") {
            ("cert_file", "key_file")
        } else {
            ("key_file", "cert_file")
        };
        let help = format!("add `{lacks}`: a client's certificate and key belong together");
        value.error(format!("`{has}` is without `{lacks}`"), Some(help));
    }
    files
}

/// Whether a file that is read at every connect can be read now.
fn check_file(value: &Value<'_, '_>, file: &Path) {
    if let Err(unread) = file::check(file) {
        let help = "name a file that the user handlerd runs as can read".to_owned();
        value.error(format!("{} {}", value.shown_path(file), unread), Some(help));
    }
}
