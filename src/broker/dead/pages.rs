//! A stream's dead letters, page by page.

use super::{DeadError, DeadLetters, Found};
use crate::config::EntryId;

/// Entries of a page at most.
const LARGEST_PAGE: usize = 500;

/// Entries of the first page, when it isn't known yet how large they are.
const FIRST_PAGE: usize = 32;

/// Bytes that a page should not have many more of: payloads may be as large as `max_payload`.
const PAGE_BYTES: usize = 32 << 20;

/// Where one is in a stream.
#[derive(Debug)]
pub struct Pages {
    key: String,
    length: u64,
    after: Option<EntryId>,
    /// The last entry at the beginning; `None` when there is nothing (more) to read.
    until: Option<EntryId>,
    count: usize,
}

impl Pages {
    pub(super) fn new(key: String, length: u64, until: Option<EntryId>) -> Self {
        Pages { key, length, after: None, until, count: FIRST_PAGE }
    }

    /// Entries of the stream when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next entries, oldest first; an empty page is the end.
    ///
    /// # Errors
    /// As [`DeadLetters::open`].
    pub async fn next(&mut self, letters: &mut DeadLetters) -> Result<Vec<Found>, DeadError> {
        let Some(until) = self.until else { return Ok(Vec::new()) };
        let page = letters.range(&self.key, self.after, until, self.count).await?;
        match page.last() {
            Some(last) => {
                self.after = Some(last.id);
                self.until = (last.id < until).then_some(until);
                self.count = count_after(&page);
            }
            None => self.until = None,
        }
        Ok(page)
    }
}

/// How many entries to ask for when the last ones were like these.
fn count_after(page: &[Found]) -> usize {
    let size = |found: &Found| found.letter.as_ref().map_or(0, |letter| letter.size());
    let bytes: usize = page.iter().map(size).sum();
    let average = bytes / page.len().max(1);
    (PAGE_BYTES / average.max(1)).clamp(1, LARGEST_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::{Blame, DeadLetter, Origin};

    fn page(sizes: &[usize]) -> Vec<Found> {
        let found = |size: &usize| Found {
            id: EntryId { ms: 1, seq: 1 },
            letter: Ok(DeadLetter {
                payload: vec![0; *size],
                headers: Vec::new(),
                channel: "c".into(),
                origin: Origin::PubSub { channel: "c".into() },
                blame: Blame { handler: None, kind: "trap".into(), reason: String::new() },
                attempts: 1,
                time: 0,
            }),
        };
        sizes.iter().map(found).collect()
    }

    #[test]
    fn large_entries_make_small_pages() {
        assert_eq!(count_after(&page(&[])), LARGEST_PAGE);
        assert_eq!(count_after(&page(&[0, 10])), LARGEST_PAGE);
        assert_eq!(count_after(&page(&[1 << 20, 1 << 20])), 32);
        assert_eq!(count_after(&page(&[PAGE_BYTES + 1])), 1);
    }
}
