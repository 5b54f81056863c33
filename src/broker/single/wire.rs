//! What is asked of Redis for a channel that is single: four scripts, and what they answer.

use std::time::Duration;

use super::lane::Lane;
use super::place::Mark;
use super::state::Item;
use super::{NO_CLUSTER, lease_key, state_key};
use crate::broker::connection::Connector;
use crate::broker::resp::{Node, bulk};
use crate::broker::stream::{ANSWER, Arguments, Conn, Script, Scripts, State, Trouble, random};

/// How long the lease lasts without being renewed.
pub(super) const LEASE: Duration = Duration::from_millis(1500);

/// A connection, with the names that belong to the channel.
pub(super) struct Wire {
    conn: Conn,
    scripts: Scripts,
    lease: String,
    state: String,
    token: String,
    channel: String,
    arguments: Arguments,
}

/// What is known of the lease.
pub(super) struct Lease {
    /// It is ours.
    pub(super) is_ours: bool,
    /// How long it lasts unless it is renewed; none where nobody has it.
    pub(super) left: Option<Duration>,
    /// Up to where all is done.
    pub(super) place: Option<String>,
    /// How long ago all that had been published was done, if that is known.
    pub(super) age: Option<Duration>,
    /// What it is called that nothing was ever written, if that is so.
    pub(super) unwritten: Option<String>,
}

/// What became of a batch.
pub(super) enum Finished {
    /// It was written; these of all writes were refused, the first being 0, and the last one for this
    /// reason.
    Written { refused: Vec<usize>, why: Vec<u8> },
    /// Nothing was written: the lease isn't ours, or was another's meanwhile.
    NotOurs,
}

impl Wire {
    pub(super) async fn open(connector: &Connector, lane: &Lane) -> Result<Self, Trouble> {
        let name = &lane.name;
        let conn = Conn::open(connector).await?;
        if conn.is_cluster() {
            return Err(Trouble::new(State::Cluster, NO_CLUSTER));
        }
        Ok(Wire {
            conn,
            scripts: Scripts::default(),
            lease: lease_key(name),
            state: state_key(name),
            token: lane.token.clone(),
            channel: lane.mark_channel().to_string(),
            arguments: Arguments::default(),
        })
    }

    /// Renew the lease if it is ours. If it is nobody's, take it where `wanted`. `done`: that nothing
    /// waits to be handled is noted with the time.
    pub(super) async fn lease(&mut self, wanted: bool, done: bool) -> Result<Lease, Trouble> {
        let flag = |set: bool| -> &[u8] { if set { b"1" } else { b"0" } };
        let ttl = LEASE.as_millis().to_string();
        let arguments = [self.token.as_bytes(), ttl.as_bytes(), flag(wanted), flag(done)];
        let keys = [self.lease.as_bytes(), self.state.as_bytes()];
        let read = |answer: Node<'_>| {
            let items = answer.items();
            let number = |i: usize| items.get(i).and_then(|n| n.integer()).unwrap_or(0);
            let ms = |i: usize| u64::try_from(number(i)).ok().map(Duration::from_millis);
            let text = |i: usize| {
                let text = items.get(i).and_then(|text| text.string());
                let text = text.map(|text| String::from_utf8_lossy(text).into_owned());
                text.filter(|text| !text.is_empty())
            };
            Lease {
                is_ours: number(0) == 1,
                left: ms(1),
                place: text(2),
                age: ms(3),
                unwritten: text(4),
            }
        };
        let (conn, script) = (&mut self.conn, Script::SingleLease);
        self.scripts.call(conn, script, &keys, &arguments, ANSWER, read).await
    }

    /// Publish a mark.
    pub(super) async fn mark(&mut self) -> Result<Mark, Trouble> {
        // Another for each: the same daemon may begin two lives of Redis's data.
        let life = random();
        let arguments = [life.as_bytes(), self.channel.as_bytes()];
        let keys = [self.state.as_bytes()];
        let read = |answer: Node<'_>| {
            let text = answer.string().and_then(|text| std::str::from_utf8(text).ok());
            text.and_then(Mark::parse)
        };
        let (conn, script) = (&mut self.conn, Script::SingleMark);
        let mark = self.scripts.call(conn, script, &keys, &arguments, ANSWER, read).await?;
        mark.ok_or_else(|| Trouble::new(State::Refused, "a mark was answered without a number"))
    }

    /// Give the lease back, and tell the others.
    pub(super) async fn release(&mut self) -> Result<(), Trouble> {
        let arguments = [self.token.as_bytes(), self.channel.as_bytes()];
        let keys = [self.lease.as_bytes()];
        let (conn, script) = (&mut self.conn, Script::SingleRelease);
        self.scripts.call(conn, script, &keys, &arguments, ANSWER, |_| ()).await
    }

    /// Write outputs, and that all is done up to `place`, if the lease is ours and all is done up to
    /// `before` by now. What is behind `place` came so long ago (`lag`) at most.
    pub(super) async fn finish(
        &mut self,
        items: &[Item],
        before: Option<&str>,
        place: &str,
        lag: Duration,
    ) -> Result<Finished, Trouble> {
        let Wire { conn, scripts, lease, state, token, arguments, .. } = self;
        arguments.clear();
        items.iter().for_each(|item| arguments.add_plain(&item.finish));
        let [ttl, lag] = [LEASE, lag].map(|time| time.as_millis().to_string());
        let before = before.unwrap_or_default();
        let (keys, own) = ([&**lease, &**state], [&**token, &*ttl, place, before, &*lag]);
        let parts = 1 + keys.len() + own.len() + arguments.plain_parts();
        let write = |out: &mut Vec<u8>| {
            bulk(out, keys.len().to_string().as_bytes());
            keys.iter().chain(&own).for_each(|part| bulk(out, part.as_bytes()));
            arguments.put_plain(out);
        };
        let read = |answer: Node<'_>| {
            let items = answer.items();
            let number = |i: usize| items.get(i).and_then(|n| n.integer()).unwrap_or(0);
            match number(0) {
                0 => Finished::NotOurs,
                _ => Finished::Written {
                    refused: (2..items.len())
                        .map(|i| (number(i) as usize).saturating_sub(1))
                        .collect(),
                    why: items.get(1).and_then(|n| n.string()).unwrap_or_default().to_vec(),
                },
            }
        };
        scripts.run(conn, Script::SingleFinish, parts, write, ANSWER, read).await
    }
}
