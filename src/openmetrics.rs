//! The metrics as OpenMetrics text, for `GET /metrics`.
//!
//! Owns the names, the help texts and the labels of the contract; what they say is read from the
//! [`View`] when it is asked for. The label `channel` is NAME of `[channels.NAME]`, never a name in
//! Redis: those are anybody's to invent, and each would be a series.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::status::Role;
use crate::telemetry::{self, ChannelMetrics};
use crate::view::{Channel, Handler, View};

/// Of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics as they are now.
pub fn render(view: &Arc<View>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(view.clone())));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Scrape(Arc<View>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let outline = self.0.outline();
        let all = outline.all();
        let channels: Vec<&Channel> = all.iter().map(|channel| &**channel).collect();
        let names_repeat = channels.iter().any(|channel| channel.is_ending);
        let mut page = Page { encoder, names_repeat };
        page.messages(&channels)?;
        page.streams(&channels)?;
        page.singles(&channels)?;
        page.handlers(&self.0, outline.handlers(&all))?;
        page.redis(&self.0, &all)?;
        page.daemon(&self.0)
    }
}

/// What a family is called and means. Of a counter the name is without `_total`.
struct About(&'static str, &'static str);

struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
    /// A channel that is ending may have the NAME of another one: their numbers are added up.
    names_repeat: bool,
}

type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

impl Page<'_> {
    fn counters<'l, const N: usize, V: EncodeCounterValue + AddAssign>(
        &mut self,
        About(name, help): About,
        unit: Option<Unit>,
        series: impl Iterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let names_repeat = self.names_repeat;
        let mut family =
            self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        each_once(series, names_repeat, |labels, value| {
            labelled(&mut family, &labels, |metric| {
                metric.encode_counter::<NoLabelSet, V, f64>(&value, None)
            })
        })
    }

    fn gauges<'l, const N: usize, V: EncodeGaugeValue + AddAssign>(
        &mut self,
        About(name, help): About,
        unit: Option<Unit>,
        series: impl Iterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let names_repeat = self.names_repeat;
        let mut family =
            self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        each_once(series, names_repeat, |labels, value| {
            labelled(&mut family, &labels, |metric| metric.encode_gauge(&value))
        })
    }

    /// A counter of each of these channels.
    fn of_channels<'o>(
        &mut self,
        about: About,
        channels: impl Iterator<Item = &'o Channel>,
        value: impl Fn(&ChannelMetrics) -> u64,
    ) -> fmt::Result {
        let series = channels.map(|channel| (of(channel), value(channel.metrics())));
        self.counters(about, None, series)
    }

    fn messages(&mut self, channels: &[&Channel]) -> fmt::Result {
        let channels = || channels.iter().copied();
        self.of_channels(
            About(
                "handlerd_messages_received",
                "Messages that the channel's source delivered, dropped ones included.",
            ),
            channels(),
            |metrics| metrics.received.get(),
        )?;
        self.of_channels(
            About(
                "handlerd_messages_handled",
                "Messages whose run through the chain succeeded, filtered ones included.",
            ),
            channels(),
            |metrics| metrics.handled.get(),
        )?;
        let delivered = channels().flat_map(|channel| {
            let labels = |kind| [("channel", &*channel.name), ("output", kind)];
            channel.delivered().map(move |(kind, n)| (labels(kind.as_str()), n))
        });
        self.counters(
            About(
                "handlerd_messages_delivered",
                "Writes that Redis acknowledged (pub/sub channels' dead letters included), and lines that the log has written.",
            ),
            None,
            delivered,
        )?;
        let dropped = channels().flat_map(|channel| {
            let labels = |reason| [("channel", &*channel.name), ("reason", reason)];
            channel.dropped().map(move |(reason, n)| (labels(reason.as_str()), n))
        });
        self.counters(
            About(
                "handlerd_messages_dropped",
                "Messages that were lost, writes that were refused or have an unknown end, and lines that the log dropped.",
            ),
            None,
            dropped,
        )?;
        self.of_channels(
            About(
                "handlerd_dead_letters",
                "Messages that were given up and handed to their stream of dead letters.",
            ),
            channels(),
            |metrics| metrics.dead_letters.get(),
        )?;
        let bytes = channels().map(|channel| (of(channel), channel.queue_bytes().0));
        let about = About("handlerd_queue", "Bytes that wait to be handled.");
        self.gauges(about, Some(Unit::Bytes), bytes)?;
        let limits = channels().map(|channel| (of(channel), channel.queue_bytes().1));
        let about = About("handlerd_queue_limit", "Bytes that may wait to be handled.");
        self.gauges(about, Some(Unit::Bytes), limits)?;
        let gap = |channel: &Channel| channel.metrics().gap_ms.get() as f64 / 1e3;
        let gaps = channels().filter(|channel| !channel.is_stream());
        self.counters(
            About(
                "handlerd_subscription_gap",
                "Time without a confirmed subscription: what was published meanwhile has not come.",
            ),
            Some(Unit::Seconds),
            gaps.map(|channel| (of(channel), gap(channel))),
        )
    }

    fn streams(&mut self, channels: &[&Channel]) -> fmt::Result {
        let streams = || channels.iter().copied().filter(|channel| channel.is_stream());
        let lag = |channel| Some((of(channel), channel.metrics().stream.lag()?));
        self.gauges(
            About(
                "handlerd_stream_lag",
                "Entries that the group has not read; absent while Redis doesn't say it.",
            ),
            None,
            streams().filter_map(lag),
        )?;
        self.gauges(
            About("handlerd_stream_pending", "Entries read by the group and not finished."),
            None,
            streams().map(|channel| (of(channel), channel.metrics().stream.pending())),
        )?;
        self.gauges(
            About("handlerd_stream_in_hand", "Entries that this daemon holds."),
            None,
            streams().map(|channel| (of(channel), channel.in_hand())),
        )?;
        self.of_channels(
            About(
                "handlerd_stream_claimed",
                "Entries taken over from a consumer that didn't finish them.",
            ),
            streams(),
            |metrics| metrics.stream.claimed.get(),
        )?;
        self.of_channels(
            About("handlerd_stream_redelivered", "Entries that came again."),
            streams(),
            |metrics| metrics.stream.redelivered.get(),
        )?;
        self.of_channels(
            About(
                "handlerd_stream_finished_elsewhere",
                "Entries that another was the first to finish: nothing was written for them here.",
            ),
            streams(),
            |metrics| metrics.stream.finished_elsewhere.get(),
        )?;
        let troubles: Vec<_> =
            streams().map(|channel| (channel, channel.metrics().stream.states())).collect();
        let troubles = troubles.iter().flat_map(|(channel, states)| {
            let labels = |reason| [("channel", &*channel.name), ("reason", reason)];
            states.iter().map(move |(reason, n)| (labels(reason), *n))
        });
        self.counters(
            About("handlerd_stream_troubles", "Tries to read or to finish that failed."),
            None,
            troubles,
        )
    }

    fn singles(&mut self, channels: &[&Channel]) -> fmt::Result {
        let singles = || channels.iter().copied().filter(|channel| channel.is_single());
        self.gauges(
            About(
                "handlerd_single_leader",
                "1 while this daemon handles the messages of a channel with `single`, 0 while it stands by.",
            ),
            None,
            singles().map(|channel| {
                (of(channel), u32::from(channel.metrics().single.is_leader()))
            }),
        )?;
        self.of_channels(
            About("handlerd_takeovers", "Times that this daemon began to handle them."),
            singles(),
            |metrics| metrics.single.takeovers.get(),
        )?;
        self.of_channels(
            About("handlerd_takeover_gaps", "Of these, times that messages before may be missing."),
            singles(),
            |metrics| metrics.single.gaps.get(),
        )?;
        let help = "Messages that this daemon received and left to another to handle.";
        self.of_channels(About("handlerd_messages_left", help), singles(), |metrics| {
            metrics.single.left.get()
        })
    }

    fn handlers<'a>(
        &mut self,
        view: &View,
        handlers: impl Iterator<Item = &'a Handler>,
    ) -> fmt::Result {
        let failures = view.metrics().failures();
        let series = failures.iter().map(|((handler, kind), n)| {
            let labels: Labels<'_, 2> = [("handler", handler), ("kind", kind)];
            (labels, *n)
        });
        let about = About("handlerd_handler_failures", "Messages that a handler failed at.");
        self.counters(about, None, series)?;
        let seen: Vec<_> = handlers.filter_map(|h| Some((&*h.name, h.seen()?))).collect();
        let help = "How long a handler had a message; those of a batch share its time evenly.";
        let unit = Some(&Unit::Seconds);
        let mut family = self.encoder.encode_descriptor(
            "handlerd_handler",
            help,
            unit,
            MetricType::Histogram,
        )?;
        for (name, seen) in &seen {
            let timing = seen.timing.snapshot();
            let (sum, count, buckets) = (timing.sum(), timing.count(), timing.buckets());
            labelled(&mut family, &[("handler", *name)], |metric| {
                metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            })?;
        }
        let instances = seen.iter().map(|(name, seen)| ([("handler", *name)], seen.instances));
        let about = About("handlerd_handler_instances", "Instances of the plugin that there are.");
        self.gauges(about, None, instances)
    }

    fn redis(&mut self, view: &View, channels: &[Arc<Channel>]) -> fmt::Result {
        let redis = view.redis(channels);
        let connected = redis.iter().map(|redis| {
            let role = match redis.role {
                Role::Source => "source",
                Role::Outputs => "outputs",
            };
            let labels: Labels<'_, 2> = [("connection", &redis.connection), ("role", role)];
            (labels, u32::from(redis.connected))
        });
        let about = About("handlerd_redis_connected", "1 while the connection stands, else 0.");
        self.gauges(about, None, connected)?;
        let about =
            About("handlerd_redis_reconnects", "Connections to Redis that were made again.");
        self.counters(about, None, [([], view.metrics().totals().reconnects)].into_iter())
    }

    fn daemon(&mut self, view: &View) -> fmt::Result {
        let reloads = view.metrics().reloads();
        let reloads = [("ok", reloads.ok), ("failed", reloads.failed)];
        let about =
            About("handlerd_reloads", "Times that configuration and plugins were read again.");
        self.counters(
            about,
            None,
            reloads.map(|(result, n)| ([("result", result)], n)).into_iter(),
        )?;
        let about = About(
            "handlerd_plugin_cache_errors",
            "Compiled plugins that could not be kept for the next start, or not be used again.",
        );
        self.counters(about, None, [([], view.cache_errors())].into_iter())?;
        let about =
            About("handlerd_log_lines_dropped", "Lines of the log that could not be written.");
        self.counters(about, None, [([], telemetry::log::dropped())].into_iter())?;
        let help = "The handlerd that runs.";
        self.encoder
            .encode_descriptor("handlerd_build", help, None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let about = About("handlerd_stalled_loops", "Loops of the daemon that don't come around.");
        self.gauges(about, None, [([], view.stalled().len())].into_iter())?;
        let started = view.started_at().duration_since(UNIX_EPOCH).unwrap_or_default();
        let about = About("process_start_time", "When the daemon was started, since 1970.");
        self.gauges(about, Some(Unit::Seconds), [([], started.as_secs_f64())].into_iter())?;
        let about = About("process_resident_memory", "Memory of the daemon that is resident.");
        self.gauges(about, Some(Unit::Bytes), resident_bytes().map(|n| ([], n)).into_iter())?;
        let about = About("process_open_fds", "Files and connections that are open.");
        self.gauges(about, None, open_files().map(|n| ([], n)).into_iter())
    }
}

fn of(channel: &Channel) -> Labels<'_, 1> {
    [("channel", &channel.name)]
}

/// Each series; where labels `may_repeat`, with the sum of the values that have them.
fn each_once<L: Copy + Eq + Hash, V: AddAssign>(
    series: impl Iterator<Item = (L, V)>,
    may_repeat: bool,
    mut encode: impl FnMut(L, V) -> fmt::Result,
) -> fmt::Result {
    if !may_repeat {
        return series.into_iter().try_for_each(|(labels, value)| encode(labels, value));
    }
    let (mut sums, mut places) = (Vec::new(), HashMap::new());
    for (labels, value) in series {
        match places.entry(labels) {
            Entry::Vacant(place) => {
                place.insert(sums.len());
                sums.push((labels, value));
            }
            Entry::Occupied(place) => sums[*place.get()].1 += value,
        }
    }
    sums.into_iter().try_for_each(|(labels, value)| encode(labels, value))
}

/// One series of a family; without labels the encoder would write empty braces.
fn labelled<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&'static str, &str); N],
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if N == 0 { encode(family) } else { encode(&mut family.encode_family(labels)?) }
}

/// As Linux says it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// As Linux says it.
fn open_files() -> Option<u64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}
