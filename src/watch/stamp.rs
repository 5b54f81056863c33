//! What tells a thing at a path from another one, and from itself as it was before.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// Mode, user and group.
pub(super) type Rights = (u32, u32, u32);

/// A thing as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) identity: Identity,
    pub(super) rights: Rights,
    /// Size and time of the last change, of a file: a folder's time changes with files in it that don't
    /// matter.
    bytes: Option<(u64, i64, i64)>,
}

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// What it is on was mounted by this number: when it is mounted again, the rest may be the same. Zero
    /// where the kernel doesn't say.
    mount: u64,
}

/// `STATX_MNT_ID_UNIQUE`: a number that no later mount gets again. Kernels before 6.8 don't know it and
/// answer `STATX_MNT_ID`.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

impl Stamp {
    /// Asks the disk. A link is looked at itself. `None` where nothing is, or nothing that may be seen.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        let found = path.symlink_metadata().ok()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let mount = statx(CWD, path, flags, StatxFlags::MNT_ID | UNIQUE);
        let mount = mount.map_or(0, |found| found.stx_mnt_id);
        Some(Stamp {
            identity: Identity { device: found.dev(), inode: found.ino(), mount },
            rights: (found.mode(), found.uid(), found.gid()),
            bytes: found.is_file().then(|| (found.size(), found.mtime(), found.mtime_nsec())),
        })
    }
}
