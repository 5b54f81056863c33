//! What a key is: its name, the kind of its value, its default, and what the documentation says.

use std::time::Duration;

use super::Table;
use crate::config::quantity::{show_duration, show_size};

/// A key of a table.
#[derive(Debug)]
pub(in crate::config) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// What the documentation says. It begins with what `config.toml` says behind the key, and may
    /// say more.
    pub about: &'static str,
    /// What holds where it is absent, as TOML and JSON both write it; `None` where that is nothing,
    /// or depends on something.
    pub default: Option<&'static str>,
    /// A value to copy, written likewise, where there is no default.
    pub example: Option<&'static str>,
    /// Whether its table must have it.
    pub required: bool,
    /// A key without which it means nothing.
    pub needs: Option<&'static str>,
    /// Keys that can't be there beside it.
    pub excludes: &'static [&'static str],
}

impl Key {
    pub const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Key {
            name,
            kind,
            about,
            default: None,
            example: None,
            required: false,
            needs: None,
            excludes: &[],
        }
    }

    /// What the documentation says, as sentences, with the limits of the value.
    pub fn description(&self) -> String {
        let mut text: String = self.about.chars().take(1).flat_map(char::to_uppercase).collect();
        text.extend(self.about.chars().skip(1));
        text.push('.');
        if let Some((least, most)) = self.kind.limits() {
            text.push_str(&format!(" At least {least}, at most {most}."));
        }
        text
    }

    pub const fn default(mut self, written: &'static str) -> Self {
        self.default = Some(written);
        self
    }

    pub const fn example(mut self, written: &'static str) -> Self {
        self.example = Some(written);
        self
    }

    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub const fn needs(mut self, key: &'static str) -> Self {
        self.needs = Some(key);
        self
    }

    pub const fn excludes(mut self, keys: &'static [&'static str]) -> Self {
        self.excludes = keys;
        self
    }
}

/// What the value of a key can be. In every string but those of `config` a `${NAME}` may stand
/// for any part of it, so a string that has one fits wherever a string does.
#[derive(Debug)]
pub(in crate::config) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// Nothing but `false`.
    False,
    /// A string that isn't empty.
    Text,
    /// A string that this regular expression matches.
    Matching(&'static str),
    /// One of these strings.
    Words(&'static [&'static str]),
    /// A number of bytes, as a string with a unit or as a number.
    Size(usize, usize),
    /// A length of time, as a string.
    Time(Duration, Duration),
    /// A number.
    Count(usize, usize),
    /// A list of strings, which may be empty.
    List,
    /// A string, or a list of different ones that isn't empty.
    Names,
    /// A string, a table, or a list of these that isn't empty.
    Targets(Table),
    /// Any of these.
    Either(&'static [Kind]),
    /// A table.
    Table(Table),
    /// A table of tables, under names that the user chooses.
    Named(Table),
    /// A table with whatever the user writes.
    Settings,
}

impl Kind {
    /// The least and the most that a quantity can be.
    fn limits(&self) -> Option<(String, String)> {
        match self {
            Kind::Size(least, most) => Some((show_size(*least), show_size(*most))),
            Kind::Time(least, most) => Some((show_duration(*least), show_duration(*most))),
            Kind::Count(least, most) => Some((least.to_string(), most.to_string())),
            Kind::Either(kinds) => kinds.iter().find_map(Kind::limits),
            _ => None,
        }
    }

    /// How the manual page calls it.
    pub fn title(&self) -> String {
        let or = |parts: Vec<String>| parts.join(" or ");
        let fixed = match self {
            Kind::Words(words) => {
                return or(words.iter().map(|word| format!("\"{word}\"")).collect());
            }
            Kind::Either(kinds) => return or(kinds.iter().map(Kind::title).collect()),
            Kind::Boolean => "true or false",
            Kind::False => "false",
            Kind::Text | Kind::Matching(_) => "string",
            Kind::Size(..) => "size",
            Kind::Time(..) => "time",
            Kind::Count(..) => "number",
            Kind::List => "list of strings",
            Kind::Names => "string or list of strings",
            Kind::Targets(_) => "string, table, or list of these",
            Kind::Table(_) | Kind::Settings => "table",
            Kind::Named(_) => "tables under names",
        };
        fixed.to_owned()
    }
}
