//! A connection for the commands of the command line's verbs, by the redis crate.
//!
//! Called by `dead` and `past`. The daemon's own ways have connections of their own kind.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisResult, Value};
use tokio::task::JoinSet;

use super::connection::{Connector, Link};
use super::stream::named;

/// Moves a connection's bytes, and ends with this.
pub(super) type Driver = JoinSet<()>;

/// Speak the redis crate's way over a connection that was greeted; each answer may take so long.
///
/// # Errors
/// When the connection ends right away.
pub(super) async fn over(
    link: Link,
    limit: Duration,
) -> RedisResult<(MultiplexedConnection, Driver)> {
    let Link { stream, resp3, .. } = link;
    let protocol = if resp3 { ProtocolVersion::RESP3 } else { ProtocolVersion::RESP2 };
    let info = RedisConnectionInfo::default().set_protocol(protocol).set_skip_set_lib_name();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(limit));
    let (connection, bytes) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    let mut driver = Driver::new();
    driver.spawn(bytes);
    Ok((connection, driver))
}

/// The node of a Redis Cluster that an answer sends us to.
pub(super) fn moved_to(answer: &Value, connector: &Connector) -> Option<Connector> {
    let Value::ServerError(error) = answer else { return None };
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    let (host, port) = named(&text)?;
    connector.at(host, port)
}
