//! The circle check, compared with following messages: random channels, and a message on every
//! name that they have.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use handlerd::config::pattern::Pattern;
use handlerd::config::{Config, Environment};

use crate::random::Random;

/// What a name is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Channels,
    Streams,
}

/// A channel as the test follows messages through it.
struct Channel {
    space: Space,
    /// Texts of `subscribe`, `pattern` or `stream`.
    sources: Vec<String>,
    patterns: Option<Vec<Pattern>>,
    publish: Vec<String>,
    append: Vec<String>,
    dead_letter: Option<String>,
}

impl Channel {
    fn random(random: &mut Random) -> Self {
        let words = ["a", "b", "a.b", "b.a", "c"];
        let patterns =
            ["a*", "*a", "b.*", "*.b", "?", "a.?", "*.a.*", "[^a]*", "c", "b*.b", "c*a.b"];
        let templates = ["a", "b", "c", "a.b", "a.{channel}", "{channel}.b", "{channel}", "b.a"];
        let is_stream = random.below(3) == 0;
        let is_pattern = !is_stream && random.below(2) == 0;
        let unique = |random: &mut Random, texts: &[&str]| -> Vec<String> {
            let count = 1 + random.below(2);
            let chosen: HashSet<&str> = (0..count).map(|_| *random.pick(texts)).collect();
            let mut chosen: Vec<String> = chosen.into_iter().map(str::to_owned).collect();
            chosen.sort();
            chosen
        };
        let sources = unique(random, if is_pattern { &patterns } else { &words });
        let compile = |text: &String| Pattern::new(text).expect("a short pattern");
        let patterns = is_pattern.then(|| sources.iter().map(compile).collect());
        // Most send to one or the other, so that circles through both are not all there are.
        let sends = random.below(5);
        let publish = if sends < 3 { unique(random, &templates) } else { Vec::new() };
        let append = if sends > 1 { unique(random, &templates) } else { Vec::new() };
        let dead_letter = (random.below(4) == 0).then(|| (*random.pick(&words)).to_owned());
        let space = if is_stream { Space::Streams } else { Space::Channels };
        Channel { space, sources, patterns, publish, append, dead_letter }
    }

    fn takes(&self, space: Space, name: &str) -> bool {
        space == self.space
            && match &self.patterns {
                Some(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
                None => self.sources.iter().any(|source| source == name),
            }
    }

    /// Where a message goes that is handled, and one that fails.
    fn sends(&self) -> impl Iterator<Item = (Space, &String)> {
        let publish = self.publish.iter().map(|to| (Space::Channels, to));
        let append = self.append.iter().chain(&self.dead_letter).map(|to| (Space::Streams, to));
        publish.chain(append)
    }

    fn to_toml(&self, number: usize) -> String {
        let key = match (self.space, &self.patterns) {
            (Space::Streams, _) => "stream",
            (_, Some(_)) => "pattern",
            (_, None) => "subscribe",
        };
        let (sources, publish, append) = (&self.sources, &self.publish, &self.append);
        let mut text = format!("[channels.c{number}]\n{key} = {sources:?}\n");
        let mut add = |line: String| text.push_str(&line);
        if self.space == Space::Streams {
            add(format!("group = \"g{number}\"\n"));
        }
        if !publish.is_empty() {
            add(format!("publish = {publish:?}\n"));
        }
        if !append.is_empty() {
            add(format!("append = {append:?}\n"));
        }
        match &self.dead_letter {
            Some(name) => add(format!("dead_letter = {name:?}\n")),
            None => add("dead_letter = false\n".to_owned()),
        }
        text
    }
}

/// Whether a message on this name is still on its way after so many hops.
fn goes_on(channels: &[Channel], space: Space, name: &str, hops: usize) -> bool {
    hops == 0
        || channels.iter().filter(|channel| channel.takes(space, name)).any(|channel| {
            channel.sends().any(|(space, to)| {
                let to = to.replace("{channel}", name);
                goes_on(channels, space, &to, hops - 1)
            })
        })
}

/// Names that a source takes.
fn names(source: &str) -> Vec<String> {
    let source = source.replace("[^a]", "b").replace('?', "b");
    ["", "a", "b", "c", "a.b", "b.a", "b.b"].map(|filling| source.replace('*', filling)).into()
}

#[test]
fn what_goes_round_is_refused_or_warned_of_and_what_is_refused_goes_round() {
    let mut random = Random::new(0xc1c1e);
    let none = Environment::from_iter::<[(&str, &str); 0]>([]);
    let (mut refused, mut warned, mut quiet) = (0, 0, 0);
    for _ in 0..2000 {
        let channels: Vec<Channel> =
            (0..1 + random.below(3)).map(|_| Channel::random(&mut random)).collect();
        let mut text = String::new();
        for (number, channel) in channels.iter().enumerate() {
            write!(text, "{}", channel.to_toml(number)).expect("a String takes all");
        }
        // No way without a circle is longer than there are names of this few parts.
        let start = channels.iter().flat_map(|channel| {
            channel.sources.iter().flat_map(|s| names(s)).map(|name| (channel.space, name))
        });
        let goes_round =
            start.into_iter().any(|(space, name)| goes_on(&channels, space, &name, 14));
        match Config::parse(&text, Path::new("circle.toml"), &none) {
            Err(errors) => {
                refused += 1;
                assert!(errors.to_string().contains("in a circle: "), "{errors}");
                assert!(goes_round, "refused, but nothing goes round:\n{text}\n{errors}");
            }
            Ok(loaded) if !loaded.warnings.is_empty() => warned += 1,
            Ok(_) => {
                quiet += 1;
                assert!(!goes_round, "not found:\n{text}");
            }
        }
        // With `loops` everywhere nothing is said.
        let text = text.replace("\ndead_letter", "\nloops = true\ndead_letter");
        let loaded = Config::parse(&text, Path::new("circle.toml"), &none).expect("valid");
        assert!(loaded.warnings.is_empty());
    }
    let numbers = format!("{refused} refused, {warned} warned of, {quiet} without a circle");
    assert!(refused > 200 && quiet > 200, "{numbers}");
}
