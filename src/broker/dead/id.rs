//! The id of a stream entry.

use std::fmt;
use std::str::FromStr;

/// `1700000000123-0`: milliseconds and a number. Ids of one stream are in the order of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, unless whoever made the entry chose another number.
    pub milliseconds: u64,
    /// What tells entries of one millisecond apart.
    pub sequence: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

impl FromStr for EntryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| {
            let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            only_digits.then(|| digits.parse().ok()).flatten()
        };
        text.split_once('-')
            .and_then(|(ms, n)| Some(EntryId { milliseconds: number(ms)?, sequence: number(n)? }))
            .ok_or_else(|| "an id looks like 1700000000123-0".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_two_numbers() {
        for text in ["1700000000123-0", "0-1", "18446744073709551615-18446744073709551615"] {
            assert_eq!(text.parse::<EntryId>().expect("an id").to_string(), text);
        }
        for text in
            ["", "1", "1-", "-1", "1-1-1", "+1-1", " 1-1", "18446744073709551616-0", "$", "*"]
        {
            assert!(text.parse::<EntryId>().is_err(), "{text:?}");
        }
        let id = |text: &str| text.parse::<EntryId>().expect("an id");
        assert!(id("9-1") < id("10-0") && id("9-9") < id("9-10"));
    }
}
