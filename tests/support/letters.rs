//! Dead letters, written by commands in the format that is promised, so that what daemons have
//! written before stays readable; and `handlerd dead`, which works through them.

use serde_json::Value as Json;

use super::{Output, Redis, Run};

/// Where the letters are.
pub const STREAM: &str = "orders.dead";

/// Milliseconds since 1970 of the first letter; 2026-01-01T00:00:00Z.
pub const NEW_YEAR: u64 = 1_767_225_600_000;

/// A dead letter of the stream `orders`, with these changes.
#[derive(Clone)]
pub struct Letter<'a> {
    pub payload: &'a [u8],
    pub channel: &'a str,
    pub redis_channel: &'a str,
    pub id: Option<&'a str>,
    pub payload_field: Option<&'a str>,
    pub handler: Option<&'a str>,
    pub kind: &'a str,
    pub reason: &'a str,
    pub time: u64,
    pub headers: &'a [(&'a [u8], &'a [u8])],
}

/// One that failed in `price`.
pub const LETTER: Letter<'static> = Letter {
    payload: b"hello",
    channel: "orders",
    redis_channel: "orders",
    id: Some("5-1"),
    payload_field: None,
    handler: Some("price"),
    kind: "trap",
    reason: "boom",
    time: NEW_YEAR,
    headers: &[],
};

impl Letter<'_> {
    /// Write it, and answer its id.
    pub fn write(&self, redis: &Redis, stream: &str) -> String {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("*").arg("payload").arg(self.payload);
        command.arg("handlerd-channel").arg(self.channel);
        command.arg("handlerd-redis-channel").arg(self.redis_channel);
        for (name, value) in [
            ("handlerd-id", self.id),
            ("handlerd-payload-field", self.payload_field),
            ("handlerd-handler", self.handler),
        ] {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        }
        command.arg("handlerd-kind").arg(self.kind).arg("handlerd-reason").arg(self.reason);
        command.arg("handlerd-attempts").arg(4).arg("handlerd-time").arg(self.time);
        for (name, value) in self.headers {
            command.arg(*name).arg(*value);
        }
        command.query(redis.client().raw()).expect("XADD")
    }
}

/// `handlerd dead VERB ARGUMENTS`, by this user ("name:password@") of this Redis.
pub fn start(redis: &Redis, user: &str, arguments: &[&str]) -> Run {
    let url = redis.url().replace("//", &format!("//{user}"));
    let all = [&["dead", arguments[0], "--url", &url], &arguments[1..]].concat();
    Run::new(&all)
}

/// The same by everybody's user, run to its end.
#[track_caller]
pub fn dead(redis: &Redis, arguments: &[&str]) -> Output {
    start(redis, "", arguments).output()
}

/// `dead VERB --stream orders.dead ARGUMENTS`
#[track_caller]
pub fn of_orders(redis: &Redis, arguments: &[&str]) -> Output {
    dead(redis, &[&[arguments[0], "--stream", STREAM], &arguments[1..]].concat())
}

/// The entries of a stream: the fields of each, in their order.
pub fn entries(redis: &Redis, stream: &str) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);
    let entries: Vec<Entry> = redis.run(&["XRANGE", stream, "-", "+"]);
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Fields as [`entries`] answers them.
pub fn pairs(fields: &[(&str, &[u8])]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

/// Entries of a stream.
pub fn length(redis: &Redis, stream: &str) -> u64 {
    redis.run(&["XLEN", stream])
}

/// A line of a list for each of these payloads, and no other.
#[track_caller]
pub fn lists(redis: &Redis, filters: &[&str], payloads: &[&str]) {
    let output = of_orders(redis, &[&["list", "--json"], filters].concat()).expect(0);
    let text = output.text();
    let listed = text.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    let listed: Vec<String> =
        listed.map(|line| line["payload"].as_str().expect("text").to_owned()).collect();
    assert_eq!(listed, payloads, "{filters:?}");
}
