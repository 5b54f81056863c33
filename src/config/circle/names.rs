//! Which channel's output is which channel's input: the graph that circles are looked for in.
//!
//! Names are followed exactly where they are known: those of `subscribe`, and what fixed outputs
//! and `{channel}` make of them. What comes in through a pattern from outside can be any name that
//! it matches, so a pattern stands for all of them at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::graph::{By, Edge, Graph, Vertex};
use super::{Space, sent};
use crate::config::glob::{Glob, Step};
use crate::config::{Config, pattern};
use crate::config::{NameTemplate, Source};

/// How often `{channel}` may be filled in by a name that was made so itself, before that name is
/// taken for all that its channel's pattern matches: it may grow for ever.
const MOST_FILLS: usize = 8;

/// How many names are followed exactly, beside those that the configuration has.
const MOST_NAMES: usize = 100_000;

/// The names that messages come or go under.
#[derive(Clone, Debug)]
enum Names {
    One(Arc<str>),
    /// All that a pattern matches, or that a template makes of those.
    All(Arc<Glob>),
}

impl Names {
    fn one(name: &str) -> Self {
        Names::One(name.into())
    }

    fn glob(&self) -> Arc<Glob> {
        match self {
            Names::One(name) => Arc::new(Glob::of_name(name.as_bytes())),
            Names::All(glob) => glob.clone(),
        }
    }
}

/// An item of a channel's source.
struct Entry {
    channel: usize,
    names: Names,
    vertex: usize,
}

/// A vertex that is still to be followed.
struct Open {
    channel: usize,
    names: Names,
    vertex: usize,
    fills: usize,
}

struct Builder<'c> {
    config: &'c Config,
    graph: Graph,
    entries: Vec<Entry>,
    /// Entries by where their names are, and the bytes that these certainly begin with.
    by_prefix: BTreeMap<(Space, Vec<u8>), Vec<usize>>,
    open: Vec<Open>,
    /// Vertices of names that channels with a pattern take: by channel and name.
    taken: HashMap<(usize, Arc<str>), usize>,
    /// Vertices of names that something is sent to.
    sent: HashMap<(Space, Arc<str>), usize>,
    /// The same for patterns of `routes`.
    routed: HashMap<(Space, Arc<str>), usize>,
}

/// The graph of the channels that `looks` chooses.
pub(super) fn build(config: &Config, looks: impl Fn(usize) -> bool) -> Graph {
    let mut builder = Builder {
        config,
        graph: Graph::default(),
        entries: Vec::new(),
        by_prefix: BTreeMap::new(),
        open: Vec::new(),
        taken: HashMap::new(),
        sent: HashMap::new(),
        routed: HashMap::new(),
    };
    for channel in (0..config.channels.len()).filter(|channel| looks(*channel)) {
        builder.add_source(channel);
    }
    // The first ones first, so that names are met with as few fills as possible.
    let mut next = 0;
    while next < builder.open.len() {
        builder.follow(next);
        next += 1;
    }
    builder.graph
}

impl Builder<'_> {
    fn add_source(&mut self, channel: usize) {
        let (names, space, are_patterns) = match &self.config.channels[channel].source {
            Source::Subscribe(names) => (names, Space::Channels, false),
            Source::Pattern(patterns) => (patterns, Space::Channels, true),
            Source::Stream(stream) => (&stream.keys, Space::Streams, false),
        };
        for name in names {
            let glob = Arc::new(if are_patterns {
                Glob::of_pattern(name.as_bytes())
            } else {
                Glob::of_name(name.as_bytes())
            });
            // A pattern like `[]` matches nothing: no message ever comes.
            if !glob.meets(&Glob::of_pattern(b"*")) {
                continue;
            }
            let prefix = (space, literal_prefix(&glob));
            self.by_prefix.entry(prefix).or_default().push(self.entries.len());
            let names = if are_patterns { Names::All(glob) } else { Names::One(name.clone()) };
            let vertex = self.graph.add_vertex(Vertex::Channel(channel));
            self.entries.push(Entry { channel, names: names.clone(), vertex });
            self.open.push(Open { channel, names, vertex, fills: 0 });
        }
    }

    /// Add what a channel does with the names that it takes.
    fn follow(&mut self, open: usize) {
        let Open { channel, names, vertex, fills } = &self.open[open];
        let (channel, names, vertex, fills) = (*channel, names.clone(), *vertex, *fills);
        let config = self.config;
        for (by, space, template) in sent(config, channel) {
            let (to, fills) = match &template {
                NameTemplate::Fixed(name) => (Names::One(name.clone()), 0),
                NameTemplate::Parts(parts) => (fill(parts, &names), fills + 1),
            };
            let shown = match (&to, &template) {
                (Names::One(name), _) => name.clone(),
                (Names::All(_), NameTemplate::Parts(parts)) => parts.join("{channel}").into(),
                (Names::All(_), NameTemplate::Fixed(name)) => name.clone(),
            };
            let to = self.send(to, space, shown, fills, true);
            self.graph.add_edge(Edge { from: vertex, to, certain: true, by });
        }
        let routes = &config.channels[channel].routes;
        for (space, routes) in
            [(Space::Channels, &routes.publish), (Space::Streams, &routes.append)]
        {
            for route in routes {
                let to = self.send_by_route(route, space);
                self.graph.add_edge(Edge { from: vertex, to, certain: false, by: By::Route });
            }
        }
    }

    /// The vertex of names that something is sent to, with edges to all who take them.
    fn send(
        &mut self,
        names: Names,
        space: Space,
        shown: Arc<str>,
        fills: usize,
        exact: bool,
    ) -> usize {
        if let Names::One(name) = &names
            && let Some(vertex) = self.sent.get(&(space, name.clone()))
        {
            return *vertex;
        }
        let from = self.graph.add_vertex(Vertex::Name(space, shown));
        if let Names::One(name) = &names {
            self.sent.insert((space, name.clone()), from);
        }
        let glob = names.glob();
        for entry in self.candidates(space, &glob) {
            let target = self.entries[entry].names.glob();
            if !glob.meets(&target) {
                continue;
            }
            let (to, certain) = match &names {
                // A name that meets a pattern matches it.
                Names::One(name) => (self.take(entry, name, fills), true),
                Names::All(_) => {
                    let certain = exact && glob.is_within(&target) == Some(true);
                    (self.entries[entry].vertex, certain)
                }
            };
            self.graph.add_edge(Edge { from, to, certain, by: By::Source });
        }
        from
    }

    fn send_by_route(&mut self, route: &pattern::Pattern, space: Space) -> usize {
        let key = (space, route.text().clone());
        if let Some(vertex) = self.routed.get(&key) {
            return *vertex;
        }
        let names = Names::All(Arc::new(Glob::of_pattern(route.text().as_bytes())));
        let vertex = self.send(names, space, route.text().clone(), 0, false);
        self.routed.insert(key, vertex);
        vertex
    }

    /// The vertex of a source's item for one name.
    fn take(&mut self, entry: usize, name: &Arc<str>, fills: usize) -> usize {
        let Entry { channel, names, vertex } = &self.entries[entry];
        let (channel, general) = (*channel, *vertex);
        if matches!(names, Names::One(_)) || fills >= MOST_FILLS || self.taken.len() >= MOST_NAMES {
            return general;
        }
        if let Some(vertex) = self.taken.get(&(channel, name.clone())) {
            return *vertex;
        }
        let vertex = self.graph.add_vertex(Vertex::Channel(channel));
        self.taken.insert((channel, name.clone()), vertex);
        self.open.push(Open { channel, names: Names::One(name.clone()), vertex, fills });
        vertex
    }

    /// Entries that may have a name in common with these, by how the names begin.
    fn candidates(&self, space: Space, glob: &Glob) -> Vec<usize> {
        let prefix = literal_prefix(glob);
        let is_one_name = prefix.len() == glob.steps().len();
        let shorter = (0..prefix.len())
            .filter_map(|length| self.by_prefix.get(&(space, prefix[..length].to_vec())));
        let follows = |other: Space, key: &[u8]| {
            other == space && if is_one_name { *key == *prefix } else { key.starts_with(&prefix) }
        };
        let longer = self
            .by_prefix
            .range((space, prefix.clone())..)
            .take_while(|((other, key), _)| follows(*other, key))
            .map(|(_, entries)| entries);
        shorter.chain(longer).flatten().copied().collect()
    }
}

/// A template with these names in it. Where the same name stands in it twice, names are counted in
/// that have two different ones: more, never fewer.
fn fill(parts: &[Arc<str>], names: &Names) -> Names {
    match names {
        Names::One(name) => Names::one(&parts.join(name)),
        Names::All(glob) => {
            let mut filled = Glob::default();
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    filled.append(glob);
                }
                filled.append(&Glob::of_name(part.as_bytes()));
            }
            Names::All(Arc::new(filled))
        }
    }
}

/// The bytes that all names certainly begin with.
fn literal_prefix(glob: &Glob) -> Vec<u8> {
    let single = |step: &Step| match step {
        Step::One(set) => set.single(),
        Step::Many => None,
    };
    glob.steps().iter().map_while(single).collect()
}
