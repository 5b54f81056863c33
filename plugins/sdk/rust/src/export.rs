//! The macro that makes a plugin of a function, and what runs before the function does.

use std::sync::atomic::{AtomicBool, Ordering};

/// Makes the module a handlerd plugin.
///
/// `plugin!(handle)` exports a function
/// `fn handle(channel: String, message: Message) -> Result<Vec<Message>, Failure>`.
/// `plugin!(handle, setup = prepare)` also exports a function
/// `fn prepare() -> Result<(), String>`, which runs in each new instance before its first message;
/// its error refuses the configuration, and its text is shown to whoever wrote that.
///
/// Once in a crate, which has to be a `cdylib`.
#[macro_export]
macro_rules! plugin {
    ($handle:path $(,)?) => {
        const _: () = {
            struct HandlerdPlugin;

            impl $crate::__private::plugin::exports::handlerd::plugin::handler::Guest
                for HandlerdPlugin
            {
                fn handle_message(
                    channel: ::std::string::String,
                    message: $crate::Message,
                ) -> ::core::result::Result<::std::vec::Vec<$crate::Message>, $crate::Failure> {
                    $crate::__private::start();
                    $handle(channel, message)
                }
            }

            $crate::__private::plugin::export_plugin!(
                HandlerdPlugin with_types_in $crate::__private::plugin
            );
        };
    };
    ($handle:path, setup = $setup:path $(,)?) => {
        $crate::plugin!($handle);

        const _: () = {
            struct HandlerdSetup;

            impl $crate::__private::setup::exports::handlerd::plugin::setup::Guest
                for HandlerdSetup
            {
                fn setup() -> ::core::result::Result<(), ::std::string::String> {
                    $crate::__private::start();
                    $setup()
                }
            }

            $crate::__private::setup::export_setup!(
                HandlerdSetup with_types_in $crate::__private::setup
            );
        };
    };
}

/// Called first in every call from the daemon: installs the panic hook, once for each instance.
#[doc(hidden)]
pub fn start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if !STARTED.swap(true, Ordering::Relaxed) {
        // Without it a panic's text is lost: this target has no standard error.
        std::panic::set_hook(Box::new(|panic| crate::log::error(panic.to_string())));
    }
}
