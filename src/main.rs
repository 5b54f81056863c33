//! bin
fn main() -> std::process::ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == handlerd::plugin::compile::VERB) {
        return handlerd::plugin::compile::child_main();
    }
    std::process::ExitCode::SUCCESS
}
