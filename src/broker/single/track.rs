//! Counts the messages of a channel, and knows where marks were between them: so it can say of its own
//! messages which they are, and find those that another daemon speaks of. Does no I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::place::{At, Mark, Place};

/// How many marks are kept of one time: each daemon that comes brings one, and where no message is done
/// for long none would ever be forgotten.
const MARKS: usize = 1_000;

/// What was counted, for one channel.
pub(super) struct Track {
    source: Box<str>,
    token: Box<str>,
    /// How many messages were counted: the number of the last one.
    counted: u64,
    /// Times without a hole, the oldest first.
    spans: VecDeque<Span>,
    /// The place that was stored last by this daemon, or that it began behind, and the number of its
    /// message.
    known: (Option<String>, u64),
    /// Whether a place was ever stored, as far as is known.
    was_stored: bool,
    /// What was stored when nothing was counted yet that is counted now; none where nobody looked.
    stored_before: Option<Option<String>>,
    /// What it was called that nothing was ever written, before what will be counted was subscribed to.
    unwritten: Option<Box<str>>,
}

/// A time in which every message of all names was counted.
struct Span {
    /// The number of the last message before it.
    start: u64,
    /// The number of its last message, when it is over.
    end: Option<u64>,
    began: Instant,
    /// What was stored before it began, if somebody looked.
    stored_before: Option<Option<String>>,
    /// What it was called that nothing was ever written, before it began, if that is known.
    unwritten: Option<Box<str>>,
    /// Marks, each with the number of the last message before it.
    marks: Vec<(Mark, u64)>,
}

/// Where a place is among our own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All up to `done` is done with, and what is behind the message of this `number` isn't; it may be one
    /// that is still to come. Of those in between, where these are not the same, it can't be told.
    /// `gap`: some may never have come here.
    Behind { done: u64, number: u64, gap: bool },
    /// It can be told when the next mark has come.
    Later,
    /// It can't be told.
    Unknown,
}

impl Track {
    pub(super) fn new(source: &str, token: &str) -> Self {
        Track {
            source: source.into(),
            token: token.into(),
            counted: 0,
            spans: VecDeque::new(),
            known: (None, 0),
            was_stored: false,
            stored_before: None,
            unwritten: None,
        }
    }

    /// How many messages were counted.
    pub(super) fn counted(&self) -> u64 {
        self.counted
    }

    /// Whether everything that comes is counted now.
    pub(super) fn is_open(&self) -> bool {
        self.spans.back().is_some_and(|span| span.end.is_none())
    }

    /// Whether others can be told of what comes now.
    pub(super) fn is_marked(&self) -> bool {
        self.spans.back().is_some_and(|span| span.end.is_none() && !span.marks.is_empty())
    }

    /// Since when everything was counted.
    pub(super) fn open_for(&self) -> Duration {
        self.spans.back().map(|span| span.began.elapsed()).unwrap_or_default()
    }

    /// From now on everything is counted.
    pub(super) fn open(&mut self) {
        debug_assert!(!self.is_open());
        let (start, began) = (self.counted, Instant::now());
        let (stored_before, unwritten) = (self.stored_before.take(), self.unwritten.take());
        let marks = Vec::new();
        self.spans.push_back(Span { start, end: None, began, stored_before, unwritten, marks });
    }

    /// From now on something may be missing.
    pub(super) fn close(&mut self) {
        if let Some(span) = self.spans.back_mut() {
            span.end.get_or_insert(self.counted);
        }
    }

    /// This place is stored now, and nothing is subscribed to yet: what will be counted is behind it.
    pub(super) fn look_before(&mut self, place: Option<&str>) {
        self.stored_before = Some(place.map(str::to_owned));
    }

    /// All that was or will be counted is behind this place.
    pub(super) fn comes_behind(&mut self, place: Option<String>) {
        let Some(place) = place else { return };
        match self.spans.front_mut() {
            Some(span) => span.stored_before = Some(Some(place)),
            None => self.stored_before = Some(Some(place)),
        }
    }

    /// What will be counted may have been published before somebody looked.
    pub(super) fn doubt(&mut self) {
        self.stored_before = None;
    }

    /// Nothing is subscribed to yet, and it is called this that nothing was ever written, if that is so.
    pub(super) fn look_unwritten(&mut self, name: Option<&str>) {
        self.unwritten = name.map(Into::into);
    }

    /// Where it is called this now that nothing was ever written, and was before the present subscription,
    /// nobody has handled what came over that: whoever handles a message stores its place in the same step,
    /// and empties the name. Not so for an earlier subscription: when data that were written are lost, it
    /// ends.
    ///
    /// Answers the number of the last message before these, and what to call it; nothing before others
    /// can be told.
    pub(super) fn before_unwritten(&self, name: &str) -> Option<(u64, String)> {
        let span = self.spans.back().filter(|span| span.end.is_none())?;
        if span.unwritten.as_deref() != Some(name) {
            return None;
        }
        let (mark, at) = span.marks.first()?;
        let at = At::Marked(mark.clone(), span.start as i64 - *at as i64, None);
        Some((span.start, self.told(at)))
    }

    /// All up to this number are done with, though some never came here. Before the hole that they are in
    /// begins: what comes after it is none of them.
    pub(super) fn skip(&mut self, number: u64) {
        self.counted = self.counted.max(number);
    }

    /// One more; answers its number.
    pub(super) fn count(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }

    /// A mark has come.
    pub(super) fn mark(&mut self, mark: Mark) {
        let counted = self.counted;
        // Of another life of Redis's data: a place may have been stored in the one before.
        let mut marks = self.spans.iter().flat_map(|span| &span.marks);
        self.was_stored |= marks.any(|(before, _)| before.life != mark.life);
        if let Some(span) = self.spans.back_mut().filter(|span| span.end.is_none()) {
            if span.marks.len() == MARKS {
                // Not the first one, by which others may tell of what is before all.
                span.marks.drain(1..MARKS / 2);
            }
            span.marks.push((mark, counted));
        }
    }

    /// How many marks are kept.
    #[cfg(test)]
    pub(super) fn marks(&self) -> usize {
        self.spans.iter().map(|span| span.marks.len()).sum()
    }

    /// The number of the last message before this mark.
    pub(super) fn before(&self, mark: &Mark) -> Option<u64> {
        let mut marks = self.spans.iter().rev().flat_map(|span| span.marks.iter().rev());
        marks.find(|(known, _)| known == mark).map(|(_, number)| *number)
    }

    /// What to call the message of this number.
    pub(super) fn place(&self, number: u64) -> String {
        let span = self.spans.iter().rev().find(|span| span.start < number);
        let marked = span.and_then(|span| self.marked(span, number));
        marked.unwrap_or_else(|| self.told(At::Own(self.token.clone(), number)))
    }

    /// The same where all behind it is still to be handled, and no place is stored yet; nothing before
    /// others can be told.
    pub(super) fn place_before_all(&self, number: u64) -> Option<String> {
        let span = self.spans.iter().rev().find(|span| span.start <= number)?;
        self.marked(span, number)
    }

    /// What to call it by the marks of this span: by the last one too, because who has come since knows
    /// none before that.
    fn marked(&self, span: &Span, number: u64) -> Option<String> {
        let behind = |(mark, at): &(Mark, u64)| (mark.clone(), number as i64 - *at as i64);
        let before = span.marks.iter().rposition(|(_, at)| *at < number).unwrap_or(0);
        let (mark, count) = behind(span.marks.get(before)?);
        let later = span.marks[before + 1..].last().map(behind);
        Some(self.told(At::Marked(mark, count, later)))
    }

    fn told(&self, at: At) -> String {
        Place { source: self.source.clone(), at }.to_string()
    }

    /// What to call the last message before a mark, whether or not it came here.
    pub(super) fn place_of(&self, mark: Mark) -> String {
        self.told(At::Marked(mark, 0, None))
    }

    /// This place was stored for the message of this number, or is where we begin.
    pub(super) fn set_known(&mut self, place: Option<String>, number: u64) {
        self.was_stored |= place.is_some();
        self.known = (place, number);
    }

    /// Somebody has stored a place.
    pub(super) fn saw_place(&mut self) {
        self.was_stored = true;
    }

    /// The place that was stored last, as far as this daemon knows.
    pub(super) fn known_place(&self) -> Option<&str> {
        self.known.0.as_deref()
    }

    /// Whether nobody has stored another place since.
    pub(super) fn is_known(&self, place: Option<&str>) -> bool {
        self.known.0.as_deref() == place
    }

    /// Find a place that was stored; `None` where none ever was.
    pub(super) fn find(&self, place: Option<&str>) -> Found {
        if place.is_none() && self.was_stored {
            // Redis has lost its data.
            return Found::Unknown;
        }
        if self.is_known(place) {
            return self.behind(self.known.1);
        }
        // Nobody has stored another since before this was counted.
        let unchanged =
            |span: &&Span| span.stored_before.as_ref().is_some_and(|p| p.as_deref() == place);
        if let Some(span) = self.spans.iter().find(unchanged) {
            return Found::Behind { done: 0, number: span.start, gap: true };
        }
        let Some(place) = place else { return Found::Unknown };
        let Ok(Place { source, at }) = place.parse() else { return Found::Unknown };
        if source != self.source {
            return Found::Unknown;
        }
        match at {
            At::Own(token, number) if token == self.token => self.behind(number),
            At::Own(..) => Found::Unknown,
            At::Marked(mark, count, later) => self.find_either((mark, count), later),
        }
    }

    fn behind(&self, number: u64) -> Found {
        // What came in a span that is over may have had others behind it.
        let gap = self.spans.iter().any(|span| span.end.is_some_and(|end| number <= end));
        Found::Behind { done: number, number, gap }
    }

    /// By the mark that tells most, of those that came here.
    fn find_either(&self, (mark, count): (Mark, i64), later: Option<(Mark, i64)>) -> Found {
        let first = self.find_marked(&mark, count);
        let second = later.and_then(|(mark, count)| self.find_marked(&mark, count));
        let told = |found: &Found| match found {
            Found::Behind { done, number, gap } => (done == number, !gap),
            Found::Later | Found::Unknown => (false, false),
        };
        let found = second.into_iter().chain(first).max_by_key(told);
        found.unwrap_or_else(|| self.find_between(&mark, count))
    }

    /// By a mark that came here.
    fn find_marked(&self, mark: &Mark, count: i64) -> Option<Found> {
        let place = |span: &Span| span.marks.iter().rev().find(|(known, _)| known == mark).cloned();
        let found = self.spans.iter().enumerate().rev().find_map(|(i, s)| Some((i, place(s)?.1)));
        let (index, before) = found?;
        let span = &self.spans[index];
        let number = before.saturating_add_signed(count);
        if before as i64 + count < span.start as i64 {
            // Before this span began: all of it is behind the place.
            return Some(Found::Behind { done: 0, number: span.start, gap: true });
        }
        Some(match span.end {
            // In the hole behind it. All that counts with a later mark is behind the place.
            Some(end) if number > end => match self.spans.get(index + 1) {
                Some(next) => match next.marks.first() {
                    Some((_, before)) => Found::Behind { done: end, number: *before, gap: true },
                    None => Found::Later,
                },
                None => Found::Later,
            },
            // The mark tells that it isn't in the hole before this span.
            _ => {
                let over = |span: &Span| span.end.is_some_and(|end| number <= end);
                let gap = self.spans.range(index..).any(over);
                Found::Behind { done: number, number, gap }
            }
        })
    }

    /// A mark that never came here: it was published while we weren't subscribed, or it is still to
    /// come. What is behind a later one is behind the place, and what is before an earlier one before it.
    fn find_between(&self, mark: &Mark, count: i64) -> Found {
        let marks = || self.spans.iter().flat_map(|span| &span.marks);
        let of_life = || marks().filter(|(known, _)| known.life == mark.life);
        let earlier = of_life().rfind(|(known, _)| count >= 0 && known.number < mark.number);
        match of_life().find(|(known, _)| known.number > mark.number) {
            Some((_, number)) => {
                let done = earlier.map_or(0, |(_, at)| *at.min(number));
                Found::Behind { done, number: *number, gap: true }
            }
            None => Found::Later,
        }
    }

    /// Nobody will speak of messages before this number any more.
    pub(super) fn forget(&mut self, number: u64) {
        while self.spans.len() > 1 && self.spans[0].end.is_some_and(|end| end < number) {
            self.spans.pop_front();
        }
        if let Some(span) = self.spans.front_mut() {
            let last = span.marks.iter().rposition(|(_, at)| *at < number).unwrap_or(0);
            span.marks.drain(..last);
        }
    }
}
