//! A stream's dead letters, page by page.

use super::{DeadError, DeadLetters, Found};
use crate::config::EntryId;

/// Entries of a page at most.
const LARGEST_PAGE: usize = 500;

/// Entries of the first page, when it isn't known yet how large they are.
pub(in crate::broker) const FIRST_PAGE: usize = 32;

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
                self.count = count_after(page.iter().map(size));
            }
            None => self.until = None,
        }
        Ok(page)
    }
}

fn size(found: &Found) -> usize {
    found.letter.as_ref().map_or(0, |letter| letter.size())
}

/// How many entries to ask for when the last ones had these sizes.
pub(in crate::broker) fn count_after(page: impl ExactSizeIterator<Item = usize>) -> usize {
    let entries = page.len().max(1);
    let average = page.sum::<usize>() / entries;
    (PAGE_BYTES / average.max(1)).clamp(1, LARGEST_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_entries_make_small_pages() {
        for (sizes, count) in [
            (&[] as &[usize], LARGEST_PAGE),
            (&[0, 10], LARGEST_PAGE),
            (&[1 << 20, 1 << 20], 32),
            (&[PAGE_BYTES + 1], 1),
        ] {
            assert_eq!(count_after(sizes.iter().copied()), count);
        }
    }
}
