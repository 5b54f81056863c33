//! What can be wrong with a stream: each state has a name, is counted, and is waited out with pauses.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;

use crate::broker::backoff::backoff;
use crate::broker::connection::ConnectError;
use crate::telemetry::{ChannelMetrics, StreamTrouble, printable};

/// Pauses between tries, as for a subscription: entries flow again within 3 s of the cause's end.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// While a state lasts: how often it is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Bytes of Redis's text that are logged.
const SHOWN: usize = 400;

/// The name of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No connection, or none that answers.
    RedisAway,
    /// The group isn't there (any more).
    NoGroup,
    /// The group is new, the stream isn't empty, and `start` isn't set.
    Start,
    /// A key holds something else.
    WrongType,
    /// The ACL forbids it.
    NoPermission,
    /// Redis is at its maxmemory.
    OutOfMemory,
    /// This Redis is a replica.
    ReadOnly,
    /// Redis is reading its data.
    Loading,
    /// This Redis is a replica that has lost its master.
    MasterDown,
    /// A waiting read was ended: the stream was deleted.
    Unblocked,
    /// `when_done = "delete"`, and another group reads the stream.
    OtherGroup,
    /// A stream has used up its ids.
    Exhausted,
    /// Keys of different slots of a Cluster.
    OtherSlot,
    /// Another node of the Cluster has the slot; it is followed there.
    Moved,
    /// The slot is on its way from one node of the Cluster to another.
    Moving,
    /// What is to be done can't be done in a Cluster.
    Cluster,
    /// The Cluster has no majority, or the slot no node.
    ClusterDown,
    /// Redis can't save.
    CannotSave,
    /// Redis has too few replicas.
    NoReplicas,
    /// A script of somebody's runs for too long.
    Busy,
    /// A script isn't known; it is loaded again.
    NoScript,
    /// Any other error.
    Refused,
}

impl State {
    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            State::RedisAway => "redis_away",
            State::NoGroup => "no_group",
            State::Start => "start",
            State::WrongType => "wrong_type",
            State::NoPermission => "no_permission",
            State::OutOfMemory => "out_of_memory",
            State::ReadOnly => "read_only",
            State::Loading => "loading",
            State::MasterDown => "master_down",
            State::Unblocked => "unblocked",
            State::OtherGroup => "other_group",
            State::Exhausted => "exhausted",
            State::OtherSlot => "other_slot",
            State::Moved => "moved",
            State::Moving => "moving",
            State::Cluster => "cluster",
            State::ClusterDown => "cluster_down",
            State::CannotSave => "cannot_save",
            State::NoReplicas => "no_replicas",
            State::Busy => "busy",
            State::NoScript => "no_script",
            State::Refused => "refused",
        }
    }

    /// By the code that Redis's text begins with, or, out of a script of Redis 6.2, contains.
    fn of(text: &str) -> Self {
        const CODES: [(&str, State); 20] = [
            ("NOGROUP", State::NoGroup),
            ("WRONGTYPE", State::WrongType),
            ("NOPERM", State::NoPermission),
            ("OOM", State::OutOfMemory),
            ("READONLY", State::ReadOnly),
            ("LOADING", State::Loading),
            ("MASTERDOWN", State::MasterDown),
            ("UNBLOCKED", State::Unblocked),
            ("OTHERGROUP", State::OtherGroup),
            ("EXHAUSTED", State::Exhausted),
            ("CROSSSLOT", State::OtherSlot),
            ("MOVED", State::Moved),
            ("ASK", State::Moving),
            ("TRYAGAIN", State::Moving),
            ("CLUSTERDOWN", State::ClusterDown),
            ("MISCONF", State::CannotSave),
            ("NOREPLICAS", State::NoReplicas),
            ("BUSY", State::Busy),
            ("NOSCRIPT", State::NoScript),
            ("exhausted", State::Exhausted),
        ];
        let word = |word: &str| word.trim_matches(|c: char| !c.is_ascii_alphabetic()).to_owned();
        let known = |word: &str| CODES.iter().find(|(code, _)| *code == word).map(|(_, s)| *s);
        let mut words = text.split_ascii_whitespace().map(word);
        match words.next().as_deref().map(known) {
            Some(Some(state)) => state,
            // From 7.0 on Redis has no code for what a script may not do; the second is of 7.2.
            _ if text.contains("The user executing the script can't")
                || text.contains("ACL failure in script") =>
            {
                State::NoPermission
            }
            _ => words.find_map(|word| known(&word)).unwrap_or(State::Refused),
        }
    }

    fn advice(self) -> &'static str {
        match self {
            State::Start => "; set `start` of this channel to \"new\", \"oldest\" or an id",
            State::NoPermission => "; `handlerd check --connect` prints the ACL line that would do",
            State::WrongType => "; use another key, or rename that one",
            State::OutOfMemory => "; it is at its maxmemory: raise it",
            State::ReadOnly => "; this Redis is a replica: name its master in the connection's url",
            State::OtherGroup => "; write when_done = \"ack\", or remove the other group",
            State::Exhausted => "; only a new stream helps: use another key, or rename that one",
            State::OtherSlot => {
                "; in a Redis Cluster the stream and its outputs must be in one slot: give them a \
                 common {tag}"
            }
            State::Moving => "; the slot is being moved to another node of the Redis Cluster",
            State::CannotSave => "; Redis's log says why",
            _ => "",
        }
    }

    /// Whether another connection may find another Redis, or this one as it was before.
    pub(in crate::broker) fn wants_new_connection(self) -> bool {
        matches!(
            self,
            State::RedisAway
                | State::ReadOnly
                | State::Loading
                | State::MasterDown
                | State::Busy
                | State::Moved
                | State::ClusterDown
        )
    }
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its name.
    pub state: State,
    /// What was said.
    pub text: String,
}

impl Trouble {
    pub(in crate::broker) fn new(state: State, text: impl Into<String>) -> Self {
        Trouble { state, text: text.into() }
    }

    /// Redis's error.
    pub(in crate::broker) fn refused(text: &[u8]) -> Self {
        let text = printable(text, SHOWN);
        Trouble { state: State::of(&text), text }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, self.state.advice())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => "Redis closed the connection".to_owned(),
            _ => error.to_string(),
        };
        Trouble::new(State::RedisAway, text)
    }
}

impl From<ConnectError> for Trouble {
    fn from(error: ConnectError) -> Self {
        let state = match &error {
            ConnectError::Refused { answer, .. } => match State::of(answer) {
                State::Refused => State::RedisAway,
                state => state,
            },
            _ => State::RedisAway,
        };
        Trouble::new(state, error.to_string())
    }
}

/// What one task goes through: says and counts each state, and knows how long to wait.
pub(in crate::broker) struct Journal {
    /// "stream" or "lease".
    what: &'static str,
    table: Arc<str>,
    key: Arc<str>,
    /// "read" or "finish".
    doing: &'static str,
    metrics: Arc<ChannelMetrics>,
    pauses: ExponentialBackoff,
    /// The trouble there is, since when, and when it was said last.
    now: Option<(Trouble, Instant, Instant)>,
    /// Nothing is said of trouble to who looks from outside.
    works: bool,
}

impl Journal {
    pub(in crate::broker) fn new(
        table: &Arc<str>,
        key: &Arc<str>,
        doing: &'static str,
        metrics: &Arc<ChannelMetrics>,
    ) -> Self {
        Journal {
            what: "stream",
            table: table.clone(),
            key: key.clone(),
            doing,
            metrics: metrics.clone(),
            pauses: backoff(FIRST_PAUSE, LAST_PAUSE),
            now: None,
            works: true,
        }
    }

    /// Of a channel that is single.
    pub(in crate::broker) fn of_lease(
        table: &Arc<str>,
        lease: &Arc<str>,
        metrics: &Arc<ChannelMetrics>,
    ) -> Self {
        let doing = "keep the lease and finish messages";
        Journal { what: "lease", ..Journal::new(table, lease, doing, metrics) }
    }

    /// It is yet to be seen whether it works.
    pub(super) fn begin(&mut self) {
        self.tell(true, format!("can't {} yet", self.doing));
    }

    /// Until it works this is to be seen from outside.
    fn tell(&mut self, away: bool, text: String) {
        self.works = false;
        let trouble = StreamTrouble { away, text };
        self.metrics.stream.trouble(&self.key, self.doing, Some(trouble));
    }

    /// There is trouble; answers how long to wait before the next try.
    pub(in crate::broker) fn trouble(&mut self, trouble: Trouble) -> Duration {
        self.metrics.stream.state(trouble.state.as_str());
        let away = trouble.state == State::RedisAway;
        self.tell(away, format!("can't {}: {trouble}", self.doing));
        let now = Instant::now();
        let (since, said) = match &self.now {
            Some((known, since, said)) if *known == trouble => (*since, Some(*said)),
            Some((_, since, _)) => (*since, None),
            None => (now, None),
        };
        let due = said.is_none_or(|said| now - said >= SAY_AGAIN);
        if due {
            let (table, state, doing) = (&*self.table, trouble.state.as_str(), self.doing);
            let (what, stream) = (self.what, printable(self.key.as_bytes(), SHOWN));
            tracing::warn!(
                channel = table,
                stream,
                state,
                "{what} {stream}: can't {doing}: {trouble}; it is tried until it works"
            );
        }
        self.now = Some((trouble, since, if due { now } else { said.unwrap_or(now) }));
        self.pauses.next().unwrap_or(LAST_PAUSE)
    }

    /// It works.
    pub(in crate::broker) fn fine(&mut self) {
        if !std::mem::replace(&mut self.works, true) {
            self.metrics.stream.trouble(&self.key, self.doing, None);
        }
        let Some((trouble, since, _)) = self.now.take() else { return };
        self.pauses = backoff(FIRST_PAUSE, LAST_PAUSE);
        let (table, doing) = (&*self.table, self.doing);
        let (what, stream) = (self.what, printable(self.key.as_bytes(), SHOWN));
        tracing::info!(
            channel = table,
            stream,
            state = trouble.state.as_str(),
            "{what} {stream}: can {doing} again after {:.1} s",
            since.elapsed().as_secs_f32()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_known_by_its_code_wherever_redis_puts_it() {
        for (text, state) in [
            ("NOPERM this user has no permissions", State::NoPermission),
            ("-READONLY You can't write against a read only replica.", State::ReadOnly),
            (
                "ERR Error running script (call to f_0): @user_script:1: WRONGTYPE Operation",
                State::WrongType,
            ),
            ("ERR The stream has exhausted the last possible ID", State::Exhausted),
            (
                "ERR The user executing the script can't run this command or subcommand",
                State::NoPermission,
            ),
            (
                "ERR ACL failure in script: User u has no permissions to run the 'xack' command",
                State::NoPermission,
            ),
            ("MOVED 3999 127.0.0.1:6381", State::Moved),
            ("TRYAGAIN Multiple keys request during rehashing of slot", State::Moving),
            ("ERR something new", State::Refused),
            ("", State::Refused),
        ] {
            assert_eq!(Trouble::refused(text.as_bytes()).state, state, "{text}");
        }
    }
}
