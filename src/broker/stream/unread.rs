//! Entries that were trimmed off before the group had read them. Redis keeps no list of them; from
//! 7.0 on its counters tell how many there are, as long as all that is left is unread.
//!
//! A number to be warned by, no account: each daemon that looks while they are missing counts them,
//! what is trimmed and read past between two looks is not seen, and a Redis that takes them into its
//! own count of what was read (7.0 doesn't, measured) may hide some of a second such loss.

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
        let missing = added.saturating_sub(read).saturating_sub(seen.length);
        if group.delivered != self.delivered && missing < self.counted {
            self.counted = 0;
        }
        let new = missing.saturating_sub(self.counted);
        *self = Unread { delivered: group.delivered, counted: missing };
        new
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::Group;
    use super::*;

    #[test]
    fn what_is_missing_is_counted_once_whether_or_not_redis_counts_it_as_read() {
        let seen = |first, delivered, added, length, read| Seen {
            first: Some(EntryId { ms: first, seq: 0 }),
            added: Some(added),
            length,
            group: Some(Group {
                delivered: EntryId { ms: delivered, seq: 0 },
                read: Some(read),
                ..Group::default()
            }),
            ..Seen::default()
        };
        let mut unread = Unread::default();
        // Entry n has the id n.
        assert_eq!(unread.trimmed(&seen(1, 20, 100, 100, 20)), 0);
        assert_eq!(unread.trimmed(&seen(51, 20, 100, 50, 20)), 30);
        assert_eq!(unread.trimmed(&seen(61, 20, 100, 40, 20)), 10);
        assert_eq!(unread.trimmed(&seen(61, 80, 100, 40, 40)), 0);
        let mut other = Unread { ..unread };
        assert_eq!(unread.trimmed(&seen(91, 80, 100, 10, 40)), 10);
        assert_eq!(other.trimmed(&seen(91, 80, 100, 10, 80)), 10);
        assert_eq!(other.trimmed(&seen(91, 80, 100, 10, 80)), 0);
    }
}
