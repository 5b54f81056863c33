//! A source at a Redis of the test's own, which is reached by a unix socket only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::broker::connection::Connector;
use crate::broker::stream::{Entry, Finish, Finisher, Settings, Sink, Source, Start, Taken};
pub(super) use crate::broker::testing::{PATIENCE, Redis, until};
use crate::config::{Address, Connection, Password, Secret};
use crate::heartbeat::Heartbeats;
use crate::message::{Delivery, Message};
use crate::telemetry::{ChannelMetrics, Metrics};

impl Redis {
    /// Whether an answer has such a field somewhere.
    pub(super) fn says(&self, command: &str, field: &str) -> bool {
        fn has(value: &redis::Value, field: &str) -> bool {
            match value {
                redis::Value::BulkString(text) => text == field.as_bytes(),
                redis::Value::Array(items) => items.iter().any(|item| has(item, field)),
                _ => false,
            }
        }
        has(&self.cli(command), field)
    }

    /// XADD of payloads, with ids that Redis makes.
    pub(super) fn add(&self, key: &str, payloads: impl IntoIterator<Item = impl ToString>) {
        let mut pipe = redis::pipe();
        for payload in payloads {
            pipe.cmd("XADD").arg(key).arg("*").arg("payload").arg(payload.to_string()).ignore();
        }
        pipe.query::<()>(&mut self.client()).unwrap();
    }

    /// What a stream holds: each entry's fields.
    pub(super) fn entries(&self, key: &str) -> Vec<Vec<String>> {
        let entries: Vec<(String, Vec<String>)> = self.cli(&format!("XRANGE {key} - +"));
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    /// The payloads of a stream's entries, for entries without headers.
    pub(super) fn payloads(&self, key: &str) -> Vec<String> {
        self.entries(key).into_iter().map(|mut fields| fields.remove(1)).collect()
    }

    /// How many are pending in the group "g"; endlessly many while there is no group.
    pub(super) fn pending(&self, key: &str) -> u64 {
        type Summary = (u64, redis::Value, redis::Value, redis::Value);
        let summary = self.try_ask::<Summary>(&[b"XPENDING", key.as_bytes(), b"g"]);
        // Before there is a group, nothing has been finished.
        summary.map_or(u64::MAX, |(pending, ..)| pending)
    }

    pub(super) fn connection_of(&self, user: &str) -> Connection {
        Connection {
            username: Some(user.into()),
            password: Password::Url(Secret::new("any")),
            ..self.unix()
        }
    }
}

/// A way to a Redis that is cut, once, before an answer with these bytes in it would come out.
pub(super) struct Cutter {
    dir: TempDir,
    connection: Connection,
    cut: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Cutter {
    pub(super) fn before(redis: &Redis, bytes: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let (behind, cut) = (redis.file("socket"), Arc::new(AtomicBool::new(false)));
        let is_cut = cut.clone();
        let task = tokio::spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&behind).await.unwrap();
                ways.spawn(pass_on(client, server, bytes.as_bytes(), is_cut.clone()));
            }
        });
        let address = Address::Unix(dir.path().join("socket"));
        let connection = Connection { address, ..redis.unix() };
        Cutter { dir, connection, cut, task }
    }

    pub(super) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    pub(super) fn has_cut(&self) -> bool {
        self.cut.load(SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(self.dir.path().join("socket"));
    }
}

async fn pass_on(client: UnixStream, server: UnixStream, bytes: &[u8], cut: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let down = async {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            let has_it = buffer[..n].windows(bytes.len()).any(|found| found == bytes);
            if has_it && !cut.swap(true, SeqCst) {
                return;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}

/// Of the stream "in" and the group "g", from the oldest on, with short times.
pub(super) fn settings(consumer: &str) -> Settings {
    Settings {
        start: Some(Start::Oldest),
        claim_idle: Duration::from_millis(400),
        ..Settings::new("orders", &["in"], "g", consumer)
    }
}

/// A source that runs, with what it has handed on.
pub(super) struct Running {
    pub(super) metrics: Arc<ChannelMetrics>,
    pub(super) finisher: Finisher,
    pub(super) source: Source,
    taken: Arc<Mutex<VecDeque<Taken>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(connection: &Connection, settings: Settings) -> Self {
        let taken: Arc<Mutex<VecDeque<Taken>>> = Arc::default();
        let sink = taken.clone();
        Running::with(
            connection,
            settings,
            taken,
            Arc::new(move |entries: Vec<Taken>| {
                sink.lock().unwrap().extend(entries);
            }),
        )
    }

    /// One that appends each payload to "out" at once.
    pub(super) fn copying(connection: &Connection, settings: Settings) -> Self {
        Running::handling(connection, settings, |message| {
            let mut finish = Finish::new();
            finish.append("out", &"payload".into(), message, None).unwrap();
            finish
        })
    }

    /// One that finishes each entry at once.
    pub(super) fn handling(
        connection: &Connection,
        settings: Settings,
        handle: impl Fn(Message) -> Finish + Send + Sync + 'static,
    ) -> Self {
        Running::with(
            connection,
            settings,
            Arc::default(),
            Arc::new(move |entries: Vec<Taken>| {
                for taken in entries {
                    let Taken::Message(message, _, entry) = taken else { panic!("{taken:?}") };
                    entry.finish(handle(message));
                }
            }),
        )
    }

    fn with(
        connection: &Connection,
        settings: Settings,
        taken: Arc<Mutex<VecDeque<Taken>>>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let metrics = Metrics::default().channel(&settings.table);
        let source = Source::new(Connector::new(connection), settings, &metrics);
        let stop = CancellationToken::new();
        let finisher = source.finisher();
        let flush = source.finisher();
        let run = source.clone().run(sink, Heartbeats::default(), stop.clone());
        let task = tokio::spawn(async move {
            // As the workers do after each turn.
            let flushing = async {
                loop {
                    flush.flush();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                () = run => {}
                () = flushing => {}
            }
        });
        Running { metrics, finisher, source, taken, stop, task }
    }

    /// Wait for the next so many that were handed on.
    pub(super) async fn take(&self, n: usize) -> Vec<Taken> {
        until("entries come", || self.taken.lock().unwrap().len() >= n).await;
        self.taken.lock().unwrap().drain(..n).collect()
    }

    /// The same where all are messages.
    pub(super) async fn messages(&self, n: usize) -> Vec<(Received, Entry)> {
        let message = |taken| match taken {
            Taken::Message(message, delivery, entry) => (Received { message, delivery }, entry),
            unfit => panic!("{unfit:?}"),
        };
        self.take(n).await.into_iter().map(message).collect()
    }

    /// How many were handed on and not taken here.
    pub(super) fn waiting(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    pub(super) fn state(&self, name: &str) -> u64 {
        self.metrics.stream.states().get(name).copied().unwrap_or(0)
    }

    /// An orderly stop: what was handed on and not taken is dropped.
    pub(super) async fn stop(self) -> Arc<ChannelMetrics> {
        self.stop.cancel();
        let stopped = async {
            while !self.task.is_finished() {
                self.taken.lock().unwrap().clear();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stopped).await.expect("it doesn't stop");
        self.task.await.unwrap();
        self.metrics
    }

    /// As if the process were killed.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A message that was handed on, without the hold on its entry.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Message,
    pub(super) delivery: Arc<Delivery>,
}

/// The text of a message.
pub(super) fn text((received, _): &(Received, Entry)) -> String {
    String::from_utf8(received.message.payload.clone()).unwrap()
}

/// One output: the message appended to "out".
pub(super) fn to_out(message: Message) -> Finish {
    let mut finish = Finish::new();
    finish.append("out", &"payload".into(), message, None).unwrap();
    finish
}

pub(super) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}
