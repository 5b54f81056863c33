//! What `check --connect` finds out, and that the ACL line it prints is enough for everything.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use handlerd::broker::connection::Connector;
use handlerd::broker::probe::{Persistence, Report, Role, probe};
use handlerd::broker::pubsub::{Subscriber, Subscription};
use handlerd::broker::writer::Writer;
use handlerd::config::{Config, Overflow};
use handlerd::queue::{Batch, Budget, Queue};
use handlerd::telemetry::{ChannelMetrics, DropReason, Metrics};
use support::{PATIENCE, Redis, Watcher, wait_until};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The channels of the tests: every kind of source and output, names that need care.
const CHANNELS: &str = r#"
[channels.chat]
subscribe = ["chat", "a*b [x]"]
publish = ["chat.out", 'it\s "quoted" é']
push = "list.{channel}"

[channels.rooms]
pattern = ["room.*", "spa?ce.*"]
publish = "out.{channel}"
routes = { publish = ["vip.?[a-c]"], push = ["audit:*"] }

[channels.far]
subscribe = "chat"
publish = { to = "eu", channel = "chat.eu" }
"#;

fn config(redis: &str, far: &str) -> Config {
    let text = format!("[redis]\n{redis}\n[connections.eu]\n{far}\n{CHANNELS}");
    parse(&text, "").0
}

/// A configuration, and its folder with a file `password`.
fn parse(text: &str, password: &str) -> (Config, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, text).expect("a file is written");
    std::fs::write(dir.path().join("password"), password).expect("a file is written");
    (Config::load(&file).unwrap_or_else(|errors| panic!("{errors}")).config, dir)
}

fn url(redis: &Redis) -> String {
    format!("url = \"{}\"", redis.url())
}

async fn probed(config: &Config) -> Report {
    timeout(PATIENCE, probe(config)).await.expect("the probe ends")
}

/// What has a problem: each with the first word of Redis's answer.
fn problems(report: &Report) -> Vec<String> {
    report.connections.iter().flat_map(|connection| connection.problems.clone()).collect()
}

/// Type a line into `redis-cli`.
fn type_in(redis: &Redis, line: &str) -> String {
    let mut cli = Command::new("redis-cli")
        .arg("-s")
        .arg(redis.socket())
        .args(["--user", "admin", "--pass", "any", "--no-auth-warning"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli comes with redis-server");
    writeln!(cli.stdin.take().expect("a pipe"), "{line}").expect("redis-cli reads");
    let output = cli.wait_with_output().expect("redis-cli ends");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether the user of the printed line may not do this, by trying it: Redis 6.2 has no ACL DRYRUN.
fn is_forbidden(redis: &Redis, command: &[&str]) -> bool {
    let url = format!("redis+unix://{}?user=handlerd&pass=PASSWORD", redis.socket().display());
    let client = redis::Client::open(url).expect("the url is right");
    let mut connection = client.get_connection().expect("the user may connect");
    let mut cmd = redis::Cmd::new();
    cmd.arg(command);
    let answer = cmd.query::<redis::Value>(&mut connection);
    answer.is_err_and(|error| error.code() == Some("NOPERM"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_is_is_told_and_nothing_is_left_behind() {
    let redis = Redis::with("appendonly yes\nappendfsync always");
    let far = Redis::start();
    let watcher = Watcher::psubscribe(&redis, &["*"]);
    let report = probed(&config(&url(&redis), &url(&far))).await;
    assert_eq!(problems(&report), Vec::<String>::new(), "{report}");
    assert!(report.is_good());
    let [near, eu] = &report.connections[..] else { panic!("{report}") };
    assert_eq!((&*near.name, &*eu.name), ("redis", "eu"));
    let server = near.server.as_ref().expect("it answered");
    let stats: String = redis.run(&["INFO", "server"]);
    let (product, version) = match stats.contains("valkey_version:") {
        true => ("Valkey", "valkey_version"),
        false => ("Redis", "redis_version"),
    };
    assert_eq!((server.product, &server.role), (product, &Role::Master));
    assert_eq!(server.persistence, Persistence::AppendOnly { fsync: Some("always".into()) });
    assert_eq!(eu.server.as_ref().map(|s| &s.persistence), Some(&Persistence::Nothing));
    assert!(stats.contains(&format!("{version}:{}\r\n", server.version)), "{report}");

    assert_eq!(redis.run::<u64>(&["DBSIZE"]), 0);
    assert_eq!(redis.run::<u64>(&["PUBSUB", "NUMPAT"]), 1, "the watcher's own");
    redis.client().publish("last", "");
    assert_eq!(watcher.wait_count(1)[0].channel, "last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_right_is_named() {
    let redis = Redis::with(
        "user narrow on >secret +@all -psubscribe ~list.chat resetchannels &chat &out.* &vip.*",
    );
    let login = format!("{}\nusername = \"narrow\"\npassword_file = \"PASSWORD\"", url(&redis));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").expect("a file is written");
    let login = login.replace("PASSWORD", &password.display().to_string());
    let far = Redis::start();
    let report = probed(&config(&login, &url(&far))).await;
    let found: Vec<_> = problems(&report)
        .iter()
        .map(|problem| problem.split(", which was refused: NOPERM").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        found,
        [
            r#"channel chat needs SUBSCRIBE "a*b [x]""#,
            r#"channel chat needs PUBLISH "chat.out""#,
            r#"channel chat needs PUBLISH "it\\s "quoted" é""#,
            r#"channel chat needs RPUSH "list.a*b [x]""#,
            r#"channel rooms needs PSUBSCRIBE "room.*""#,
            r#"channel rooms needs PSUBSCRIBE "spa?ce.*""#,
            r#"channel rooms needs RPUSH "audit:handlerd-check" (an example of what comes)"#,
        ],
        "{report}"
    );
    assert!(!report.is_good());

    // A user who may not even try.
    redis.run::<()>(&["ACL", "SETUSER", "narrow", "-multi"]);
    let report = probed(&config(&login, &url(&far))).await;
    assert!(report.connections[0].notes.iter().any(|n| n.contains("MULTI was refused: NOPERM")));

    // A wrong password, and nobody there.
    std::fs::write(&password, "wrong").expect("a file is written");
    let report = probed(&config(&login, "url = \"redis://127.0.0.1:1\"")).await;
    let found = problems(&report);
    assert!(found[0].contains("HELLO was refused: WRONGPASS"), "{report}");
    assert!(found[1].contains("redis://127.0.0.1:1: "), "{report}");
}

/// Until then it reads its master's data for a moment, and refuses commands.
#[track_caller]
fn wait_in_step(replica: &Redis) {
    wait_until("the replica to be in step", || {
        replica.run::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_to_a_replica_are_a_problem() {
    let master = Redis::with("repl-diskless-sync-delay 0");
    let redis = Redis::with(&format!("replicaof 127.0.0.1 {}", master.port()));
    wait_in_step(&redis);
    let report = probed(&config(&url(&master), &url(&redis))).await;
    let found = problems(&report);
    assert!(matches!(&found[..], [problem] if problem.contains("it is a replica")), "{report}");
    let of = Some(format!("127.0.0.1:{}", master.port()));
    assert_eq!(report.connections[1].server.as_ref().map(|s| &s.role), Some(&Role::Replica { of }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_with_a_space_needs_the_right_to_all_channels() {
    let redis = Redis::start();
    let channels = "[channels.spaced]\nsubscribe = 'chat'\nlog = true\n[channels.x]\npattern = 'a *'\nlog = true";
    let [before, after] = ["", "username = \"handlerd\"\npassword_file = \"password\""]
        .map(|login| parse(&format!("[redis]\n{}\n{login}\n{channels}", url(&redis)), "PASSWORD"));
    let report = probed(&before.0).await;
    let acl = &report.connections[0].acl;
    assert!(acl.ends_with("+unsubscribe &*"), "{acl}");
    assert_eq!(type_in(&redis, acl), "OK");
    let report = probed(&after.0).await;
    assert!(report.is_good(), "{report}");
}

/// A folder with the password of the user that the printed lines make.
fn with_password(redis: &Redis, folder: &Path) -> String {
    let file = folder.join("password");
    std::fs::write(&file, "PASSWORD").expect("a file is written");
    let file = file.display();
    format!("{}\nusername = \"handlerd\"\npassword_file = \"{file}\"", url(redis))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_line_permits_everything_and_nothing_else() {
    let (redis, far) = (Redis::start(), Redis::start());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let report = probed(&config(&url(&redis), &url(&far))).await;
    for (redis, probed) in [&redis, &far].iter().zip(&report.connections) {
        assert_eq!(type_in(redis, &probed.acl), "OK", "{}", probed.acl);
    }
    let config = config(&with_password(&redis, dir.path()), &with_password(&far, dir.path()));
    everything_works(&config, &redis, &far).await;

    let refused = |redis: &Redis| {
        let stats: String = redis.run(&["INFO", "commandstats"]);
        let refused = stats.lines().filter(|line| !line.contains("rejected_calls=0"));
        refused.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(refused(&redis), ["# Commandstats"]);
    assert_eq!(refused(&far), ["# Commandstats"]);

    let again = probed(&config).await;
    assert_eq!(problems(&again), Vec::<String>::new(), "{again}");
    assert_eq!(again.connections[0].server.as_ref().unwrap().persistence, Persistence::Unknown);
    assert_eq!(again.connections[0].acl, report.connections[0].acl);
    for command in [["SUBSCRIBE", "other"], ["PSUBSCRIBE", "roo*"], ["KEYS", "*"]] {
        assert!(is_forbidden(&redis, &command), "{command:?}");
    }
}

/// The subscription and the writers of this configuration, on a message for each source.
async fn everything_works(config: &Config, redis: &Redis, far: &Redis) {
    for redis in [redis, far] {
        redis.run::<()>(&["CONFIG", "RESETSTAT"]);
    }
    let (metrics, stop) = (Arc::<Metrics>::default(), CancellationToken::new());
    let budget = Budget::new(1 << 20);
    let counts = Arc::<ChannelMetrics>::default();
    let queue =
        Queue::new(1, 1 << 20, Overflow::DropOldest, &budget, counts.clone(), Box::new(|| false));
    let subscriptions = config
        .channels
        .iter()
        .map(|channel| Subscription {
            source: channel.source.clone(),
            table: channel.name.clone(),
            max_payload: channel.max_payload,
            queue: queue.clone(),
            single: None,
        })
        .collect();
    let source = Connector::new(&config.redis);
    let subscriber = Subscriber::new(source, subscriptions, metrics.clone());
    let subscribed = tokio::spawn(subscriber.run(support::beat(), stop.clone()));
    for (name, clients) in [("chat", 1), ("a*b [x]", 1)] {
        redis.wait_subscribed(name, clients);
    }
    redis.wait_patterns(2);
    let heard = ["chat", "a*b [x]", "room.1", "spa ce.1"];
    for name in heard {
        redis.client().publish(name, "in");
    }
    let mut came = Vec::new();
    let mut batch = Batch::default();
    while came.len() < 5 {
        let come = async {
            while !queue.take(&mut batch) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, come).await.expect("messages come");
        let before = came.len();
        came.extend(batch.drain().map(|received| received.delivery.redis_channel.to_string()));
        batch.done(came.len() - before);
    }
    came.sort();
    assert_eq!(came, ["a*b [x]", "chat", "chat", "room.1", "spa ce.1"]);

    let near = Writer::new(Connector::new(&config.redis));
    let eu = Writer::new(Connector::new(&config.connections["eu"]));
    let tasks = [&near, &eu]
        .map(|w| tokio::spawn(w.clone().run(metrics.clone(), support::beat(), stop.clone())));
    let published =
        ["chat.out", "it\\s \"quoted\" é", "out.room.1", "out.spa ce.1", "vip.xb", "vip.1a"];
    for name in published {
        near.publish(name, b"out", &counts);
    }
    let pushed = ["list.chat", "list.a*b [x]", "audit:1"];
    for name in pushed {
        near.push(name, b"out", &counts);
    }
    eu.publish("chat.eu", b"out", &counts);
    for writer in [&near, &eu] {
        timeout(PATIENCE, writer.idle()).await.expect("everything is answered");
    }
    assert_eq!(counts.dropped(DropReason::Refused), 0);
    assert_eq!(counts.delivered.get(), (published.len() + pushed.len() + 1) as u64);
    assert_eq!(redis.run::<u64>(&["DBSIZE"]), pushed.len() as u64);
    assert!(far.run::<String>(&["INFO", "commandstats"]).contains("cmdstat_publish:calls=1,"));

    // One when it has connected, one when it has been quiet, and further ones.
    let pinged = |redis: &Redis| {
        let stats: String = redis.run(&["INFO", "commandstats"]);
        let pings = stats.split_once("cmdstat_ping:calls=").and_then(|(_, n)| n.split_once(','));
        pings.is_some_and(|(pings, _)| pings.parse::<u64>().expect("a number") >= 2)
    };
    wait_until("signs of life", || pinged(redis) && pinged(far));
    stop.cancel();
    timeout(PATIENCE, subscribed).await.expect("it stops").expect("without a panic");
    for task in tasks {
        timeout(PATIENCE, task).await.expect("it stops").expect("without a panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_asks_without_resp3_too() {
    let redis = Redis::with("rename-command HELLO \"\"\nrepl-diskless-sync-delay 0");
    let replica =
        Redis::with(&format!("rename-command HELLO \"\"\nreplicaof 127.0.0.1 {}", redis.port()));
    wait_in_step(&replica);
    let report = probed(&config(&url(&redis), &url(&replica))).await;
    let found = problems(&report);
    assert!(matches!(&found[..], [problem] if problem.contains("it is a replica")), "{report}");
    let server = report.connections[0].server.as_ref().expect("it answered");
    assert!(server.version.starts_with(|c: char| c.is_ascii_digit()), "{report}");
    assert_eq!(server.persistence, Persistence::Nothing);
}

/// Streams with everything that they can be written to by.
const STREAMS: &str = r#"
[channels.orders]
stream = ["orders", "a*b [x]"]
group = "billing"
start = "oldest"
claim_idle = "200ms"
handlers = ["misbehave"]
append = ["orders.done", "copy.{channel}"]
maxlen = 1000
push = "orders.list"
publish = "orders.said"
routes = { append = ["audit.*"], push = ["vip.*"], publish = ["talk.?"] }
dead_letter_maxlen = 1000

[channels.refunds]
stream = "refunds"
group = "billing"
when_done = "delete"
claim_idle = "200ms"
handlers = []
append = "refunds.done"

[channels.far]
stream = "far"
group = "billing"
append = [{ to = "eu", stream = "far.done" }, "far.near"]

[channels.work]
subscribe = "in"
handlers = ["misbehave"]
append = "out"
dead_letter = "work.dead"
"#;

#[test]
fn the_printed_line_is_enough_for_streams() {
    let redis = Redis::with("appendonly yes\nappendfsync always");
    let far = Redis::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = support::Handlerd::folder();
    std::fs::write(dir.path().join("password"), "PASSWORD").expect("a file is written");
    let whole = |redis: &str, far: &str| {
        let config = format!("[redis]\n{redis}\n[connections.eu]\n{far}\n{STREAMS}");
        std::fs::write(dir.path().join("config.toml"), &config).expect("a file is written");
        config
    };
    let probe = || {
        let loaded = Config::load(&dir.path().join("config.toml"));
        let config = loaded.unwrap_or_else(|errors| panic!("{errors}")).config;
        let report = runtime.block_on(probed(&config));
        assert_eq!(problems(&report), Vec::<String>::new(), "{report}");
        report
    };
    whole(&url(&redis), &url(&far));
    let report = probe();
    for (redis, probed) in [&redis, &far].iter().zip(&report.connections) {
        assert_eq!(redis.run::<u64>(&["DBSIZE"]), 0, "nothing is left behind");
        assert_eq!(type_in(redis, &probed.acl), "OK", "{}", probed.acl);
    }
    let config = whole(&with_password(&redis, dir.path()), &with_password(&far, dir.path()));
    probe();
    // The probe asks what this user may not: how Redis keeps its data.
    for redis in [&redis, &far] {
        redis.run::<()>(&["ACL", "LOG", "RESET"]);
    }

    let add = |key: &str, payload: &str| {
        redis.run::<String>(&["XADD", key, "*", "payload", payload, "lang", "en"])
    };
    let length = |key: &str| redis.run::<u64>(&["XLEN", key]);
    // What a daemon left behind that died long ago, and its name.
    for key in ["orders", "refunds"] {
        add(key, "echo left");
        redis.run::<()>(&["XGROUP", "CREATE", key, "billing", "0"]);
        let read = ["XREADGROUP", "GROUP", "billing", "dead", "STREAMS", key, ">"];
        redis.run::<redis::Value>(&read);
    }
    redis.run::<()>(&["XGROUP", "CREATECONSUMER", "orders", "billing", "gone"]);
    let said = Watcher::psubscribe(&redis, &["orders.said", "talk.*"]);
    let mut daemon = support::Handlerd::start_in(dir, &config, &[]);
    redis.wait_subscribed("in", 1);
    // A group that is new begins by itself where its stream is empty only.
    let keys = ["EXISTS", "a*b [x]", "far"];
    wait_until("the groups are made", || redis.run::<u64>(&keys) == 2);
    add("a*b [x]", "echo spaced");
    add("orders", "route audit.1");
    add("orders", "route vip.1");
    add("orders", "route talk.1");
    add("orders", "reject no");
    add("orders", "trap");
    add("refunds", "2");
    add("far", "3");
    redis.client().publish_all("in", ["echo heard", "reject no"]);

    wait_until("appended", || length("orders.done") == 2 && length("copy.a*b [x]") == 1);
    wait_until("claimed and deleted", || length("refunds.done") == 2 && length("refunds") == 0);
    wait_until("routed", || length("audit.1") == 1 && redis.client().list("vip.1").len() == 1);
    wait_until("pushed", || redis.client().list("orders.list").len() == 2);
    wait_until("dead letters", || length("orders.dead") == 2 && length("work.dead") == 1);
    wait_until("heard", || length("out") == 1);
    wait_until("abroad", || length("far.near") == 1 && far.run::<u64>(&["XLEN", "far.done"]) == 1);
    said.wait_count(3);
    for key in ["orders", "refunds", "far"] {
        let cursor = format!("handlerd:{{{key}}}:billing:cursor");
        let group = ["XPENDING", key, "billing"];
        wait_until("nothing pending", || {
            redis.run::<(u64, redis::Value, redis::Value, redis::Value)>(&group).0 == 0
        });
        wait_until("the cursor", || {
            redis.run::<Option<String>>(&["GET", &cursor]).is_some_and(|at| at.starts_with('f'))
        });
    }
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    // Nothing more is needed to look into the past.
    let file = daemon.dir().join("config.toml").display().to_string();
    let past = support::Run::new(&["replay", "orders", "--config", &file]).output().expect(1);
    assert!(past.text().ends_with("7 entries: 2 failed\n"), "{}", past.text());
    for redis in [&redis, &far] {
        let refused: redis::Value = redis.run(&["ACL", "LOG"]);
        assert_eq!(refused, redis::Value::Array(Vec::new()));
    }
    for command in [["XADD", "other", "*", "a", "b"].as_slice(), &["DEL", "orders"]] {
        assert!(is_forbidden(&redis, command), "{command:?}");
    }
}

/// Channels with streams, at a Redis.
fn streams(redis: &Redis, channels: &str) -> Config {
    parse(&format!("[redis]\n{}\n{channels}", url(redis)), "").0
}

/// The first channel of these tests.
fn orders(more: &str) -> String {
    format!("[channels.orders]\nstream = 'orders'\ngroup = 'g'\nappend = 'orders.done'\n{more}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_groups_that_are_in_the_way_are_told() {
    let redis = Redis::start();
    let found = async |config: &str| {
        let report = probed(&streams(&redis, config)).await;
        (problems(&report), report.connections[0].notes.join("\n"))
    };
    let (none, notes) = found(&orders("")).await;
    assert_eq!(none, Vec::<String>::new());
    assert!(notes.contains("there is no stream \"orders\" yet; handlerd makes it"), "{notes}");

    // Keys of other kinds.
    redis.run::<()>(&["RPUSH", "orders", "x"]);
    redis.run::<()>(&["SET", "orders.done", "x"]);
    redis.run::<()>(&["SET", "orders.dead", "x"]);
    let (wrong, _) = found(&orders("push = 'orders'")).await;
    let begins = [
        "channel orders reads the stream \"orders\", but that is a list: ",
        "channel orders writes to \"orders.dead\" as a stream, but it is a string: ",
        "channel orders writes to \"orders.done\" as a stream, but it is a string: ",
    ];
    assert_eq!(wrong.len(), begins.len(), "{wrong:?}");
    assert!(wrong.iter().zip(begins).all(|(text, begin)| text.starts_with(begin)), "{wrong:?}");
    redis.run::<()>(&["FLUSHALL"]);

    // A group that would have to begin somewhere.
    for n in ["1-0", "2-0"] {
        redis.run::<String>(&["XADD", "orders", n, "payload", "x"]);
    }
    let (wrong, _) = found(&orders("")).await;
    let [new] = &wrong[..] else { panic!("{wrong:?}") };
    assert!(new.contains("the group \"g\" is new, and the stream \"orders\" holds 2 entries"));
    assert!(new.contains("start = \"oldest\""), "{new}");
    for (start, begin) in
        [("new", "with what comes then"), ("oldest", "the oldest entry"), ("1-0", "after 1-0")]
    {
        let (none, notes) = found(&orders(&format!("start = '{start}'"))).await;
        assert_eq!(none, Vec::<String>::new());
        assert!(notes.contains("there is no group \"g\"") && notes.contains(begin), "{notes}");
    }
    // Where it had been, it is made again.
    redis.run::<()>(&["SET", "handlerd:{orders}:g:cursor", "f1-0"]);
    assert_eq!(found(&orders("")).await.0, Vec::<String>::new());

    redis.run::<()>(&["XGROUP", "CREATE", "orders", "g", "0"]);
    redis.run::<()>(&["XGROUP", "CREATE", "orders", "other", "0"]);
    assert_eq!(found(&orders("")).await.0, Vec::<String>::new());
    let (wrong, _) = found(&orders("when_done = 'delete'")).await;
    assert!(wrong[0].contains("is read by 1 more group"), "{wrong:?}");
    assert_eq!(redis.run::<u64>(&["XLEN", "orders"]), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_forget_streams_is_told_only_to_channels_with_streams() {
    let pubsub = "[channels.chat]\npublish = 'chat.out'";
    for (conf, words) in [
        ("appendonly yes\nappendfsync always", None),
        ("appendonly yes\nappendfsync everysec", Some("its appendfsync is everysec")),
        ("save 60 1", Some("it keeps snapshots on disk")),
        ("", Some("it keeps nothing on disk: streams are lost")),
        (
            "appendonly yes\nappendfsync always\nmaxmemory 1gb\nmaxmemory-policy allkeys-lru",
            Some("its maxmemory-policy is allkeys-lru"),
        ),
        ("appendonly yes\nappendfsync always\nmaxmemory-policy allkeys-lru", None),
        ("appendonly yes\nappendfsync always\nmaxmemory 1gb\nmaxmemory-policy volatile-lru", None),
    ] {
        let redis = Redis::with(conf);
        let report = probed(&streams(&redis, &orders(""))).await;
        assert!(report.is_good(), "{report}");
        let notes: Vec<&String> =
            report.connections[0].notes.iter().filter(|note| note.starts_with("it")).collect();
        match words {
            None => assert_eq!(notes, Vec::<&String>::new(), "{conf}"),
            Some(words) => {
                assert!(matches!(notes[..], [note] if note.contains(words)), "{conf}: {notes:?}");
            }
        }
        let report = probed(&streams(&redis, pubsub)).await;
        assert_eq!(report.connections[0].notes, Vec::<String>::new(), "{conf}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_and_commands_for_streams_are_named() {
    let redis = Redis::with(
        "rename-command XCLAIM \"\"\n\
         user narrow on >secret +@all -xack -script resetchannels ~orders ~orders.done",
    );
    let login = "username = 'narrow'\npassword_file = 'password'";
    let text = format!("[redis]\n{}\n{login}\n{}", url(&redis), orders(""));
    let (config, _dir) = parse(&text, "secret");
    let report = probed(&config).await;
    let found: Vec<_> = problems(&report)
        .iter()
        .map(|problem| problem.split(", which was refused: NOPERM").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        found,
        [
            "channel orders needs the command XCLAIM, which this Redis doesn't have: it is too old, \
             or the command was renamed",
            r#"channel orders needs XACK "orders""#,
            "channel orders needs SCRIPT LOAD",
            r#"channel orders needs XADD "orders.dead""#,
            r#"channel orders needs XDEL "orders.dead""#,
            r#"channel orders needs XINFO STREAM "orders.dead""#,
            r#"channel orders needs TYPE "orders.dead""#,
        ],
        "{report}"
    );
    let notes = &report.connections[0].notes;
    let cursor = "does without SET \"handlerd:{orders}:g:cursor\"";
    assert!(notes.iter().any(|note| note.contains(cursor)), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_in_one_slot_of_a_cluster_are_told() {
    let redis = Redis::with("cluster-enabled yes");
    // Redis 6.2 doesn't know ADDSLOTSRANGE.
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTS").arg((0..16384).collect::<Vec<u16>>());
    slots.query::<()>(redis.client().raw()).expect("CLUSTER ADDSLOTS");
    wait_until("a cluster of one", || {
        redis.run::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    });
    let far = "channel orders writes to \"orders.done\", \"orders.dead\" in one step with the entries \
               of \"orders\", but they are not in one slot of this Redis Cluster";
    let report = probed(&streams(&redis, &orders(""))).await;
    let found = problems(&report);
    assert!(matches!(&found[..], [problem] if problem.starts_with(far)), "{report}");
    let near = "[channels.orders]\nstream = '{orders}'\ngroup = 'g'\nappend = '{orders}.done'\n\
                dead_letter = '{orders}.dead'";
    let report = probed(&streams(&redis, near)).await;
    assert!(report.is_good(), "{report}");
}

#[test]
fn the_printed_line_is_enough_for_channels_that_are_single() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = support::Handlerd::folder();
    std::fs::write(dir.path().join("password"), "PASSWORD").expect("a file is written");
    let channel = "[channels.jobs]\nsubscribe = \"in\"\nappend = \"out\"\npublish = \"said\"\n\
                   maxlen = 100\nsingle = true\n";
    let file = dir.path().join("config.toml");
    let whole = |redis: &str| {
        let config = format!("[redis]\n{redis}\n{channel}");
        std::fs::write(&file, &config).expect("a file is written");
        config
    };
    let probe = || {
        let config = Config::load(&file).unwrap_or_else(|errors| panic!("{errors}")).config;
        let report = runtime.block_on(probed(&config));
        assert_eq!(problems(&report), Vec::<String>::new(), "{report}");
        report
    };
    whole(&url(&redis));
    let acl = probe().connections.swap_remove(0).acl;
    assert_eq!(redis.run::<u64>(&["DBSIZE"]), 0, "nothing is left behind");
    assert_eq!(type_in(&redis, &acl), "OK", "{acl}");
    let config = whole(&with_password(&redis, dir.path()));
    probe();
    redis.run::<()>(&["ACL", "LOG", "RESET"]);

    let mut first = support::Handlerd::start_in(dir, &config, &[]);
    first.wait_log(&["handles its messages now"]);
    let said = Watcher::subscribe(&redis, &["said"]);
    redis.client().publish("in", "1");
    said.wait_texts(1);
    assert_eq!(redis.run::<u64>(&["XLEN", "out"]), 1);
    let stopped = first.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    assert_eq!(redis.run::<redis::Value>(&["ACL", "LOG"]), redis::Value::Array(Vec::new()));
    // Without one of these rights it is said.
    redis.run::<()>(&["ACL", "SETUSER", "handlerd", "-hincrby"]);
    let config = Config::load(&first.dir().join("config.toml")).expect("it is right").config;
    let report = runtime.block_on(probed(&config));
    let problems = problems(&report);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("HINCRBY \"handlerd:single:jobs:at\""), "{problems:?}");
}
