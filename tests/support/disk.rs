//! A disk with one file on it, which stops answering when a test says so: as one of a network does.
//!
//! A file system in user space (FUSE), mounted by the daemon's own script in namespaces of its own, and
//! served by the test through the script's open file. That is the only one in the end: when the test ends,
//! however it does, the disk fails, and nobody waits for it any more.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

use super::{Handlerd, Run, wait_for};

/// The name of the file on it.
pub const FILE: &str = "far.wasm";

/// What the disk answers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answers {
    /// Nothing: whoever asks anything waits.
    Nothing,
    /// All but what reads a file's bytes.
    Names,
    /// Everything.
    All,
}

/// The disk. Who still waits for it when this is dropped is told that it has failed.
pub struct Disk {
    answers: Arc<AtomicU8>,
    is_gone: Arc<AtomicBool>,
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.is_gone.store(true, SeqCst);
    }
}

impl Disk {
    /// Start a daemon with this whole config, in this folder, with the disk at `disk` in it, which
    /// has a file of these bytes. `None`, with a word about it, where this machine has no such disks.
    pub fn start(dir: TempDir, config: &str, bytes: Vec<u8>) -> Option<(Handlerd, Disk)> {
        let mount = dir.path().join("disk");
        std::fs::create_dir(&mount).expect("a folder");
        let at = mount.display();
        let tried = Run::program("sh", &["-c", &mounted(&mount, "true")]).output();
        if tried.code != 0 {
            eprintln!(
                "/dev/fuse or namespaces aren't allowed: no disk that hangs is tried: {tried:?}"
            );
            return None;
        }
        let then =
            format!("until test -e {at}.served; do sleep 0.01; done && exec 3<&- && exec \"$@\"");
        let daemon = Handlerd::start_by(&mounted(&mount, &then), dir, config, &[]);
        let device = device_of(daemon.pid(), &mount);
        let answers = Arc::new(AtomicU8::new(Answers::All as u8));
        let disk = Disk { answers, is_gone: Arc::default() };
        let (answers, is_gone) = (disk.answers.clone(), disk.is_gone.clone());
        std::thread::spawn(move || serve(device, &bytes, &answers, &is_gone));
        std::fs::write(mount.with_extension("served"), "").expect("it is written");
        Some((daemon, disk))
    }

    /// Answer to this from now on. What was asked for before and not answered never is.
    pub fn set(&self, answers: Answers) {
        self.answers.store(answers as u8, SeqCst);
    }
}

/// A script that mounts the disk there, in namespaces where one may, and then does this.
fn mounted(at: &Path, then: &str) -> String {
    let at = at.display();
    format!(
        "exec unshare --user --map-root-user --mount sh -c 'exec 3<>/dev/fuse && mount -i -n -t fuse -o \
         fd=3,rootmode=40000,user_id=0,group_id=0 disk {at} && {then}' \"$0\" \"$@\""
    )
}

/// The open file by which the disk that is mounted there is served.
#[track_caller]
fn device_of(process: u32, mount: &Path) -> File {
    let pid = Pid::from_raw(process.cast_signed()).expect("a process id");
    let mounts = format!("/proc/{process}/mounts");
    let mount = format!("disk {} fuse ", mount.display());
    wait_for("the disk is mounted", || {
        let mounts = std::fs::read_to_string(&mounts).ok()?;
        mounts.contains(&mount).then_some(())
    });
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let device: ForeignRawFd = 3;
    pidfd_getfd(process, device, PidfdGetfdFlags::empty()).expect("its open file").into()
}

/// The numbers of the kernel's requests (`linux/fuse.h`).
mod request {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const BATCH_FORGET: u32 = 42;
}

const ENOENT: i32 = -2;
const EINTR: i32 = -4;
const ENOSYS: i32 = -38;

/// The root folder has this number, and the file the next.
const ROOT: u64 = 1;

fn serve(mut device: File, bytes: &[u8], answers: &AtomicU8, is_gone: &AtomicBool) {
    let mut buffer = vec![0; 256 << 10];
    let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !is_gone.load(SeqCst) {
        if !poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&moment)).is_ok_and(|n| n > 0) {
            continue;
        }
        // Or it is unmounted.
        let Ok(length) = device.read(&mut buffer) else { return };
        let number = |at: usize| buffer[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        let long = |at: usize| buffer[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let (what, unique, node) = (number(4), long(8), long(16));
        let answered = answers.load(SeqCst);
        let is_of_bytes = what == request::READ;
        if what == request::INTERRUPT {
            // Who is killed would wait for the answer nevertheless.
            answer(&mut device, long(40), EINTR, &[]);
            continue;
        }
        if answered < if is_of_bytes { Answers::All as u8 } else { Answers::Names as u8 } {
            continue;
        }
        let (error, body) = match what {
            request::FORGET | request::BATCH_FORGET => continue,
            request::INIT => (0, greeting()),
            request::LOOKUP if buffer[40..length].strip_suffix(b"\0") == Some(FILE.as_bytes()) => {
                // Known for no time: each look at it asks again.
                let entry = [[ROOT + 1, 0, 0, 0, 0].map(u64::to_ne_bytes).concat()];
                (0, [entry.concat(), attributes(ROOT + 1, bytes.len())].concat())
            }
            request::LOOKUP => (ENOENT, Vec::new()),
            request::GETATTR => (0, [vec![0; 16], attributes(node, bytes.len())].concat()),
            // Past the page cache: a read that hangs would have all the others wait for its page.
            request::OPEN => (0, [0, 0, 1, 0].map(u32::to_ne_bytes).concat()),
            request::OPENDIR => (0, vec![0; 16]),
            request::READ => {
                let from = (long(48) as usize).min(bytes.len());
                let to = (from + number(56) as usize).min(bytes.len());
                (0, bytes[from..to].to_vec())
            }
            request::READDIR | request::RELEASE | request::RELEASEDIR | request::FLUSH => {
                (0, Vec::new())
            }
            _ => (ENOSYS, Vec::new()),
        };
        answer(&mut device, unique, error, &body);
    }
}

fn answer(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let mut answer = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    answer.extend(error.to_ne_bytes());
    answer.extend(unique.to_ne_bytes());
    answer.extend(body);
    // Who asked may be gone.
    let _ = device.write(&answer);
}

/// Version 7.31, and nothing that is optional.
fn greeting() -> Vec<u8> {
    let mut words = [0_u32; 16];
    (words[0], words[1]) = (7, 31);
    // Bytes of a write; nanoseconds that times are exact to.
    (words[5], words[6]) = (4096, 1);
    words.map(u32::to_ne_bytes).concat()
}

/// What a node is: the root folder, or the file with so many bytes.
fn attributes(node: u64, length: usize) -> Vec<u8> {
    let (mode, size) = if node == ROOT { (0o040_755, 0) } else { (0o100_644, length as u64) };
    let mut attributes = [node, size, size.div_ceil(512), 0, 0, 0].map(u64::to_ne_bytes).concat();
    attributes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32].map(u32::to_ne_bytes).concat());
    attributes
}
