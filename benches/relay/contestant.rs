//! What is measured: processes, and the configs of those that are handlerd.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use crate::common::ANNOUNCED;
use crate::support::process::Process;
use crate::support::{Handlerd, Redis, wait_until};

/// A relay from one Redis channel to another.
pub struct Contestant {
    /// For the report.
    pub name: &'static str,
    /// The channel it has subscribed to (one of them).
    pub from: String,
    /// The channel it publishes on.
    pub to: String,
    /// What every message that it publishes has in it.
    pub expected: &'static str,
    relay: Relay,
}

enum Relay {
    Bare(Process),
    Handlerd(Handlerd),
}

impl Contestant {
    /// Resident memory now, in bytes.
    pub fn rss(&self) -> u64 {
        match &self.relay {
            Relay::Bare(process) => process.memory("VmRSS"),
            Relay::Handlerd(daemon) => daemon.rss(),
        }
    }

    /// Most resident memory so far, in bytes.
    pub fn peak_rss(&self) -> u64 {
        match &self.relay {
            Relay::Bare(process) => process.memory("VmHWM"),
            Relay::Handlerd(daemon) => daemon.peak_rss(),
        }
    }
}

/// The bare relay first, then handlerd with so many plugins.
pub fn all(redis: &Redis, plugins: &[usize]) -> Vec<Contestant> {
    let mut all = vec![bare(redis)];
    for (name, table, count) in [
        ("handlerd, no plugin", "h0", 0),
        ("handlerd, one plugin", "h1", 1),
        ("handlerd, three plugins", "h3", 3),
    ]
    .into_iter()
    .filter(|(_, _, count)| plugins.contains(count))
    {
        let config = config(redis, table, count);
        let expected = if count == 0 { "" } else { ANNOUNCED };
        let daemon = Handlerd::start_in(Handlerd::folder(), &config, &[]);
        all.push(handlerd(redis, name, table, expected, daemon));
    }
    all
}

fn bare(redis: &Redis) -> Contestant {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["bare", &redis.port().to_string(), "bb.in", "bb.out"]);
    command.stdin(Stdio::null());
    let relay = Relay::Bare(Process::spawn(&mut command).expect("this program starts"));
    redis.wait_subscribed("bb.in", 1);
    let (from, to) = ("bb.in".into(), "bb.out".into());
    Contestant { name: "bare relay", from, to, expected: ANNOUNCED, relay }
}

fn handlerd(
    redis: &Redis,
    name: &'static str,
    table: &str,
    expected: &'static str,
    daemon: Handlerd,
) -> Contestant {
    let from = format!("{table}.in");
    redis.wait_subscribed(&from, 1);
    let to = format!("{table}.out");
    Contestant { name, from, to, expected, relay: Relay::Handlerd(daemon) }
}

/// A config with one channel. `announce` makes the text that the bare relay makes too; the two
/// others look at every byte and change nothing.
pub fn config(redis: &Redis, table: &str, plugins: usize) -> String {
    let handlers = match plugins {
        0 => "",
        1 => "\"announce\"",
        _ => "\"redact\", \"announce\", \"redact\"",
    };
    format!(
        "[redis]\nurl = \"{}\"\n[handlers.redact]\nconfig = {{ words = \"secret\" }}\n\
         [channels.{table}]\nsubscribe = \"{table}.in\"\nhandlers = [{handlers}]\n\
         publish = \"{table}.out\"\n",
        redis.url()
    )
}

/// One channel of one name, one of many names, and many of one name each, with one plugin; and the
/// names to publish on.
pub fn many(redis: &Redis, many: usize) -> Vec<(Contestant, Vec<String>)> {
    let names =
        |table: &str| -> Vec<String> { (0..many).map(|n| format!("{table}.in.{n:06}")).collect() };
    let (of_names, of_channels) = (names("mn"), names("mc"));
    let head = format!("[redis]\nurl = \"{}\"\n", redis.url());
    let tail = "handlers = [\"announce\"]\npublish =";
    let listed = of_names.iter().fold(String::new(), |mut all, name| {
        let _ = write!(all, "\"{name}\", ");
        all
    });
    let one = format!("{head}[channels.one]\nsubscribe = \"m1.in\"\n{tail} \"m1.out\"\n");
    let wide = format!("{head}[channels.wide]\nsubscribe = [{listed}]\n{tail} \"mn.out\"\n");
    let long = of_channels.iter().enumerate().fold(head.clone(), |mut all, (n, name)| {
        let _ = write!(all, "[channels.c{n}]\nsubscribe = \"{name}\"\n{tail} \"mc.out\"\n");
        all
    });
    [
        ("one channel of one name", "m1", one, vec!["m1.in".to_owned()]),
        ("one channel of many names", "mn", wide, of_names),
        ("many channels of one name", "mc", long, of_channels),
    ]
    .into_iter()
    .map(|(name, table, config, names)| {
        let daemon = Handlerd::start_in(Handlerd::folder(), &config, &[]);
        let mut client = redis.client();
        let mut waiting = names.iter().peekable();
        wait_until("all subscriptions", || {
            while waiting.next_if(|name| client.subscribers(name) > 0).is_some() {}
            waiting.peek().is_none()
        });
        let relay = Relay::Handlerd(daemon);
        let (from, to) = (names[0].clone(), format!("{table}.out"));
        (Contestant { name, from, to, expected: ANNOUNCED, relay }, names)
    })
    .collect()
}
