#![doc = include_str!("../README.md")]

pub mod config;
pub mod delivery;
mod export;
pub mod log;
mod message;

pub use bindings::plugin::exports::handlerd::plugin::handler::{Failure, Message};
pub use bindings::plugin::handlerd::plugin::types::Header;

/// What [`plugin!`] expands to. Not part of the interface: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::{plugin, setup};
    pub use crate::export::start;
}

/// The code that wit-bindgen makes from `plugins/wit/0.1`.
///
/// The setup export is in a world of its own, so that a plugin without one doesn't claim it. The
/// two descriptions are merged when the module becomes a component.
#[allow(missing_docs)]
mod bindings {
    pub mod plugin {
        wit_bindgen::generate!({
            path: "wit",
            world: "handlerd:plugin/plugin",
            generate_all,
            pub_export_macro: true,
            export_macro_name: "export_plugin",
            default_bindings_module: "::handlerd_plugin::__private::plugin",
        });
    }

    pub mod setup {
        wit_bindgen::generate!({
            path: "wit",
            inline: "
                package handlerd:sdk;
                world only-setup { export handlerd:plugin/setup@0.1.0; }
            ",
            world: "handlerd:sdk/only-setup",
            generate_all,
            pub_export_macro: true,
            export_macro_name: "export_setup",
            default_bindings_module: "::handlerd_plugin::__private::setup",
        });
    }
}
