//! The columns of the tables of `handlerd top`, and which of them there is room for.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use ratatui::layout::Alignment;
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::Cell;

use super::rates::{ChannelRow, HandlerRow};
use crate::cli::figures::{bytes, grouped, seconds, short};
use crate::cli::show::escaped;
use crate::cli::status::state;

/// A column: its head, its least width, when it is left out (those of the highest rank first where
/// there isn't room for all), and what of a row is in it.
pub struct Column<R> {
    /// What is above it.
    pub head: &'static str,
    /// Its least width.
    pub width: u16,
    rank: u8,
    /// What of a row is in it.
    pub cell: fn(&R) -> Shown,
}

/// The places of the columns that there is room for. One that has no word for any row needs none.
pub fn fitting<R>(columns: &[Column<R>], rows: &[R], width: u16) -> Vec<usize> {
    let is_blank = |row: &R, place: usize| matches!((columns[place].cell)(row), Shown::Text(text) if text.is_empty());
    let says_something =
        |place: &usize| *place == 0 || !rows.iter().all(|row| is_blank(row, *place));
    let mut by_rank: Vec<usize> =
        (0..columns.len()).filter(|place| rows.is_empty() || says_something(place)).collect();
    by_rank.sort_by_key(|place| columns[*place].rank);
    let mut left = width;
    let mut fitting: Vec<usize> = by_rank
        .into_iter()
        // One more for what is between them.
        .take_while(|place| {
            let needed = columns[*place].width + 1;
            let fits = needed <= left || *place == 0;
            left = left.saturating_sub(needed);
            fits
        })
        .collect();
    fitting.sort_unstable();
    fitting
}

/// What a cell shows, and what it is sorted by: texts upwards, numbers from the largest on.
pub enum Shown {
    /// Words.
    Text(String),
    /// A number, or nothing of that kind.
    Number(String, f64),
    /// A number that should be none.
    Bad(String, f64),
}

impl Shown {
    fn rate(n: Option<f64>) -> Shown {
        Shown::Number(n.map_or("…".to_owned(), short), n.unwrap_or(0.0))
    }

    fn count(n: Option<u64>) -> Shown {
        Shown::Number(n.map_or("-".to_owned(), grouped), n.map_or(-1.0, |n| n as f64))
    }

    fn sum(by_word: &BTreeMap<String, u64>) -> Shown {
        Shown::count(Some(by_word.values().sum()))
    }

    /// The same, of something that should be none.
    fn bad(self) -> Shown {
        match self {
            Shown::Number(text, n) => Shown::Bad(text, n),
            other => other,
        }
    }

    /// Which of two comes first.
    pub fn compare(&self, other: &Shown) -> Ordering {
        match (self, other) {
            (Shown::Text(a), Shown::Text(b)) => a.cmp(b),
            (Shown::Number(_, a) | Shown::Bad(_, a), Shown::Number(_, b) | Shown::Bad(_, b)) => {
                b.total_cmp(a)
            }
            _ => Ordering::Equal,
        }
    }

    /// As it is drawn.
    pub fn cell(self) -> Cell<'static> {
        let right = |text: String| Line::from(text).alignment(Alignment::Right);
        match self {
            Shown::Text(text) => Cell::new(text),
            Shown::Bad(text, n) if n > 0.0 => Cell::new(right(text).red().bold()),
            Shown::Number(text, _) | Shown::Bad(text, _) => Cell::new(right(text)),
        }
    }
}

/// Without anything that moves a cursor.
pub fn safe(text: &str) -> String {
    escaped(text.as_bytes())
}

/// Of a channel.
pub const CHANNELS: [Column<ChannelRow>; 11] = [
    Column { head: "CHANNEL", width: 10, rank: 0, cell: |c| Shown::Text(safe(&c.now.name)) },
    Column { head: "STATE", width: 7, rank: 5, cell: |c| Shown::Text(state(&c.now).to_owned()) },
    Column { head: "IN/s", width: 7, rank: 1, cell: |c| Shown::rate(c.received) },
    Column { head: "HANDLED/s", width: 10, rank: 9, cell: |c| Shown::rate(c.handled) },
    Column { head: "OUT/s", width: 7, rank: 3, cell: |c| Shown::rate(c.out) },
    Column { head: "LOST/s", width: 7, rank: 10, cell: |c| Shown::rate(c.dropped).bad() },
    Column { head: "LOST", width: 9, rank: 2, cell: |c| Shown::sum(&c.now.dropped).bad() },
    Column {
        head: "QUEUE",
        width: 22,
        rank: 4,
        cell: |c| {
            let (used, limit) = (c.now.queue_bytes, c.now.queue_limit);
            Shown::Number(format!("{} of {}", bytes(used), bytes(limit)), used as f64)
        },
    },
    Column { head: "DEAD", width: 7, rank: 6, cell: |c| Shown::count(Some(c.now.dead_letters)) },
    Column {
        head: "PENDING",
        width: 8,
        rank: 8,
        cell: |c| Shown::count(c.now.stream.as_ref().map(|stream| stream.pending)),
    },
    Column {
        head: "LAG",
        width: 8,
        rank: 7,
        cell: |c| Shown::count(c.now.stream.as_ref().and_then(|stream| stream.lag)),
    },
];

/// Of a handler.
pub const HANDLERS: [Column<HandlerRow>; 6] = [
    Column { head: "HANDLER", width: 10, rank: 0, cell: |h| Shown::Text(safe(&h.now.name)) },
    Column { head: "CALLS/s", width: 8, rank: 1, cell: |h| Shown::rate(h.calls) },
    Column { head: "P50", width: 8, rank: 4, cell: |h| time(h, 0.5) },
    Column { head: "P99", width: 8, rank: 3, cell: |h| time(h, 0.99) },
    Column { head: "FAILED/s", width: 9, rank: 5, cell: |h| Shown::rate(h.failures).bad() },
    Column { head: "FAILED", width: 10, rank: 2, cell: |h| Shown::sum(&h.now.failures).bad() },
];

fn time(handler: &HandlerRow, share: f64) -> Shown {
    match handler.took.count() {
        0 => Shown::Number("-".to_owned(), -1.0),
        _ => {
            let n = handler.took.quantile(share);
            Shown::Number(seconds(n), n)
        }
    }
}
