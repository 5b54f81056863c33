//! The real binary under what the unit allows it: the system calls of its `SystemCallFilter`, its
//! address families, no new namespaces, no capabilities, and folders as `ProtectSystem=strict` and
//! the others leave them. The filter is made of systemd's own lists by libseccomp, the namespaces by
//! bubblewrap; where one of them isn't there, or namespaces aren't allowed, that is said and nothing
//! is tested.

mod support;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::plugins::root;
use support::process::Process;
use support::{Handlerd, Redis, Watcher, wait_for};

/// Debian's, which has the package python3-seccomp.
const PYTHON: &str = "/usr/bin/python3";

/// Standard input: the names of system calls; standard output: a filter that bubblewrap takes. What
/// isn't named answers EPERM, as the unit says; namespaces and address families as systemd does it.
const FILTER: &str = r#"
import seccomp, sys
from seccomp import Arg
NAMESPACES = 0x7e020000
f = seccomp.SyscallFilter(seccomp.ERRNO(1))
for name in sys.stdin.read().split():
    if name in ("socket", "clone", "clone3", "unshare", "setns"):
        continue
    try:
        f.add_rule(seccomp.ALLOW, name)
    except (RuntimeError, ValueError):
        pass  # of another machine
for family in (1, 2, 10):
    f.add_rule(seccomp.ALLOW, "socket", Arg(0, seccomp.EQ, family))
f.add_rule(seccomp.ALLOW, "clone", Arg(0, seccomp.MASKED_EQ, NAMESPACES, 0))
f.add_rule(seccomp.ERRNO(38), "clone3")
f.export_bpf(sys.stdout)
"#;

/// The output of a tool with this on its standard input; `None` where there is no such tool, or it
/// fails.
fn tool(program: &str, arguments: &[&str], input: &str) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    std::io::Write::write_all(&mut child.stdin.take()?, input.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// The system calls of one of systemd's sets, those in it included.
fn calls(set: &str, into: &mut Vec<String>) -> Option<()> {
    let listed = tool("systemd-analyze", &["syscall-filter", set], "")?;
    let listed = String::from_utf8(listed).ok()?;
    let names = listed.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
    for name in names.filter(|name| !name.is_empty()) {
        match name.starts_with('@') {
            true => calls(name, into)?,
            false => into.push(name.to_owned()),
        }
    }
    Some(())
}

/// The system calls that the unit permits.
fn permitted() -> Option<Vec<String>> {
    let unit = std::fs::read_to_string(root().join("systemd/handlerd.service")).expect("the unit");
    let mut permitted = Vec::new();
    let filters = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    for set in filters {
        match set.strip_prefix('~') {
            None => calls(set, &mut permitted)?,
            Some(set) => {
                let mut denied = Vec::new();
                calls(set, &mut denied)?;
                permitted.retain(|call| !denied.contains(call));
            }
        }
    }
    assert!(permitted.iter().any(|call| call == "read"), "{permitted:?}");
    assert!(!permitted.iter().any(|call| call == "chown"), "{permitted:?}");
    Some(permitted)
}

/// What bubblewrap is to do: folders as the unit's settings leave them, `there` in their place.
fn namespaces(there: &Path) -> String {
    let (there, program) = (there.display(), env!("CARGO_BIN_EXE_handlerd"));
    format!(
        "bwrap --die-with-parent --as-pid-1 --unshare-user --unshare-pid --unshare-ipc --unshare-uts \
         --ro-bind / / --tmpfs /home --tmpfs /root --tmpfs /tmp --dev /dev --proc /proc --tmpfs /opt \
         --ro-bind {program} /opt/program --ro-bind {there}/etc /opt/etc \
         --bind {there}/cache /opt/cache --bind {there}/state /opt/state --remount-ro /opt \
         --cap-drop ALL --clearenv --setenv CACHE_DIRECTORY /opt/cache \
         --setenv STATE_DIRECTORY /opt/state --chdir /"
    )
}

/// The process in the sandbox: the only child of bubblewrap.
fn inside(bubblewrap: &Process) -> Pid {
    wait_for("the process in the sandbox", || {
        let id = bubblewrap.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        Pid::from_raw(children.trim().parse().ok()?)
    })
}

#[test]
fn under_the_units_sandbox_it_compiles_handles_and_stops() {
    let Some(calls) = permitted() else {
        return eprintln!("systemd-analyze isn't there: the sandbox isn't tried");
    };
    let Some(filter) = tool(PYTHON, &["-c", FILTER], &calls.join("\n")) else {
        return eprintln!("Debian's python3-seccomp isn't there: the sandbox isn't tried");
    };
    let dir = Handlerd::folder();
    let there = dir.path();
    for folder in ["etc", "cache", "state"] {
        std::fs::create_dir(there.join(folder)).expect("a folder");
    }
    std::fs::rename(there.join("plugins"), there.join("etc/plugins")).expect("plugins");
    std::fs::write(there.join("filter"), filter).expect("a filter");
    let namespaces = namespaces(there);
    let run = |program: &str| format!("exec {namespaces} --seccomp 3 {program}");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec 3<{}/filter; {script}", there.display())]);
        command
    };
    let tried = shell(&run("/bin/true")).output().expect("a shell");
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr).into_owned();
        return eprintln!("bubblewrap isn't there, or not allowed: the sandbox isn't tried: {why}");
    }
    // It is one: what the unit forbids doesn't work.
    let homes = "find /root /home -mindepth 1 | grep .";
    for forbidden in ["touch /usr/x", "chown 0 /opt/cache", "unshare -U true", homes] {
        let done = shell(&run(&format!("sh -c '{forbidden}'"))).output().expect("a shell");
        assert!(!done.status.success(), "{forbidden}: {}", String::from_utf8_lossy(&done.stdout));
    }

    let redis = Redis::start();
    let out = Watcher::subscribe(&redis, &["chat.out"]);
    let config = format!(
        "[redis]\nurl = \"{}\"\n[channels.chat]\nhandlers = [\"announce\"]\n\
         publish = \"chat.out\"\n[channels.orders]\nstream = \"orders\"\ngroup = \"g\"\n\
         start = \"oldest\"\nhandlers = [\"redact\"]\nappend = \"orders.done\"\n\
         [handlers.redact]\nconfig = {{ words = \"foo\" }}\ntimeout = \"30s\"\n\
         [handlers.announce]\ntimeout = \"30s\"\n",
        redis.url()
    );
    std::fs::write(there.join("etc/config.toml"), config).expect("a config");
    let name = format!("handlerd-sandbox-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("a socket");
    let program =
        format!("--setenv NOTIFY_SOCKET @{name} /opt/program run --config /opt/etc/config.toml");
    let mut command = shell(&run(&program));
    let mut daemon = Process::spawn(command.stderr(Stdio::piped())).expect("bubblewrap starts");
    let stderr = daemon.child().stderr.take().expect("a pipe");
    let log = std::thread::spawn(move || std::io::read_to_string(stderr).expect("text"));
    manager.set_read_timeout(Some(support::handlerd::patience())).expect("a limit");
    let mut bytes = [0; 4096];
    let ready = loop {
        match manager.recv(&mut bytes) {
            Ok(length) if bytes[..length].starts_with(b"READY=1") => break true,
            Ok(_) => {}
            Err(_) => break false,
        }
    };
    if !ready {
        daemon.kill();
        panic!("it isn't ready in the sandbox:\n{}", log.join().expect("the log is read"));
    }
    redis.wait_subscribed("chat", 1);
    redis.client().publish("chat", "hello");
    out.wait_count(1);
    let _: String = redis.run(&["XADD", "orders", "*", "payload", "hello"]);
    wait_for("the order", || (redis.run::<u64>(&["XLEN", "orders.done"]) == 1).then_some(()));

    let inner = inside(&daemon);
    let status = std::fs::read_to_string(format!("/proc/{}/status", inner.as_raw_nonzero()))
        .expect("a running process has a status");
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(status.lines().any(|found| found == line), "{line} in {status}");
    }
    kill_process(inner, Signal::TERM).expect("a signal");
    let ended = daemon.wait(support::handlerd::patience()).expect("it ends");
    let log = log.join().expect("the log is read");
    assert_eq!(ended.code(), Some(0), "{log}");
    let last = log.lines().last().expect("a line");
    assert!(last.contains("stopped: 2 received, 2 handled, 2 delivered, 0 lost"), "{log}");
    let compiled = std::fs::read_dir(there.join("cache")).expect("a folder").count();
    assert!(compiled > 0, "the plugins were compiled in the sandbox");
}
