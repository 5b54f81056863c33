//! `handlerd try`: what would become of a message. No Redis; nothing is sent anywhere.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use super::console::{BAD, DIM, GOOD, NAME, Out};
use super::exit::{Code, Fault, OrExit, Outcome};
use super::show::{self, Form, meant};
use super::way::Destination;
use super::{load, way};
use crate::chain::{Chain, Failure, RunLimits};
use crate::config::pattern::Pattern;
use crate::config::{Channel, Config, Handler, Routes, Setting, Source, StreamSource};
use crate::message::{Delivery, Header, Message};
use crate::{daemon, telemetry};

/// Show what would become of a message.
///
/// Runs the chain of a channel, or one plugin file, on one message or on each line of standard
/// input, and prints what comes out of each handler and where it would go. Nothing is sent, and no
/// Redis is needed. Log lines of plugins go to standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd try chat 'hello'
  handlerd try rooms --channel room.7 --file message.bin --hex
  handlerd try plugins/redact.wasm --set words=foo,bar 'say foo'
  tail -n 100 messages.txt | handlerd try chat --json

Exit codes: 0 it went through, 1 a message failed, 65 the file is no plugin, 66 a file can't be
read, 78 the configuration, a plugin in it or a setting is wrong; and those of every verb, see
handlerd --help.")]
pub struct Args {
    /// A channel of the configuration, or a plugin file
    #[arg(value_name = "NAME|FILE.wasm")]
    target: String,
    /// The message [default: each line of standard input is one]
    payload: Option<OsString>,
    /// Take the message's bytes from a file
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    file: Option<PathBuf>,
    /// The Redis channel that the message is said to have come on [default: the first that the
    /// channel's source names, or one that its pattern matches; for a plugin file "test"]
    #[arg(long, value_name = "REDIS_CHANNEL")]
    channel: Option<String>,
    /// A header of the message; may be repeated
    #[arg(long = "header", value_name = "K=V", value_parser = key_value)]
    headers: Vec<(String, String)>,
    /// A setting for the plugin file; may be repeated
    #[arg(long = "set", value_name = "K=V", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// Show payloads as hex digits
    #[arg(long, conflicts_with = "json")]
    hex: bool,
    /// Print a JSON object for each message
    #[arg(long)]
    json: bool,
}

/// `K=V`; the value may be empty and may have further equals signs.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it must look like NAME=VALUE".into()),
    }
}

/// Try.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let inputs = Inputs::of(&args)?;
    telemetry::log::to_terminal("warn,handlerd::plugin=debug").or_exit(Code::Usage)?;
    let runtime = load::runtime()?;
    let trial = runtime.block_on(Trial::prepare(&args, config))?;
    let mut out = Out::text();
    let mut all_went_through = true;
    let several = matches!(inputs, Inputs::Lines);
    inputs.each(|payload| {
        let run = runtime.block_on(trial.run(payload));
        all_went_through &= run.end.is_ok();
        if args.json {
            out.line(trial.json(&run))?;
        } else {
            let form = if args.hex { Form::Hex } else { Form::Text };
            trial.print(&run, form, several, &mut out)?;
        }
        Ok(!out.is_closed())
    })?;
    Ok(if all_went_through { Code::Success } else { Code::Failed })
}

/// Where the messages come from.
enum Inputs {
    One(Vec<u8>),
    Lines,
}

impl Inputs {
    fn of(args: &Args) -> Result<Self, Fault> {
        match (&args.payload, &args.file) {
            (Some(payload), _) => Ok(Inputs::One(payload.clone().into_vec())),
            (None, Some(file)) => Ok(Inputs::One(load::payload_file(file)?)),
            (None, None) if std::io::stdin().is_terminal() => Err(Fault::usage(
                "there is no message: give it as an argument, as --file FILE, or a line each on \
                 standard input",
            )),
            (None, None) => Ok(Inputs::Lines),
        }
    }

    /// Hand on each payload as it comes, until `handle` says that it is enough.
    fn each(self, mut handle: impl FnMut(Vec<u8>) -> Result<bool, Fault>) -> Result<(), Fault> {
        match self {
            Inputs::One(payload) => handle(payload).map(drop),
            Inputs::Lines => {
                let mut lines = std::io::stdin().lock();
                loop {
                    let mut line = Vec::new();
                    let read = lines.read_until(b'\n', &mut line).map_err(|e| {
                        Fault::say(Code::Io, format_args!("can't read standard input: {e}"))
                    })?;
                    if read == 0 {
                        return Ok(());
                    }
                    if line.last() == Some(&b'\n') {
                        line.pop();
                    }
                    if !handle(line)? {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// What messages are tried on.
struct Trial {
    chain: Chain,
    /// `None` for a plugin file.
    channel: Option<Channel>,
    delivery: Delivery,
    headers: Vec<Header>,
}

/// What became of one message.
struct Run {
    input: Message,
    /// For each handler that answered: its name, and all messages then on their way.
    hops: Vec<(String, Vec<Message>)>,
    end: Result<Vec<Message>, End>,
}

/// Why a message didn't go through.
enum End {
    Failed(Failure),
    /// Larger than `max_payload`, which is given.
    TooLarge(usize),
}

impl Trial {
    async fn prepare(args: &Args, config: Option<&Path>) -> Result<Self, Fault> {
        let headers = args.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.clone().into_bytes()));
        let headers: Vec<Header> = headers.collect();
        let is_file = args.target.ends_with(".wasm");
        if is_file {
            Trial::file(args, config, headers).await
        } else {
            Trial::channel(args, config, headers).await
        }
    }

    async fn file(args: &Args, config: Option<&Path>, headers: Vec<Header>) -> Result<Self, Fault> {
        if config.is_some() {
            return Err(Fault::usage(
                "a plugin file is tried without a configuration: leave --config out, and give its \
                 settings by --set K=V",
            ));
        }
        let file = Path::new(&args.target);
        if !file.exists() {
            return Err(Fault::say(
                Code::NoInput,
                format_args!("there is no file {}", args.target),
            ));
        }
        let mut handler = Handler::for_file(file);
        let settings = args.settings.iter();
        handler.config =
            settings.map(|(key, value)| (key.clone(), Setting::Plain(value.clone()))).collect();
        let limits = RunLimits {
            max_outputs: handler.limits.max_outputs,
            max_output: handler.limits.max_output,
        };
        let name = handler.name.clone();
        let plugin = load::host()?.load(&handler).await.map_err(load::plugin_fault)?;
        // A file alone may send wherever it wants to: it is only shown.
        let routes = Routes {
            publish: vec![Pattern::new("*").or_exit(Code::Software)?],
            ..Routes::default()
        };
        let redis_channel = args.channel.as_deref().unwrap_or("test");
        Ok(Trial {
            chain: Chain::new(vec![plugin], limits, routes),
            channel: None,
            delivery: delivery(name, redis_channel, None),
            headers,
        })
    }

    async fn channel(
        args: &Args,
        config: Option<&Path>,
        headers: Vec<Header>,
    ) -> Result<Self, Fault> {
        if !args.settings.is_empty() {
            return Err(Fault::usage(
                "--set is for a plugin file; a channel's handlers have their settings in the \
                 configuration",
            ));
        }
        let mut config = load::config(config)?;
        let channel = find_channel(&config, &args.target)?.clone();
        let (redis_channel, pattern) = came_on(&channel, args.channel.as_deref())?;
        // Only what this channel needs: another's broken plugin is not in the way.
        config.handlers.retain(|name, _| channel.handlers.contains(name));
        let handlers = load::handlers(&config, &load::host()?).await?;
        Ok(Trial {
            chain: daemon::chain(&config, &channel, &handlers),
            delivery: delivery(channel.name.clone(), &redis_channel, pattern),
            channel: Some(channel),
            headers,
        })
    }

    async fn run(&self, payload: Vec<u8>) -> Run {
        let received_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let received_at = u64::try_from(received_at.as_millis()).unwrap_or(u64::MAX);
        let delivery = Arc::new(Delivery { received_at, ..self.delivery.clone() });
        let input = Message { payload, headers: self.headers.clone(), route: None };
        let mut hops = Vec::new();
        let max_payload = self.channel.as_ref().map_or(usize::MAX, |channel| channel.max_payload);
        let end = if input.payload.len() > max_payload {
            Err(End::TooLarge(max_payload))
        } else {
            let observe = |name: &str, messages: &[Message]| {
                hops.push((name.to_owned(), messages.to_vec()));
            };
            let run = self.chain.run_observed(&delivery, input.clone(), observe).await;
            run.map_err(End::Failed)
        };
        Run { input, hops, end }
    }

    /// Where a message that came out would go; nowhere for a plugin file.
    fn destinations(&self, message: &Message) -> Vec<Destination> {
        let redis_channel = &self.delivery.redis_channel;
        let channel = self.channel.as_ref();
        channel.map_or_else(Vec::new, |c| way::destinations(c, redis_channel, message))
    }

    fn print(&self, run: &Run, form: Form, several: bool, out: &mut Out) -> Result<(), Fault> {
        if several {
            out.line(format_args!("{DIM}> {}{DIM:#}", form.payload(&run.input.payload)))?;
        }
        let print = |messages: &[Message], out: &mut Out| -> Result<(), Fault> {
            if messages.is_empty() {
                out.line(format_args!("  {DIM}(nothing: its way ends here){DIM:#}"))?;
            }
            for line in messages.iter().flat_map(|message| form.message(message)) {
                out.line(format_args!("  {line}"))?;
            }
            Ok(())
        };
        for (handler, messages) in &run.hops {
            out.line(format_args!("{NAME}{}{NAME:#}", way::shown(handler)))?;
            print(messages, out)?;
        }
        match &run.end {
            Err(End::Failed(failure)) => {
                let Failure { handler, kind, reason } = failure;
                let (handler, reason) = (way::shown(handler), show::escaped(reason.as_bytes()));
                out.line(format_args!("{NAME}{handler}{NAME:#}"))?;
                out.line(format_args!("  {BAD}failed{BAD:#}: {}: {reason}", kind.as_str()))
            }
            Err(End::TooLarge(max)) => out.line(format_args!(
                "{BAD}dropped{BAD:#}: too_large: it has {} bytes, and the channel's max_payload is {max}",
                run.input.payload.len()
            )),
            Ok(_) if self.channel.is_none() => Ok(()),
            Ok(messages) => {
                for message in messages {
                    let to: Vec<String> =
                        self.destinations(message).iter().map(ToString::to_string).collect();
                    let to = if to.is_empty() { "nowhere".to_owned() } else { to.join(", ") };
                    out.line(format_args!("{GOOD}->{GOOD:#} {to}"))?;
                    print(std::slice::from_ref(message), out)?;
                }
                Ok(())
            }
        }
    }

    fn json(&self, run: &Run) -> Json {
        let list = |messages: &[Message]| -> Json {
            messages.iter().map(|message| Json::Object(show::message_json(message))).collect()
        };
        let hops = run.hops.iter();
        let hops = hops
            .map(|(handler, messages)| json!({ "handler": handler, "outputs": list(messages) }));
        let mut object = json!({
            "channel": &*self.delivery.table,
            "redis_channel": &*self.delivery.redis_channel,
            "input": show::message_json(&run.input),
            "hops": hops.collect::<Vec<_>>(),
        });
        match &run.end {
            Ok(messages) => {
                let outputs = messages.iter().map(|message| {
                    let mut output = show::message_json(message);
                    let to = self.destinations(message);
                    output.insert("to".into(), to.iter().map(Destination::json).collect());
                    Json::Object(output)
                });
                object["outputs"] = outputs.collect();
            }
            Err(End::Failed(Failure { handler, kind, reason })) => {
                object["failure"] =
                    json!({ "handler": &**handler, "kind": kind.as_str(), "reason": reason });
            }
            Err(End::TooLarge(max)) => {
                object["dropped"] = json!({ "reason": "too_large", "max_payload": max });
            }
        }
        object
    }
}

fn delivery(table: Arc<str>, redis_channel: &str, pattern: Option<Arc<str>>) -> Delivery {
    let redis_channel = redis_channel.into();
    Delivery { table, redis_channel, pattern, id: None, attempt: 1, received_at: 0 }
}

pub(super) fn find_channel<'c>(config: &'c Config, name: &str) -> Result<&'c Channel, Fault> {
    if let Some(channel) = config.channels.iter().find(|channel| &*channel.name == name) {
        return Ok(channel);
    }
    let file = config.file.display();
    let hint = match config.handlers.get(name) {
        Some(handler) => {
            let plugin = handler.plugin.display();
            format!("; it is a handler: handlerd try {plugin} tries its plugin alone")
        }
        None => meant(name, config.channels.iter().map(|channel| &*channel.name)),
    };
    Err(Fault::usage(format_args!("{file} has no channel {name:?}{hint}")))
}

/// The Redis channel that a message of this channel comes on, and the pattern that matched it.
fn came_on(channel: &Channel, wanted: Option<&str>) -> Result<(String, Option<Arc<str>>), Fault> {
    let strange = |name: &str| {
        let source = way::source(&channel.source);
        super::console::warning(format_args!(
            "channel {} would not get messages of {name:?}: its source is {source}",
            channel.name
        ));
    };
    match &channel.source {
        Source::Subscribe(names) | Source::Stream(StreamSource { keys: names, .. }) => {
            if let Some(name) = wanted.filter(|wanted| !names.iter().any(|name| **name == **wanted))
            {
                strange(name);
            }
            let name = wanted.or(names.first().map(|name| &**name)).unwrap_or_default();
            Ok((name.to_owned(), None))
        }
        Source::Pattern(patterns) => {
            let matches = |p: &str, name: &str| Pattern::new(p).is_ok_and(|p| p.matches(name));
            let matching = |name: &str| patterns.iter().find(|p| matches(p, name));
            let example = patterns.first().map(|pattern| pattern.replace(['*', '?'], "1"));
            let Some(name) =
                wanted.map(str::to_owned).or(example.filter(|e| matching(e).is_some()))
            else {
                return Err(Fault::usage(
                    "say by --channel which Redis channel the message came on: the channel's \
                     source is a pattern",
                ));
            };
            let pattern = matching(&name).cloned();
            if pattern.is_none() {
                strange(&name);
            }
            Ok((name, pattern))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_value_are_parted_at_the_first_equals_sign() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("a").is_err());
        assert!(key_value("=a").is_err());
    }
}
