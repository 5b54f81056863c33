//! Payloads are bytes: they come out exactly as they went in.

mod support;

use support::{Handlerd, Redis, Run, Watcher, noise};

/// Payloads that text, RESP and C would each stumble over.
fn awkward() -> Vec<Vec<u8>> {
    let every_byte: Vec<u8> = (0..=255).collect();
    vec![
        b"".to_vec(),
        b"\0".to_vec(),
        b"\r\n".to_vec(),
        b"$5\r\nhello\r\n*1\r\n".to_vec(),
        b"\xff\xfe\x00\x80".to_vec(),
        b"\xed\xa0\x80 a lone surrogate".to_vec(),
        "Grüße 👋\u{202e}".into(),
        every_byte,
        noise(1, 100_000),
        b"".to_vec(),
    ]
}

#[test]
fn without_a_handler() {
    let redis = Redis::start();
    passes(&redis, "handlers = []", &awkward());
}

#[test]
fn through_plugins() {
    let redis = Redis::start();
    // Neither has anything to say about these.
    passes(&redis, "handlers = [\"misbehave\", \"redact\"]", &awkward());
}

fn passes(redis: &Redis, handlers: &str, payloads: &[Vec<u8>]) {
    let out = Watcher::subscribe(redis, &["out"]);
    let mut daemon = Handlerd::start(
        redis,
        &format!(
            "[handlers.redact]\nconfig = {{ words = \"secret\" }}\n\
             [channels.bytes]\nsubscribe = \"in\"\n{handlers}\npublish = \"out\"\npush = \"list\"\n"
        ),
    );
    redis.wait_subscribed("in", 1);
    redis.client().publish_all("in", payloads);
    let seen: Vec<Vec<u8>> =
        out.wait_count(payloads.len()).into_iter().map(|got| got.payload).collect();
    assert!(seen == payloads, "other bytes came out");
    let stopped = daemon.stop();
    assert!(redis.client().list("list") == payloads, "other bytes are in the list");
    assert_eq!(stopped.number("delivered"), 2 * payloads.len() as u64, "{}", stopped.last);
}

#[test]
fn sixteen_megabytes_with_the_limits_raised() {
    const SIZE: usize = 16 << 20;
    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["out"]);
    let mut daemon = Handlerd::start(
        &redis,
        r#"
        [handlers.misbehave]
        memory = "256MiB"
        max_output = "17MiB"
        timeout = "30s"
        [channels.large]
        subscribe = "in"
        handlers = ["misbehave"]
        publish = "out"
        max_payload = "16MiB"
        queue = "64MiB"
        "#,
    );
    redis.wait_subscribed("in", 1);
    let mut client = redis.client();
    for n in 0..3 {
        let payload = noise(n, SIZE);
        client.publish("in", &payload);
        let seen = out.wait_count(1);
        assert!(seen[0].payload == payload, "round {n}: other bytes came out");
        out.clear();
    }
    assert_eq!(daemon.stop().number("delivered"), 3);
}

#[test]
fn a_queue_that_the_largest_payload_does_not_fit_into_is_refused() {
    let config = "[channels.large]\nhandlers = []\npublish = \"out\"\nmax_payload = \"17MiB\"\n";
    let (_dir, file) = support::handlerd::folder_with(config);
    let output = Run::new(&["check", "--config", &file.display().to_string()]).output().expect(78);
    assert!(output.stderr.contains("config.toml:4:15"), "{}", output.stderr);
    assert!(output.stderr.contains("`queue` larger"), "{}", output.stderr);
}

/// Each limit that a large payload meets, left as it is while the others are raised.
#[test]
fn each_limit_holds_by_itself() {
    for (left, reason) in [("max_payload", "too_large"), ("max_output", "failed")] {
        let size = if left == "max_payload" { (1 << 20) + 1 } else { 16 << 20 };
        let set = |name, value| match name == left {
            true => String::new(),
            false => format!("{name} = \"{value}\"\n"),
        };
        let redis = Redis::start();
        let out = Watcher::subscribe(&redis, &["out"]);
        let config = format!(
            "[handlers.misbehave]\ntimeout = \"30s\"\nmemory = \"256MiB\"\n{}\
             [channels.large]\nsubscribe = \"in\"\nhandlers = [\"misbehave\"]\n\
             publish = \"out\"\nqueue = \"64MiB\"\n{}",
            if left == "max_output" {
                "max_output = \"15MiB\"\n".into()
            } else {
                set("max_output", "17MiB")
            },
            set("max_payload", "17MiB"),
        );
        let mut daemon = Handlerd::start(&redis, &config);
        redis.wait_subscribed("in", 1);
        let mut client = redis.client();
        client.publish("in", vec![b'x'; size]);
        client.publish("in", "after");
        assert!(out.wait_count(1)[0].payload == b"after", "{left}: it came through");
        let stopped = daemon.stop();
        assert_eq!(stopped.number(reason), 1, "{left}: {}", stopped.last);
        assert_eq!(stopped.number("lost"), 1, "{left}: {}", stopped.last);
    }
}
