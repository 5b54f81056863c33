//! Random changes of a good file: whatever comes of it is a configuration or a list of errors with
//! places in the file, never a panic and never a secret.

use std::path::Path;

use handlerd::config::{Config, Environment};

use crate::random::Random;

/// What is put in: what TOML, sizes, patterns, URLs and variables are made of.
const PIECES: [&str; 40] = [
    "",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    "#",
    "\\",
    "\\u",
    "${",
    "}",
    "$${",
    "${CHANNEL}",
    "{channel}",
    "*",
    "[^",
    "://",
    "@",
    ":",
    "é",
    "\u{1b}",
    "\0",
    "0",
    "-1",
    "99999999999999999999",
    "1e999",
    "true",
    "redis",
    "[channels.x]\n",
    "nan",
];

fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn mutate(random: &mut Random, text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..=random.below(3) {
        let start = boundary(&text, random.below(text.len() + 1));
        let length = match random.below(4) {
            0 => random.below(200),
            1 => 0,
            _ => random.below(8),
        };
        let end = boundary(&text, (start + length).min(text.len())).max(start);
        let piece = match random.below(5) {
            // A piece of the same file.
            0 => {
                let from = boundary(&text, random.below(text.len() + 1));
                let to = boundary(&text, (from + random.below(100)).min(text.len())).max(from);
                text[from..to].to_owned()
            }
            _ => (*random.pick(&PIECES)).to_owned(),
        };
        text.replace_range(start..end, &piece);
    }
    text
}

#[test]
fn whatever_a_file_has_in_it_is_read_or_refused() {
    let file = "tests/fixtures/config/valid/full.toml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path).expect("the fixture");
    let environment: Environment = [
        ("EU_USER", "handlerd".into()),
        ("CHANNEL", "chat".into()),
        ("CREDENTIALS_DIRECTORY", path.with_file_name("../credentials")),
    ]
    .into_iter()
    .collect();
    let mut random = Random::new(0xf022);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..2000 {
        let mutated = mutate(&mut random, &text);
        match Config::parse(&mutated, &path, &environment) {
            Ok(loaded) => {
                read += 1;
                let _ = format!("{:?} {:?}", loaded.config, loaded.warnings);
            }
            Err(errors) => {
                refused += 1;
                let lines = mutated.split('\n').count();
                let placed = |position: Option<(usize, usize)>| {
                    position.is_some_and(|(line, column)| {
                        let width = mutated.split('\n').nth(line - 1).map(|l| l.chars().count());
                        line <= lines && width.is_some_and(|width| column <= width + 1)
                    })
                };
                let all_placed = errors.diagnostics().iter().all(|d| placed(d.position()));
                assert!(all_placed, "{errors}\n{mutated}");
                let shown = errors.render(true);
                let secrets = ["://me:hunter2@", "api_key = \"hunter2\""];
                assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
            }
        }
    }
    assert!(read > 50 && refused > 1000, "{read} read, {refused} refused");
}
