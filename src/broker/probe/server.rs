//! What a Redis says of itself.

use std::collections::HashMap;
use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisResult, Value};

/// What a Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// "Redis" or "Valkey".
    pub product: &'static str,
    /// Empty when it doesn't say.
    pub version: String,
    /// Master or replica.
    pub role: Role,
    /// What of its data it has when it is started again.
    pub persistence: Persistence,
    /// `maxmemory-policy`, where there is a `maxmemory` and it may be asked.
    pub eviction: Option<String>,
}

/// Master or replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Master,
    /// Follows another.
    Replica {
        /// Its master, as "host:port"; `None` when it may not be asked.
        of: Option<String>,
    },
}

/// What of its data a Redis has when it is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It may not be asked: the user has no right to INFO, and needs none.
    Unknown,
    /// Nothing.
    Nothing,
    /// What the last snapshot had.
    Snapshots,
    /// The append-only file, and how often it reaches the disk ("always", "everysec", "no") where
    /// that may be asked.
    AppendOnly {
        /// `appendfsync`.
        fsync: Option<String>,
    },
}

/// Ask. What the user has no right to ask is left unknown.
pub async fn ask(
    connection: &mut MultiplexedConnection,
    version: String,
    replica: bool,
) -> RedisResult<Server> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    pipe.cmd("INFO").arg("server");
    pipe.cmd("INFO").arg("replication");
    pipe.cmd("INFO").arg("persistence");
    pipe.cmd("CONFIG").arg("GET").arg("appendfsync");
    pipe.cmd("CONFIG").arg("GET").arg("save");
    pipe.cmd("INFO").arg("memory");
    let replies: Vec<Value> = pipe.query_async(connection).await?;
    let info = |at: usize| {
        let reply = replies.get(at).filter(|reply| !matches!(reply, Value::ServerError(_)));
        reply.and_then(|reply| redis::from_redis_value_ref::<InfoDict>(reply).ok())
    };
    let setting = |at: usize, name: &str| {
        let settings = redis::from_redis_value_ref::<HashMap<String, String>>(replies.get(at)?);
        settings.ok()?.remove(name)
    };

    let valkey = info(0).and_then(|info| info.get::<String>("valkey_version"));
    // Without HELLO only INFO tells.
    let follows = |info: InfoDict| info.get::<String>("role").is_some_and(|role| role == "slave");
    let role = if replica || info(1).is_some_and(follows) {
        let of = info(1).and_then(|info| {
            let port: u16 = info.get("master_port")?;
            Some(format!("{}:{port}", info.get::<String>("master_host")?))
        });
        Role::Replica { of }
    } else {
        Role::Master
    };
    Ok(Server {
        product: if valkey.is_some() { "Valkey" } else { "Redis" },
        version: valkey.unwrap_or(version),
        role,
        persistence: persistence(info(2), setting(3, "appendfsync"), setting(4, "save")),
        eviction: info(5)
            .filter(|info| info.get::<u64>("maxmemory").is_some_and(|bytes| bytes > 0))
            .and_then(|info| info.get("maxmemory_policy")),
    })
}

fn persistence(info: Option<InfoDict>, fsync: Option<String>, save: Option<String>) -> Persistence {
    match info.and_then(|info| info.get::<u8>("aof_enabled")) {
        None => Persistence::Unknown,
        Some(0) if save.as_deref() == Some("") => Persistence::Nothing,
        // Without CONFIG it isn't known whether there are any: there are by default.
        Some(0) => Persistence::Snapshots,
        Some(_) => Persistence::AppendOnly { fsync },
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Server { product, version, role, persistence, eviction: _ } = self;
        f.write_str(product)?;
        if !version.is_empty() {
            write!(f, " {version}")?;
        }
        write!(f, ", {role}, {persistence}")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Master => f.write_str("master"),
            Role::Replica { of: Some(master) } => write!(f, "replica of {master}"),
            Role::Replica { of: None } => f.write_str("replica"),
        }
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Persistence::Unknown => f.write_str("persistence unknown (INFO isn't permitted)"),
            Persistence::Nothing => f.write_str("keeps nothing on disk"),
            Persistence::Snapshots => f.write_str("snapshots on disk"),
            Persistence::AppendOnly { fsync: Some(fsync) } => {
                write!(f, "append-only file (fsync {fsync})")
            }
            Persistence::AppendOnly { fsync: None } => f.write_str("append-only file"),
        }
    }
}
