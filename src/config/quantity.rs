//! Sizes, durations and counts: read as people write them, kept within limits.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::DeValue;

use super::reader::{Value, quoted};

/// The longest duration anything may have. Far more than makes sense, and far from where adding it
/// to a point in time would overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes any size may be: what a 32-bit length can say in Redis's 512 MB and wasm's 4 GiB
/// world, with room; queues of a large machine fit too.
pub(super) const LARGEST: usize = 1 << 40;

/// Most entries that a stream is kept at: far more than fit into any memory.
pub(super) const MOST_ENTRIES: usize = 1 << 40;

/// A size as it is shown: in the largest unit that needs no fraction.
pub(super) fn show_size(bytes: usize) -> String {
    const UNITS: [(usize, &str); 4] =
        [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    if bytes == 1 {
        return "1 byte".to_owned();
    }
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

/// A duration as it is shown and read.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

impl Value<'_, '_> {
    /// A number of bytes.
    pub fn size(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let example = || Some("write it like \"16MiB\", \"500KB\", or in bytes: 4096".to_owned());
        let bytes = match self.value.get_ref() {
            DeValue::Integer(_) => self.integer()?,
            DeValue::String(_) => {
                let text = self.text()?;
                match text.value.trim().parse::<ByteSize>() {
                    Ok(size) => i128::from(size.as_u64()),
                    Err(_) => {
                        self.error(
                            format!("{} is not a size: {}", quoted(self.key), text.quoted()),
                            example(),
                        );
                        return None;
                    }
                }
            }
            _ => {
                self.wrong_kind("a size", example());
                return None;
            }
        };
        self.within(bytes, &range, show_size)
    }

    /// A number of things.
    pub fn count(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let DeValue::Integer(_) = self.value.get_ref() else {
            self.wrong_kind("a whole number", None);
            return None;
        };
        let number = self.integer()?;
        self.within(number, &range, |number| number.to_string())
    }

    /// A length of time.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let key = quoted(self.key);
        let duration = match self.value.get_ref() {
            DeValue::Integer(number) => {
                let help = format!("write \"{number}ms\" or \"{number}s\"");
                self.error(format!("{key} needs a unit"), Some(help));
                return None;
            }
            DeValue::String(_) => {
                let text = self.text()?;
                match humantime::parse_duration(text.value.trim()) {
                    Ok(duration) => duration,
                    Err(_) => {
                        let help = "write it like \"100ms\", \"30s\" or \"1m 30s\"".to_owned();
                        self.error(format!("{key} is not a time: {}", text.quoted()), Some(help));
                        return None;
                    }
                }
            }
            _ => {
                self.wrong_kind("a time", Some("write it like \"100ms\"".to_owned()));
                return None;
            }
        };
        if range.contains(&duration) {
            return Some(duration);
        }
        let limit = if duration < *range.start() {
            format!("at least {}", show_duration(*range.start()))
        } else {
            format!("at most {}", show_duration(*range.end()))
        };
        self.error(format!("{key} is {}; it must be {limit}", show_duration(duration)), None);
        None
    }

    /// The value of an integer, reported when it is absurd.
    fn integer(&self) -> Option<i128> {
        let DeValue::Integer(number) = self.value.get_ref() else { return None };
        let value = i128::from_str_radix(number.as_str(), number.radix()).ok();
        if value.is_none() {
            self.error(format!("{} is too large a number", quoted(self.key)), None);
        }
        value
    }

    fn within(
        &self,
        number: i128,
        range: &RangeInclusive<usize>,
        show: impl Fn(usize) -> String,
    ) -> Option<usize> {
        let key = quoted(self.key);
        let converted = usize::try_from(number);
        if let Ok(number) = converted
            && range.contains(&number)
        {
            return Some(number);
        }
        let shown = converted.map_or_else(|_| number.to_string(), &show);
        let limit = if number < *range.start() as i128 {
            format!("at least {}", show(*range.start()))
        } else {
            format!("at most {}", show(*range.end()))
        };
        self.error(format!("{key} is {shown}; it must be {limit}"), None);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_largest_unit_without_a_fraction() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1 << 10, "1KiB"),
            ((1 << 20) + 1, "1048577 bytes"),
            (16 << 20, "16MiB"),
            (3 << 30, "3GiB"),
        ] {
            assert_eq!(show_size(bytes), shown);
        }
    }
}
