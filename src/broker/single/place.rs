//! Which message is meant, in words that other daemons understand.

use std::fmt;
use std::str::FromStr;

/// A point in the order of what is published: all that are subscribed see it at the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of which life of Redis's data: numbers begin anew when it is lost.
    pub(super) life: Box<str>,
    /// Later ones have higher numbers.
    pub(super) number: u64,
}

impl Mark {
    /// Read what was published; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (life, number) = text.split_once(' ')?;
        Some(Mark { life: word(life)?, number: number.parse().ok()? })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.life, self.number)
    }
}

/// A message: all up to it are done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What the channel was subscribed to: whoever subscribes to something else counts otherwise.
    pub(super) source: Box<str>,
    pub(super) at: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// So many messages behind a mark; 0 is the last one before it, and less are those before that. The
    /// same by a later mark, which who came later knows, if there is one.
    Marked(Mark, i64, Option<(Mark, i64)>),
    /// A number that only one daemon can tell the message by: it saw no mark.
    Own(Box<str>, u64),
}

/// A text is not a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let read = || {
            let mut words = text.split(' ');
            let (source, kind) = (word(words.next()?)?, words.next()?);
            let at = match kind {
                "mark" => {
                    let (mark, count) = marked(word(words.next()?)?, &mut words)?;
                    let later = words.next().map(|life| marked(word(life)?, &mut words));
                    At::Marked(
                        mark,
                        count,
                        if let Some(later) = later { Some(later?) } else { None },
                    )
                }
                "own" => At::Own(word(words.next()?)?, words.next()?.parse().ok()?),
                _ => return None,
            };
            words.next().is_none().then_some(Place { source, at })
        };
        read().ok_or(NoPlace)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Marked(mark, count, later) => {
                write!(f, "{} mark {mark} {count}", self.source)?;
                later.iter().try_for_each(|(mark, count)| write!(f, " {mark} {count}"))
            }
            At::Own(token, number) => write!(f, "{} own {token} {number}", self.source),
        }
    }
}

/// A mark of this life, and how many messages behind it.
fn marked<'a>(life: Box<str>, words: &mut impl Iterator<Item = &'a str>) -> Option<(Mark, i64)> {
    let number = words.next()?.parse().ok()?;
    Some((Mark { life, number }, words.next()?.parse().ok()?))
}

fn word(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}
