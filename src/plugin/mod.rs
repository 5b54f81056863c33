//! Plugins: files, compilation, instances, calls. Sole user of wasmtime.
//!
//! Gives the daemon handlers; knows neither Redis nor channels.
