//! Where what leaves a chain goes: PUBLISH, RPUSH, a log line.
//!
//! Outputs are a closed set, so an enum in the configuration and a `match` here. Called by the
//! workers; hands commands to the writers and never waits for Redis's answer. Routes have been
//! judged by the chain before anything comes here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::broker::writer::Writer;
use crate::config::{Channel, NameTemplate, Output, RouteKind, Routes};
use crate::message::{Delivery, Message};
use crate::queue::OutputAway;
use crate::telemetry::{ChannelMetrics, DropReason, printable};

/// The name of the connection that routes go over.
const ROUTE_CONNECTION: &str = "redis";

/// Bytes of a payload that a log line shows at most.
const LOGGED_PAYLOAD: usize = 4 << 10;

/// The outputs of one channel, with the writers they need.
pub struct Outputs {
    outputs: Vec<Sink>,
    routes: Option<(Routes, Writer)>,
    /// Each writer once, whatever number of outputs share it.
    writers: Vec<Writer>,
    metrics: Arc<ChannelMetrics>,
}

enum Sink {
    Publish(Writer, NameTemplate),
    // integration: the writer has no XADD yet.
    Append,
    Push(Writer, NameTemplate),
    Log,
}

impl Outputs {
    /// The connections that a channel's outputs and routes go over.
    pub fn connections(channel: &Channel) -> impl Iterator<Item = &str> {
        let targets = channel.outputs.iter().filter_map(|output| match output {
            Output::Publish(target) | Output::Append(target) | Output::Push(target) => {
                Some(&*target.connection)
            }
            Output::Log => None,
        });
        targets.chain((!channel.routes.is_empty()).then_some(ROUTE_CONNECTION))
    }

    /// For one channel. `writers` has every connection of [`Self::connections`].
    pub fn new(
        channel: &Channel,
        writers: &BTreeMap<Arc<str>, Writer>,
        metrics: Arc<ChannelMetrics>,
    ) -> Self {
        let writer = |connection: &str| writers[connection].clone();
        let sink = |output: &Output| match output {
            Output::Publish(target) => {
                Sink::Publish(writer(&target.connection), target.name.clone())
            }
            Output::Append(_) => Sink::Append,
            Output::Push(target) => Sink::Push(writer(&target.connection), target.name.clone()),
            Output::Log => Sink::Log,
        };
        let mut connections: Vec<&str> = Self::connections(channel).collect();
        connections.sort_unstable();
        connections.dedup();
        Outputs {
            outputs: channel.outputs.iter().map(sink).collect(),
            routes: (!channel.routes.is_empty())
                .then(|| (channel.routes.clone(), writer(ROUTE_CONNECTION))),
            writers: connections.into_iter().map(writer).collect(),
            metrics,
        }
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
    pub fn send(&self, delivery: &Delivery, messages: &[Message]) {
        for message in messages {
            match &message.route {
                Some(route) => self.route(route, message),
                None => self.outputs.iter().for_each(|sink| self.write(sink, delivery, message)),
            }
        }
    }

    /// Wake the writers: what was handed over goes out now.
    pub fn flush(&self) {
        self.writers.iter().for_each(Writer::flush);
    }

    fn write(&self, sink: &Sink, delivery: &Delivery, message: &Message) {
        match sink {
            Sink::Publish(writer, name) => {
                let name = name.fill(&delivery.redis_channel);
                writer.publish(&name, &message.payload, &self.metrics);
            }
            // integration: XADD with headers and `maxlen`; until then what is not sent is counted.
            Sink::Append => self.metrics.lost(DropReason::Refused, 1),
            Sink::Push(writer, name) => {
                let name = name.fill(&delivery.redis_channel);
                writer.push(&name, &message.payload, &self.metrics);
            }
            Sink::Log => {
                let payload = printable(&message.payload, LOGGED_PAYLOAD);
                let redis_channel = printable(delivery.redis_channel.as_bytes(), LOGGED_PAYLOAD);
                tracing::info!(
                    target: "handlerd::output",
                    channel = &*delivery.table, %redis_channel, "{payload}"
                );
                self.metrics.delivered.add(1);
            }
        }
    }

    fn route(&self, route: &str, message: &Message) {
        let resolved = self.routes.as_ref().map(|(routes, writer)| (routes.resolve(route), writer));
        match resolved {
            Some((Some(RouteKind::Publish), writer)) => {
                writer.publish(route, &message.payload, &self.metrics);
            }
            // integration: as above.
            Some((Some(RouteKind::Append), _)) => self.metrics.lost(DropReason::Refused, 1),
            Some((Some(RouteKind::Push), writer)) => {
                writer.push(route, &message.payload, &self.metrics);
            }
            _ => debug_assert!(false, "the chain lets no message out with a route of no permit"),
        }
    }
}
