//! The circle check, compared with following messages: random channels, and a message on every
//! name that they have.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use handlerd::config::pattern::Pattern;
use handlerd::config::{Config, Environment};

use crate::random::Random;

/// A channel as the test follows messages through it.
struct Channel {
    /// Texts of `subscribe`, or of `pattern`.
    sources: Vec<String>,
    patterns: Option<Vec<Pattern>>,
    publish: Vec<String>,
}

impl Channel {
    fn random(random: &mut Random) -> Self {
        let words = ["a", "b", "a.b", "b.a", "c"];
        let patterns =
            ["a*", "*a", "b.*", "*.b", "?", "a.?", "*.a.*", "[^a]*", "c", "b*.b", "c*a.b"];
        let templates = ["a", "b", "c", "a.b", "a.{channel}", "{channel}.b", "{channel}", "b.a"];
        let is_pattern = random.below(2) == 0;
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
        Channel { sources, patterns, publish: unique(random, &templates) }
    }

    fn takes(&self, name: &str) -> bool {
        match &self.patterns {
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
            None => self.sources.iter().any(|source| source == name),
        }
    }

    fn to_toml(&self, number: usize) -> String {
        let key = if self.patterns.is_some() { "pattern" } else { "subscribe" };
        let (sources, publish) = (&self.sources, &self.publish);
        format!("[channels.c{number}]\n{key} = {sources:?}\npublish = {publish:?}\n")
    }
}

/// Whether a message on this name is still on its way after so many hops.
fn goes_on(channels: &[Channel], name: &str, hops: usize) -> bool {
    hops == 0
        || channels.iter().filter(|channel| channel.takes(name)).any(|channel| {
            channel.publish.iter().any(|to| {
                let to = to.replace("{channel}", name);
                goes_on(channels, &to, hops - 1)
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
        let start = channels.iter().flat_map(|channel| &channel.sources).flat_map(|s| names(s));
        let goes_round = start.into_iter().any(|name| goes_on(&channels, &name, 14));
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
        let text = text.replace("\npublish", "\nloops = true\npublish");
        let loaded = Config::parse(&text, Path::new("circle.toml"), &none).expect("valid");
        assert!(loaded.warnings.is_empty());
    }
    let numbers = format!("{refused} refused, {warned} warned of, {quiet} without a circle");
    assert!(refused > 200 && quiet > 200, "{numbers}");
}
