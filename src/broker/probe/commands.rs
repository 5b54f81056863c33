//! The commands that the daemon sends, as they are rehearsed, and the rights that they need.
//!
//! What is here must be what `broker::pubsub`, `broker::stream` and `broker::writer` send, scripts
//! included: Redis judges each command of a script by itself.

use std::sync::Arc;

use crate::broker::single::PREFIX;

/// No script has it; what it may do is judged nevertheless.
pub const NO_SCRIPT: &str = "0000000000000000000000000000000000000000";

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Subscribe,
    Psubscribe,
    Publish,
    Push,
    Pop,
    Append,
    Delete,
    Trim,
    Type,
    Info,
    InfoGroups,
    InfoConsumers,
    Read,
    Range,
    Pending,
    Claim,
    Acknowledge,
    CreateGroup,
    RemoveConsumer,
    Load,
    Evaluate,
    Get,
    Set,
    Remove,
    Expire,
    Left,
    HashGet,
    HashSet,
    HashSetNew,
    HashCount,
    Time,
}

impl Verb {
    /// As it is shown, and begins.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Verb::Subscribe => &["SUBSCRIBE"],
            Verb::Psubscribe => &["PSUBSCRIBE"],
            Verb::Publish => &["PUBLISH"],
            Verb::Push => &["RPUSH"],
            Verb::Pop => &["RPOP"],
            Verb::Append => &["XADD"],
            Verb::Delete => &["XDEL"],
            Verb::Trim => &["XTRIM"],
            Verb::Type => &["TYPE"],
            Verb::Info => &["XINFO", "STREAM"],
            Verb::InfoGroups => &["XINFO", "GROUPS"],
            Verb::InfoConsumers => &["XINFO", "CONSUMERS"],
            Verb::Read => &["XREADGROUP"],
            Verb::Range => &["XRANGE"],
            Verb::Pending => &["XPENDING"],
            Verb::Claim => &["XCLAIM"],
            Verb::Acknowledge => &["XACK"],
            Verb::CreateGroup => &["XGROUP", "CREATE"],
            Verb::RemoveConsumer => &["XGROUP", "DELCONSUMER"],
            Verb::Load => &["SCRIPT", "LOAD"],
            Verb::Evaluate => &["EVALSHA"],
            Verb::Get => &["GET"],
            Verb::Set => &["SET"],
            Verb::Remove => &["DEL"],
            Verb::Expire => &["PEXPIRE"],
            Verb::Left => &["PTTL"],
            Verb::HashGet => &["HGET"],
            Verb::HashSet => &["HSET"],
            Verb::HashSetNew => &["HSETNX"],
            Verb::HashCount => &["HINCRBY"],
            Verb::Time => &["TIME"],
        }
    }

    /// The rule of an ACL that permits it.
    pub fn right(self) -> String {
        format!("+{}", self.words().join("|").to_ascii_lowercase())
    }
}

/// A command to rehearse.
#[derive(Clone, Debug)]
pub struct Command {
    pub verb: Verb,
    /// The Redis channel or key.
    pub name: String,
    /// What follows the name; for some commands, with the name in it.
    pub arguments: Vec<String>,
    /// The name is one of many that may come.
    pub example: bool,
    /// It goes to whichever node of a Cluster has the key: only what a stream is read and finished
    /// with does.
    pub follows: bool,
    /// NAME of the first channel that needs it.
    pub whose: Arc<str>,
}

impl Command {
    /// As it is sent.
    pub fn parts(&self) -> Vec<&str> {
        let mut parts = self.verb.words().to_vec();
        let arguments = self.arguments.iter().map(String::as_str);
        match self.verb {
            Verb::Load => parts.push("return 0"),
            Verb::Time => {}
            Verb::Evaluate => parts.extend([NO_SCRIPT, "1", &self.name]),
            Verb::Read => {
                parts.push("GROUP");
                parts.extend(arguments);
                parts.extend(["COUNT", "1", "STREAMS", &self.name, ">"]);
            }
            _ => {
                parts.push(&self.name);
                parts.extend(arguments);
            }
        }
        parts
    }

    /// Whether the daemon does without where it is refused.
    pub fn is_optional(&self) -> bool {
        matches!(self.verb, Verb::Get | Verb::Set) && !self.name.starts_with(PREFIX)
    }
}

/// A verb, and what follows the name.
pub type Rehearsal<'a> = (Verb, Vec<&'a str>);

/// How a stream is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub group: &'a str,
    pub consumer: &'a str,
    /// Entries that are done are deleted.
    pub delete: bool,
}

impl<'a> Reading<'a> {
    pub fn commands(self) -> Vec<Rehearsal<'a>> {
        let Reading { group, consumer, delete } = self;
        let mut commands = vec![
            (Verb::Read, vec![group, consumer]),
            (Verb::CreateGroup, vec![group, "$", "MKSTREAM"]),
            (Verb::RemoveConsumer, vec![group, consumer]),
            (Verb::Pending, vec![group]),
            (Verb::Claim, vec![group, consumer, "0", "0-0"]),
            (Verb::Acknowledge, vec![group, "0-0"]),
            (Verb::Range, vec!["-", "+", "COUNT", "1"]),
            (Verb::Type, vec![]),
            (Verb::Info, vec![]),
            (Verb::InfoGroups, vec![]),
            (Verb::InfoConsumers, vec![group]),
            (Verb::Evaluate, vec![]),
            (Verb::Load, vec![]),
        ];
        if delete {
            commands.push((Verb::Delete, vec!["0-0"]));
        }
        commands
    }
}

/// What the scripts of a channel that is single do with its lease and its hash.
pub fn of_single() -> ([Rehearsal<'static>; 6], [Rehearsal<'static>; 5]) {
    let of_lease = [
        (Verb::Get, vec![]),
        (Verb::Set, vec![""]),
        (Verb::Remove, vec![]),
        (Verb::Expire, vec!["1"]),
        (Verb::Left, vec![]),
        (Verb::Evaluate, vec![]),
    ];
    let of_state = [
        (Verb::HashGet, vec!["at"]),
        (Verb::HashSet, vec!["at", ""]),
        (Verb::HashSetNew, vec!["life", ""]),
        (Verb::HashCount, vec!["mark", "1"]),
        (Verb::Evaluate, vec![]),
    ];
    (of_lease, of_state)
}

/// How a Redis channel or a key is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    pub by: By,
    /// With an entry's acknowledgement, by the script that looks before it writes and undoes what it
    /// can't complete.
    pub in_one_step: bool,
}

/// By which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Publish,
    Append {
        /// About how many entries are kept.
        maxlen: Option<u64>,
    },
    Push,
}

impl By {
    /// What TYPE answers of a key that can be written to so.
    pub fn kind(self) -> Option<&'static str> {
        match self {
            By::Publish => None,
            By::Append { .. } => Some("stream"),
            By::Push => Some("list"),
        }
    }
}

impl Writing {
    pub fn commands(self) -> Vec<Rehearsal<'static>> {
        let (write, others): (Rehearsal<'_>, Vec<Rehearsal<'_>>) = match self.by {
            By::Publish => ((Verb::Publish, vec![""]), vec![]),
            By::Push => ((Verb::Push, vec![""]), vec![(Verb::Pop, vec![]), (Verb::Type, vec![])]),
            By::Append { maxlen } => {
                let trim = (Verb::Trim, vec!["MAXLEN", "~", "1"]);
                let mut others =
                    vec![(Verb::Delete, vec!["0-0"]), (Verb::Info, vec![]), (Verb::Type, vec![])];
                others.extend(maxlen.map(|_| trim));
                ((Verb::Append, vec!["*", "payload", ""]), others)
            }
        };
        std::iter::once(write).chain(others.into_iter().filter(|_| self.in_one_step)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scripts that the stream source sends, and those of channels that are single.
    const SCRIPTS: [&str; 10] = [
        include_str!("../stream/finish.lua"),
        include_str!("../stream/claim.lua"),
        include_str!("../stream/renew.lua"),
        include_str!("../stream/release.lua"),
        include_str!("../stream/forget.lua"),
        include_str!("../stream/look.lua"),
        include_str!("../single/lease.lua"),
        include_str!("../single/mark.lua"),
        include_str!("../single/release.lua"),
        include_str!("../single/finish.lua"),
    ];

    /// The words in quotes at the beginning of each call's arguments.
    fn called(script: &str) -> impl Iterator<Item = Vec<&str>> {
        script.split("call('").skip(1).map(|call| {
            let mut words = call.split("', '").map(|word| word.split('\'').next().unwrap_or(""));
            let first = words.next().unwrap_or_default();
            let second = words.next().filter(|_| matches!(first, "XINFO" | "XGROUP"));
            std::iter::once(first).chain(second).collect()
        })
    }

    #[test]
    fn what_the_scripts_call_is_rehearsed() {
        let reading = Reading { group: "g", consumer: "c", delete: true };
        let mut verbs: Vec<Verb> = vec![Verb::Get, Verb::Set, Verb::Time];
        let (of_lease, of_state) = of_single();
        verbs.extend(of_lease.iter().chain(&of_state).map(|(verb, _)| *verb));
        verbs.extend(reading.commands().iter().map(|(verb, _)| *verb));
        for by in [By::Publish, By::Append { maxlen: Some(1) }, By::Push] {
            let writing = Writing { by, in_one_step: true };
            verbs.extend(writing.commands().iter().map(|(verb, _)| *verb));
        }
        let calls: Vec<Vec<&str>> = SCRIPTS.into_iter().flat_map(called).collect();
        assert!(calls.len() > 20, "{calls:?}");
        for call in calls {
            assert!(verbs.iter().any(|verb| verb.words() == call), "{call:?} is not rehearsed");
        }
    }
}
