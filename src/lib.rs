//! handlerd: Redis messages through a chain of sandboxed WebAssembly handlers.
//!
//! ```text
//! Redis --> broker::pubsub --> queue::Queue --> crew, worker: chain::Chain (plugin, plugin, ...) --> output --> broker::writer --> Redis
//!           broker::stream                         |                                                           broker::stream
//!                                                  +--> failure --> policy: again, or dead_letter, or counted
//! ```
//! One direction, one queue, one owner for each step. Data is handed on, never shared. An entry of a
//! stream is held by `broker::stream` until its outputs and its acknowledgement are written in one step;
//! a message of a channel that is single is held by `broker::single` alike.
//!
//! | module | owns | may use |
//! | --- | --- | --- |
//! | `message` | what travels | nothing |
//! | `failpoint` | where tests kill the daemon; nothing in a release | nothing |
//! | `file` | reading files that may be anything | nothing |
//! | `chain` | what a handler is, how a run goes | `message`, `config` (routes), `timing` |
//! | `config` | TOML to types | `file` |
//! | `timing`, `status` | how long calls take; what the daemon says of itself | nothing (`timing`: `status`) |
//! | `telemetry` | counters, reasons, where the log goes | `chain` (failure kinds), `config`, `status` |
//! | `policy` | whether and when a failed message is tried again | `chain` (failure kinds), `config` |
//! | `dead_letter` | the format of what was given up | `message`, `chain`, `telemetry` |
//! | `queue` | what waits, in what order, and what is dropped | `message`, `config`, `telemetry`, `broker::single` (a message in hand that is finished in one step) |
//! | `plugin` | wasmtime, all of it | `message`, `chain`, `config`, `timing`, `file` |
//! | `broker` | Redis, all of it: `pubsub` and `stream` read, `single` decides who handles, `writer`, `stream` and `single` write; `dead`, `past`, `probe`, `shell` are for verbs | `message`, `dead_letter`, `config`, `telemetry`, `file`, and `pubsub` and `single` alone `queue` |
//! | `output`, `worker` | a message's way behind the queue | `chain`, `policy`, `dead_letter`, `queue`, `broker::writer`, `broker::stream` |
//! | `tap` | looking on at a channel's messages | `message`, `chain` |
//! | `crew` | who works when, and when what is written goes out | `worker`, `broker::writer` |
//! | `view` | what runs, for those who look; whether it is ready | `status`, `telemetry`, `queue`, `chain`, `broker` (whether it is connected) |
//! | `clients` | who is connected to a socket that the daemon answers at: so many, and none that is slow | nothing |
//! | `answer` | an answer that takes long to make, made once for all who have asked | nothing |
//! | `openmetrics`, `http` | metric names; the endpoints | `view`, `clients`, `answer` |
//! | `watch` | which files have changed | `file` |
//! | `heartbeat` | whether every loop still comes around | nothing |
//! | `service` | signals, what systemd is told, the watchdog | `heartbeat`, `telemetry`, `view` (what is wrong) |
//! | `daemon` | building everything, running it, exchanging it at a reload, draining it | all of the above |
//! | `control` | the local socket of a running daemon: who may ask what | `status`, `tap`, `config`, `clients`, `answer` |
//! | `cli` | one file a verb | all of the above |
//!
//! `plugin` and `broker` don't know each other; `chain` knows neither.

pub mod answer;
pub mod broker;
pub mod chain;
pub mod cli;
pub mod clients;
pub mod config;
pub mod control;
pub mod crew;
pub mod daemon;
pub mod dead_letter;
pub mod failpoint;
pub mod file;
pub mod heartbeat;
pub mod http;
pub mod message;
pub mod openmetrics;
pub mod output;
pub mod plugin;
pub mod policy;
pub mod queue;
pub mod service;
pub mod status;
pub mod tap;
pub mod telemetry;
pub mod timing;
pub mod view;
pub mod watch;
pub mod worker;
