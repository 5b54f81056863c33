//! What `handlerd check --connect` asks each Redis: what it is, and whether it lets us do what the
//! configuration wants.
//!
//! Called by the command line. Leaves nothing behind: commands are rehearsed between `MULTI` and
//! `DISCARD`, where Redis judges rights, roles and memory and does nothing.

mod commands;
mod needs;
mod nodes;
mod server;
mod streams;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisResult, Value};
use tokio::time::timeout;

use self::commands::{Command, Verb};
use self::needs::Needs;
pub use self::server::{Persistence, Role, Server};
use super::connection::{Connector, Link};
use super::single::NO_CLUSTER;
use crate::config::{self, Address, Config};
use crate::telemetry::printable;

/// How long Redis may take to answer everything that is asked once it is connected to.
const LIMIT: Duration = Duration::from_secs(30);

/// Commands rehearsed in one transaction.
const REHEARSED_AT_ONCE: usize = 1000;

/// Bytes of a name, or of Redis's words, that are shown.
const SHOWN: usize = 500;

/// What was found, for each connection of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `[redis]` first, unless it is embedded (there is nothing to ask then), and then
    /// `[connections.NAME]` in the order of their names.
    pub connections: Vec<Probed>,
}

/// What was found of one Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// "redis", or NAME of `[connections.NAME]`.
    pub name: Arc<str>,
    /// Where it is, without any password.
    pub address: String,
    /// The ACL user, where one is configured.
    pub user: Option<String>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// What it is; `None` when it can't be connected to.
    pub server: Option<Server>,
    /// Why the configuration can't work with it, each with what to do. Empty: it can.
    pub problems: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// The `ACL SETUSER` line for a user who may do what is needed and nothing else, as it is
    /// typed into `redis-cli`. `PASSWORD` in it is to be replaced.
    pub acl: String,
}

impl Report {
    /// Whether the configuration can work with every Redis.
    pub fn is_good(&self) -> bool {
        self.connections.iter().all(|connection| connection.problems.is_empty())
    }
}

/// Ask every Redis of a configuration, one after the other.
pub async fn probe(config: &Config) -> Report {
    let mut report = Report { connections: Vec::new() };
    let all = std::iter::once(&config.redis).chain(config.connections.values());
    let is_elsewhere = |c: &&config::Connection| !matches!(c.address, Address::Embedded(_));
    for connection in all.filter(is_elsewhere) {
        report.connections.push(probe_one(config, connection).await);
    }
    report
}

async fn probe_one(config: &Config, connection: &config::Connection) -> Probed {
    let connector = Connector::new(connection);
    let needs = Needs::of(config, connection);
    let mut probed = Probed {
        name: connection.name.clone(),
        address: connector.address(),
        user: connection.username.clone(),
        tls: matches!(connection.address, Address::Tls { .. }),
        server: None,
        problems: Vec::new(),
        notes: needs.notes(),
        acl: needs.acl(connection.username.as_deref().unwrap_or("handlerd")),
    };
    let link = match connector.connect().await {
        Ok(link) => link,
        Err(error) => {
            probed.problems.push(error.to_string());
            return probed;
        }
    };
    let asked = timeout(LIMIT, ask(&connector, link, &needs, &mut probed)).await;
    let failed = match asked {
        Ok(Ok(())) => return probed,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
    };
    probed.problems.push(format!("{}: {failed}", probed.address));
    probed
}

/// Ask on a connection that the daemon's own code has opened, so that what works here works there.
async fn ask(
    connector: &Connector,
    link: Link,
    needs: &Needs,
    probed: &mut Probed,
) -> RedisResult<()> {
    let Link { stream, resp3, version, replica, cluster } = link;
    let protocol = if resp3 { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 };
    let info = RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&info, stream, config).await?;
    let asking = async {
        let server = server::ask(&mut connection, version, replica).await?;
        if needs.reads.is_empty() {
            if needs.writes_keys() && server.persistence == Persistence::Nothing {
                let note = "it keeps nothing on disk: the lists and streams that are written to \
                            are lost when it ends";
                probed.notes.push(note.to_owned());
            }
        } else {
            probed.notes.extend(streams::durability(&server));
        }
        let is_replica = matches!(server.role, Role::Replica { .. });
        probed.server = Some(server);
        let singles = if cluster { &needs.singles[..] } else { &[] };
        for channel in singles {
            let no_cluster = format!("channel {channel} can't work here: {NO_CLUSTER}");
            probed.problems.push(no_cluster);
        }
        // What such a channel needs, too, would be refused, for reasons that lead nowhere.
        let commands = needs.commands().iter().filter(|c| !singles.contains(&c.whose));
        let elsewhere = rehearse(&mut connection, commands, probed).await?;
        // One of a Cluster sends everybody to its master.
        if needs.has_outputs() && is_replica && elsewhere.is_empty() {
            let problem = "it is a replica: it refuses to write to keys, and what is published on it reaches \
                           its own subscribers only; name its master in the connection's url";
            probed.problems.insert(0, problem.to_owned());
        }
        streams::one_slot(&mut connection, needs, probed).await?;
        streams::look(&mut connection, needs, probed).await?;
        nodes::ask(connector, &elsewhere, needs, probed).await;
        Ok(())
    };
    tokio::select! {
        asked = asking => asked,
        () = driver => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
    }
}

/// See which of the commands Redis would refuse. Answers those that another node of a Cluster has to
/// be asked about, with Redis's words about that node.
async fn rehearse<'a>(
    connection: &mut MultiplexedConnection,
    commands: impl Iterator<Item = &'a Command>,
    probed: &mut Probed,
) -> RedisResult<Vec<(&'a Command, String)>> {
    let mut elsewhere = Vec::new();
    for commands in commands.collect::<Vec<_>>().chunks(REHEARSED_AT_ONCE) {
        let mut pipe = redis::pipe();
        pipe.ignore_errors().cmd("MULTI");
        for command in commands {
            let parts = command.parts();
            let (first, rest) = parts.split_first().unwrap_or((&"PING", &[]));
            pipe.cmd(first).arg(rest);
        }
        pipe.cmd("DISCARD");
        let replies: Vec<Value> = pipe.query_async(connection).await?;
        if let Some(error) = replies.first().and_then(error) {
            let note = format!("rights were not tried, because MULTI was refused: {error}");
            probed.notes.push(note);
            return Ok(elsewhere);
        }
        for (command, reply) in commands.iter().zip(replies.iter().skip(1)) {
            let Some(answer) = error(reply) else { continue };
            if command.follows && answer.starts_with("MOVED ") {
                elsewhere.push((*command, answer));
            } else if command.is_optional() {
                probed.notes.push(without_cursor(command, &answer));
            } else {
                probed.problems.push(refusal(command, &answer));
            }
        }
    }
    Ok(elsewhere)
}

fn refusal(command: &Command, answer: &str) -> String {
    let Command { verb, name, example, whose, .. } = command;
    let verb_words = verb.words().join(" ");
    if answer.to_ascii_lowercase().contains("unknown command") {
        return format!(
            "channel {whose} needs the command {verb_words}, which this Redis doesn't have: it is too \
             old, or the command was renamed"
        );
    }
    if let Some((slot, node)) = nodes::of(answer) {
        return format!(
            "channel {whose} needs {verb_words} \"{}\", but that key is in slot {slot}, which the node \
             {node} of this Redis Cluster has, and only streams and what is written in one step with \
             them are followed there: name that node in a connection of its own",
            printable(name.as_bytes(), SHOWN)
        );
    }
    let name = match verb {
        Verb::Load | Verb::Time => String::new(),
        _ => format!(" \"{}\"", printable(name.as_bytes(), SHOWN)),
    };
    let example = if *example { " (an example of what comes)" } else { "" };
    format!("channel {whose} needs {verb_words}{name}{example}, which was refused: {answer}")
}

fn without_cursor(command: &Command, answer: &str) -> String {
    let (verb, whose) = (command.verb.words().join(" "), &command.whose);
    let name = printable(command.name.as_bytes(), SHOWN);
    format!(
        "channel {whose} does without {verb} \"{name}\", which was refused: {answer}; where its group \
         is destroyed, all that the stream holds comes again"
    )
}

fn error(reply: &Value) -> Option<String> {
    match reply {
        Value::ServerError(error) => {
            let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
            Some(printable(text.trim_end().as_bytes(), SHOWN))
        }
        _ => None,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connections.iter().try_for_each(|connection| connection.fmt(f))
    }
}

impl fmt::Display for Probed {
    /// Whole lines: one that says what it is, then indented what is to be known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.address)?;
        if let Some(user) = &self.user {
            write!(f, ", user {user}")?;
        }
        if let Some(server) = &self.server {
            write!(f, ", {server}")?;
        }
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "  problem: {problem}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        writeln!(f, "  a user who may do what is needed and nothing else:\n  {}", self.acl)
    }
}
