//! A client of the endpoints, and a strict reader of OpenMetrics text.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{PATIENCE, wait_for};

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// `content-type`.
    pub content_type: String,
    /// What is behind the head.
    pub body: String,
}

/// GET, as soon as the endpoints answer.
#[track_caller]
pub fn fetch(port: u16, path: &str) -> Answer {
    wait_for(&format!("an answer to GET {path}"), || ask(port, "GET", path))
}

/// Wait until GET is answered with this code.
#[track_caller]
pub fn wait_code(port: u16, path: &str, code: u16) -> Answer {
    wait_for(&format!("{code} for {path}"), || {
        ask(port, "GET", path).filter(|answer| answer.code == code)
    })
}

/// One request; `None` when there is no answer.
pub fn ask(port: u16, method: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    Some(Answer {
        code,
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_owned(),
    })
}

/// A connection that says this and no more, unless it is cut off before.
pub fn begin(port: u16, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let _ = stream.write_all(text.as_bytes());
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    stream
}

type Labels = BTreeMap<String, String>;

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    /// The type of each family.
    pub types: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

/// The family that is being read.
#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    help: bool,
    /// Of a histogram: the last bound and number of each series.
    buckets: BTreeMap<Labels, (f64, f64)>,
}

impl Page {
    /// Get `/metrics` and read it.
    #[track_caller]
    pub fn fetch(port: u16) -> Page {
        let answer = fetch(port, "/metrics");
        assert_eq!(answer.code, 200);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.content_type, kind);
        Page::parse(&answer.body)
    }

    /// Read a page; panics at whatever OpenMetrics 1.0 forbids.
    #[track_caller]
    pub fn parse(text: &str) -> Page {
        let lines = text.strip_suffix("# EOF\n").expect("the page ends with # EOF");
        let mut page = Page::default();
        let mut family = Family::default();
        for line in lines.lines() {
            if let Some(about) = line.strip_prefix("# ") {
                page.about(&mut family, about);
            } else {
                let (name, labels, value) = sample(line);
                family.check(&name, &labels, value);
                let before = page.samples.insert((name, labels), value);
                assert_eq!(before, None, "a series is there twice: {line}");
            }
        }
        family.end();
        page
    }

    fn about(&mut self, family: &mut Family, about: &str) {
        let mut words = about.splitn(3, ' ');
        let (what, name, text) = (words.next(), words.next(), words.next());
        let (name, text) = (name.expect("a name"), text.expect("a text"));
        if name != family.name {
            let before =
                std::mem::replace(family, Family { name: name.into(), ..Family::default() });
            before.end();
            let known = self.types.insert(name.to_owned(), String::new());
            assert_eq!(known, None, "the family {name} is there twice");
        }
        match what {
            Some("HELP") => {
                assert!(!family.help && !text.is_empty(), "{about}");
                family.help = true;
            }
            Some("TYPE") => {
                assert!(family.kind.is_empty(), "{about}");
                assert!(["counter", "gauge", "histogram", "info"].contains(&text), "{about}");
                assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{about}");
                family.kind = text.to_owned();
                self.types.insert(name.to_owned(), text.to_owned());
            }
            Some("UNIT") => assert!(name.ends_with(&format!("_{text}")), "{about}"),
            _ => panic!("what is this: {about}"),
        }
    }

    /// The value of a series; panics when it isn't there.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name}{labels:?} in {self:#?}"))
    }

    /// The value of a series, if it is there.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.samples.get(&(name.to_owned(), labels.iter().map(own).collect())).copied()
    }

    /// The sum of all series of this name.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((of, _), _)| of == name).map(|(_, value)| value).sum()
    }

    /// The values that a label has anywhere.
    pub fn values_of(&self, label: &str) -> BTreeSet<&str> {
        self.samples.keys().filter_map(|(_, labels)| Some(labels.get(label)?.as_str())).collect()
    }
}

impl Family {
    fn check(&mut self, name: &str, labels: &Labels, value: f64) {
        let suffix = name.strip_prefix(&*self.name);
        let suffix = suffix.unwrap_or_else(|| panic!("{name} stands in the family {}", self.name));
        match (&*self.kind, suffix) {
            ("gauge", "") => {}
            ("info", "_info") => assert_eq!(value, 1.0, "{name}"),
            ("counter", "_total") | ("histogram", "_sum" | "_count") => {
                assert!(value >= 0.0, "{name} {value}");
            }
            ("histogram", "_bucket") => {
                let mut labels = labels.clone();
                let bound = labels.remove("le").expect("a bucket has a bound");
                let bound =
                    if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a number") };
                let (last, fewer) =
                    self.buckets.insert(labels, (bound, value)).unwrap_or((0.0, 0.0));
                assert!(bound > last && value >= fewer, "{name} le {bound}: {value}");
            }
            (kind, _) => panic!("{name} can't be of a {kind}"),
        }
    }

    fn end(self) {
        if self.name.is_empty() {
            return;
        }
        assert!(self.help && !self.kind.is_empty(), "{} has no HELP or no TYPE", self.name);
        for (labels, (bound, _)) in self.buckets {
            assert!(bound.is_infinite(), "{}{labels:?} has no bucket +Inf", self.name);
        }
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> (String, Labels, f64) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = line.find(|c| !is_name(c)).expect("something behind the name");
    let (name, mut rest) = line.split_at(end);
    assert!(name.starts_with(|c: char| c.is_ascii_alphabetic()), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, quoted) = rest.split_once("=\"").expect("a label and its value");
            assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
            let (value, after) = unquoted(quoted);
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').expect("the labels end");
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}: no number")))
}

/// A label's value up to its end, and what is behind it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                other => panic!("{other:?} is escaped in {text}"),
            },
            c => value.push(c),
        }
    }
    panic!("a value doesn't end: {text}")
}
