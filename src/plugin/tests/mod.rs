//! Real plugins, written as WebAssembly text, through the real engine.

mod support;

mod hop;
