//! What can be seen of a running daemon over HTTP: metrics, health, readiness, status.

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use handlerd::status::{Role, State, Status};
use rustix::process::Signal;
use support::endpoints::{Page, ask, begin, fetch, wait_code};
use support::redis_server::free_port;
use support::{Handlerd, Redis, Watcher, wait_for, wait_until};

/// With the endpoints at a port of their own.
fn start(redis: &Redis, channels: &str) -> (Handlerd, u16) {
    let port = free_port();
    let config = format!("{channels}\n[http]\nlisten = \"127.0.0.1:{port}\"\n");
    (Handlerd::start(redis, &config), port)
}

fn status(port: u16) -> Status {
    let answer = fetch(port, "/status");
    assert_eq!((answer.code, &*answer.content_type), (200, "application/json"));
    serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.body))
}

/// Wait until the daemon's metrics are so; answers them.
#[track_caller]
fn wait_page(port: u16, what: &str, ready: impl Fn(&Page) -> bool) -> Page {
    wait_for(what, || Some(Page::fetch(port)).filter(&ready))
}

const TWO: &str = r#"
    [channels."we\"ird\\"]
    subscribe = ["in", "else"]
    handlers = ["misbehave"]
    publish = "out"
    push = "list"
    log = true

    [channels.orders]
    stream = "orders"
    group = "billing"
    start = "oldest"
    claim_idle = "1s"
    handlers = ["announce", "misbehave"]
    append = "orders.done"
    retries = 1

    [handlers.misbehave]
    config = { key = "the-secret" }
"#;

#[test]
fn all_there_is_to_see_and_nothing_else() {
    let redis = Redis::start();
    let (mut daemon, port) = start(&redis, TWO);
    assert_eq!(wait_code(port, "/readyz", 200).body, "ready\n");
    assert_eq!(fetch(port, "/healthz").body, "ok\n");
    let payloads = ["echo the-payload", "echo b", "drop", "reject no", "trap", "fan 3"];
    redis.client().publish_all("in", payloads);
    for payload in ["a", "b"] {
        redis.run::<String>(&["XADD", "orders", "*", "payload", payload]);
    }
    redis.run::<String>(&["XADD", "orders", "*", "other", "no payload"]);

    const CHANNEL: (&str, &str) = ("channel", "we\"ird\\");
    const ORDERS: (&str, &str) = ("channel", "orders");
    let page = wait_page(port, "all messages", |page| {
        page.sum("handlerd_messages_received_total") == 9.0
            && page.value("handlerd_messages_delivered_total", &[ORDERS, ("output", "append")])
                == 2.0
            && page.value("handlerd_messages_delivered_total", &[CHANNEL, ("output", "push")])
                == 5.0
            && page.value("handlerd_messages_delivered_total", &[CHANNEL, ("output", "publish")])
                == 5.0
            && page.value("handlerd_messages_delivered_total", &[CHANNEL, ("output", "log")]) == 5.0
            && page.value("handlerd_stream_pending", &[ORDERS]) == 0.0
            && page.sum("handlerd_dead_letters_total") == 1.0
    });
    assert_eq!(page.value("handlerd_messages_handled_total", &[CHANNEL]), 4.0);
    assert_eq!(
        page.value("handlerd_messages_dropped_total", &[CHANNEL, ("reason", "failed")]),
        2.0
    );
    assert_eq!(
        page.value("handlerd_messages_dropped_total", &[CHANNEL, ("reason", "overflow")]),
        0.0
    );
    for reason in ["overflow", "log_full"] {
        let labels = [ORDERS, ("reason", reason)];
        assert_eq!(page.find("handlerd_messages_dropped_total", &labels), None, "{reason}");
    }
    for (kind, n) in [("reject", 1.0), ("trap", 1.0)] {
        let labels = [("handler", "misbehave"), ("kind", kind)];
        assert_eq!(page.value("handlerd_handler_failures_total", &labels), n, "{kind}");
    }
    // Six messages of the one channel, and two of the other one.
    assert_eq!(page.value("handlerd_handler_seconds_count", &[("handler", "misbehave")]), 8.0);
    assert_eq!(page.value("handlerd_handler_seconds_count", &[("handler", "announce")]), 2.0);
    assert!(page.value("handlerd_handler_seconds_sum", &[("handler", "announce")]) > 0.0);
    assert!(page.value("handlerd_handler_instances", &[("handler", "announce")]) >= 1.0);
    assert_eq!(page.value("handlerd_queue_bytes", &[CHANNEL]), 0.0);
    assert_eq!(page.value("handlerd_queue_limit_bytes", &[CHANNEL]), f64::from(16 << 20));
    assert_eq!(page.value("handlerd_stream_lag", &[ORDERS]), 0.0);
    let redis_of = |role| [("connection", "redis"), ("role", role)];
    assert_eq!(page.value("handlerd_redis_connected", &redis_of("source")), 1.0);
    assert_eq!(page.value("handlerd_redis_connected", &redis_of("outputs")), 1.0);
    assert_eq!(page.value("handlerd_redis_reconnects_total", &[]), 0.0);
    assert!(page.find("handlerd_subscription_gap_seconds_total", &[CHANNEL]).is_some());
    assert_eq!(page.value("handlerd_reloads_total", &[("result", "failed")]), 0.0);
    assert_eq!(page.value("handlerd_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(page.value("process_start_time_seconds", &[]) > 1e9);
    assert_eq!(page.types["handlerd_handler_seconds"], "histogram");
    assert_eq!(page.values_of("channel").into_iter().collect::<Vec<_>>(), ["orders", "we\"ird\\"]);

    let seen = status(port);
    assert!(seen.ready && seen.not_ready.is_empty() && seen.stalled.is_empty(), "{seen:#?}");
    assert_eq!(seen.state, State::Running);
    let channel = &seen.channels[0];
    assert_eq!(channel.source, r#"subscribe "in", "else""#);
    assert_eq!((channel.received, channel.handled, channel.dropped["failed"]), (6, 4, 2));
    assert_eq!(channel.delivered["push"], 5);
    let orders = &seen.channels[1];
    assert_eq!(orders.source, r#"stream "orders" group "billing""#);
    assert_eq!((orders.received, orders.dead_letters), (3, 1));
    let stream = orders.stream.as_ref().expect("it is a stream");
    assert_eq!((stream.pending, stream.lag, stream.in_hand), (0, Some(0), 0));
    let handler = seen.handlers.iter().find(|h| h.name == "misbehave").expect("a handler");
    assert_eq!((handler.calls, handler.failures["trap"]), (8, 1));
    assert!(handler.sha256.len() == 64 && handler.plugin.ends_with("/misbehave.wasm"));
    assert!(0.0 < handler.seconds.p50 && handler.seconds.p50 <= handler.seconds.p99);
    let roles: Vec<_> = seen.redis.iter().map(|redis| (redis.role, redis.connected)).collect();
    assert_eq!(roles, [(Role::Source, true), (Role::Outputs, true)]);

    let lost = fetch(port, "/nothing");
    assert_eq!(lost.code, 404);
    for path in ["/metrics", "/healthz", "/readyz", "/status"] {
        assert!(lost.body.contains(path), "{}", lost.body);
        let answer = fetch(port, path);
        assert!(!answer.body.contains("the-secret") && !answer.body.contains("the-payload"));
        assert_eq!(ask(port, "HEAD", path).map(|a| (a.code, a.body)), Some((200, String::new())));
        assert_eq!(ask(port, "POST", path).map(|answer| answer.code), Some(405));
    }

    // The last line of the log says what the last page said.
    let page = Page::fetch(port);
    let stopped = daemon.stop();
    for (name, word) in
        [("received", "received"), ("handled", "handled"), ("delivered", "delivered")]
    {
        let sum = page.sum(&format!("handlerd_messages_{name}_total"));
        assert_eq!(sum, stopped.number(word) as f64, "{word}: {}", stopped.last);
    }
    let lost = page.sum("handlerd_messages_dropped_total");
    assert_eq!(lost, stopped.number("lost") as f64, "{}", stopped.last);
    let failures = page.sum("handlerd_handler_failures_total");
    assert!(stopped.last.contains(&format!("{failures} failures of handlers")), "{}", stopped.last);
}

#[test]
fn a_redis_that_is_away_is_not_ready_and_nevertheless_healthy() {
    let mut redis = Redis::start();
    redis.kill();
    let (_daemon, port) = start(&redis, TWO);
    let (chat, orders) = ("channel we\"ird\\: ", "channel orders: ");
    for round in 0..2 {
        let answer = wait_for("the three sentences", || {
            // The stream's has another beginning before it has been tried to read.
            let answer = fetch(port, "/readyz");
            let are_there = answer.body.lines().count() == 3 && answer.body.contains("can't read");
            (answer.code == 503 && are_there).then_some(answer)
        });
        let lines: Vec<&str> = answer.body.lines().collect();
        assert_eq!(lines.len(), 3, "{}", answer.body);
        assert_eq!(lines[0], format!("{chat}not subscribed to \"else\", \"in\""));
        assert!(
            lines[1].starts_with(&format!("{chat}the Redis redis of its outputs")),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].starts_with(&format!("{orders}stream \"orders\": can't read")),
            "{}",
            lines[2]
        );
        assert_eq!(fetch(port, "/healthz").code, 200);
        let seen = status(port);
        assert!(!seen.ready && seen.redis.iter().all(|redis| !redis.connected), "{seen:#?}");
        // The stream's first try to connect may have failed in between, which its sentence tells.
        assert_eq!(seen.not_ready.len(), 3, "{seen:#?}");
        assert_eq!(seen.not_ready[..2], lines[..2]);
        let page = Page::fetch(port);
        assert_eq!(page.sum("handlerd_redis_connected"), 0.0);
        redis.restart();
        wait_code(port, "/readyz", 200);
        let page = Page::fetch(port);
        assert_eq!(page.sum("handlerd_redis_connected"), 2.0);
        assert_eq!(page.sum("handlerd_redis_reconnects_total") > 0.0, round > 0);
        assert!(page.sum("handlerd_subscription_gap_seconds_total") > 0.0);
        if round == 0 {
            redis.kill();
            // All three have noticed.
            wait_until("three sentences", || fetch(port, "/readyz").body.lines().count() == 3);
        }
    }
}

#[test]
fn what_the_acl_refuses_is_named_and_the_rest_is_ready() {
    let rights = "resetchannels &fine &out ~orders* ~handlerd:* +@all -xreadgroup";
    let redis = Redis::with(&format!("user default on nopass {rights}"));
    let config = r#"
        [channels.fine]
        publish = "out"
        [channels.both]
        subscribe = ["fine", "for\u0007bidden"]
        publish = "out"
        [channels.orders]
        stream = "orders"
        group = "billing"
        append = "orders.done"
    "#;
    let (_daemon, port) = start(&redis, config);
    let lines = wait_for("the refusal of the stream", || {
        let body = fetch(port, "/readyz").body;
        (body.lines().count() == 2 && body.contains("NOPERM")).then_some(body)
    });
    let mut lines = lines.lines();
    assert_eq!(lines.next(), Some(r#"channel both: not subscribed to "for\u{7}bidden""#));
    let stream = lines.next().unwrap_or_default();
    let begin = "channel orders: stream \"orders\": can't read: NOPERM";
    assert!(stream.starts_with(begin), "{stream}");
    assert!(stream.contains("check --connect"), "it says what to do: {stream}");
    let seen = status(port);
    let ready: Vec<bool> = seen.channels.iter().map(|channel| channel.ready).collect();
    assert_eq!(ready, [true, false, false]);
    assert!(seen.redis.iter().all(|redis| redis.connected), "{:?}", seen.redis);
    assert!(Page::fetch(port).sum("handlerd_stream_troubles_total") > 0.0);
    // The operator mends it.
    redis.run::<()>(&["ACL", "SETUSER", "default", "allchannels", "+xreadgroup"]);
    wait_code(port, "/readyz", 200);
}

#[test]
fn a_stream_tells_what_lies_there() {
    let redis = Redis::start();
    let group: [&str; 6] = ["XGROUP", "CREATE", "orders", "billing", "0", "MKSTREAM"];
    redis.run::<String>(&group);
    for n in 0..5 {
        redis.run::<String>(&["XADD", "orders", "*", "payload", &format!("sleep {n}")]);
    }
    let read = "XREADGROUP GROUP billing other COUNT 3 STREAMS orders >";
    redis.run::<redis::Value>(&read.split(' ').collect::<Vec<_>>());
    let (_daemon, port) = start(&redis, TWO);
    let orders = [("channel", "orders")];
    let page = wait_page(port, "all of it", |page| {
        page.value("handlerd_messages_handled_total", &orders) == 5.0
            && page.value("handlerd_stream_pending", &orders) == 0.0
    });
    assert_eq!(page.value("handlerd_stream_claimed_total", &orders), 3.0);
    assert_eq!(page.value("handlerd_stream_redelivered_total", &orders), 3.0);
    assert_eq!(page.value("handlerd_stream_in_hand", &orders), 0.0);
    // Another group's reader lets entries lie there.
    redis.run::<String>(&["XADD", "orders", "*", "payload", "x"]);
    redis.run::<redis::Value>(&read.split(' ').collect::<Vec<_>>());
    wait_until("the sixth entry", || {
        Page::fetch(port).value("handlerd_messages_handled_total", &orders) == 6.0
    });
}

#[test]
fn while_it_drains_it_can_be_looked_at() {
    let redis = Redis::start();
    let config = r#"
        [handlers.misbehave]
        timeout = "60s"
        [daemon]
        drain_timeout = "60s"
        [channels.slow]
        subscribe = "in"
        handlers = ["misbehave"]
        publish = "out"
    "#;
    let (mut daemon, port) = start(&redis, config);
    wait_code(port, "/readyz", 200);
    redis.client().publish("in", "sleep 50000");
    wait_until("the message to come", || status(port).channels[0].received == 1);
    daemon.signal(Signal::TERM);
    let answer = wait_code(port, "/readyz", 503);
    assert!(answer.body.starts_with("draining"), "{}", answer.body);
    assert_eq!(status(port).state, State::Draining);
    assert_eq!(fetch(port, "/healthz").code, 200);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_end().code, 0);
    assert_eq!(ask(port, "GET", "/healthz"), None);
}

#[test]
fn a_port_that_is_taken_is_said_once_and_tried_again() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let port = free_port();
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
    let config = format!(
        "[channels.chat]\npublish = \"out\"\n[log]\nlevel = \"info,handlerd::http=debug\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n"
    );
    let mut daemon = Handlerd::start(&redis, &config);
    let line = daemon.wait_log(&["WARN", &port.to_string()]);
    assert!(line.contains("in use") && line.contains("[http] listen"), "{line}");
    redis.wait_subscribed("chat", 1);
    redis.client().publish("chat", "it works meanwhile");
    out.wait_payload("it works meanwhile");
    wait_until("two more tries", || daemon.log_lines(&["DEBUG", "still nothing"]).len() >= 2);
    assert_eq!(daemon.log_lines(&["WARN"]).len(), 1, "{:#?}", daemon.log());
    drop(taken);
    assert_eq!(wait_code(port, "/readyz", 200).body, "ready\n");
    daemon.wait_log(&["INFO", &format!("http://127.0.0.1:{port}")]);
}

#[test]
fn without_endpoints_nothing_listens() {
    let redis = Redis::start();
    let config = "[channels.chat]\npublish = \"out\"\n[http]\nlisten = false\n";
    let daemon = Handlerd::start(&redis, config);
    redis.wait_subscribed("chat", 1);
    assert!(daemon.log_lines(&["http://"]).is_empty(), "{:?}", daemon.log());
}

#[test]
fn clients_that_are_slow_or_many_are_no_affair_of_the_messages() {
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let (_daemon, port) = start(&redis, "[channels.chat]\npublish = \"out\"\n");
    wait_code(port, "/readyz", 200);
    let mut slow: Vec<_> = (0..300)
        .map(|n| begin(port, ["", "GET /met", "GET /metrics HTTP/1.1\r\nx: "][n % 3]))
        .collect();
    let begun = Instant::now();
    redis.client().publish_all("chat", (0..10_000).map(|n| n.to_string()));
    out.wait_count(10_000);
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(30), "10,000 messages took {taken:?}");
    // Who asks properly gets the place of one of these.
    assert_eq!(wait_code(port, "/healthz", 200).body, "ok\n");
    for stream in &mut slow {
        let mut rest = Vec::new();
        // Cut off with or without a word.
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    }
    assert_eq!(fetch(port, "/metrics").code, 200);
}

#[test]
fn who_comes_gets_the_place_of_whoever_has_been_silent_longest() {
    let redis = Redis::start();
    let config =
        "[channels.chat]\npublish = \"out\"\n[log]\nlevel = \"info,handlerd::clients=debug\"\n";
    let (daemon, port) = start(&redis, config);
    wait_code(port, "/healthz", 200);
    // Each has two seconds: they begin anew where the machine stood still for so long.
    let (before, mut silent) = loop {
        let before = daemon.log_lines(&["its place is needed"]).len();
        let begun = Instant::now();
        let silent: Vec<_> = (0..64).map(|_| begin(port, "GET /healthz HTTP/1.1\r\n")).collect();
        assert_eq!(fetch(port, "/healthz").code, 200);
        if begun.elapsed() < Duration::from_secs(1) {
            break (before, silent);
        }
    };
    // Not by its own time: that is another line.
    wait_until("it is said", || daemon.log_lines(&["its place is needed"]).len() > before);
    let mut rest = Vec::new();
    let _ = silent[0].read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    // One for one; the daemon may not have been done with who asked before them.
    let gave_way = daemon.log_lines(&["its place is needed"]).len() - before;
    assert!(gave_way <= 2, "{gave_way} gave way to one");
}
