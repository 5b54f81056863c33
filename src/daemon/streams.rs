//! The stream sources that run: each is started when nobody else of this daemon reads the same any
//! more, and is a task of its own.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::running::{joined, keep_running};
use crate::broker::stream::{Settings, Sink, Source, Taken};
use crate::crew::Crew;
use crate::heartbeat::Heartbeats;
use crate::message::Delivery;
use crate::queue::Received;
use crate::worker;

/// A stream source of a channel.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) source: Source,
    settings: Arc<Settings>,
    /// Nothing is to be read any more.
    pub(super) stop: CancellationToken,
    /// Nothing of it is in hand any more.
    pub(super) ended: CancellationToken,
}

impl Stream {
    /// One that ends when `stop` says so, or before.
    pub(super) fn new(source: Source, settings: Settings, stop: &CancellationToken) -> Self {
        let (stop, ended) = (stop.child_token(), CancellationToken::new());
        Stream { source, settings: Arc::new(settings), stop, ended }
    }

    /// Whether a source of these settings would do the same.
    pub(super) fn does(&self, settings: &Settings) -> bool {
        // What it is called is the affair of who takes its messages; what it may hold is a share of
        // what all may.
        let Settings { table, hold, .. } = &*self.settings;
        *self.settings == Settings { table: table.clone(), hold: *hold, ..settings.clone() }
    }

    /// Whether both read some stream as the same group.
    fn disturbs(&self, other: &Stream) -> bool {
        let (own, other) = (&self.settings, &other.settings);
        own.group == other.group && own.keys.iter().any(|key| other.keys.contains(key))
    }
}

/// All stream sources, those that are ending included.
pub(super) struct Streams {
    heartbeats: Heartbeats,
    running: Vec<Stream>,
    waiting: Vec<(Stream, Arc<dyn Sink>)>,
    tasks: JoinSet<()>,
}

impl Streams {
    /// None yet; their loops are watched by these.
    pub(super) fn new(heartbeats: &Heartbeats) -> Self {
        Streams {
            heartbeats: heartbeats.clone(),
            running: Vec::new(),
            waiting: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Start it as soon as those have ended that read the same.
    pub(super) fn start(&mut self, stream: Stream, sink: Arc<dyn Sink>) {
        self.waiting.push((stream, sink));
        self.tend();
    }

    /// Stop it; [`Stream::ended`] tells when it has.
    pub(super) fn stop(&mut self, stream: &Stream) {
        stream.stop.cancel();
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| !waiting.source.is(&stream.source));
        if self.waiting.len() < before {
            // It was never begun.
            stream.ended.cancel();
        }
    }

    /// Start what may be started now that others have ended.
    pub(super) fn tend(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|stream| !stream.ended.is_cancelled());
        for (stream, sink) in std::mem::take(&mut self.waiting) {
            if self.running.iter().any(|other| other.disturbs(&stream)) {
                self.waiting.push((stream, sink));
                continue;
            }
            self.running.push(stream.clone());
            let name = format!("the stream of channel {}", stream.settings.table);
            let ended = stream.ended.clone().drop_guard();
            let beats = self.heartbeats.clone();
            self.tasks.spawn(async move {
                let Stream { source, stop, .. } = stream;
                let run = || source.clone().run(sink.clone(), beats.clone(), stop.clone());
                keep_running(name, run).await;
                drop(ended);
            });
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Entries that are in hand, or were given back and Redis doesn't know it yet.
    pub(super) fn left(&self) -> usize {
        self.running.iter().map(|stream| stream.source.left()).sum()
    }

    /// Let go of what is in line to be finished: it stays pending.
    pub(super) fn abandon(&self) {
        self.running.iter().for_each(|stream| stream.source.abandon());
    }

    /// Wait until all have ended.
    pub(super) async fn ended(&mut self) {
        joined(&mut self.tasks).await;
    }

    /// End all tasks at once.
    pub(super) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// Hands on what a stream's source brings, to whoever is at this place then.
pub(super) fn sink(crew: &Arc<Crew>, place: usize) -> Arc<dyn Sink> {
    let crew = crew.clone();
    Arc::new(move |taken: Vec<Taken>| {
        // It is there until the source has ended.
        if let Some(channel) = crew.channel(place) {
            take(&channel, taken);
        }
    })
}

/// Entries that a stream's source hands on.
fn take(channel: &worker::Channel, taken: Vec<Taken>) {
    let mut messages = Vec::with_capacity(taken.len());
    for taken in taken {
        match taken {
            Taken::Message(message, delivery, entry) => {
                let delivery = named(delivery, channel);
                messages.push(Received {
                    message,
                    delivery,
                    entry: Some(entry.into()),
                    order: 0,
                    number: 0,
                });
            }
            Taken::Unfit(unfit) => channel.unfit(unfit),
        }
    }
    channel.queue.push(&mut messages);
}

/// A stream is read on under the name that its channel had; a message has that of now.
fn named(delivery: Arc<Delivery>, channel: &worker::Channel) -> Arc<Delivery> {
    if delivery.table == channel.name {
        return delivery;
    }
    Arc::new(Delivery { table: channel.name.clone(), ..(*delivery).clone() })
}
