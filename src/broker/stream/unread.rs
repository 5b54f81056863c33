//! Entries that were trimmed off before the group had read them. Redis keeps no list of them; from
//! 7.0 on its counters tell how many there are, as long as all that is left is unread.
//!
//! Each daemon that looks while they are missing counts them.

use super::group::Seen;
use super::id::EntryId;

#[derive(Default)]
pub(super) struct Unread {
    /// Up to where the group had read when these were counted.
    delivered: EntryId,
    counted: u64,
}

impl Unread {
    /// The group is another.
    pub(super) fn forget(&mut self) {
        *self = Unread::default();
    }

    /// How many are missing that were not when it was looked at before.
    pub(super) fn trimmed(&mut self, seen: &Seen) -> u64 {
        let Some(group) = &seen.group else { return 0 };
        let (Some(added), Some(read)) = (seen.added, group.read) else { return 0 };
        if seen.first.is_some_and(|first| first <= group.delivered) {
            return 0;
        }
        if group.delivered != self.delivered {
            *self = Unread { delivered: group.delivered, counted: 0 };
        }
        let missing = added.saturating_sub(read).saturating_sub(seen.length);
        let new = missing.saturating_sub(self.counted);
        self.counted = self.counted.max(missing);
        new
    }
}
