//! What is looked at before a subscription is made: in which life of Redis's data nothing is stored yet.
//!
//! Called by the subscription, with each new connection. When Redis has lost its data, who is subscribed
//! can't find the place up to which all was done. But if it is still the same life then, and no place was
//! stored in it, nobody has handled anything of what came over that connection.

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
    let life = random();
    let commands = keys.iter().flat_map(|key| {
        let key = key.as_bytes();
        // Begun where there is none: it is another when this was deleted meanwhile.
        [
            vec![b"HSETNX".as_slice(), key, b"life", life.as_bytes()],
            vec![b"HGET".as_slice(), key, b"life"],
            vec![b"HGET".as_slice(), key, b"at"],
        ]
    });
    let commands: Vec<Vec<&[u8]>> = commands.collect();
    let commands: Vec<&[&[u8]]> = commands.iter().map(Vec::as_slice).collect();
    let replies = link.ask(&commands).await?;
    for (lane, replies) in lanes.iter().zip(replies.chunks(3)) {
        let life = match replies {
            [Reply::Number(_), Reply::Text(life), Reply::Other] => std::str::from_utf8(life).ok(),
            _ => None,
        };
        lane.look_at_life(life);
    }
    Ok(())
}
