//! The manual page of the configuration, handlerd.toml(5), made from the table of keys.

use std::fmt::Write;

use super::keys::{Key, Kind, Table};

/// What stands before the keys. `man`'s own language: a `.` begins a macro.
const HEAD: &str = r#".SH NAME
handlerd.toml \- the configuration of handlerd
.SH SYNOPSIS
.I ./config.toml
.br
.I /etc/handlerd/config.toml
.SH DESCRIPTION
A TOML file. A channel is three lines, and everything else has a default:
.PP
.nf
.RS
[channels.chat]
handlers = ["redact", "announce"]
publish = "chat.out"
.RE
.fi
.PP
Sizes and times are written as people write them: "64KiB", "16 MB", "100ms", "2m".
Relative paths are relative to the file.
${NAME} in a string is an environment variable; $${ is a literal ${.
An unknown key is an error.
.BR handlerd\-check (1)
shows what is wrong, and where.
"#;

/// What stands behind them.
const TAIL: &str = r".SH SEE ALSO
.BR handlerd (1),
.BR handlerd\-check (1),
.BR handlerd\-schema (1)
";

/// The page, in the language of man(7).
pub fn manual() -> String {
    let mut page = format!(
        ".TH HANDLERD.TOML 5 \"\" \"handlerd {}\" \"File formats\"\n{HEAD}",
        env!("CARGO_PKG_VERSION")
    );
    let mut done = Vec::new();
    for key in Table::Root.keys() {
        if let Kind::Table(table) | Kind::Named(table) = key.kind
            && !done.contains(&table)
        {
            done.push(table);
            section(&mut page, key, table);
        }
    }
    page.push_str(TAIL);
    page
}

/// A table of the top level; those within it follow.
fn section(page: &mut String, key: &Key, table: Table) {
    line(page, format_args!(".SH \"{}\"", escaped(table.title())));
    line(page, format_args!("{}", text(&key.description())));
    entries(page, table);
    for inner in table.keys() {
        if let Kind::Table(table) | Kind::Targets(table) = inner.kind {
            line(page, format_args!(".SS \"{}\"", escaped(table.title())));
            entries(page, table);
        }
    }
}

fn entries(page: &mut String, table: Table) {
    for key in table.keys() {
        line(page, format_args!(".TP"));
        let written = match (key.default, key.example) {
            (Some(default), _) => format!(", default {}", escaped(default)),
            (None, Some(example)) => format!(", for example {}", escaped(example)),
            (None, None) => String::new(),
        };
        let (name, kind) = (escaped(key.name), escaped(&key.kind.title()));
        line(page, format_args!("\\fB{name}\\fR (\\fI{kind}\\fR{written})"));
        let mut about = key.description();
        if key.required {
            about.push_str(" Required.");
        }
        if let Some(other) = key.needs {
            about.push_str(&format!(" Only together with {other}."));
        }
        if !key.excludes.is_empty() {
            about.push_str(&format!(" Not together with {}.", key.excludes.join(", ")));
        }
        line(page, format_args!("{}", text(&about)));
    }
}

fn line(page: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String doesn't fail.
    let _ = writeln!(page, "{line}");
}

/// A line of text: one that begins like a macro would be taken for one.
fn text(plain: &str) -> String {
    let guard = if plain.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{}", escaped(plain))
}

/// Characters that mean something to man, or that a terminal without UTF-8 doesn't have.
fn escaped(plain: &str) -> String {
    let escapes =
        [("\\", "\\e"), ("-", "\\-"), ("…", "..."), ("`", "\\`"), ("'", "\\(aq"), ("\"", "\\(dq")];
    escapes.iter().fold(plain.to_owned(), |text, (from, to)| text.replace(from, to))
}
