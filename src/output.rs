//! Where what leaves a chain goes: PUBLISH, RPUSH, XADD, a log line.
//!
//! Outputs are a closed set, so an enum in the configuration and a `match` here. Called by the
//! workers. Of pub/sub messages hands commands to the writers and never waits for Redis's answer; of
//! an entry of a stream makes what is written in one step with its acknowledgement. Routes have been
//! judged by the chain before anything comes here.

mod letters;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use self::letters::Letters;
use crate::broker::backoff::backoff;
use crate::broker::stream::{AppendError, Finish, can_append};
use crate::broker::writer::{Fate, Writer};
use crate::config::{
    Channel, NameTemplate, OWN_CONNECTION as OWN, Output, RouteKind, Routes, Source, Target,
};
use crate::dead_letter::{DeadLetter, PAYLOAD};
use crate::message::{Delivery, Message};
use crate::queue::OutputAway;
use crate::telemetry::{ChannelMetrics, DropReason, OutputKind, log, printable};

/// Bytes of a payload that a log line shows at most.
const LOGGED_PAYLOAD: usize = 4 << 10;

/// Pauses between tries to write to another Redis than the stream's.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// The outputs of one channel, with the writers they need.
pub struct Outputs {
    sinks: Vec<Sink>,
    routes: Routes,
    /// The writer of routes and dead letters; none where there are none, and where that is written in
    /// one step with the message's being done.
    route_writer: Option<Writer>,
    /// Each writer once, whatever number of outputs share it.
    writers: Vec<Writer>,
    append: Append,
    letters: Arc<Letters>,
    metrics: Arc<ChannelMetrics>,
}

enum Sink {
    /// Without a writer: of a stream, and to its own Redis.
    Redis(Command, Option<Writer>, NameTemplate),
    Log,
}

/// By which command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Publish,
    Append,
    Push,
}

impl From<RouteKind> for Command {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Publish => Command::Publish,
            RouteKind::Append => Command::Append,
            RouteKind::Push => Command::Push,
        }
    }
}

impl From<Command> for OutputKind {
    fn from(command: Command) -> Self {
        match command {
            Command::Publish => OutputKind::Publish,
            Command::Append => OutputKind::Append,
            Command::Push => OutputKind::Push,
        }
    }
}

/// How a message becomes an entry of a stream.
struct Append {
    payload_field: Arc<str>,
    maxlen: Option<u64>,
}

impl Outputs {
    /// The connections that need a writer for a channel's outputs and routes.
    pub fn connections(channel: &Channel) -> impl Iterator<Item = &str> {
        let in_one_step = channel.is_finished();
        let targets = channel.outputs.iter().filter_map(|output| match output {
            Output::Publish(target) | Output::Append(target) | Output::Push(target) => {
                Some(&*target.connection)
            }
            Output::Log => None,
        });
        let own = !channel.routes.is_empty() || channel.dead_letter.is_some();
        // What such a channel writes to its own Redis goes with the note that the message is done.
        targets.chain(own.then_some(OWN)).filter(move |name| !in_one_step || *name != OWN)
    }

    /// For one channel. `writers` has every connection of [`Self::connections`].
    pub fn new(
        channel: &Channel,
        writers: &BTreeMap<Arc<str>, Writer>,
        metrics: Arc<ChannelMetrics>,
    ) -> Self {
        let mut connections: Vec<&str> = Self::connections(channel).collect();
        connections.sort_unstable();
        connections.dedup();
        let writer = |name: &str| connections.contains(&name).then(|| writers[name].clone());
        let redis = |command, target: &Target| {
            Sink::Redis(command, writer(&target.connection), target.name.clone())
        };
        let sink = |output: &Output| match output {
            Output::Publish(target) => redis(Command::Publish, target),
            Output::Append(target) => redis(Command::Append, target),
            Output::Push(target) => redis(Command::Push, target),
            Output::Log => Sink::Log,
        };
        let payload_field = match &channel.source {
            Source::Stream(stream) => stream.payload_field.clone(),
            Source::Subscribe(_) | Source::Pattern(_) => PAYLOAD.into(),
        };
        Outputs {
            sinks: channel.outputs.iter().map(sink).collect(),
            routes: channel.routes.clone(),
            route_writer: writer(OWN),
            writers: connections.iter().copied().filter_map(writer).collect(),
            append: Append { payload_field, maxlen: channel.maxlen },
            letters: Letters::new(metrics.clone()),
            metrics,
        }
    }

    /// The field that the payload of a stream's entries is in, those that come and those that go.
    pub fn payload_field(&self) -> &str {
        &self.append.payload_field
    }

    /// The writers that it needs, each once, in the order of their names.
    pub fn writers(&self) -> impl Iterator<Item = &Writer> {
        self.writers.iter()
    }

    /// Whether every writer takes more.
    pub fn has_room(&self) -> bool {
        self.writers.iter().all(Writer::has_room)
    }

    /// Wait until every writer takes more.
    pub async fn room(&self) {
        for writer in self.writers.iter().filter(|writer| !writer.has_room()) {
            writer.room().await;
        }
    }

    /// Tells whether one of the Redises that are written to is away.
    pub fn away(&self) -> OutputAway {
        let writers = self.writers.clone();
        Box::new(move || writers.iter().any(Writer::is_away))
    }

    /// Hand over what came out of one run through the chain.
    ///
    /// # Errors
    /// When a message can't be an entry of a stream; then nothing was handed over.
    pub fn send(&self, delivery: &Delivery, messages: &[Message]) -> Result<(), AppendError> {
        self.check(messages)?;
        for message in messages {
            self.log(delivery, message);
            self.each(delivery, message, |command, writer, name| {
                if let Some(writer) = writer {
                    self.write(command, writer, name, message, &self.metrics);
                }
            });
        }
        Ok(())
    }

    /// Whether a stream's messages go to other Redises too.
    pub fn go_abroad(&self) -> bool {
        self.route_writer.is_none() && !self.writers.is_empty()
    }

    /// Write what goes to other Redises than the stream's, again and again until each has said that
    /// it has it: only then may the entry be finished. What is published and refused is counted, and
    /// not tried again.
    pub async fn send_abroad(&self, delivery: &Delivery, messages: &[Message]) {
        // Each has counters of its own: only what hasn't arrived is sent again.
        let mut left = Vec::new();
        for message in messages {
            self.each(delivery, message, |command, writer, name| {
                if let Some(writer) = writer {
                    left.push((command, writer.clone(), name.to_owned(), message));
                }
            });
        }
        for pause in backoff(FIRST_PAUSE, LAST_PAUSE) {
            let sent: Vec<Arc<ChannelMetrics>> = left
                .iter()
                .map(|(command, writer, name, message)| {
                    let from = Arc::default();
                    self.write(*command, writer, name, message, &from);
                    from
                })
                .collect();
            // All of them, before one is waited for.
            self.flush();
            for ((_, writer, ..), from) in left.iter().zip(&sent) {
                writer.ended(from, 1).await;
            }
            let mut sent = sent.iter();
            left.retain(|(command, ..)| {
                let Some(from) = sent.next() else { return true };
                let refused = match command {
                    Command::Publish => from.dropped(DropReason::Refused),
                    Command::Append | Command::Push => 0,
                };
                self.metrics.delivered.add((*command).into(), from.delivered.get());
                self.metrics.lost(DropReason::Refused, refused);
                from.delivered.get() + refused == 0
            });
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn write(
        &self,
        command: Command,
        writer: &Writer,
        name: &str,
        message: &Message,
        from: &Arc<ChannelMetrics>,
    ) {
        match command {
            Command::Publish => writer.publish(name, &message.payload, from),
            Command::Push => writer.push(name, &message.payload, from),
            Command::Append => {
                let Append { payload_field, maxlen } = &self.append;
                let payload = [payload_field.as_bytes(), &message.payload];
                let headers = message.headers.iter();
                let headers = headers.flat_map(|(name, value)| [name.as_bytes(), value]);
                writer.append(name, *maxlen, payload.into_iter().chain(headers), from);
            }
        }
    }

    /// What is to be written for an entry of a stream, together with its acknowledgement. What goes
    /// to the log does so now.
    ///
    /// # Errors
    /// When a message can't be an entry of a stream; then nothing was logged.
    pub fn finish(&self, delivery: &Delivery, messages: &[Message]) -> Result<Finish, AppendError> {
        self.check(messages)?;
        let mut finish = Finish::handled();
        for message in messages {
            self.log(delivery, message);
            self.each(delivery, message, |command, writer, name| match command {
                _ if writer.is_some() => {}
                Command::Publish => finish.publish(name, message.payload.clone()),
                Command::Push => finish.push(name, message.payload.clone()),
                Command::Append => {
                    let Append { payload_field, maxlen } = &self.append;
                    let appended = finish.append(name, payload_field, message.clone(), *maxlen);
                    debug_assert!(appended.is_ok(), "it was checked");
                }
            });
        }
        Ok(finish)
    }

    /// Store a dead letter of a pub/sub message. It is counted when it is known what became of it.
    pub fn bury(&self, stream: &Arc<str>, maxlen: Option<u64>, letter: DeadLetter) {
        let letter = Arc::new(letter);
        let receipt = self.letters.receipt(stream, letter.clone());
        let Some(writer) = &self.route_writer else {
            debug_assert!(false, "a channel with dead letters has a writer for them");
            return receipt(Fate::Unsent);
        };
        let fields = letter.fields();
        let fields = fields.iter().flat_map(|(name, value)| [*name, &**value]);
        writer.append_and_tell(stream, maxlen, fields, receipt);
    }

    /// Wake the writers: what was handed over goes out now.
    pub fn flush(&self) {
        self.writers.iter().for_each(Writer::flush);
    }

    /// Where a message goes in some Redis, one after the other.
    fn each(
        &self,
        delivery: &Delivery,
        message: &Message,
        mut to: impl FnMut(Command, Option<&Writer>, &str),
    ) {
        if let Some(route) = &message.route {
            match self.routes.resolve(route) {
                Some(kind) => to(kind.into(), self.route_writer.as_ref(), route),
                None => debug_assert!(false, "the chain lets no message out without a permit"),
            }
            return;
        }
        for sink in &self.sinks {
            if let Sink::Redis(command, writer, name) = sink {
                to(*command, writer.as_ref(), &name.fill(&delivery.redis_channel));
            }
        }
    }

    /// Where this message goes, in words: `publish chat.out`.
    pub fn destinations(&self, delivery: &Delivery, message: &Message) -> Vec<String> {
        let mut to = Vec::new();
        self.each(delivery, message, |command, writer, name| {
            let command = match command {
                Command::Publish => "publish",
                Command::Append => "append",
                Command::Push => "push",
            };
            let at = writer.map(|writer| &**writer.name()).filter(|name| *name != OWN);
            let at = at.map_or(String::new(), |name| format!(" at {name}"));
            to.push(format!("{command} {name}{at}"));
        });
        if self.logs(message) {
            to.push("log".to_owned());
        }
        to
    }

    /// Whether this message is logged: it is not routed elsewhere.
    fn logs(&self, message: &Message) -> bool {
        message.route.is_none() && self.sinks.iter().any(|sink| matches!(sink, Sink::Log))
    }

    fn check(&self, messages: &[Message]) -> Result<(), AppendError> {
        let appends = |sink: &Sink| matches!(sink, Sink::Redis(Command::Append, ..));
        let all = self.sinks.iter().any(appends);
        let routed = !self.routes.append.is_empty();
        if !all && !routed {
            return Ok(());
        }
        let appended = |message: &&Message| match &message.route {
            Some(route) => self.routes.resolve(route) == Some(RouteKind::Append),
            None => all,
        };
        let mut appended = messages.iter().filter(appended);
        appended.try_for_each(|message| can_append(&self.append.payload_field, message))
    }

    /// Log it, where that is an output.
    fn log(&self, delivery: &Delivery, message: &Message) {
        if !self.logs(message) {
            return;
        }
        let payload = printable(&message.payload, LOGGED_PAYLOAD);
        let redis_channel = printable(delivery.redis_channel.as_bytes(), LOGGED_PAYLOAD);
        // Never waits; a line for which the log has no room is counted as lost.
        log::output_of(&self.metrics, || {
            tracing::info!(
                target: "handlerd::output",
                channel = &*delivery.table, %redis_channel, "{payload}"
            );
        });
    }
}
