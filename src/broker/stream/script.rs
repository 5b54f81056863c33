//! The scripts: loaded when a connection needs them first, and again when Redis has forgotten them.

use std::time::Duration;

use super::conn::Conn;
use super::trouble::{State, Trouble};
use crate::broker::resp::{Node, bulk};

/// A script, by the name it stands in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Script {
    Finish,
    Claim,
    Renew,
    Release,
    Forget,
    Look,
    SingleLease,
    SingleMark,
    SingleRelease,
    SingleFinish,
}

impl Script {
    fn text(self) -> &'static str {
        match self {
            Script::Finish => include_str!("finish.lua"),
            Script::Claim => include_str!("claim.lua"),
            Script::Renew => include_str!("renew.lua"),
            Script::Release => include_str!("release.lua"),
            Script::Forget => include_str!("forget.lua"),
            Script::Look => include_str!("look.lua"),
            Script::SingleLease => include_str!("../single/lease.lua"),
            Script::SingleMark => include_str!("../single/mark.lua"),
            Script::SingleRelease => include_str!("../single/release.lua"),
            Script::SingleFinish => include_str!("../single/finish.lua"),
        }
    }
}

/// What Redis calls the scripts it has been told.
#[derive(Default)]
pub(in crate::broker) struct Scripts {
    known: [Option<Vec<u8>>; 10],
}

impl Scripts {
    /// Run one; `write` appends all that follows the script's name in the command, of `parts` parts.
    pub(in crate::broker) async fn run<T>(
        &mut self,
        conn: &mut Conn,
        script: Script,
        parts: usize,
        write: impl Fn(&mut Vec<u8>),
        limit: Duration,
        read: impl Fn(Node<'_>) -> T,
    ) -> Result<T, Trouble> {
        loop {
            let loaded = self.known[script as usize].take();
            let was_known = loaded.is_some();
            let name = match loaded {
                Some(name) => name,
                None => load(conn, script, limit).await?,
            };
            let command = |out: &mut Vec<u8>| {
                out.extend_from_slice(format!("*{}\r\n", parts + 2).as_bytes());
                bulk(out, b"EVALSHA");
                bulk(out, &name);
                write(out);
            };
            let answer = conn.ask_raw(command, limit, &read).await;
            match answer {
                // Forgotten by SCRIPT FLUSH or a restart.
                Err(trouble) if trouble.state == State::NoScript && was_known => continue,
                Err(trouble) if trouble.state == State::NoScript => return Err(trouble),
                answer => {
                    self.known[script as usize] = Some(name);
                    return answer;
                }
            }
        }
    }

    /// Run one with these keys and arguments.
    pub(in crate::broker) async fn call<T>(
        &mut self,
        conn: &mut Conn,
        script: Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        limit: Duration,
        read: impl Fn(Node<'_>) -> T,
    ) -> Result<T, Trouble> {
        let write = |out: &mut Vec<u8>| {
            bulk(out, keys.len().to_string().as_bytes());
            keys.iter().chain(arguments).for_each(|part| bulk(out, part));
        };
        let parts = 1 + keys.len() + arguments.len();
        self.run(conn, script, parts, write, limit, read).await
    }
}

async fn load(conn: &mut Conn, script: Script, limit: Duration) -> Result<Vec<u8>, Trouble> {
    let command: [&[u8]; 3] = [b"SCRIPT", b"LOAD", script.text().as_bytes()];
    let name = conn.ask(&command, limit, |answer| answer.string().map(<[u8]>::to_vec)).await?;
    name.ok_or_else(|| Trouble::new(State::Refused, "SCRIPT LOAD was answered without a name"))
}
