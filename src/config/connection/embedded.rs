//! `url = "embedded"`: [redis] is a broker in handlerd's own process.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config::reader::{Table, Value, header, quoted};

/// What `url` says for it.
pub(super) const URL: &str = "embedded";

/// The embedded broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// `listen`: where it listens, or at one of the ports behind it. Default 127.0.0.1:6379.
    pub listen: SocketAddr,
    /// The configuration file that it belongs to: by it, others find the one that runs.
    pub config: PathBuf,
}

impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the embedded broker of {}", self.config.display())
    }
}

/// Read what belongs to it in [redis]. Keys that need a Redis of its own are reported.
pub(super) fn read(table: &Table<'_, '_>, config: &Path) -> Embedded {
    for (key, why) in [
        ("username", "knows no users"),
        ("password_file", "asks for no password"),
        ("tls", "speaks no TLS"),
    ] {
        if let Some(value) = table.get(key) {
            let message = format!("`{key}` makes no sense here: the embedded broker {why}");
            value.reader.error(&value.key_span, message, vec![format!("remove `{key}`")]);
        }
    }
    let listen = table.get("listen").and_then(|value| read_listen(&value));
    let listen = listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 6379).into());
    Embedded { listen, config: config.to_owned() }
}

fn read_listen(value: &Value<'_, '_>) -> Option<SocketAddr> {
    let text = value.text()?;
    let help = || Some("write an address and a port: \"127.0.0.1:6379\"".to_owned());
    match text.value.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Some(address),
        Ok(_) => {
            value.error("`listen` has port 0", help());
            None
        }
        Err(_) => {
            let message = format!("`listen` is not an IP address with a port: {}", text.quoted());
            value.error(message, help());
            None
        }
    }
}

/// `listen` in a table whose broker isn't embedded.
pub(super) fn refuse_listen(listen: &Value<'_, '_>, name: &str) {
    let (whose, help) = if name == "redis" {
        (String::new(), format!("write url = \"{URL}\", or remove `listen`"))
    } else {
        (format!(", which is never {}", header("connections", name)), "remove it".to_owned())
    };
    let message = format!("`listen` is the address of the embedded broker{whose}");
    listen.reader.error(&listen.key_span, message, vec![help]);
}

/// `url = "embedded"` in [connections.NAME].
pub(super) fn refuse_url(url: &Value<'_, '_>, name: &str) {
    let message = format!("{} can't be embedded: only [redis] can", header("connections", name));
    url.error(message, Some("write the address of a Redis: \"redis://HOST:6379\"".to_owned()));
}

/// A value that needs what the embedded broker doesn't have: lists or streams. `instead` is what
/// could be done without.
pub(in crate::config) fn refuse_kind(value: &Value<'_, '_>, what: &str, instead: &str) {
    let message = format!("the embedded broker has no {what}, which {} needs", quoted(value.key));
    let help =
        format!("{instead}, or run a redis-server and write its address as `url` of [redis]");
    value.error(message, Some(help));
}
