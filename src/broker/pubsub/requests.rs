//! What a connection was asked, in order, and what is still to be asked.
//!
//! Redis answers in order, and an error doesn't say which name it is about: only the place tells.
//! Every confirmation carries Redis's own count of this connection's subscriptions, so subscribing
//! again to a name that is subscribed proves what PING doesn't: that Redis still has us down for
//! everything. Owned by a session; sees no bytes but the commands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::answer::Answer;
use super::roster::{Name, NameId, Roster, State};
use super::session::SessionEnd;
use super::wire::Wire;

/// Commands under way at once, and bytes of them: a pipeline that neither side must buffer much of.
const MOST_IN_FLIGHT: usize = 512;
const MOST_WAITING: usize = 64 << 10;

/// Names in one UNSUBSCRIBE.
const NAMES_TO_LEAVE: usize = 512;

/// Without any bytes for so long, a probe is sent; and even with them after the other.
const PROBE_WHEN_IDLE: Duration = Duration::from_millis(400);
const PROBE_WHEN_BUSY: Duration = Duration::from_secs(2);

/// Names that were refused are tried again so often.
const RETRY_REFUSED: Duration = Duration::from_secs(1);

/// Names in one line of the log.
const NAMES_TOLD: usize = 10;

/// The questions of one connection.
pub(super) struct Requests {
    connection: Arc<str>,
    /// Names to subscribe to.
    todo: VecDeque<NameId>,
    /// Commands without an answer.
    sent: VecDeque<Sent>,
    mending: Option<Mending>,
    /// All subscriptions are being ended.
    leaving: bool,
    departure: Departure,
    /// When Redis's count was last the right one.
    proven: Instant,
    probes_answered: u64,
    retry_at: Instant,
    /// Since the log last said it: names that were refused, and that no longer are.
    refused: Vec<(NameId, String)>,
    permitted: Vec<NameId>,
}

struct Sent {
    ask: Ask,
    at: Instant,
}

enum Ask {
    Subscribe(NameId),
    Ping,
    /// Unsubscribe from so many names.
    Leave(usize),
}

/// How far the subscriptions to names that are leaving have been ended.
enum Departure {
    /// Redis wasn't asked, or what it was asked is settled.
    Settled,
    /// Redis was asked.
    Asked,
    /// Redis was too busy to end all of them; to be asked again then.
    Busy(Instant),
}

/// All names are being subscribed to again, because Redis counts others than we do.
struct Mending {
    /// Redis's count, as of its last answer.
    count: i64,
    /// Names that it had lost.
    found: Vec<NameId>,
}

impl Requests {
    /// Of a new connection: all names are to be subscribed to.
    pub(super) fn new(connection: &Arc<str>, roster: &Roster, now: Instant) -> Self {
        Requests {
            connection: connection.clone(),
            todo: (0..roster.names().len()).collect(),
            sent: VecDeque::new(),
            mending: None,
            leaving: false,
            departure: Departure::Settled,
            proven: now,
            probes_answered: 0,
            retry_at: now + RETRY_REFUSED,
            refused: Vec::new(),
            permitted: Vec::new(),
        }
    }

    /// Whether everything was asked and answered.
    pub(super) fn done(&self) -> bool {
        self.todo.is_empty() && self.sent.is_empty()
    }

    /// Whether the connection has shown that it works beyond being opened.
    pub(super) fn healthy(&self) -> bool {
        self.probes_answered > 0
    }

    /// When Redis's count was last the right one.
    pub(super) fn proven(&self) -> Instant {
        self.proven
    }

    /// When the command was sent that has waited longest for its answer.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|sent| sent.at)
    }

    /// Put what is to be asked on the wire, as far as there may be more under way.
    pub(super) fn send(&mut self, wire: &mut Wire, roster: &Roster) {
        if self.todo.is_empty() {
            return;
        }
        let at = Instant::now();
        while self.sent.len() < MOST_IN_FLIGHT && wire.waiting() < MOST_WAITING {
            let Some(id) = self.todo.pop_front() else { break };
            let name = &roster.names()[id];
            wire.command(&[name.command().as_bytes(), name.text.as_bytes()]);
            self.sent.push_back(Sent { ask: Ask::Subscribe(id), at });
        }
    }

    /// Ask again what was refused, or for a proof, when it is time. `heard` is when bytes came last.
    pub(super) fn tick(&mut self, wire: &mut Wire, roster: &Roster, heard: Instant, now: Instant) {
        if !self.done() || self.leaving {
            return;
        }
        if roster.refused() > 0 && now >= self.retry_at {
            self.todo.extend(roster.in_state(State::Refused).filter(|&id| roster.is_wanted(id)));
            self.retry_at = now + RETRY_REFUSED;
            return;
        }
        let idle = now.saturating_duration_since(heard) >= PROBE_WHEN_IDLE;
        if !idle && now.saturating_duration_since(self.proven) < PROBE_WHEN_BUSY {
            return;
        }
        match roster.in_state(State::Confirmed).next() {
            Some(id) => self.todo.push_back(id),
            None => {
                wire.command(&[b"PING"]);
                self.sent.push_back(Sent { ask: Ask::Ping, at: now });
            }
        }
    }

    /// The roster was made anew: names have other ids (`moved`), and those without an old one are to
    /// be subscribed to.
    pub(super) fn moved(&mut self, moved: &[Option<NameId>], roster: &Roster) {
        let mut is_new = vec![true; roster.names().len()];
        moved.iter().flatten().for_each(|&id| is_new[id] = false);
        self.todo = self.todo.iter().filter_map(|&id| moved[id]).collect();
        self.todo.extend((0..is_new.len()).filter(|&id| is_new[id]));
        for sent in &mut self.sent {
            if let Ask::Subscribe(id) = &mut sent.ask {
                // Nothing is forgotten while it is being asked for.
                *id = moved[*id].expect("a name in a command under way is in the roster");
            }
        }
        if let Some(mending) = &mut self.mending {
            mending.found = mending.found.iter().filter_map(|&id| moved[id]).collect();
        }
        let refused = std::mem::take(&mut self.refused).into_iter();
        self.refused = refused.filter_map(|(id, text)| Some((moved[id]?, text))).collect();
        self.permitted = self.permitted.iter().filter_map(|&id| moved[id]).collect();
    }

    /// Ask for one answer more: when it has come, so has all that Redis had sent before.
    pub(super) fn prove(&mut self, roster: &Roster) {
        self.todo.extend(roster.in_state(State::Confirmed).find(|&id| roster.is_wanted(id)));
    }

    /// Go on with ending the subscriptions to the names that are leaving; only when [`Self::done`].
    /// `true` when nothing of that is left to be asked or answered.
    pub(super) fn depart(&mut self, wire: &mut Wire, roster: &Roster, now: Instant) -> bool {
        match self.departure {
            Departure::Busy(until) if now < until => return false,
            Departure::Asked => {
                self.departure = Departure::Settled;
                return true;
            }
            Departure::Settled | Departure::Busy(_) => {}
        }
        let subscribed = roster.leaving().filter(|&id| roster.state(id) == State::Confirmed);
        let names: Vec<&Name> = subscribed.map(|id| &roster.names()[id]).collect();
        self.departure = if names.is_empty() { Departure::Settled } else { Departure::Asked };
        self.unsubscribe(wire, &names);
        names.is_empty()
    }

    /// End all subscriptions. [`Self::done`] when Redis has confirmed it.
    pub(super) fn leave(&mut self, wire: &mut Wire, roster: &Roster) {
        self.leaving = true;
        self.todo.clear();
        self.mending = None;
        self.unsubscribe(wire, &roster.names().iter().collect::<Vec<_>>());
    }

    fn unsubscribe(&mut self, wire: &mut Wire, names: &[&Name]) {
        let at = Instant::now();
        for (pattern, command) in [(false, b"UNSUBSCRIBE".as_slice()), (true, b"PUNSUBSCRIBE")] {
            // By their names: without any, the answer on a connection without subscriptions is of
            // another shape.
            let names = names.iter().filter(|name| name.pattern == pattern);
            let names: Vec<&[u8]> = names.map(|name| name.text.as_bytes()).collect();
            for names in names.chunks(NAMES_TO_LEAVE) {
                let mut parts = vec![command];
                parts.extend(names);
                wire.command(&parts);
                self.sent.push_back(Sent { ask: Ask::Leave(names.len()), at });
            }
        }
    }

    /// Take note of an answer. `find` looks a name (or pattern) up.
    ///
    /// # Errors
    /// How the session ends, if it must.
    pub(super) fn answer(
        &mut self,
        answer: Answer,
        roster: &mut Roster,
        find: impl Fn(bool, &[u8]) -> Option<NameId>,
        now: Instant,
    ) -> Result<(), SessionEnd> {
        match answer {
            Answer::Subscribed { pattern, name, count } => {
                match (self.sent.front(), find(pattern, &name)) {
                    (Some(Sent { ask: Ask::Subscribe(asked), .. }), Some(id)) if *asked == id => {
                        self.sent.pop_front();
                        self.confirmed(id, count, roster, now);
                    }
                    // Not asked for: Redis's count will tell what it did.
                    _ => return Ok(()),
                }
            }
            Answer::Unsubscribed { pattern, name } => {
                let id = find(pattern, &name);
                let asked = self.leaving || id.is_some_and(|id| !roster.is_wanted(id));
                match self.sent.front_mut() {
                    Some(Sent { ask: Ask::Leave(left), .. }) if asked => {
                        *left -= 1;
                        if *left == 0 {
                            self.sent.pop_front();
                        }
                        if let Some(id) = id.filter(|_| !self.leaving) {
                            roster.set(id, State::Missing, now);
                        }
                    }
                    _ => id.into_iter().for_each(|id| self.ended(id, roster, now)),
                }
            }
            Answer::Error(text) => self.refused(text, roster, now),
            Answer::Reply => match self.sent.front() {
                Some(Sent { ask: Ask::Ping, .. }) => {
                    self.sent.pop_front();
                    self.proven = now;
                    self.probes_answered += 1;
                }
                _ => self.refused("an answer of another kind".to_owned(), roster, now),
            },
            Answer::Push => {}
        }
        if self.done() { self.round_done(roster, now) } else { Ok(()) }
    }

    fn confirmed(&mut self, id: NameId, count: i64, roster: &mut Roster, now: Instant) {
        let before = roster.state(id);
        roster.set(id, State::Confirmed, now);
        if before == State::Refused || roster.names()[id].refusal_told {
            self.permitted.push(id);
        }
        if let Some(mending) = &mut self.mending {
            if count > mending.count && before == State::Confirmed {
                mending.found.push(id);
                roster.charge(id, now.saturating_duration_since(self.proven));
            }
            mending.count = count;
            return;
        }
        if count == roster.confirmed() as i64 {
            self.proven = now;
            self.probes_answered += u64::from(before == State::Confirmed);
        } else if !self.leaving {
            warn!(
                connection = %self.connection,
                "Redis counts {count} subscriptions of ours where it has confirmed {}; \
                 subscribing to all again",
                roster.confirmed()
            );
            self.mending = Some(Mending { count, found: Vec::new() });
            self.todo.extend((0..roster.names().len()).filter(|&id| match roster.state(id) {
                State::Confirmed => true,
                State::Missing => roster.is_wanted(id),
                State::Refused => false,
            }));
        }
    }

    /// A subscription ended that we didn't end.
    fn ended(&mut self, id: NameId, roster: &mut Roster, now: Instant) {
        if self.leaving || roster.state(id) != State::Confirmed {
            return;
        }
        if !roster.is_wanted(id) {
            return roster.set(id, State::Missing, now);
        }
        warn!(
            connection = %self.connection,
            "Redis ended the subscription to {:?}; subscribing again", roster.names()[id].text
        );
        roster.set(id, State::Missing, now);
        self.todo.push_back(id);
    }

    /// An error, or nonsense, in answer to the oldest command.
    fn refused(&mut self, text: String, roster: &mut Roster, now: Instant) {
        match self.sent.pop_front().map(|sent| sent.ask) {
            // The subscription is there; only asking again is refused, by a Redis that is busy with a
            // script, say. That proves nothing, for or against.
            Some(Ask::Subscribe(id)) if roster.state(id) == State::Confirmed => {
                debug!(connection = %self.connection, "Redis answers a probe: {text}");
            }
            Some(Ask::Subscribe(id)) => {
                roster.set(id, State::Refused, now);
                if !roster.names()[id].refusal_told {
                    self.refused.push((id, text));
                }
            }
            // Whatever it says, it is an answer.
            Some(Ask::Ping) => {
                self.proven = now;
                self.probes_answered += 1;
            }
            Some(Ask::Leave(_)) if self.leaving => {}
            // Nothing is published while a script keeps Redis busy.
            Some(Ask::Leave(_)) if text.starts_with("BUSY") => {
                self.departure = Departure::Busy(now + RETRY_REFUSED);
            }
            Some(Ask::Leave(_)) => warn!(
                connection = %self.connection,
                "Redis refuses to end subscriptions that are no longer wanted: {text}; its user needs \
                 +unsubscribe and +punsubscribe. What it sends of them is not taken"
            ),
            None => warn!(connection = %self.connection, "Redis says, unasked: {text}"),
        }
    }

    fn round_done(&mut self, roster: &mut Roster, now: Instant) -> Result<(), SessionEnd> {
        self.tell(roster);
        let Some(mending) = self.mending.take() else { return Ok(()) };
        if mending.count != roster.confirmed() as i64 {
            return Err(SessionEnd::Astray {
                counted: mending.count,
                confirmed: roster.confirmed(),
            });
        }
        if !mending.found.is_empty() {
            warn!(
                connection = %self.connection,
                "Redis had lost subscriptions to {}: their messages of up to {:.1} s are missing",
                listed(mending.found.iter().map(|id| &roster.names()[*id])),
                now.saturating_duration_since(self.proven).as_secs_f32()
            );
        }
        self.proven = now;
        Ok(())
    }

    /// Say in the log which names are refused since the last time, and which no longer are.
    fn tell(&mut self, roster: &mut Roster) {
        let refused = std::mem::take(&mut self.refused);
        // One line for each text that Redis gave.
        let mut by_text: Vec<(&str, Vec<NameId>)> = Vec::new();
        for (id, text) in &refused {
            match by_text.iter_mut().find(|(known, _)| known == text) {
                Some((_, ids)) => ids.push(*id),
                None => by_text.push((text, vec![*id])),
            }
        }
        for (text, ids) in by_text {
            let hint = if text.starts_with("NOPERM") {
                "; its user needs +subscribe and +psubscribe, and `&NAME` for each name"
            } else {
                ""
            };
            warn!(
                connection = %self.connection,
                "Redis refuses {}: {text}{hint}; it is asked again every second",
                listed(ids.iter().map(|id| &roster.names()[*id])),
            );
        }
        refused.iter().for_each(|(id, _)| roster.name_mut(*id).refusal_told = true);

        let mut permitted = std::mem::take(&mut self.permitted);
        permitted.retain(|id| std::mem::take(&mut roster.name_mut(*id).refusal_told));
        if !permitted.is_empty() {
            info!(
                connection = %self.connection,
                "Redis permits {} now",
                listed(permitted.iter().map(|id| &roster.names()[*id]))
            );
        }
    }
}

/// `SUBSCRIBE "a", PSUBSCRIBE "b.*" and 3 more`
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a Name>) -> String {
    let more = names.len().saturating_sub(NAMES_TOLD);
    let mut text = names
        .take(NAMES_TOLD)
        .map(|name| format!("{} {:?}", name.command(), name.text))
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}
