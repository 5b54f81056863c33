//! A child process that dies with its guard, or with the thread that started it.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// A running child process.
pub struct Process {
    child: Child,
}

impl Process {
    /// Start it. The kernel kills it when this thread ends.
    pub fn spawn(command: &mut Command) -> io::Result<Process> {
        // SAFETY: between fork and exec only one raw system call is made, without allocating.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        Ok(Process { child: command.spawn()? })
    }

    /// For its standard streams.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Send a signal. It must not have been waited for.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("a signal can be sent to a child");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Wait for its end; `None` when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.ended()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it stands still after SIGSTOP, or has ended.
    pub fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        // Its threads stop one after the other, and those that haven't yet go on.
        threads.into_iter().flatten().flatten().all(|thread| {
            matches!(state(&thread.path()).map(|(state, _)| state), None | Some('T' | 'Z'))
        })
    }

    /// A size in bytes of `/proc/PID/status`: `VmRSS` (resident now), `VmHWM` (at most so far) or
    /// `VmData` (reserved now).
    pub fn memory(&self, field: &str) -> u64 {
        let file = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(file).expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        let kibibytes = line.trim_start_matches(':').trim().trim_end_matches(" kB");
        kibibytes.parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The state of a process or a thread by its folder in `/proc`, and the id of its parent; `None` when it
/// is gone.
fn state(folder: &Path) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    // Both are behind the name, which is in brackets.
    let mut words = stat.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

fn folder(process: u32) -> PathBuf {
    Path::new("/proc").join(process.to_string())
}

/// Whether a process is no more; one that nobody has waited for yet isn't, either.
pub fn is_gone(process: u32) -> bool {
    state(&folder(process)).is_none_or(|(state, _)| state == 'Z')
}

/// The processes that compile plugins for this one.
pub fn compilers_of(process: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("the processes are listed");
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_compiler = |id: &u32| {
        let runs =
            state(&folder(*id)).is_some_and(|(state, parent)| parent == process && state != 'Z');
        let called = || std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        runs && called().contains(handlerd::plugin::compile::VERB)
    };
    ids.filter(is_compiler).collect()
}

/// The exit code; a process that a signal ended has 128 and the signal's number, as in a shell.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
