//! The id of a stream's entry.

use std::fmt;

/// An id: milliseconds and a number among those of one millisecond. Compares as Redis orders them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds, nearly always since 1970.
    pub ms: u64,
    /// Among the entries of this millisecond.
    pub seq: u64,
}

impl EntryId {
    /// Read `1700000000000-0`; without a second number it is 0, as in Redis.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse().ok(),
            false => None,
        };
        Some(EntryId { ms: number(ms)?, seq: number(seq)? })
    }

    /// The one right before it: a group that has that delivered begins with this one.
    pub fn before(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => EntryId { seq, ..self },
            None if self.ms == 0 => self,
            None => EntryId { ms: self.ms - 1, seq: u64::MAX },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_compared_as_redis_does() {
        let id = |text: &str| EntryId::parse(text.as_bytes());
        assert_eq!(id("12-3"), Some(EntryId { ms: 12, seq: 3 }));
        assert_eq!(id("12"), Some(EntryId { ms: 12, seq: 0 }));
        let last = "18446744073709551615-18446744073709551615";
        assert_eq!(id(last).unwrap().to_string(), last);
        for bad in ["", "-", "1-", "-1", "a", "1-2-3", "+1", "18446744073709551616", "$", " 1"] {
            assert_eq!(id(bad), None, "{bad}");
        }
        assert!(id("9-0") < id("10-0") && id("10-2") < id("10-10"));
        assert_eq!(id("5-1").unwrap().before(), id("5").unwrap());
        assert_eq!(id("5").unwrap().before(), EntryId { ms: 4, seq: u64::MAX });
        assert_eq!(EntryId::default().before(), EntryId::default());
    }
}
