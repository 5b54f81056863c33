//! The URL of a Redis, taken apart.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{Address, Secret};

/// What a URL says.
#[derive(Debug)]
pub(super) struct Parts {
    pub address: Address,
    pub database: u32,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

/// What is wrong, and what to do. Neither has any of the URL but its scheme: it may be a secret.
type Wrong = (String, String);

/// The kernel's limit for the path of a unix socket, without the byte that ends it.
const LONGEST_SOCKET: usize = 107;

/// Parse `redis://`, `rediss://` and `unix://`.
pub(super) fn parse(text: &str) -> Result<Parts, Wrong> {
    let forms =
        || "write redis://HOST:PORT, rediss://HOST:PORT (TLS) or unix:///PATH/TO/SOCKET".to_owned();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(("`url` has no redis:// at its beginning".to_owned(), forms()));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "redis" | "rediss" => network(text, rest),
        "unix" => socket(rest),
        _ => {
            let scheme: String = scheme
                .chars()
                .take(20)
                .map(|c| if c.is_ascii_graphic() { c } else { '?' })
                .collect();
            Err((format!("`url` begins with {scheme}://, which handlerd doesn't know"), forms()))
        }
    }
}

fn network(text: &str, rest: &str) -> Result<Parts, Wrong> {
    let url = Url::parse(text).map_err(|error| {
        let help = if rest.contains('@') {
            "write special characters of the user and the password as %XX, or use `password_file`"
        } else {
            "write redis://HOST:PORT"
        };
        (format!("`url` is not a URL: {error}"), help.to_owned())
    })?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err((
            "`url` has something after `?` or `#`, which handlerd doesn't know".to_owned(),
            "remove it; in a password write `?` as %3F and `#` as %23".to_owned(),
        ));
    }
    let host = match url.host() {
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Domain(name)) if !name.is_empty() => decode(name, "host")?,
        _ => return Err(("`url` names no host".to_owned(), "write redis://HOST:PORT".to_owned())),
    };
    let port = url.port().unwrap_or(6379);
    if port == 0 {
        return Err(("`url` has port 0".to_owned(), "Redis's usual port is 6379".to_owned()));
    }
    let username = Some(decode(url.username(), "user")?).filter(|user| !user.is_empty());
    let password = url.password().filter(|password| !password.is_empty());
    let password = password.map(|password| decode(password, "password")).transpose()?;
    let database = database(url.path().trim_start_matches('/'))?;
    let address = match url.scheme() {
        "rediss" => Address::Tls { host, port },
        _ => Address::Tcp { host, port },
    };
    Ok(Parts { address, database, username, password: password.map(Secret::new) })
}

fn socket(rest: &str) -> Result<Parts, Wrong> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') || path.len() < 2 {
        return Err((
            "`url` names no socket".to_owned(),
            "write unix:// and an absolute path: unix:///run/redis/redis.sock".to_owned(),
        ));
    }
    let path: Vec<u8> = percent_decode_str(path).collect();
    if path.len() > LONGEST_SOCKET || path.contains(&0) {
        return Err((
            format!(
                "the path of a socket may have {LONGEST_SOCKET} bytes; `url` has {}",
                path.len()
            ),
            "let Redis make its socket at a shorter path".to_owned(),
        ));
    }
    let mut number = 0;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        number = match pair.split_once('=') {
            Some(("db", value)) => database(value)?,
            _ => {
                return Err((
                    "after `?` of a unix:// address only db=NUMBER is known".to_owned(),
                    "name the user with `username`, the password with `password_file`".to_owned(),
                ));
            }
        };
    }
    let path = PathBuf::from(OsString::from_vec(path));
    Ok(Parts { address: Address::Unix(path), database: number, username: None, password: None })
}

fn database(text: &str) -> Result<u32, Wrong> {
    // Redis's own limit for the number of databases is that of an int.
    match text.parse::<i32>().map(u32::try_from) {
        _ if text.is_empty() => Ok(0),
        Ok(Ok(number)) => Ok(number),
        _ => Err((
            "the database in `url` is not a number".to_owned(),
            "write redis://HOST:PORT/0; in a password write `/` as %2F".to_owned(),
        )),
    }
}

fn decode(text: &str, what: &str) -> Result<String, Wrong> {
    let decoded = percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    decoded.map_err(|_| {
        (
            format!("the {what} in `url` is not UTF-8"),
            "write it as %XX of its UTF-8 bytes".to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, address, database, user, password) in [
            ("redis://localhost", tcp("localhost", 6379), 0, None, None),
            ("REDIS://localhost/", tcp("localhost", 6379), 0, None, None),
            ("redis://127.0.0.1:1/3", tcp("127.0.0.1", 1), 3, None, None),
            ("redis://[::1]:7000", tcp("::1", 7000), 0, None, None),
            ("redis://me@h", tcp("h", 6379), 0, Some("me"), None),
            ("redis://:p%40%2F@h", tcp("h", 6379), 0, None, Some("p@/")),
            ("redis://me:pw@h:1", tcp("h", 1), 0, Some("me"), Some("pw")),
            ("rediss://h", Address::Tls { host: "h".to_owned(), port: 6379 }, 0, None, None),
            ("unix:///a%20b/r.sock?db=2", Address::Unix("/a b/r.sock".into()), 2, None, None),
        ] {
            let parts = parse(text).unwrap_or_else(|(message, _)| panic!("{text}: {message}"));
            assert_eq!(parts.address, address, "{text}");
            assert_eq!(parts.database, database, "{text}");
            assert_eq!(parts.username.as_deref(), user, "{text}");
            assert_eq!(parts.password.as_ref().map(Secret::expose), password, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_showing_it() {
        for text in [
            "",
            "localhost:6379",
            "http://hunter2@h",
            "redis://",
            "redis://:hunter2@",
            "redis://:hunter2",
            "redis://:hun/ter2@h",
            "redis://:hun#ter2@h",
            "redis://:hun?ter2@h",
            "redis://h:99999",
            "redis://h:0",
            "redis://h/hunter2",
            "redis://h/-1",
            "redis://h/99999999999",
            "redis://:%ff@h",
            "unix://",
            "unix://run/hunter2",
            "unix:///a?pass=hunter2",
            "unix:///a?db=x",
            &format!("unix:///{}", "a".repeat(200)),
            &format!("{}://", "a".repeat(200)),
        ] {
            let (message, help) = parse(text).expect_err(text);
            assert!(!message.contains("ter2") && !help.contains("ter2"), "{message} {help}");
            assert!(!message.is_empty() && !help.is_empty(), "{text}");
        }
    }
}
