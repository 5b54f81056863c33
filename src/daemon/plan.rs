//! Which channel of a new configuration goes on with which one of the old.
//!
//! Pure: two lists of channels in, pairs out. A source is what it is by its kind, name and group, not
//! by its table, so a renamed channel is the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{Channel, Source};

/// What becomes of the channels.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// For each new channel the old one that it goes on with, if any.
    pub(super) before: Vec<Option<usize>>,
    /// For each new channel the old ones, others than that, from which it takes names over: their
    /// messages come first.
    pub(super) behind: Vec<BTreeSet<usize>>,
}

impl Plan {
    /// Old channels that none of the new ones goes on with.
    pub(super) fn gone(&self, old: usize) -> Vec<usize> {
        let kept: BTreeSet<usize> = self.before.iter().flatten().copied().collect();
        (0..old).filter(|old| !kept.contains(old)).collect()
    }
}

/// One thing that messages come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Channel(Arc<str>),
    Pattern(Arc<str>),
    /// Key and group.
    Stream(Arc<str>, Arc<str>),
    /// Of a channel that is single: its table, whether these are patterns, and the names. Its messages
    /// are counted together with other daemons that have the same, so with any other it is another.
    Single(Arc<str>, bool, Vec<Arc<str>>),
}

/// A channel, as far as it is told from others.
pub(super) struct Known {
    pub(super) name: Arc<str>,
    pub(super) source: Source,
    pub(super) single: bool,
}

fn names(name: &Arc<str>, source: &Source, single: bool) -> BTreeSet<Name> {
    let one = |pattern, names: &[Arc<str>]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        [Name::Single(name.clone(), pattern, names)].into()
    };
    match source {
        Source::Subscribe(names) if single => one(false, names),
        Source::Pattern(names) if single => one(true, names),
        Source::Subscribe(names) => names.iter().cloned().map(Name::Channel).collect(),
        Source::Pattern(names) => names.iter().cloned().map(Name::Pattern).collect(),
        Source::Stream(stream) => {
            let of_group = |key: &Arc<str>| Name::Stream(key.clone(), stream.group.clone());
            stream.keys.iter().map(of_group).collect()
        }
    }
}

/// Pair the channels: those of one name that have something in common, then those that have the same
/// source, then those that have something in common.
pub(super) fn plan(old: &[Known], new: &[Channel]) -> Plan {
    let old_names: Vec<BTreeSet<Name>> =
        old.iter().map(|old| names(&old.name, &old.source, old.single)).collect();
    let new_names: Vec<BTreeSet<Name>> =
        new.iter().map(|new| names(&new.name, &new.source, new.single)).collect();
    let mut wanted_by: BTreeMap<&Name, Vec<usize>> = BTreeMap::new();
    for (index, names) in old_names.iter().enumerate() {
        names.iter().for_each(|name| wanted_by.entry(name).or_default().push(index));
    }
    let related = |new: usize| -> BTreeSet<usize> {
        let found = new_names[new].iter().filter_map(|name| wanted_by.get(name));
        found.flatten().copied().collect()
    };

    let mut pairs = Pairs { before: vec![None; new.len()], after: vec![None; old.len()] };
    pairs.find(&related, |at, other| old[other].name == new[at].name);
    pairs.find(&related, |at, other| old_names[other] == new_names[at]);
    pairs.find(&related, |_, _| true);
    let Pairs { before, after } = pairs;

    let takes_over = |(at, names): (usize, &BTreeSet<Name>)| {
        let loses = |other: &usize| {
            let kept = after[*other].map(|after| &new_names[after]);
            let lost = |name: &Name| {
                old_names[*other].contains(name) && kept.is_none_or(|kept| !kept.contains(name))
            };
            before[at] != Some(*other) && names.iter().any(lost)
        };
        related(at).into_iter().filter(loses).collect()
    };
    let behind = new_names.iter().enumerate().map(takes_over).collect();
    Plan { before, behind }
}

struct Pairs {
    /// For each new channel its old one.
    before: Vec<Option<usize>>,
    /// For each old channel its new one.
    after: Vec<Option<usize>>,
}

impl Pairs {
    /// Pair what is still alone, is related and fits.
    fn find(
        &mut self,
        related: &impl Fn(usize) -> BTreeSet<usize>,
        fits: impl Fn(usize, usize) -> bool,
    ) {
        for at in 0..self.before.len() {
            if self.before[at].is_some() {
                continue;
            }
            let mut candidates = related(at).into_iter();
            let found = candidates.find(|other| self.after[*other].is_none() && fits(at, *other));
            if let Some(other) = found {
                self.before[at] = Some(other);
                self.after[other] = Some(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Environment};

    fn channels(tables: &[(&str, &str)]) -> Vec<Channel> {
        let table = |(name, source): &(&str, &str)| {
            format!("[channels.{name}]\n{source}\npublish = \"out\"\n")
        };
        let text: String = tables.iter().map(table).collect();
        let environment: Environment = [("UNUSED", "")].into_iter().collect();
        let loaded = Config::parse(&text, Path::new("/test/config.toml"), &environment);
        loaded.unwrap_or_else(|errors| panic!("{}", errors.render(false))).config.channels.to_vec()
    }

    fn planned(old: &[(&str, &str)], new: &[(&str, &str)]) -> Plan {
        let known = |Channel { name, source, single, .. }| Known { name, source, single };
        let old = channels(old).into_iter().map(known);
        plan(&old.collect::<Vec<_>>(), &channels(new))
    }

    fn behind(plan: &Plan) -> Vec<Vec<usize>> {
        plan.behind.iter().map(|behind| behind.iter().copied().collect()).collect()
    }

    #[test]
    fn a_channel_goes_on_as_what_it_reads_not_as_what_it_is_called() {
        let a = ("a", "subscribe = \"x\"");
        let b = ("b", "pattern = \"x\"");
        let plan = planned(&[a, b], &[("c", "pattern = \"x\""), ("d", "subscribe = \"x\"")]);
        assert_eq!(plan.before, [Some(1), Some(0)]);
        assert_eq!(plan.gone(2), [] as [usize; 0]);
        assert_eq!(behind(&plan), [[], []] as [[usize; 0]; 2]);
        // Names changed round: each goes on with its messages.
        let plan = planned(
            &[("a", "subscribe = \"x\""), ("b", "subscribe = \"y\"")],
            &[("a", "subscribe = \"y\""), ("b", "subscribe = \"x\"")],
        );
        assert_eq!(plan.before, [Some(1), Some(0)]);
    }

    #[test]
    fn of_two_that_read_the_same_each_goes_on_under_its_name() {
        let (a, b) = (("a", "subscribe = \"x\""), ("b", "subscribe = \"x\""));
        assert_eq!(planned(&[a, b], &[b, a]).before, [Some(1), Some(0)]);
        let plan = planned(&[a, b], &[b, ("c", "subscribe = \"x\"")]);
        assert_eq!(plan.before, [Some(1), Some(0)]);
        let plan = planned(&[a, b], &[b]);
        assert_eq!((plan.before.as_slice(), plan.gone(2)), ([Some(1)].as_slice(), vec![0]));
        assert_eq!(planned(&[a], &[a, b]).before, [Some(0), None]);
        assert_eq!(behind(&planned(&[a], &[a, b])), [[], []] as [[usize; 0]; 2]);
    }

    #[test]
    fn who_takes_names_over_comes_behind_who_had_them() {
        let both = ("a", "subscribe = [\"x\", \"y\"]");
        let (x, y) = (("a", "subscribe = \"x\""), ("b", "subscribe = \"y\""));
        let plan = planned(&[both], &[x, y]);
        assert_eq!(plan.before, [Some(0), None]);
        assert_eq!(behind(&plan), [vec![], vec![0]]);
        // The other way round: one goes on, and what the other had comes first.
        let plan = planned(&[x, y], &[both]);
        assert_eq!(plan.before, [Some(0)]);
        assert_eq!(plan.gone(2), [1]);
        assert_eq!(behind(&plan), [vec![1]]);
    }

    #[test]
    fn a_channel_that_is_single_goes_on_as_exactly_that() {
        let single = |source: &'static str| ("a", source);
        let a = single("subscribe = [\"x\", \"y\"]\nsingle = true");
        let other = single("subscribe = [\"y\", \"x\"]\nsingle = true");
        assert_eq!(planned(&[a], &[other]).before, [Some(0)]);
        for changed in ["subscribe = \"x\"\nsingle = true", "subscribe = [\"x\", \"y\"]"] {
            assert_eq!(planned(&[a], &[single(changed)]).before, [None], "{changed}");
            assert_eq!(planned(&[single(changed)], &[a]).before, [None], "{changed}");
        }
        assert_eq!(planned(&[a], &[("b", a.1)]).before, [None]);
    }

    #[test]
    fn a_stream_is_its_key_and_its_group() {
        let a = ("a", "stream = \"s\"\ngroup = \"g\"");
        assert_eq!(planned(&[a], &[("b", "stream = \"s\"\ngroup = \"g\"")]).before, [Some(0)]);
        assert_eq!(planned(&[a], &[("a", "stream = \"s\"\ngroup = \"h\"")]).before, [None]);
        assert_eq!(planned(&[a], &[("a", "subscribe = \"s\"")]).before, [None]);
    }
}
