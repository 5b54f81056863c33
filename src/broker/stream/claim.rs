//! Taking up entries that are pending already: this consumer's own, and those that others left.

use super::conn::{ANSWER, Conn};
use super::entry::{Taken, take};
use super::reader::{Own, Reader};
use super::script::Script;
use super::trouble::Trouble;
use crate::broker::resp::Node;
use crate::config::EntryId;
use crate::telemetry::DropReason;

/// What a claim brought.
struct Claimed {
    /// The last id that was looked at, when there may be more.
    last: Vec<u8>,
    trimmed: u64,
    taken: Vec<Taken>,
}

impl Reader {
    /// Take up entries in this consumer's name that aren't in hand.
    pub(super) async fn take_up_own(
        &mut self,
        conn: &mut Conn,
        from: &[u8],
        add: u8,
        room: usize,
    ) -> Result<(), Trouble> {
        // What was let go by a fault waits, as another consumer's would.
        let given_up = self.lane.given_up();
        let claimed = self.take_pending(conn, b"", from, room, add, &given_up).await?;
        self.own = match claimed.last.is_empty() {
            true => Own::Taken,
            false => Own::Left { from: [b"(", claimed.last.as_slice()].concat(), add },
        };
        self.take_over(claimed);
        Ok(())
    }

    /// Take over what nobody has worked at for `claim_idle`.
    pub(super) async fn claim_stale(
        &mut self,
        conn: &mut Conn,
        room: usize,
    ) -> Result<(), Trouble> {
        let idle = self.lane.settings.claim_idle.as_millis().to_string();
        let claimed = self.take_pending(conn, idle.as_bytes(), b"-", room, 1, &[]).await?;
        self.lane.metrics.stream.claimed.add(claimed.taken.len() as u64);
        // There may be more, now that these are not idle any more.
        if !claimed.last.is_empty() && !claimed.taken.is_empty() {
            self.claim.now();
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
        room: usize,
        add: u8,
        without: &[EntryId],
    ) -> Result<Claimed, Trouble> {
        let settings = &self.lane.settings;
        let (room, add) = (room.to_string(), add.to_string());
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
                taken: items.iter().skip(2).filter_map(entry).collect(),
            }
        };
        self.scripts.call(conn, Script::Claim, &keys, &arguments, ANSWER, read).await
    }
}
