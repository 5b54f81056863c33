//! The daemon kills itself at each step of an entry's way (see `src/failpoint.rs`), and is started
//! again: nothing is lost and nothing comes twice. Beside it, a message that kills each daemon it is
//! given to.

use std::collections::BTreeMap;

use handlerd::failpoint::Step;
use rustix::process::Signal;

use crate::ledger::{Counts, Ledger, Verdict};
use crate::listener::Listener;
use crate::message::{self, Kind};
use crate::scene::{DEAD, GROUP, IN, LIST, OUT, SAID, caught_up};
use crate::support::{Handlerd, Redis, wait_until};

/// Messages that are in the stream before a daemon comes.
const MESSAGES: u64 = 200;

/// Entries that are pending before a daemon comes, in its own name and in another's.
const PENDING: &str = "20";

/// The stream on the other Redis.
const COPY: &str = "copy";

/// One Redis, which is by another connection and database the far one, too.
struct Place {
    redis: Redis,
    listener: Listener,
    bad: Counts,
}

impl Place {
    fn new(kind: impl Fn(u64) -> Kind) -> Place {
        let redis = Redis::start();
        let listener = Listener::start(&redis.socket(), SAID);
        let mut bad = Counts::default();
        let mut client = redis.client();
        for number in 0..MESSAGES {
            let kind = kind(number);
            if let Kind::Bad(_) = kind {
                bad.add(number);
            }
            let (id, payload) = (message::id(number), message::payload(number, kind));
            client.run::<String>(&["XADD", IN, &id, "payload", &payload]);
        }
        Place { redis, listener, bad }
    }

    /// Some are pending already: in the daemon's name, and in that of one that is gone.
    fn leave_pending(&self) {
        self.redis.run::<()>(&["XGROUP", "CREATE", IN, GROUP, "0"]);
        for consumer in ["me", "gone"] {
            let read =
                ["XREADGROUP", "GROUP", GROUP, consumer, "COUNT", PENDING, "STREAMS", IN, ">"];
            self.redis.run::<redis::Value>(&read);
        }
    }

    fn daemon(&self, failpoint: &str) -> Handlerd {
        let url = self.redis.url();
        let config = format!(
            r#"
            [redis]
            url = "{url}"
            [connections.far]
            url = "{url}/1"
            [handlers.misbehave]
            timeout = "60s"
            [channels.orders]
            stream = "{IN}"
            group = "{GROUP}"
            start = "oldest"
            consumer = "me"
            claim_idle = "200ms"
            batch = 16
            max_deliveries = 2
            handlers = ["misbehave"]
            append = ["{OUT}", {{ to = "far", stream = "{COPY}" }}]
            push = "{LIST}"
            publish = "{SAID}"
            dead_letter = "{DEAD}"
            "#
        );
        Handlerd::start_in(Handlerd::folder(), &config, &[("HANDLERD_FAILPOINT", failpoint)])
    }

    fn entries(&self, database: &str, key: &str) -> Vec<BTreeMap<String, String>> {
        let mut client = self.redis.client();
        client.run::<()>(&["SELECT", database]);
        let range: Vec<(String, BTreeMap<String, String>)> = client.run(&["XRANGE", key, "-", "+"]);
        range.into_iter().map(|(_, fields)| fields).collect()
    }

    fn numbers(&self, database: &str, key: &str) -> Counts {
        let mut counts = Counts::default();
        for entry in self.entries(database, key) {
            counts.add(message::number(entry["payload"].as_bytes()));
        }
        counts
    }

    /// Judge what came out on the stream's Redis; answers with it how many came more than once out
    /// on the other, where none may be missing.
    fn judge(&self) -> (Verdict, u64) {
        let mut pushed = Counts::default();
        for payload in self.redis.client().list(LIST) {
            pushed.add(message::number(&payload));
        }
        let ledger = Ledger {
            appended: self.numbers("0", OUT),
            pushed,
            dead: self.numbers("0", DEAD),
            bad: self.bad.clone(),
            ..Ledger::default()
        };
        let far = self.numbers("1", COPY);
        let missing = |n: &u64| ledger.appended.of(*n) > 0 && far.of(*n) == 0;
        assert_eq!((0..MESSAGES).find(missing), None, "missing on the other Redis");
        let twice = (0..MESSAGES).filter(|n| far.of(*n) > 1).count() as u64;
        (ledger.judge(MESSAGES, &self.listener.heard()), twice)
    }
}

/// How often a step is to be reached before it is the last one.
fn times(step: Step) -> &'static [u64] {
    match step {
        Step::GroupMade | Step::CursorWritten | Step::GivingBack | Step::GivenBack => &[1],
        Step::OwnTaken | Step::Claimed => &[1, 2],
        _ => &[1, 2, 7],
    }
}

fn killed_at(step: Step, time: u64) {
    let what = format!("{}:{time}", step.name());
    let is_at_end = matches!(step, Step::GivingBack | Step::GivenBack);
    let kind = |number| match number {
        // So that there is something to give back.
        100 if is_at_end => Kind::Slow,
        number if number % 10 == 7 => Kind::Bad("reject"),
        _ => Kind::Good,
    };
    let place = Place::new(kind);
    if !matches!(step, Step::GroupMade | Step::CursorWritten) {
        place.leave_pending();
    }
    let mut daemon = place.daemon(&what);
    if is_at_end {
        wait_until("something to come out", || place.redis.run::<u64>(&["XLEN", OUT]) > 0);
        daemon.signal(Signal::TERM);
    }
    let ended = daemon.wait_end();
    assert_eq!(ended.code, 128 + Signal::KILL.as_raw(), "{what}: {}", ended.last);
    let mut daemon = place.daemon("");
    wait_until("all to be done", || caught_up(&place.redis, MESSAGES));
    let stopped = daemon.stop();
    assert_eq!(stopped.code, 0, "{what}: {}", stopped.last);
    let (verdict, twice) = place.judge();
    let wrong = (verdict.lost, verdict.duplicated, verdict.misjudged);
    assert_eq!(wrong, (0, 0, 0), "{what}:\n{}", verdict.examples);
    assert_eq!(verdict.out + verdict.dead, MESSAGES, "{what}");
    println!("{what:<20} {twice:>3} came twice to the other Redis");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "an optimised build has no failpoints")]
fn killed_at_every_step() {
    for step in Step::ALL {
        times(*step).iter().for_each(|time| killed_at(*step, *time));
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "an optimised build has no failpoints")]
fn what_kills_the_daemon_again_and_again_becomes_a_dead_letter_and_the_rest_flows() {
    const KILLS: u64 = 30;
    let place = Place::new(|number| if number == KILLS { Kind::Bad("die") } else { Kind::Good });
    let mut deaths = 0;
    loop {
        let mut daemon = place.daemon("handler:die");
        wait_until("its end, or that of the messages", || {
            !daemon.runs() || caught_up(&place.redis, MESSAGES)
        });
        if daemon.runs() {
            assert_eq!(daemon.stop().code, 0);
            break;
        }
        deaths += 1;
    }
    // Twice as max_deliveries says, and once alone.
    assert_eq!(deaths, 3);
    let (verdict, _) = place.judge();
    let wrong = (verdict.lost, verdict.duplicated, verdict.misjudged);
    assert_eq!(wrong, (0, 0, 0), "{}", verdict.examples);
    assert_eq!((verdict.out, verdict.dead), (MESSAGES - 1, 1));
    let letter = place.entries("0", DEAD).remove(0);
    assert_eq!((&*letter["handlerd-kind"], &*letter["payload"]), ("crash", "die 30"));
}
