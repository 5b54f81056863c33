//! The way out to a real Redis: each write ends in exactly one counter, whatever happens to the
//! connection, and what Redis has agrees with the counters.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use handlerd::broker::connection::Connector;
use handlerd::broker::writer::Writer;
use handlerd::config::{Address, Connection, Password, Secret, TlsFiles};
use handlerd::telemetry::{ChannelMetrics, DropReason, Metrics};
use support::redis_server::free_port;
use support::{PATIENCE, Proxy, RECOVERY, Redis, Watcher, mostly_within, noise};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A writer with its task, and a channel that it writes for.
struct Out {
    writer: Writer,
    channel: Arc<ChannelMetrics>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Out {
    fn to(connection: &Connection) -> Out {
        let writer = Writer::new(Connector::new(connection));
        let (metrics, stop) = (Arc::<Metrics>::default(), CancellationToken::new());
        let task = tokio::spawn(writer.clone().run(metrics.clone(), support::beat(), stop.clone()));
        Out { writer, channel: Arc::default(), metrics, stop, task }
    }

    fn push(&self, list: &str, payload: &[u8]) {
        self.writer.push(list, payload, &self.channel);
        self.writer.flush();
    }

    /// Numbered writes, as a worker does them: room, some commands, flush.
    async fn flood(&self, list: &str, numbers: std::ops::Range<u64>) {
        for n in numbers {
            self.writer.room().await;
            self.writer.push(list, n.to_string().as_bytes(), &self.channel);
            if n % 100 == 99 {
                self.writer.flush();
                tokio::task::yield_now().await;
            }
        }
        self.writer.flush();
    }

    async fn idle(&self) {
        timeout(PATIENCE, self.writer.idle()).await.expect("everything ends in a counter");
    }

    fn count(&self, reason: DropReason) -> u64 {
        self.channel.dropped(reason)
    }

    fn delivered(&self) -> u64 {
        self.channel.delivered.get()
    }

    /// Every counter that a write can end in.
    fn all(&self) -> u64 {
        let lost = [DropReason::Refused, DropReason::Unknown, DropReason::Shutdown];
        self.delivered() + lost.map(|reason| self.count(reason)).iter().sum::<u64>()
    }

    async fn until(&self, what: &str, done: impl Fn(&Out) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("the task ends").expect("without a panic");
    }
}

fn connection(address: Address) -> Connection {
    Connection {
        name: "redis".into(),
        address,
        database: 0,
        username: None,
        password: Password::None,
        tls: TlsFiles::default(),
    }
}

fn tcp(port: u16) -> Connection {
    connection(Address::Tcp { host: "127.0.0.1".into(), port })
}

fn unix(redis: &Redis) -> Connection {
    connection(Address::Unix(redis.socket()))
}

/// Bytes that were sent to this port of this machine, and that nobody has read there.
fn unread(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells it");
    let (address, established) = (format!("0100007F:{port:04X}"), "01");
    let connections = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let to_it = connections.filter(|row| row[1] == address && row[3] == established);
    let queued = |row: Vec<&str>| u64::from_str_radix(row[4].rsplit(':').next()?, 16).ok();
    to_it.filter_map(queued).sum()
}

fn numbers(list: &[Vec<u8>]) -> Vec<u64> {
    let number = |item: &Vec<u8>| String::from_utf8_lossy(item).parse().expect("a number");
    list.iter().map(number).collect()
}

#[track_caller]
fn strictly_growing(numbers: &[u64]) {
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
        panic!("out of order or doubled: {pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_exactly_and_in_order() {
    let redis = Redis::start();
    let watcher = Watcher::subscribe(&redis, &["loud"]);
    let payloads: Vec<Vec<u8>> = vec![
        b"text".to_vec(),
        vec![],
        (0..=255).collect(),
        b"\r\n$5\r\n*3\r\n".to_vec(),
        noise(1, 16 << 20),
        noise(2, 100_000),
        vec![],
        b"last".to_vec(),
    ];
    for connection in [unix(&redis), tcp(redis.port())] {
        redis.run::<u64>(&["DEL", "list"]);
        watcher.clear();
        let out = Out::to(&connection);
        for payload in &payloads {
            out.push("list", payload);
            out.writer.publish("loud", payload, &out.channel);
            out.writer.flush();
        }
        out.idle().await;
        assert_eq!(out.delivered(), 2 * payloads.len() as u64);
        assert!(redis.client().list("list") == payloads, "the list has other bytes");
        let heard = watcher.wait_count(payloads.len());
        assert!(heard.iter().map(|got| &got.payload).eq(&payloads), "others were published");
        out.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_publishes_are_each_counted() {
    let redis = Redis::start();
    let out = Out::to(&tcp(redis.port()));
    let other = Arc::<ChannelMetrics>::default();
    let names: Vec<String> = (0..50).map(|n| format!("room.{n}")).collect();
    for n in 0..200_000_usize {
        out.writer.room().await;
        let from = if n % 4 == 0 { &other } else { &out.channel };
        out.writer.publish(&names[n % 50], &[b'x'; 64], from);
        if n % 128 == 0 {
            out.writer.flush();
        }
    }
    out.idle().await;
    assert_eq!((out.delivered(), other.delivered.get()), (150_000, 50_000));
    let stats: String = redis.run(&["INFO", "commandstats"]);
    assert!(stats.contains("cmdstat_publish:calls=200000,"), "{stats}");
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_is_counted_and_the_rest_goes_on() {
    let redis = Redis::with(
        "user narrow on nopass +rpush +publish +hello +auth ~list ~text resetchannels &loud",
    );
    redis.run::<()>(&["SET", "text", "not a list"]);
    let mut connection = tcp(redis.port());
    connection.username = Some("narrow".into());
    connection.password = Password::Url(Secret::new("any"));
    let out = Out::to(&connection);
    for n in 0..100_u64 {
        out.push("list", n.to_string().as_bytes());
        out.push("text", b"WRONGTYPE");
        out.push("forbidden", b"NOPERM");
        out.writer.publish("loud", b"permitted", &out.channel);
        out.writer.publish("secret", b"NOPERM", &out.channel);
    }
    out.idle().await;
    assert_eq!(out.count(DropReason::Refused), 300);
    assert_eq!(out.delivered(), 200);
    assert_eq!(out.all(), 500);
    assert_eq!(numbers(&redis.client().list("list")), (0..100).collect::<Vec<_>>());
    // That PING isn't permitted either doesn't end the connection.
    sleep(Duration::from_millis(2500)).await;
    assert!(!out.writer.is_away());
    assert_eq!(out.metrics.reconnects.get(), 0);
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_doubled_or_uncounted_when_redis_is_killed() {
    const ROUNDS: u64 = 5;
    const EACH: u64 = 40_000;
    // What was answered is in the file: a killed Redis has it when it is back.
    let mut redis = Redis::with("appendonly yes\nappendfsync no");
    let out = Arc::new(Out::to(&tcp(redis.port())));
    for round in 0..ROUNDS {
        let before = out.all();
        let flood = {
            let out = out.clone();
            tokio::spawn(async move { out.flood("list", round * EACH..(round + 1) * EACH).await })
        };
        out.until("a flood under way", |out| out.all() > before + EACH / 10).await;
        redis.kill();
        redis.restart();
        flood.await.expect("the flood ends");
        out.idle().await;
        assert_eq!(out.all(), (round + 1) * EACH);
        // The flood may have been over when Redis was killed: then nothing waits for this.
        out.until("a new connection", |out| out.metrics.reconnects.get() > round).await;
    }
    let there = numbers(&redis.client().list("list"));
    strictly_growing(&there);
    let (there, unknown) = (there.len() as u64, out.count(DropReason::Unknown));
    assert_eq!((out.count(DropReason::Refused), out.count(DropReason::Shutdown)), (0, 0));
    assert!(there >= out.delivered(), "{there} are there, {} were counted", out.delivered());
    assert!(there <= out.delivered() + unknown);
    assert_eq!(out.metrics.reconnects.get(), ROUNDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_redis_loses_nothing() {
    let redis = Redis::start();
    let out = Arc::new(Out::to(&tcp(redis.port())));
    out.flood("list", 0..100).await;
    out.idle().await;
    redis.freeze();
    let flood = {
        let out = out.clone();
        tokio::spawn(async move { out.flood("list", 100..300_000).await })
    };
    out.until("the silence to be noticed", |out| out.writer.is_away()).await;
    sleep(Duration::from_secs(4)).await;
    assert!(!flood.is_finished(), "the writer took in more than its limits");
    redis.thaw();
    flood.await.expect("the flood ends");
    out.idle().await;
    assert!(!out.writer.is_away());
    assert_eq!(out.delivered(), 300_000);
    assert_eq!(numbers(&redis.client().list("list")), (0..300_000).collect::<Vec<_>>());
    assert_eq!(out.metrics.reconnects.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_holds_back_writes_is_not_taken_for_a_broken_connection() {
    let redis = Redis::start();
    let out = Out::to(&tcp(redis.port()));
    let start = Instant::now();
    redis.run::<()>(&["CLIENT", "PAUSE", "4000", "WRITE"]);
    out.flood("list", 0..1000).await;
    out.idle().await;
    assert!(start.elapsed() > Duration::from_secs(3), "it was not paused");
    assert_eq!(out.delivered(), 1000);
    assert_eq!(out.metrics.reconnects.get(), 0);
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_replaced() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let port = proxy.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let out = Out::to(&tcp(port));
    let mut next = 0;
    let mut taken = Vec::new();
    for round in 1..=3 {
        out.flood("list", next..next + 10).await;
        out.idle().await;
        let delivered = out.delivered();
        let broken = proxy.half_open();
        next += 10;
        while out.delivered() == delivered {
            out.flood("list", next..next + 1).await;
            next += 1;
            sleep(Duration::from_millis(20)).await;
            assert!(broken.elapsed() < PATIENCE, "no write got through in {PATIENCE:?}");
        }
        taken.push(broken.elapsed());
        assert_eq!(out.metrics.reconnects.get(), round);
    }
    mostly_within(RECOVERY, &taken);
    // And without anything to send.
    out.idle().await;
    proxy.half_open();
    out.until("a fourth connection", |out| out.metrics.reconnects.get() == 4).await;
    out.idle().await;
    assert_eq!(out.all(), next);
    let there = numbers(&redis.client().list("list"));
    strictly_growing(&there);
    assert_eq!(there.len() as u64, out.delivered());
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_is_not_taken_for_a_broken_connection() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    // The last of it, in the kernel's buffers, takes longer than an answer may without any.
    proxy.rate(2 << 20);
    let port = proxy.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let out = Out::to(&tcp(port));
    out.push("list", &noise(1, 16 << 20));
    out.idle().await;
    assert_eq!(out.delivered(), 1);
    assert_eq!(out.metrics.reconnects.get(), 0);
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_bounded_while_redis_stands_still() {
    let redis = Redis::start();
    let out = Out::to(&tcp(redis.port()));
    out.push("list", b"0");
    out.idle().await;
    redis.freeze();
    let mut bytes = 0;
    // Nothing more is taken when there has been no room for a while.
    while timeout(Duration::from_millis(1500), out.writer.room()).await.is_ok() {
        out.push("list", &[b'x'; 1000]);
        bytes += 1000;
        assert!(bytes < 64 << 20, "there is no limit");
    }
    assert!(bytes < 20 << 20, "{bytes} bytes were taken");
    out.until("the silence to be noticed", |out| out.writer.is_away()).await;
    redis.thaw();
    timeout(PATIENCE, out.writer.room()).await.expect("room again");
    out.idle().await;
    assert_eq!(out.delivered(), 1 + bytes / 1000);
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_with_redis_away_and_sends_what_waited() {
    let mut redis = Redis::start();
    redis.kill();
    let out = Out::to(&tcp(redis.port()));
    out.flood("list", 0..1000).await;
    sleep(Duration::from_millis(1500)).await;
    out.until("that to be noticed", |out| out.writer.is_away()).await;
    assert_eq!(out.all(), 0);
    redis.restart();
    out.idle().await;
    assert_eq!(numbers(&redis.client().list("list")), (0..1000).collect::<Vec<_>>());
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_at_the_end_is_counted() {
    let mut redis = Redis::start();
    let out = Out::to(&tcp(redis.port()));
    out.push("list", b"answered");
    out.idle().await;
    redis.freeze();
    out.flood("list", 0..10).await;
    // RPUSH, the list and a digit are 32 bytes.
    out.until("all to be sent", |_| unread(redis.port()) >= 10 * 32).await;
    out.stop.cancel();
    sleep(Duration::from_millis(100)).await;
    assert!(!out.task.is_finished(), "it waits for the answers");
    out.writer.abandon();
    out.until("the task's end", |out| out.task.is_finished()).await;
    assert_eq!((out.delivered(), out.count(DropReason::Unknown)), (1, 10));
    out.push("list", b"too late");
    assert_eq!(out.count(DropReason::Shutdown), 1);
    out.idle().await;
    timeout(PATIENCE, out.writer.room()).await.expect("nobody waits any more");
    redis.thaw();

    // The same when the task was ended from outside, with Redis away.
    redis.kill();
    let out = Out::to(&tcp(redis.port()));
    out.flood("list", 0..10).await;
    sleep(Duration::from_millis(100)).await;
    out.task.abort();
    out.until("the task's end", |out| out.task.is_finished()).await;
    assert_eq!(out.all(), 0);
    out.writer.abandon();
    assert_eq!(out.count(DropReason::Shutdown), 10);
    assert_eq!(out.all(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_a_replica_is_left_without_loss() {
    let master = Redis::start();
    let redis = Redis::start();
    let out = Out::to(&tcp(redis.port()));
    out.flood("list", 0..100).await;
    out.idle().await;
    sleep(Duration::from_millis(1100)).await;
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    out.flood("list", 100..200).await;
    out.until("another connection", |out| out.metrics.reconnects.get() >= 1).await;
    // While it stays one, it isn't left again and again.
    let start = Instant::now();
    let mut sent = 200;
    while start.elapsed() < Duration::from_secs(3) {
        out.flood("list", sent..sent + 1).await;
        sent += 1;
        sleep(Duration::from_millis(20)).await;
    }
    out.idle().await;
    assert_eq!(out.metrics.reconnects.get(), 1);
    assert_eq!((out.delivered(), out.count(DropReason::Refused)), (100, sent - 100));
    redis.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    out.flood("list", sent..sent + 100).await;
    out.idle().await;
    assert_eq!(out.delivered(), 200);
    assert_eq!(out.all(), sent + 100);
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_still_reads_its_data_is_waited_for() {
    // Reading back 2,000 keys takes it two seconds, and it answers after each 2 MiB of them.
    let mut redis = Redis::with("key-load-delay 1000\nrdbcompression no\n");
    let fill = "for n = 1, 2000 do redis.call('SET', 'key' .. n, string.rep('x', 10000)) end";
    redis.run::<()>(&["EVAL", fill, "0"]);
    redis.run::<()>(&["SAVE"]);
    let out = Out::to(&tcp(redis.port()));
    out.flood("list", 0..10).await;
    out.idle().await;
    redis.kill();
    out.flood("list", 10..1000).await;
    let start = Instant::now();
    redis.restart();
    assert!(start.elapsed() > Duration::from_secs(1), "it read too fast: {:?}", start.elapsed());
    out.idle().await;
    assert_eq!(out.count(DropReason::Refused), 0);
    assert_eq!(out.all(), 1000);
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hello_it_works_too() {
    let redis = Redis::with("rename-command HELLO \"\"\nuser old on >secret +@all ~* &*");
    let mut connection = tcp(redis.port());
    connection.database = 3;
    connection.username = Some("old".into());
    connection.password = Password::Url(Secret::new("secret"));
    let out = Out::to(&connection);
    out.flood("list", 0..1000).await;
    out.writer.publish("loud", b"", &out.channel);
    out.idle().await;
    assert_eq!(out.delivered(), 1001);
    let stats: String = redis.run(&["INFO", "keyspace"]);
    assert!(stats.contains("db3:keys=1,"), "{stats}");
    out.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_carries_the_same_bytes_and_its_end_loses_count_of_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| dir.path().join(name);
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    std::fs::write(file("cert.pem"), made.cert.pem()).expect("a file is written");
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).expect("a file is written");
    let (port, path) = (free_port(), dir.path().display());
    let mut redis = Redis::with(&format!(
        "tls-port {port}\ntls-cert-file {path}/cert.pem\ntls-key-file {path}/key.pem\n\
         tls-ca-cert-file {path}/cert.pem\ntls-auth-clients no\nappendonly yes\nappendfsync no"
    ));
    let mut connection = connection(Address::Tls { host: "localhost".into(), port });
    connection.tls.ca_file = Some(file("cert.pem"));
    let out = Arc::new(Out::to(&connection));
    let large = noise(1, 16 << 20);
    for payload in [&large[..], b"", b"\x00\xff", &large[..100_000]] {
        out.push("bytes", payload);
        out.idle().await;
        assert!(redis.client().list("bytes").last().is_some_and(|last| last == payload));
    }
    redis.run::<()>(&["DEL", "bytes"]);

    let before = out.all();
    for round in 0..3 {
        let flood = {
            let out = out.clone();
            tokio::spawn(
                async move { out.flood("list", round * 50_000..(round + 1) * 50_000).await },
            )
        };
        let under_way = before + round * 50_000 + 5_000;
        out.until("a flood under way", |out| out.all() > under_way).await;
        redis.kill();
        redis.restart();
        flood.await.expect("the flood ends");
        out.idle().await;
    }
    assert_eq!(out.all(), before + 150_000);
    let there = numbers(&redis.client().list("list"));
    strictly_growing(&there);
    let (there, delivered) = (there.len() as u64, out.delivered() - before);
    assert!(there >= delivered && there <= delivered + out.count(DropReason::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_is_replaced_at_once() {
    let redis = Redis::start();
    let out = Out::to(&unix(&redis));
    let mut taken = Vec::new();
    for round in 1..=20 {
        out.push("list", b"x");
        out.idle().await;
        let start = Instant::now();
        redis.run::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        out.until("another connection", |out| out.metrics.reconnects.get() == round).await;
        taken.push(start.elapsed());
    }
    mostly_within(RECOVERY, &taken);
    out.idle().await;
    assert_eq!((out.delivered(), out.count(DropReason::Unknown)), (20, 0));
    out.end().await;
}
