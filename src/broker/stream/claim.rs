//! Taking up entries that are pending already: this consumer's own, and those that others left.

use super::conn::{ANSWER, Conn};
use super::entry::{EACH, OVERHEAD, Taken, take};
use super::reader::{Own, Reader, Room};
use super::script::Script;
use super::trouble::{State, Trouble};
use crate::broker::resp::Node;
use crate::config::EntryId;
use crate::failpoint::{Step, reach};
use crate::telemetry::DropReason;

/// What a claim brought.
struct Claimed {
    /// The last id that was looked at, when there may be more.
    last: Vec<u8>,
    trimmed: u64,
    /// How many rows of the pending list were looked at.
    looked: usize,
    taken: Vec<Taken>,
}

impl Reader {
    /// Take up entries in this consumer's name that aren't in hand.
    pub(super) async fn take_up_own(
        &mut self,
        conn: &mut Conn,
        (from, add, tried): (Vec<u8>, u8, usize),
        room: Room,
    ) -> Result<(), Trouble> {
        // Those of a try whose answer was lost have been counted by that, if it was carried out.
        let entries = if tried > 0 { room.entries.min(tried) } else { room.entries };
        let add_now = if tried > 0 { 0 } else { add };
        // What was let go by a fault waits, as another consumer's would.
        let given_up = self.lane.given_up();
        let room = Room { entries, ..room };
        let claimed = match self.take_pending(conn, b"", &from, room, add_now, &given_up).await {
            Ok(claimed) => claimed,
            Err(trouble) => {
                if trouble.state == State::RedisAway {
                    self.own = Own::Left { from, add, tried: tried.max(entries) };
                }
                return Err(trouble);
            }
        };
        self.own = match claimed.last.is_empty() {
            true => Own::Taken,
            false => Own::Left {
                from: [b"(", claimed.last.as_slice()].concat(),
                add,
                tried: tried.saturating_sub(claimed.looked),
            },
        };
        if !claimed.taken.is_empty() {
            reach(Step::OwnTaken);
        }
        self.take_over(claimed);
        Ok(())
    }

    /// Take over what nobody has worked at for `claim_idle`.
    pub(super) async fn claim_stale(&mut self, conn: &mut Conn, room: Room) -> Result<(), Trouble> {
        let idle = self.lane.settings.claim_idle.as_millis().to_string();
        let claimed = self.take_pending(conn, idle.as_bytes(), b"-", room, 1, &[]).await?;
        self.lane.metrics.stream.claimed.add(claimed.taken.len() as u64);
        // There may be more, now that these are not idle any more.
        if !claimed.last.is_empty() && !claimed.taken.is_empty() {
            self.claim.now();
        }
        if !claimed.taken.is_empty() {
            reach(Step::Claimed);
        }
        self.take_over(claimed);
        Ok(())
    }

    fn take_over(&mut self, claimed: Claimed) {
        self.lane.metrics.lost(DropReason::Trimmed, claimed.trimmed);
        self.lane.metrics.stream.redelivered.add(claimed.taken.len() as u64);
        self.hand_on(claimed.taken);
    }

    async fn take_pending(
        &mut self,
        conn: &mut Conn,
        idle: &[u8],
        from: &[u8],
        room: Room,
        add: u8,
        without: &[EntryId],
    ) -> Result<Claimed, Trouble> {
        let settings = &self.lane.settings;
        let [bytes, overhead, each] = [room.bytes, OVERHEAD, EACH].map(|n| n.to_string());
        let (room, add) = (room.entries.to_string(), add.to_string());
        let most = settings.max_deliveries.to_string();
        let held = self.lane.held();
        let held: Vec<String> = held.iter().chain(without).map(EntryId::to_string).collect();
        let mut arguments = vec![
            settings.group.as_bytes(),
            settings.consumer.as_bytes(),
            idle,
            from,
            room.as_bytes(),
            add.as_bytes(),
            most.as_bytes(),
            bytes.as_bytes(),
            overhead.as_bytes(),
            each.as_bytes(),
        ];
        arguments.extend(held.iter().map(String::as_bytes));
        let keys = [self.lane.key.as_bytes()];
        let lane = &self.lane;
        let read = |answer: Node<'_>| {
            let items = answer.items();
            let entry = |node: &Node<'_>| match node.items().as_slice() {
                [id, attempt, fields] => {
                    let attempt = attempt.integer().unwrap_or(1).max(1);
                    take(lane, *id, *fields, attempt.try_into().unwrap_or(u32::MAX))
                }
                _ => None,
            };
            Claimed {
                last: items.first().and_then(|n| n.string()).unwrap_or_default().to_vec(),
                trimmed: items.get(1).and_then(|n| n.integer()).unwrap_or(0) as u64,
                looked: items.get(2).and_then(|n| n.integer()).unwrap_or(0) as usize,
                taken: items.iter().skip(3).filter_map(entry).collect(),
            }
        };
        self.scripts.call(conn, Script::Claim, &keys, &arguments, ANSWER, read).await
    }
}
