//! Real plugins, written as WebAssembly text, through the real engine.

mod support;

mod batch;
mod cache;
mod files;
mod hop;
mod instances;
mod limits;
mod logs;
mod setup;
mod speed;
