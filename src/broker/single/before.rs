//! What is looked at before a subscription is made: whether no place is stored yet.
//!
//! Called by the subscription, with each new connection. When Redis has lost its data, who is subscribed
//! can't find the place up to which all was done. So a name is stored for that nothing was ever written,
//! which whoever writes a place makes empty: as long as it is the same, nobody has handled anything of what
//! came over that connection. Where somebody deletes fields by hand, it isn't.

use std::io;
use std::sync::Arc;

use super::{Lane, state_key};
use crate::broker::connection::{Link, Reply};
use crate::broker::stream::random;

/// Look, for these channels, and tell them. Where Redis refuses, nothing is known, which is no error.
///
/// # Errors
/// When the connection breaks.
pub async fn look_before(link: &mut Link, lanes: &[Arc<Lane>]) -> io::Result<()> {
    let keys: Vec<String> = lanes.iter().map(|lane| state_key(lane.name())).collect();
    let new = random();
    let commands = keys.iter().flat_map(|key| {
        let key = key.as_bytes();
        [
            vec![b"HSETNX".as_slice(), key, b"unwritten", new.as_bytes()],
            vec![b"HGET".as_slice(), key, b"unwritten"],
            vec![b"HGET".as_slice(), key, b"at"],
        ]
    });
    let commands: Vec<Vec<&[u8]>> = commands.collect();
    let commands: Vec<&[&[u8]]> = commands.iter().map(Vec::as_slice).collect();
    let replies = link.ask(&commands).await?;
    for (lane, replies) in lanes.iter().zip(replies.chunks(3)) {
        let unwritten = match replies {
            [Reply::Number(_), Reply::Text(name), Reply::Other] => std::str::from_utf8(name).ok(),
            _ => None,
        };
        lane.look_unwritten(unwritten.filter(|name| !name.is_empty()));
    }
    Ok(())
}
