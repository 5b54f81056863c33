//! WebAssembly to machine code, in a child process under limits.
//!
//! Compiling a plugin of an interpreted language takes seconds and hundreds of megabytes that a
//! process doesn't give back, and a compiler is much code for a stranger's bytes. So the daemon
//! starts itself with a hidden verb: the file goes in on standard input, the artifact comes out on
//! standard output, and what is wrong with the file on standard error. All three are pipes, so that
//! a disk that is full is in no compilation's way.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use wit_component::ComponentEncoder;

use super::driver;
use super::engine;
use super::file::{self, FileKind};
use super::guest_log::escape;

/// The hidden verb of the command line that runs [`child_main`].
pub const VERB: &str = "compile-plugin";

/// What a compilation may use. A Python plugin of 18 MB takes 8 s and 300 MiB.
const ADDRESS_SPACE: u64 = 3 << 30;
const CPU_SECONDS: u64 = 240;
const ARTIFACT: u64 = 1 << 30;
const WALL: Duration = Duration::from_secs(180);

/// Threads of one compilation: each reserves address space of its own.
const THREADS: usize = 4;

/// Longest error text that is read from the child.
const MAX_REASON: u64 = 16 << 10;

/// The child's exit code for a file that can't be compiled: the text is about the file (EX_DATAERR).
const BAD_FILE: u8 = 65;

/// The child's exit code where the machine is in the way (EX_OSERR).
const BAD_MACHINE: u8 = 71;

/// Why there is no artifact.
#[derive(Debug)]
pub(super) struct Trouble {
    /// A sentence.
    pub(super) reason: String,
    /// Whether another attempt may go better. Not where the file itself is wrong, or needs more
    /// than a compilation may use.
    pub(super) of_machine: bool,
}

impl Trouble {
    pub(super) fn of_machine(reason: String) -> Self {
        Trouble { reason, of_machine: true }
    }

    fn of_file(reason: String) -> Self {
        Trouble { reason, of_machine: false }
    }
}

/// Where plugins are compiled.
pub(super) enum Compiler {
    /// In a child process.
    Child { program: PathBuf, args: Vec<OsString> },
    /// In this process, without limits: for tests, whose own program has no such verb.
    InProcess,
}

impl Compiler {
    /// This very program, with the hidden verb: also when its file was replaced meanwhile, so
    /// that both are of one version.
    pub(super) fn this_program() -> Compiler {
        let own = PathBuf::from("/proc/self/exe");
        let program = if own.exists() {
            own
        } else {
            std::env::current_exe().unwrap_or_else(|_| "handlerd".into())
        };
        Compiler::Child { program, args: vec![VERB.into()] }
    }

    /// Compile a plugin's bytes into an artifact.
    ///
    /// # Errors
    /// A sentence about the file, about the limit it reached, or about the machine.
    pub(super) async fn compile(&self, wasm: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        match self {
            Compiler::Child { program, args } => {
                let work = compile_in_child(program, args, wasm);
                match tokio::time::timeout(WALL, work).await {
                    Ok(result) => result,
                    // Whose fault that is can't be told: another attempt isn't denied.
                    Err(_) => Err(Trouble::of_machine(format!(
                        "compiling took longer than {} s and was ended: the plugin is a very large \
                         one, or other programs keep the machine busy",
                        WALL.as_secs()
                    ))),
                }
            }
            Compiler::InProcess => {
                tokio::task::spawn_blocking(move || compile_here(&wasm)).await.unwrap_or_else(
                    |panic| Err(Trouble::of_file(format!("the compiler failed: {panic}"))),
                )
            }
        }
    }
}

async fn compile_in_child(
    program: &PathBuf,
    args: &[OsString],
    wasm: Vec<u8>,
) -> Result<Vec<u8>, Trouble> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let mut child = tokio::process::Command::new(program)
        .args(args)
        // Nothing of the daemon's environment, which may hold secrets, is for a compiler.
        .env_clear()
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env("MALLOC_ARENA_MAX", "2")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            Trouble::of_machine(format!("can't start the compiler {}: {e}", program.display()))
        })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let give = async move {
        if let Some(mut stdin) = stdin {
            // A child that ends early breaks the pipe: its own words matter then.
            let _ = stdin.write_all(&wasm).await;
        }
    };
    let hear = async move {
        let Some(mut stderr) = stderr else { return Vec::new() };
        let reason = all_of(Some(&mut stderr), MAX_REASON).await;
        // Who has more to say isn't kept from ending as it means to.
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        reason
    };
    let ((), artifact, reason, status) =
        tokio::join!(give, all_of(stdout, ARTIFACT), hear, child.wait());
    let status =
        status.map_err(|e| Trouble::of_machine(format!("can't wait for the compiler: {e}")))?;
    // A longer one was cut off, and the child has failed at it: whatever it says, that is why.
    if artifact.len() as u64 == ARTIFACT {
        let reason = format!("what is compiled is longer than {} MiB", ARTIFACT >> 20);
        return Err(Trouble::of_file(reason));
    }
    judge_exit(status, &String::from_utf8_lossy(&reason))?;
    Ok(artifact)
}

/// What comes out of a pipe until its other end is closed, or as much of it as this.
async fn all_of(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What fails is the child's to say, by how it ends.
        let _ = pipe.take(most).read_to_end(&mut bytes).await;
    }
    bytes
}

/// What a child's end means.
fn judge_exit(status: ExitStatus, reason: &str) -> Result<(), Trouble> {
    use std::os::unix::process::ExitStatusExt;
    let reason = reason.trim();
    // The file's own names may be in it.
    let told = |longest| escape(cut(reason, longest)).into_owned();
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(0) => return Ok(()),
        Some(BAD_FILE) => return Err(Trouble::of_file(told(2000))),
        Some(BAD_MACHINE) => return Err(Trouble::of_machine(told(2000))),
        _ => {}
    }
    Err(match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => Trouble::of_file(format!(
            "it took more than {CPU_SECONDS} s of the processor and was ended"
        )),
        Some(Signal::KILL) => Trouble::of_machine(
            "the compiler was killed (SIGKILL), as the kernel does when the machine is short of \
             memory: try again when there is more of it"
                .into(),
        ),
        _ => Trouble::of_file(format!(
            "the compiler ended with {status}, perhaps because it needed more than its {} MiB of \
             memory{}{}",
            ADDRESS_SPACE >> 20,
            if reason.is_empty() { "" } else { ": " },
            told(400),
        )),
    })
}

/// The first so many bytes of a text, at a character's border.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What the hidden verb `handlerd compile-plugin` does: limits itself, reads WebAssembly from
/// standard input, writes the artifact to standard output. Not for people.
///
/// # Errors
/// Exit code 65 with a sentence about the file on standard error; 71 with one about the machine.
pub fn child_main() -> ExitCode {
    child(std::io::stdout().lock())
}

/// The same, with the artifact written to this.
pub(super) fn child(mut artifact_to: impl Write) -> ExitCode {
    let mut compile = || -> Result<(), Trouble> {
        let limited = limit_self();
        limited.map_err(|e| Trouble::of_machine(format!("can't limit the compiler: {e}")))?;
        let mut wasm = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut wasm)
            .map_err(|e| Trouble::of_machine(format!("can't read the file: {e}")))?;
        let artifact = compile_here(&wasm)?;
        let written = artifact_to.write_all(&artifact).and_then(|()| artifact_to.flush());
        written.map_err(|e| Trouble::of_machine(format!("can't write the result: {e}")))
    };
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble { reason, of_machine }) => {
            eprintln!("{reason}");
            ExitCode::from(if of_machine { BAD_MACHINE } else { BAD_FILE })
        }
    }
}

fn limit_self() -> std::io::Result<()> {
    // Who started it may be killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Never more than what is permitted already.
    let lower = |resource, limit: u64, grace: u64| {
        let Rlimit { current, maximum } = getrlimit(resource);
        let least = |limit: u64, other: Option<u64>| other.map_or(limit, |other| other.min(limit));
        let limits = Rlimit {
            current: Some(least(least(limit, maximum), current)),
            maximum: Some(least(limit + grace, maximum)),
        };
        setrlimit(resource, limits)
    };
    lower(Resource::As, ADDRESS_SPACE, 0)?;
    // The soft limit's signal names the reason; the hard one, a little later, can't be ignored.
    lower(Resource::Cpu, CPU_SECONDS, 5)?;
    lower(Resource::Core, 0, 0)?;
    Ok(())
}

/// Compile here and now: a component as it is, a core module after encoding it as one.
fn compile_here(wasm: &[u8]) -> Result<Vec<u8>, Trouble> {
    let component = component_of(wasm).map_err(Trouble::of_file)?;
    let engine = engine::engine()
        .map_err(|e| Trouble::of_machine(format!("the engine can't start: {e:#}")))?;
    engine.precompile_component(&component).map_err(|e| Trouble::of_file(format!("{e:#}")))
}

/// What is compiled of a file: the component, with our driver where it can have it.
fn component_of(wasm: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let outline = file::outline(wasm)?;
    let component = match outline.kind {
        FileKind::Component => Cow::Borrowed(wasm),
        FileKind::Module => Cow::Owned(encode(wasm, &outline.imports)?),
        kind @ (FileKind::PlainModule | FileKind::NotWasm) => {
            return Err(format!("it is {kind}"));
        }
    };
    Ok(match driver::add(&component)? {
        Some(driven) => Cow::Owned(driven),
        None => component,
    })
}

/// Make a component of a core module that carries its component type.
fn encode(module: &[u8], imports: &[String]) -> Result<Vec<u8>, String> {
    use wasi_preview1_component_adapter_provider::{
        WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as WASIP1,
        WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER,
    };
    let encode = || {
        let mut encoder = ComponentEncoder::default().validate(false).module(module)?;
        let prefix = format!("{WASIP1}.");
        if imports.iter().any(|import| import.starts_with(&prefix)) {
            encoder = encoder.adapter(WASIP1, ADAPTER)?;
        }
        encoder.encode()
    };
    encode().map_err(|e| format!("it can't be made into a component: {e:#}"))
}
