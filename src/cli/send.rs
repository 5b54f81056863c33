//! `handlerd send`: publish a message from a shell.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::console::Out;
use super::exit::{Code, Fault, OrExit, Outcome};
use super::load::{self, RedisArgs};
use crate::broker::shell;

/// Publish a message on a Redis channel.
///
/// Prints how many subscribers got it from this Redis; none is no error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  handlerd send chat 'hello'
  handlerd send --url redis://127.0.0.1:6379 images --file picture.png

Exit codes: 0 it was published, 64 --url is none, 66 the file can't be read, 69 Redis can't be
reached or refuses, 78 the configuration is wrong or missing; and those of every verb, see
handlerd --help.")]
pub struct Args {
    /// The Redis channel
    #[arg(value_name = "REDIS_CHANNEL")]
    channel: String,
    /// The message
    #[arg(required_unless_present = "file")]
    payload: Option<OsString>,
    /// Take the message's bytes from a file
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    file: Option<PathBuf>,
    #[command(flatten)]
    redis: RedisArgs,
}

/// Send.
pub fn main(args: Args, config: Option<&Path>) -> Outcome {
    let payload = match (args.payload, &args.file) {
        (Some(payload), _) => payload.into_vec(),
        (None, Some(file)) => load::payload_file(file)?,
        (None, None) => return Err(Fault::usage("there is no message")),
    };
    let connector = args.redis.connector(config)?;
    let sent = load::runtime()?.block_on(shell::send(&connector, &args.channel, &payload));
    let subscribers = match sent.or_exit(Code::Unavailable)? {
        1 => "1 subscriber".to_owned(),
        n => format!("{n} subscribers"),
    };
    Out::text().line(subscribers)?;
    Ok(Code::Success)
}
