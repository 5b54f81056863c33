//! What a configuration needs of one Redis: the commands to rehearse, and the ACL that permits them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use crate::config::pattern::Pattern;
use crate::config::{
    Channel, Config, Connection, NameTemplate, Output, Source, StreamSource, Target,
};
use crate::telemetry::printable;

/// The connection that sources and routes are on.
const SOURCES: &str = "redis";

/// What the daemon needs beside the commands of the configuration. `MULTI` and `DISCARD` are for
/// rehearsals: here, and when a connection gives no answer while others do.
const ALWAYS: [&str; 3] = ["+discard", "+multi", "+ping"];

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Subscribe,
    Psubscribe,
    Publish,
    Push,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Subscribe => "SUBSCRIBE",
            Kind::Psubscribe => "PSUBSCRIBE",
            Kind::Publish => "PUBLISH",
            Kind::Push => "RPUSH",
        }
    }

    pub fn has_payload(self) -> bool {
        matches!(self, Kind::Publish | Kind::Push)
    }

    fn rights(self) -> &'static [&'static str] {
        match self {
            Kind::Subscribe => &["+subscribe", "+unsubscribe"],
            Kind::Psubscribe => &["+psubscribe", "+punsubscribe"],
            Kind::Publish => &["+publish"],
            Kind::Push => &["+rpush"],
        }
    }
}

/// A command to rehearse.
#[derive(Clone, Debug)]
pub struct Command {
    pub kind: Kind,
    pub name: String,
    /// The name is one of many that may come.
    pub example: bool,
    /// NAME of the first channel that needs it.
    pub whose: Arc<str>,
}

/// What a configuration needs of one Redis.
#[derive(Debug, Default)]
pub struct Needs {
    commands: Vec<Command>,
    known: BTreeMap<(Kind, String), usize>,
    /// Rules of the ACL: `+command`, `&channel`, `~key`.
    rights: BTreeSet<String>,
    channels: BTreeSet<String>,
    keys: BTreeSet<String>,
    /// Patterns that no example was found for.
    untried: Vec<String>,
}

impl Needs {
    /// Of this connection.
    pub fn of(config: &Config, connection: &Connection) -> Self {
        let mut needs = Needs::default();
        needs.rights.extend(ALWAYS.map(str::to_owned));
        if connection.database != 0 {
            needs.rights.insert("+select".to_owned());
        }
        for channel in &config.channels {
            if *connection.name == *SOURCES {
                needs.source(channel);
                needs.routes(channel);
            }
            for output in &channel.outputs {
                match output {
                    Output::Publish(target) if target.connection == connection.name => {
                        needs.output(channel, Kind::Publish, target);
                    }
                    Output::Push(target) if target.connection == connection.name => {
                        needs.output(channel, Kind::Push, target);
                    }
                    // integration: XADD, of `append`, its routes and dead letters.
                    Output::Publish(_) | Output::Append(_) | Output::Push(_) | Output::Log => {}
                }
            }
        }
        needs
    }

    /// The commands to rehearse, none twice.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// Whether anything is written there.
    pub fn has_outputs(&self) -> bool {
        self.rights.contains("+publish") || self.pushes()
    }

    /// Whether lists are pushed to.
    pub fn pushes(&self) -> bool {
        self.rights.contains("+rpush")
    }

    /// What can't be tried.
    pub fn notes(&self) -> Vec<String> {
        let note = |pattern: &String| {
            let pattern = printable(pattern.as_bytes(), super::SHOWN);
            format!("the right to \"{pattern}\" was not tried: no name that it matches was found")
        };
        self.untried.iter().map(note).collect()
    }

    /// The line for `redis-cli`.
    pub fn acl(&self, user: &str) -> String {
        let mut line = "ACL SETUSER ".to_owned();
        line.push_str(&quoted(user));
        line.push_str(" on >PASSWORD resetkeys resetchannels -@all");
        for rule in self.rights.iter().chain(only(&self.channels)).chain(only(&self.keys)) {
            line.push(' ');
            line.push_str(&quoted(rule));
        }
        line
    }

    fn source(&mut self, channel: &Channel) {
        match &channel.source {
            Source::Subscribe(names) => {
                for name in names {
                    self.need(Kind::Subscribe, name, false, channel);
                    self.permit(Kind::Subscribe, &literal(name));
                }
            }
            Source::Pattern(patterns) => {
                for pattern in patterns {
                    self.need(Kind::Psubscribe, pattern, false, channel);
                    // Redis compares a pattern with those of the ACL byte by byte. One with a space
                    // can't stand there, so only the right to everything permits it.
                    let spaced = pattern.bytes().any(is_space);
                    self.permit(Kind::Psubscribe, if spaced { "*" } else { pattern });
                }
            }
            // integration: XREADGROUP and what else the stream's reader sends.
            Source::Stream(_) => {}
        }
    }

    fn routes(&mut self, channel: &Channel) {
        let routes = &channel.routes;
        for (kind, patterns) in [(Kind::Publish, &routes.publish), (Kind::Push, &routes.push)] {
            for pattern in patterns {
                self.need_example(kind, pattern.text(), channel);
                self.permit(kind, &unspaced(pattern.text()));
            }
        }
    }

    fn output(&mut self, channel: &Channel, kind: Kind, target: &Target) {
        let parts = match &target.name {
            NameTemplate::Fixed(name) => {
                self.need(kind, name, false, channel);
                self.permit(kind, &literal(name));
                return;
            }
            NameTemplate::Parts(parts) => parts,
        };
        match &channel.source {
            Source::Subscribe(names) | Source::Stream(StreamSource { keys: names, .. }) => {
                for name in names {
                    let name = parts.join(&**name);
                    self.need(kind, &name, false, channel);
                    self.permit(kind, &literal(&name));
                }
            }
            Source::Pattern(patterns) => {
                let parts: Vec<String> = parts.iter().map(|part| literal(part)).collect();
                for pattern in patterns {
                    let pattern = parts.join(pattern);
                    self.need_example(kind, &pattern, channel);
                    self.permit(kind, &unspaced(&pattern));
                }
            }
        }
    }

    fn need(&mut self, kind: Kind, name: &str, example: bool, channel: &Channel) {
        let next = self.commands.len();
        if *self.known.entry((kind, name.to_owned())).or_insert(next) == next {
            let (name, whose) = (name.to_owned(), channel.name.clone());
            self.commands.push(Command { kind, name, example, whose });
        }
    }

    fn need_example(&mut self, kind: Kind, pattern: &str, channel: &Channel) {
        match example(pattern) {
            Some(name) => self.need(kind, &name, name != pattern, channel),
            None => self.untried.push(pattern.to_owned()),
        }
    }

    fn permit(&mut self, kind: Kind, pattern: &str) {
        self.rights.extend(kind.rights().iter().map(|&right| right.to_owned()));
        match kind {
            Kind::Push => self.keys.insert(format!("~{pattern}")),
            _ => self.channels.insert(format!("&{pattern}")),
        };
    }
}

/// The rules, or the one for everything: beside that Redis takes no others.
fn only(rules: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    let everything = rules.iter().find(|rule| matches!(&***rule, "&*" | "~*"));
    let others = rules.iter().filter(move |_| everything.is_none());
    everything.into_iter().chain(others)
}

/// A pattern that matches this name only, or, where it has spaces, which can't stand in an ACL, any
/// byte in their place.
fn literal(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    unspaced(&pattern)
}

fn unspaced(pattern: &str) -> String {
    pattern.replace(|c: char| u8::try_from(c).is_ok_and(is_space), "?")
}

/// What Redis takes for a space in an ACL rule, and the zero byte.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0)
}

/// A name that a pattern matches.
fn example(pattern: &str) -> Option<String> {
    /// What stands for bytes that may be any: a word that is unlikely to be somebody's.
    const ANY: &str = "handlerd-check";
    let mut name = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => name.push_str(ANY),
            '?' => name.push('x'),
            '\\' => name.push(rest.next().unwrap_or('\\')),
            '[' => {
                let mut class: Vec<char> = Vec::new();
                loop {
                    match rest.next()? {
                        ']' => break,
                        '\\' => class.extend(rest.next()),
                        c => class.push(c),
                    }
                }
                let named = |c: &char| match class.iter().position(|other| other == c) {
                    Some(_) => true,
                    None => class.windows(3).any(|w| w[1] == '-' && (w[0]..=w[2]).contains(c)),
                };
                name.push(match class.first()? {
                    '^' => ('a'..='z').chain('0'..='9').find(|c| !named(c))?,
                    &first => first,
                });
            }
            c => name.push(c),
        }
    }
    Pattern::new(pattern).ok()?.matches(&name).then_some(name)
}

/// A word as `redis-cli` reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from('"');
    for byte in word.bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', byte.into()]),
            0x20..=0x7e => text.push(byte.into()),
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_matches_its_pattern() {
        for (pattern, name) in [
            ("plain", "plain"),
            ("room.*", "room.handlerd-check"),
            ("?[bc]", "xb"),
            (r"\*\\", r"*\"),
            ("[^a-c]", "d"),
            ("[^a-zb]{}", "0{}"),
        ] {
            assert_eq!(example(pattern).as_deref(), Some(name), "{pattern}");
        }
    }

    #[test]
    fn a_literal_name_is_a_pattern_of_itself() {
        for name in ["plain", "a*b", "[a]?", r"back\slash"] {
            let pattern = Pattern::new(&literal(name)).unwrap();
            assert!(pattern.matches(name), "{name}");
            assert!(!pattern.matches(&name.replace(['*', '?', 'a'], "z")) || name == "plain");
        }
        assert_eq!(literal("a b"), "a?b");
    }

    #[test]
    fn words_are_quoted_for_the_shell_of_redis() {
        assert_eq!(quoted("&room.*"), "&room.*");
        assert_eq!(quoted(r#"&a\*"é"#), r#""&a\\*\"\xc3\xa9""#);
    }
}
