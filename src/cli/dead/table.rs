//! Dead letters in lines: a table for people, JSON for programs.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value as Json, json};

use super::select::Selected;
use crate::cli::console::{BAD, DIM, NAME, Out};
use crate::cli::exit::Fault;
use crate::cli::show::{bytes_json, digits, escaped};
use crate::dead_letter::{DeadLetter, Field, Origin, PAYLOAD};
use crate::telemetry::printable;

/// Bytes of a payload that are shown in a table.
const SHOWN: usize = 48;

const COLUMNS: usize = 7;
const HEADS: [&str; COLUMNS] = ["ID", "TIME", "CHANNEL", "HANDLER", "KIND", "TRIES", "SIZE"];

/// A table that is written as its rows come. Columns grow where a later page needs it.
pub(super) struct Table {
    widths: [usize; COLUMNS],
    /// Name the streams above their rows.
    name_streams: bool,
    stream: Option<String>,
}

impl Table {
    /// For rows of so many streams.
    pub fn of(streams: usize) -> Self {
        Table { widths: HEADS.map(str::len), name_streams: streams > 1, stream: None }
    }

    /// Write a page of rows.
    pub fn rows(&mut self, out: &mut Out, stream: &str, page: &[Selected]) -> Result<(), Fault> {
        let rows: Vec<_> = page.iter().map(cells).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if self.stream.as_deref() != Some(stream) {
            if self.name_streams {
                out.line(format_args!("{NAME}{}{NAME:#}", escaped(stream.as_bytes())))?;
            }
            let heads = self.line(&HEADS.map(str::to_owned), false);
            out.line(format_args!("{DIM}{heads}  PAYLOAD{DIM:#}"))?;
            self.stream = Some(stream.to_owned());
        }
        for (row, selected) in rows.iter().zip(page) {
            let payload = beginning(&selected.letter.payload);
            out.line(format_args!("{}  {payload}", self.line(row, true)).to_string().trim_end())?;
        }
        Ok(())
    }

    fn line(&self, cells: &[String; COLUMNS], coloured: bool) -> String {
        const NUMBERS: usize = 5;
        const KIND: usize = 4;
        const ID: usize = 0;
        let cells = cells.iter().zip(self.widths).enumerate().map(|(at, (cell, width))| match at {
            NUMBERS.. => format!("{cell:>width$}"),
            ID if coloured => format!("{NAME}{cell:width$}{NAME:#}"),
            KIND if coloured => format!("{BAD}{cell:width$}{BAD:#}"),
            _ => format!("{cell:width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    }
}

fn cells(Selected { id, letter }: &Selected) -> [String; COLUMNS] {
    [
        id.to_string(),
        time(letter),
        escaped(letter.channel.as_bytes()),
        letter.blame.handler.as_ref().map_or("-".to_owned(), |name| escaped(name.as_bytes())),
        escaped(letter.blame.kind.as_bytes()),
        letter.attempts.to_string(),
        letter.payload.len().to_string(),
    ]
}

fn beginning(payload: &[u8]) -> String {
    if payload.len() <= SHOWN {
        return escaped(payload);
    }
    // Not in the middle of a character, which would be shown as bytes.
    let mut end = SHOWN;
    while end > SHOWN - 4 && payload[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    format!("{}…", escaped(&payload[..end]))
}

/// When it was given up.
pub(super) fn time(letter: &DeadLetter) -> String {
    // The year 9999 is the last that can be written.
    const LAST: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + Duration::from_millis(letter.time.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// All of a dead letter in lines.
pub(super) fn full(stream: &str, Selected { id, letter }: &Selected) -> Vec<String> {
    let shown = |text: &str| escaped(text.as_bytes());
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{DIM}{name:9}{DIM:#} {value}"));
    line("id", format!("{NAME}{id}{NAME:#} in {}", shown(stream)));
    line("time", time(letter));
    line("channel", shown(&letter.channel));
    match &letter.origin {
        Origin::PubSub { channel } => line("from", format!("Redis channel {}", shown(channel))),
        Origin::Stream { key, id, payload_field } => {
            let field = match payload_field.as_str() {
                PAYLOAD => String::new(),
                field => format!(", payload in field {}", shown(field)),
            };
            line("from", format!("stream {}, entry {}{field}", shown(key), shown(id)));
        }
    }
    if let Some(handler) = &letter.blame.handler {
        line("handler", shown(handler));
    }
    line("kind", format!("{BAD}{}{BAD:#}", shown(&letter.blame.kind)));
    line("reason", shown(&letter.blame.reason));
    line("attempts", letter.attempts.to_string());
    for (name, value) in &letter.headers {
        line("header", format!("{}: {}", escaped(name), escaped(value)));
    }
    line("size", format!("{} bytes", letter.payload.len()));
    line("payload", escaped(&letter.payload));
    lines
}

/// All of a dead letter for a program.
pub(super) fn as_json(stream: &str, Selected { id, letter }: &Selected) -> Json {
    let mut object = Map::new();
    object.insert("id".into(), id.to_string().into());
    object.insert("stream".into(), stream.into());
    object.insert("time".into(), time(letter).into());
    object.insert("time_ms".into(), letter.time.into());
    object.insert("channel".into(), letter.channel.as_str().into());
    object.insert("redis_channel".into(), letter.origin.redis_channel().into());
    if let Origin::Stream { id, payload_field, .. } = &letter.origin {
        object.insert("redis_id".into(), id.as_str().into());
        object.insert("payload_field".into(), payload_field.as_str().into());
    }
    object.insert("handler".into(), letter.blame.handler.as_deref().into());
    object.insert("kind".into(), (*letter.blame.kind).into());
    object.insert("reason".into(), letter.blame.reason.as_str().into());
    object.insert("attempts".into(), letter.attempts.into());
    object.insert("headers".into(), letter.headers.iter().map(header_json).collect());
    object.insert("size".into(), letter.payload.len().into());
    object.extend([bytes_json("payload", &letter.payload)]);
    Json::Object(object)
}

fn header_json((name, value): &Field) -> Json {
    let part = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": digits(bytes) }),
    };
    json!([part(name), part(value)])
}

/// A name that may be long, for a sentence.
pub(super) fn named(name: &str) -> String {
    printable(name.as_bytes(), 200)
}
