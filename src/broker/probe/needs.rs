//! What a configuration needs of one Redis: the commands to rehearse, and the ACL that permits them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use super::commands::{By, Command, Reading, Verb, Writing, of_single};
use crate::broker::single;
use crate::broker::stream::cursor_name;
use crate::config::pattern::Pattern;
use crate::config::{
    Channel, Config, Connection, NameTemplate, Output, Source, Start, StreamSource, Target,
    WhenDone,
};
use crate::telemetry::printable;

/// The connection that sources, routes and dead letters are on.
const SOURCES: &str = "redis";

/// What the daemon needs beside the commands of the configuration. `MULTI` and `DISCARD` are for
/// rehearsals: here, and when a connection gives no answer while others do.
const ALWAYS: [&str; 3] = ["+discard", "+multi", "+ping"];

/// A stream that is read.
#[derive(Clone, Debug)]
pub struct Read {
    pub key: Arc<str>,
    pub group: Arc<str>,
    pub start: Option<Start>,
    pub delete: bool,
    /// Where it is kept up to where all is finished.
    pub cursor: Option<String>,
    /// The keys that are written to in one step with its entries, as far as their names are known.
    pub together: Vec<String>,
    /// NAME of the channel.
    pub whose: Arc<str>,
}

/// A key that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub key: String,
    /// What TYPE must answer where there is one.
    pub kind: &'static str,
    /// NAME of the first channel that writes to it.
    pub whose: Arc<str>,
}

/// What a configuration needs of one Redis.
#[derive(Debug, Default)]
pub struct Needs {
    commands: Vec<Command>,
    known: BTreeMap<(Verb, String), usize>,
    /// Rules of the ACL: `+command`, `&channel`, `~key`.
    rights: BTreeSet<String>,
    channels: BTreeSet<String>,
    keys: BTreeSet<String>,
    /// Patterns that no example was found for.
    untried: Vec<String>,
    /// The streams that are read.
    pub reads: Vec<Read>,
    /// The keys that are written to, as far as their names are known.
    pub writes: Vec<Written>,
    /// The channels that are single.
    pub singles: Vec<Arc<str>>,
}

impl Needs {
    /// Of this connection.
    pub fn of(config: &Config, connection: &Connection) -> Self {
        let mut needs = Needs::default();
        needs.rights.extend(ALWAYS.map(str::to_owned));
        if connection.database != 0 {
            needs.rights.insert("+select".to_owned());
        }
        for channel in config.channels.iter() {
            if *connection.name == *SOURCES {
                needs.source(channel);
                if channel.single {
                    needs.singles.push(channel.name.clone());
                    needs.lease(channel);
                }
                needs.routes(channel);
                if let Some(stream) = &channel.dead_letter {
                    let by = By::Append { maxlen: channel.dead_letter_maxlen };
                    needs.write(writing(by, SOURCES, channel), stream, channel);
                }
            }
            for output in &channel.outputs {
                let (by, target) = match output {
                    Output::Publish(target) => (By::Publish, target),
                    Output::Append(target) => (By::Append { maxlen: channel.maxlen }, target),
                    Output::Push(target) => (By::Push, target),
                    Output::Log => continue,
                };
                if target.connection == connection.name {
                    needs.output(channel, writing(by, &connection.name, channel), target);
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
        self.rights.contains("+publish") || self.writes_keys()
    }

    /// Whether lists or streams are written to.
    pub fn writes_keys(&self) -> bool {
        self.rights.contains("+rpush") || self.rights.contains("+xadd")
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
                    self.need(Verb::Subscribe, name, How::FIXED, channel, &[]);
                    self.permit(Kind::Channel, &literal(name));
                    self.rights.insert("+unsubscribe".to_owned());
                }
            }
            Source::Pattern(patterns) => {
                for pattern in patterns {
                    self.need(Verb::Psubscribe, pattern, How::FIXED, channel, &[]);
                    // Redis compares a pattern with those of the ACL byte by byte. One with a space
                    // can't stand there, so only the right to everything permits it.
                    let spaced = pattern.bytes().any(is_space);
                    let pattern = if spaced { "*" } else { pattern };
                    self.permit(Kind::Channel, pattern);
                    self.rights.insert("+punsubscribe".to_owned());
                }
            }
            Source::Stream(stream) => {
                for key in &stream.keys {
                    self.read(key, stream, channel);
                }
            }
        }
    }

    /// The lease of a channel that is single, its hash and its marks.
    fn lease(&mut self, channel: &Channel) {
        let (lease, state) = (single::lease_key(&channel.name), single::state_key(&channel.name));
        let (of_lease, of_state) = of_single();
        for (key, commands) in [(&lease, &of_lease[..]), (&state, &of_state)] {
            for (verb, arguments) in commands {
                self.need(*verb, key, How::FIXED, channel, arguments);
            }
            self.permit(Kind::Key, &literal(key));
        }
        for verb in [Verb::Time, Verb::Load] {
            self.need(verb, "", How::FIXED, channel, &[]);
        }
        let marks = single::mark_channel(&channel.name);
        self.need(Verb::Subscribe, &marks, How::FIXED, channel, &[]);
        self.need(Verb::Publish, &marks, How::FIXED, channel, &[""]);
        self.rights.insert("+unsubscribe".to_owned());
        self.permit(Kind::Channel, &literal(&marks));
    }

    fn read(&mut self, key: &Arc<str>, stream: &StreamSource, channel: &Channel) {
        let delete = stream.when_done == WhenDone::Delete;
        let consumer = stream.consumer.as_deref().unwrap_or("handlerd-check");
        let reading = Reading { group: &stream.group, consumer, delete };
        for (verb, arguments) in reading.commands() {
            let name = if verb == Verb::Load { "" } else { &**key };
            self.need(verb, name, How::STREAM, channel, &arguments);
        }
        self.permit(Kind::Key, &literal(key));
        let cursor = cursor_name(key, &stream.group);
        if let Some(cursor) = &cursor {
            self.need(Verb::Get, cursor, How::STREAM, channel, &[]);
            self.need(Verb::Set, cursor, How::STREAM, channel, &[""]);
            self.permit(Kind::Key, &literal(cursor));
        }
        self.reads.push(Read {
            key: key.clone(),
            group: stream.group.clone(),
            start: stream.start,
            delete,
            cursor,
            together: together(channel, key),
            whose: channel.name.clone(),
        });
    }

    fn routes(&mut self, channel: &Channel) {
        let routes = &channel.routes;
        for (by, patterns) in [
            (By::Publish, &routes.publish),
            (By::Append { maxlen: channel.maxlen }, &routes.append),
            (By::Push, &routes.push),
        ] {
            for pattern in patterns {
                self.write_like(writing(by, SOURCES, channel), pattern.text(), channel);
            }
        }
    }

    fn output(&mut self, channel: &Channel, writing: Writing, target: &Target) {
        let parts = match &target.name {
            NameTemplate::Fixed(name) => return self.write(writing, name, channel),
            NameTemplate::Parts(parts) => parts,
        };
        match &channel.source {
            Source::Subscribe(names) | Source::Stream(StreamSource { keys: names, .. }) => {
                for name in names {
                    self.write(writing, &parts.join(&**name), channel);
                }
            }
            Source::Pattern(patterns) => {
                let parts: Vec<String> = parts.iter().map(|part| literal(part)).collect();
                for pattern in patterns {
                    self.write_like(writing, &parts.join(pattern), channel);
                }
            }
        }
    }

    /// Write to this name.
    fn write(&mut self, writing: Writing, name: &str, channel: &Channel) {
        self.rehearse_write(writing, name, false, channel);
        self.permit_write(writing, &literal(name));
        let Some(kind) = writing.by.kind() else { return };
        if !self.writes.iter().any(|known| known.key == name && known.kind == kind) {
            let (key, whose) = (name.to_owned(), channel.name.clone());
            self.writes.push(Written { key, kind, whose });
        }
    }

    /// Write to whatever matches this pattern.
    fn write_like(&mut self, writing: Writing, pattern: &str, channel: &Channel) {
        match example(pattern) {
            Some(name) => self.rehearse_write(writing, &name, name != pattern, channel),
            None => self.untried.push(pattern.to_owned()),
        }
        self.permit_write(writing, &unspaced(pattern));
    }

    fn rehearse_write(&mut self, writing: Writing, name: &str, example: bool, channel: &Channel) {
        let how = How { example, follows: writing.in_one_step };
        for (verb, arguments) in writing.commands() {
            self.need(verb, name, how, channel, &arguments);
        }
    }

    fn permit_write(&mut self, writing: Writing, pattern: &str) {
        let verbs = writing.commands().into_iter();
        self.rights.extend(verbs.map(|(verb, _)| verb.right()));
        let kind = if writing.by.kind().is_some() { Kind::Key } else { Kind::Channel };
        self.permit(kind, pattern);
    }

    fn need(&mut self, verb: Verb, name: &str, how: How, channel: &Channel, arguments: &[&str]) {
        self.rights.insert(verb.right());
        let next = self.commands.len();
        let place = *self.known.entry((verb, name.to_owned())).or_insert(next);
        if let Some(known) = self.commands.get_mut(place) {
            known.follows &= how.follows;
        } else {
            let How { example, follows } = how;
            let (name, whose) = (name.to_owned(), channel.name.clone());
            let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
            self.commands.push(Command { verb, name, arguments, example, follows, whose });
        }
    }

    fn permit(&mut self, kind: Kind, pattern: &str) {
        match kind {
            Kind::Channel => self.channels.insert(format!("&{pattern}")),
            Kind::Key => self.keys.insert(format!("~{pattern}")),
        };
    }
}

/// How a command is sent.
#[derive(Clone, Copy)]
struct How {
    example: bool,
    follows: bool,
}

impl How {
    const FIXED: How = How { example: false, follows: false };
    const STREAM: How = How { example: false, follows: true };
}

/// What a name is one of.
#[derive(Clone, Copy)]
enum Kind {
    Channel,
    Key,
}

/// How a channel writes over a connection: what it makes of a stream's entries is one step with their
/// acknowledgement on the Redis that the stream is on.
fn writing(by: By, connection: &str, channel: &Channel) -> Writing {
    let in_one_step = connection == SOURCES && matches!(channel.source, Source::Stream(_));
    Writing { by, in_one_step }
}

/// The keys that are written to in one step with the entries of this stream.
fn together(channel: &Channel, key: &str) -> Vec<String> {
    let outputs = channel.outputs.iter().filter_map(|output| match output {
        Output::Append(target) | Output::Push(target) if *target.connection == *SOURCES => {
            Some(target.name.fill(key).into_owned())
        }
        Output::Append(_) | Output::Push(_) | Output::Publish(_) | Output::Log => None,
    });
    let routes = channel.routes.append.iter().chain(&channel.routes.push);
    let routes = routes.map(|pattern| pattern.text().to_string());
    let routes = routes.filter(|text| example(text).is_some_and(|name| name == *text));
    outputs.chain(channel.dead_letter.as_deref().map(str::to_owned)).chain(routes).collect()
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
