//! Channels that a reload takes out: what is seen of them until they are done.

mod support;

use std::fs;

use handlerd::status::{Channel, Status};
use rustix::process::Signal;
use support::endpoints::{Page, fetch, wait_code};
use support::redis_server::free_port;
use support::{Handlerd, Redis, Watcher, wait_until};

/// A daemon whose channels are changed.
struct Changing {
    daemon: Handlerd,
    head: String,
    port: u16,
}

impl Changing {
    /// `head` is what comes before the channels and stays.
    fn start(redis: &Redis, head: &str, channels: &str) -> Changing {
        let port = free_port();
        let head = format!(
            "[redis]\nurl = \"{}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n{head}\n",
            redis.url()
        );
        let daemon = Handlerd::start_in(Handlerd::folder(), &format!("{head}{channels}"), &[]);
        wait_code(port, "/healthz", 200);
        Changing { daemon, head, port }
    }

    #[track_caller]
    fn reload(&mut self, channels: &str) {
        let text = format!("{}{channels}", self.head);
        fs::write(self.daemon.dir().join("config.toml"), text).expect("it is written");
        let before = self.daemon.log_lines(&["reloaded: "]).len();
        self.daemon.signal(Signal::HUP);
        wait_until("it is reloaded", || self.daemon.log_lines(&["reloaded: "]).len() > before);
    }

    fn status(&self) -> Status {
        serde_json::from_str(&fetch(self.port, "/status").body).expect("the status as JSON")
    }

    /// The channels that are ending.
    fn ending(&self) -> Vec<Channel> {
        self.status().channels.into_iter().filter(|channel| channel.ending).collect()
    }

    #[track_caller]
    fn wait_done(&self) {
        wait_until("nothing is ending any more", || self.ending().is_empty());
    }

    fn received(&self, channel: &str) -> Option<f64> {
        Page::fetch(self.port).find("handlerd_messages_received_total", &[("channel", channel)])
    }
}

/// One whose handler takes its time: enough to look at it on a machine that stands still for seconds.
fn slow(name: &str, source: &str) -> String {
    format!(
        "[channels.{name}]\n{source}\nhandlers = [\"slow\"]\npublish = \"out\"\n\
         [handlers.slow]\nplugin = \"misbehave.wasm\"\ntimeout = \"60s\"\ninstances = 2\n"
    )
}

#[test]
fn what_still_waits_or_is_handled_is_seen_until_it_is_done() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut changing = Changing::start(&redis, "", &slow("old", "subscribe = \"in\""));
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", ["sleep 20000", "echo one", "echo two"]);
    wait_until("all have come", || changing.received("old") == Some(3.0));
    changing.reload("");
    let ending = changing.ending();
    let [old] = &ending[..] else { panic!("one is ending: {ending:?}") };
    assert_eq!((&*old.name, &*old.source), ("old", "subscribe \"in\""));
    assert_eq!((old.received, old.handled), (3, 0));
    assert_eq!(changing.received("old"), Some(3.0));
    assert_eq!(changing.status().handlers.len(), 1, "its handler is seen with it");
    let text = changing.daemon.verb(&["status"]).output().expect(0).text();
    let line =
        text.lines().find(|line| line.starts_with("old ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.ends_with("ending  subscribe \"in\""), "{text}");
    assert_eq!(fetch(changing.port, "/readyz").body, "ready\n", "it is in the way of no source");
    out.wait_texts(3);
    changing.wait_done();
    assert_eq!(changing.received("old"), None);
    wait_until("its handler is not seen any more", || changing.status().handlers.is_empty());
    let stopped = changing.daemon.stop();
    assert_eq!((stopped.number("handled"), stopped.number("lost")), (3, 0), "{}", stopped.last);
}

/// A channel `old` that a reload has taken out while two writes wait for the second Redis, which is away.
fn two_writes_left() -> (Redis, Redis, Changing) {
    let (redis, mut far) = (Redis::start(), Redis::start());
    let head =
        format!("[daemon]\ndrain_timeout = \"60s\"\n[connections.far]\nurl = \"{}\"\n", far.url());
    let old = "[channels.old]\nsubscribe = \"in\"\nhandlers = []\n\
               push = { to = \"far\", list = \"l\" }\n";
    let mut changing = Changing::start(&redis, &head, old);
    redis.wait_subscribed("in", 1);
    wait_code(changing.port, "/readyz", 200);
    far.kill();
    wait_code(changing.port, "/readyz", 503);
    redis.client().publish_all("in", ["one", "two"]);
    wait_until("all have come", || changing.received("old") == Some(2.0));
    changing.reload("");
    (redis, far, changing)
}

#[test]
fn writes_without_an_answer_are_waited_for_and_what_is_in_the_way_is_said() {
    let (_redis, mut far, mut changing) = two_writes_left();
    let status = changing.status();
    assert_eq!(status.channels.iter().map(|c| c.ending).collect::<Vec<_>>(), [true]);
    assert!(status.ready && !status.channels[0].ready, "{status:#?}");
    let [said] = &status.warnings[..] else { panic!("one sentence: {:?}", status.warnings) };
    assert!(said.starts_with("channel old: the Redis far of its outputs is away"), "{said}");
    let connected = [("connection", "far"), ("role", "outputs")];
    let page = Page::fetch(changing.port);
    assert_eq!(page.value("handlerd_redis_connected", &connected), 0.0);
    far.restart();
    changing.wait_done();
    assert_eq!(far.run::<u64>(&["LLEN", "l"]), 2);
    let stopped = changing.daemon.stop();
    assert_eq!((stopped.number("delivered"), stopped.number("lost")), (2, 0), "{}", stopped.last);
}

#[test]
fn one_name_has_one_series_that_never_falls_whoever_ends_under_it() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut changing = Changing::start(&redis, "", &slow("chat", "subscribe = \"a\""));
    redis.wait_subscribed("a", 1);
    redis.client().publish_all("a", ["sleep 20000", "echo one"]);
    wait_until("both have come", || changing.received("chat") == Some(2.0));
    // Another source under the same NAME: its counters are gone on with.
    changing.reload(&slow("chat", "subscribe = \"b\""));
    redis.wait_subscribed("b", 1);
    redis.client().publish_all("b", ["echo two"]);
    wait_until("that has come, too", || changing.received("chat") == Some(3.0));
    let status = changing.status();
    let seen = |channel: &Channel| (channel.ending, channel.received);
    assert_eq!(status.channels.iter().map(seen).collect::<Vec<_>>(), [(false, 3), (true, 0)]);
    let waits = status.channels.iter().map(|channel| channel.queue_bytes).sum::<u64>();
    let page = Page::fetch(changing.port);
    assert_eq!(page.value("handlerd_queue_bytes", &[("channel", "chat")]), waits as f64);
    // Taken out, and back before the first has ended, which alone is seen for a while.
    changing.reload("");
    wait_until("the second has ended", || changing.status().channels.len() == 1);
    assert_eq!(changing.received("chat"), Some(3.0));
    changing.reload(&slow("chat", "pattern = \"c*\""));
    assert_eq!(changing.received("chat"), Some(3.0));
    redis.wait_patterns(1);
    redis.client().publish_all("c1", ["echo three"]);
    out.wait_texts(4);
    changing.wait_done();
    wait_until("all are counted", || changing.received("chat") == Some(4.0));
    let stopped = changing.daemon.stop();
    assert_eq!((stopped.number("received"), stopped.number("handled")), (4, 4), "{}", stopped.last);
}

#[test]
fn a_leader_that_is_replaced_under_its_name_leaves_the_lead_to_the_next() {
    let redis = Redis::start();
    let single = |source: &str| slow("chat", &format!("{source}\nsingle = true"));
    let mut changing = Changing::start(&redis, "", &single("subscribe = \"a\""));
    let leads = |changing: &Changing| {
        let seen = |c: Channel| (c.ending, c.single.is_some_and(|single| single.leads));
        changing.status().channels.into_iter().map(seen).collect::<Vec<_>>()
    };
    wait_until("it leads", || leads(&changing) == [(false, true)]);
    redis.client().publish_all("a", ["sleep 15000"]);
    wait_until("it has come", || changing.received("chat") == Some(1.0));
    changing.reload(&single("subscribe = \"b\""));
    assert_eq!(leads(&changing).len(), 2);
    changing.wait_done();
    wait_until("the next one leads", || leads(&changing) == [(false, true)]);
    let text = changing.daemon.verb(&["status"]).output().expect(0).text();
    assert!(text.lines().any(|line| line.ends_with("  leads  subscribe \"b\"")), "{text}");
    let page = Page::fetch(changing.port);
    let chat = [("channel", "chat")];
    assert_eq!(page.value("handlerd_single_leader", &chat), 1.0);
    assert_eq!(page.value("handlerd_takeovers_total", &chat), 2.0);
    assert_eq!(changing.daemon.stop().number("lost"), 0);
}

#[test]
fn writes_of_an_ended_channel_that_are_given_up_at_the_end_are_counted() {
    let (_redis, _far, mut changing) = two_writes_left();
    // Nothing of it is left but what waits to be written.
    changing.reload("");
    assert_eq!(changing.ending().len(), 1);
    changing.daemon.signal(Signal::TERM);
    changing.daemon.wait_log(&["no more messages are taken"]);
    let stopped = changing.daemon.stop();
    assert_eq!((stopped.number("delivered"), stopped.number("lost")), (0, 2), "{}", stopped.last);
}
