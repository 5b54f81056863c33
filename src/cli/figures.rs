//! Numbers, times and tables as people read them, for the verbs that look into a daemon.

use std::time::Duration;

/// `12.3k`: at most five characters up to a billion.
pub fn short(n: f64) -> String {
    match n {
        ..0.05 => "0".to_owned(),
        ..9.95 => format!("{n:.1}"),
        ..9_999.5 => format!("{n:.0}"),
        ..99_950.0 => format!("{:.1}k", n / 1e3),
        ..999_500.0 => format!("{:.0}k", n / 1e3),
        ..99_950_000.0 => format!("{:.1}M", n / 1e6),
        _ => format!("{:.0}M", n / 1e6),
    }
}

/// `1,234,567`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `16.0 MiB`
pub fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).display().iec().to_string()
}

/// `3d 4h`, `5m 6s`: the two largest units.
pub fn span(ms: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `123 µs`, `4.5 ms`, `1.2 s`
pub fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.000_999_5 => format!("{:.0} µs", seconds * 1e6),
        ..0.099_95 => format!("{:.1} ms", seconds * 1e3),
        ..0.999_5 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

/// `overflow 3, failed 1`
pub fn by_word<'a>(words: impl IntoIterator<Item = (&'a String, &'a u64)>) -> String {
    let some = words.into_iter().filter(|(_, n)| **n > 0);
    some.map(|(word, n)| format!("{word} {}", grouped(*n))).collect::<Vec<_>>().join(", ")
}

/// Rows with their columns beneath each other: text to the left, the columns of `numbers` to the
/// right.
pub fn table(rows: &[Vec<String>], numbers: std::ops::Range<usize>) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if numbers.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (1.25, "1.2"),
            (12.0, "12"),
            (9_999.0, "9999"),
            (20_010.0, "20.0k"),
            (123_456.0, "123k"),
            (1_234_567.0, "1.2M"),
            (250_000_000.0, "250M"),
        ] {
            assert_eq!(short(n), text);
        }
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 61_000, 90_000_000].map(span), ["0s", "1m 1s", "1day 1h"]);
        let times = [0.000_012, 0.004_5, 0.25, 2.0].map(seconds);
        assert_eq!(times, ["12 µs", "4.5 ms", "250 ms", "2.0 s"]);
    }

    #[test]
    fn columns_stand_beneath_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let lines = table(&[row(["NAME", "N", "X"]), row(["é", "100", ""])], 1..2);
        assert_eq!(lines, ["NAME    N  X", "é     100"]);
    }
}
