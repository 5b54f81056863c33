//! Reading files that people name: a configuration, a secret, a certificate, a plugin.
//!
//! A name may lead to anything. A named pipe would be waited for when it is opened, a device may never
//! end, and the disk of a regular file may not answer: none of them holds up whoever reads. Used by
//! `config`, `broker` and `plugin`; knows nothing of what is in the files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// Largest secret that is read.
pub const LARGEST_SECRET: u64 = 1 << 20;

/// Why a file was not read. `Display` stands behind its name.
#[derive(Debug)]
pub enum Unread {
    /// The system says no.
    Io {
        /// What it says.
        source: io::Error,
        /// Where its name leads, when that is a link to nothing.
        link: Option<PathBuf>,
    },
    /// It is something else, which this names.
    NotAFile(&'static str),
    /// It has more bytes than this.
    TooLarge(u64),
    /// It was waited for so long.
    Late(Duration),
}

impl Unread {
    /// Whether nothing is there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Unread::Io { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Io { link: Some(link), .. } => {
                write!(f, "is a link to {}, which doesn't exist", link.display())
            }
            Unread::Io { source, link: None } => f.write_str(&unreadable(source)),
            Unread::NotAFile(what) => write!(f, "is {what}, not a regular file"),
            Unread::TooLarge(largest) if *largest >= 1 << 20 => {
                write!(f, "is larger than {} MiB", largest >> 20)
            }
            Unread::TooLarge(largest) => write!(f, "is larger than {largest} bytes"),
            Unread::Late(limit) => write!(
                f,
                "could not be read within {} s: its file system doesn't answer",
                limit.as_secs()
            ),
        }
    }
}

/// Why a file or a folder is of no use, to stand behind its name.
pub fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "doesn't exist".to_owned(),
        ErrorKind::IsADirectory => "is a folder".to_owned(),
        ErrorKind::NotADirectory => "is not a folder".to_owned(),
        ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        _ => format!("can't be read: {error}"),
    }
}

/// The bytes of a regular file, links followed. Blocks for as long as its disk does.
///
/// # Errors
/// When it is no regular file, has more bytes than `largest`, or can't be read.
pub fn read(path: &Path, largest: u64) -> Result<Vec<u8>, Unread> {
    read_through(path, largest, |file| file)
}

/// The same, through something that reads the file.
fn read_through<R: Read>(
    path: &Path,
    largest: u64,
    through: impl FnOnce(File) -> R,
) -> Result<Vec<u8>, Unread> {
    let (file, metadata) = open(path)?;
    if metadata.len() > largest {
        return Err(Unread::TooLarge(largest));
    }
    // What the kernel makes up has no size before it is read.
    read_to_end(through(file), path, largest, metadata.len() as usize + 1)
}

/// The same; but what was handed to this process as an open file, as by `--config /dev/stdin` or
/// `--config <(…)`, may be a pipe, which is read to its end.
pub fn read_handed(path: &Path, largest: u64) -> Result<Vec<u8>, Unread> {
    let is_handed =
        ["/dev/stdin", "/dev/fd", "/proc/self/fd"].iter().any(|at| path.starts_with(at));
    if !is_handed {
        return read(path, largest);
    }
    let file = File::open(path).map_err(|e| io(path, e))?;
    read_to_end(file, path, largest, 0)
}

/// All that comes from an open file, which will be about so much.
fn read_to_end(
    file: impl Read,
    path: &Path,
    largest: u64,
    expected: usize,
) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::with_capacity(expected);
    file.take(largest + 1).read_to_end(&mut bytes).map_err(|e| io(path, e))?;
    if bytes.len() as u64 > largest { Err(Unread::TooLarge(largest)) } else { Ok(bytes) }
}

/// Whether a file could be read now.
///
/// # Errors
/// When it is no regular file, or can't be read.
pub fn check(path: &Path) -> Result<(), Unread> {
    let (mut file, _) = open(path)?;
    file.read(&mut [0; 1]).map(drop).map_err(|e| io(path, e))
}

/// Open a regular file, and what it is.
fn open(path: &Path) -> Result<(File, Metadata), Unread> {
    // Opening a device may already do something to it.
    let metadata = std::fs::metadata(path).map_err(|e| io(path, e))?;
    is_regular(metadata.file_type())?;
    // By now there may be a pipe.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file =
        File::options().read(true).custom_flags(flags).open(path).map_err(|e| io(path, e))?;
    let metadata = file.metadata().map_err(|e| io(path, e))?;
    is_regular(metadata.file_type())?;
    Ok((file, metadata))
}

fn is_regular(kind: FileType) -> Result<(), Unread> {
    if kind.is_file() {
        return Ok(());
    }
    Err(match kind {
        kind if kind.is_dir() => Unread::Io { source: ErrorKind::IsADirectory.into(), link: None },
        kind if kind.is_fifo() => Unread::NotAFile("a pipe"),
        kind if kind.is_socket() => Unread::NotAFile("a socket"),
        _ => Unread::NotAFile("a device"),
    })
}

fn io(path: &Path, source: io::Error) -> Unread {
    let is_missing = source.kind() == ErrorKind::NotFound;
    let link = if is_missing { std::fs::read_link(path).ok() } else { None };
    Unread::Io { source, link }
}

/// How much of one owner's work may hang at once; of what reads large files, how many reads of each.
const MOST_HANGING: usize = 4;

/// Most large files of one owner that are waited for at once.
const MOST_AT_ONCE: usize = 64;

/// Most bytes of a large file that are asked for at once: so many come within any limit.
const CHUNK: usize = 1 << 20;

/// A file that is being read: each step is counted.
struct Counted {
    file: File,
    large: Arc<Large>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(CHUNK);
        let read = self.file.read(&mut buffer[..most]);
        self.large.steps.fetch_add(1, Relaxed);
        read
    }
}

/// Reads in threads of their own, which are left to themselves when they take too long. Nobody waits
/// for those, at the end neither; there are few of them at any time.
#[derive(Clone, Debug)]
pub struct Patience {
    limit: Duration,
    places: Arc<Semaphore>,
    large: Arc<Large>,
}

/// What [`Patience::read_large`] needs.
#[derive(Debug)]
struct Large {
    /// For whoever waits: whose read is left to itself has none any more, and keeps no other file from
    /// being read.
    places: Semaphore,
    /// For the reads of each file.
    of_file: Mutex<BTreeMap<PathBuf, Arc<Semaphore>>>,
    /// Of all of them.
    steps: AtomicU64,
}

impl Large {
    fn of_file(&self, path: &Path) -> Arc<Semaphore> {
        let mut of_file = self.of_file.lock().unwrap_or_else(PoisonError::into_inner);
        // Forget those that nobody reads.
        of_file.retain(|_, places| Arc::strong_count(places) > 1);
        let places = of_file.entry(path.to_owned());
        places.or_insert_with(|| Arc::new(Semaphore::new(MOST_HANGING))).clone()
    }
}

impl Patience {
    /// Waits for so long.
    pub fn new(limit: Duration) -> Self {
        let large = Large {
            places: Semaphore::new(MOST_AT_ONCE),
            of_file: Mutex::default(),
            steps: AtomicU64::new(0),
        };
        Patience { limit, places: Arc::new(Semaphore::new(MOST_HANGING)), large: Arc::new(large) }
    }

    /// Do work that reads.
    ///
    /// # Errors
    /// When it isn't done in time, or can't be begun.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unread> {
        let done = async {
            // As soon as few enough others hang.
            let place = self.places.clone().acquire_owned().await;
            begin(place, work).await
        };
        timeout(self.limit, done).await.unwrap_or(Err(Unread::Late(self.limit)))
    }

    /// The bytes of a file, as [`read`] gives them.
    ///
    /// # Errors
    /// As for [`read`], and when it isn't done in time.
    pub async fn read(&self, path: &Path, largest: u64) -> Result<Vec<u8>, Unread> {
        let path = path.to_owned();
        self.work(move || read(&path, largest)).await?
    }

    /// The bytes of a file that may be large, or one of very many: it may take as long as it takes,
    /// as long as something comes, of this file or of another that is read so.
    ///
    /// # Errors
    /// As for [`read`], and when nothing has come for the limit.
    pub async fn read_large(&self, path: &Path, largest: u64) -> Result<Vec<u8>, Unread> {
        let mut reading = pin!(async {
            let of_file = self.large.of_file(path).acquire_owned().await;
            let _place = self.large.places.acquire().await;
            let (path, large) = (path.to_owned(), self.large.clone());
            let read = move || {
                let counted = |file| Counted { file, large: large.clone() };
                let bytes = read_through(&path, largest, counted);
                large.steps.fetch_add(1, Relaxed);
                bytes
            };
            begin(of_file, read).await
        });
        let mut before = self.large.steps.load(Relaxed);
        loop {
            if let Ok(read) = timeout(self.limit, &mut reading).await {
                return read?;
            }
            let steps = self.large.steps.load(Relaxed);
            if std::mem::replace(&mut before, steps) == steps {
                return Err(Unread::Late(self.limit));
            }
        }
    }
}

/// Do work in a thread of its own, without a limit. It keeps its place until it has ended.
async fn begin<T: Send + 'static>(
    place: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unread> {
    let failed = |source| Unread::Io { source, link: None };
    let ended_early = || failed(io::Error::other("reading ended early"));
    let (tell, told) = oneshot::channel();
    let reading = move || {
        let done = work();
        drop(place);
        let _ = tell.send(done);
    };
    // None of the runtime's threads: it would be waited for when that ends.
    let thread = std::thread::Builder::new().name("handlerd-read".into());
    thread.spawn(reading).map_err(failed)?;
    told.await.map_err(|_| ended_early())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn said(path: &Path) -> String {
        read(path, 10).map(|_| "read".to_owned()).unwrap_or_else(|unread| unread.to_string())
    }

    #[test]
    fn only_regular_files_of_some_size_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("ten"), "0123456789").expect("a file");
        std::fs::write(at("eleven"), "0123456789A").expect("a file");
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        let link = |to: &str, name| std::os::unix::fs::symlink(to, at(name)).expect("a link");
        link("ten", "good");
        link("pipe", "bad");
        link("nowhere", "dangling");
        assert_eq!(read(&at("good"), 10).expect("a file"), b"0123456789");
        assert_eq!(said(&at("eleven")), "is larger than 10 bytes");
        assert_eq!(said(&at("pipe")), "is a pipe, not a regular file");
        assert_eq!(said(&at("bad")), "is a pipe, not a regular file");
        assert_eq!(said(Path::new("/dev/zero")), "is a device, not a regular file");
        assert_eq!(said(dir.path()), "is a folder");
        assert_eq!(said(&at("nowhere")), "doesn't exist");
        assert_eq!(said(&at("dangling")), "is a link to nowhere, which doesn't exist");
        // It has no size before it is read.
        assert_eq!(said(Path::new("/proc/self/status")), "is larger than 10 bytes");
    }

    #[tokio::test]
    async fn what_hangs_is_left_to_itself_and_there_is_an_end_to_that() {
        let patience = Patience::new(Duration::from_millis(20));
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..MOST_HANGING {
            let wait = wait.clone();
            let hangs = move || wait.lock().map(|wait| wait.recv().is_ok()).is_ok();
            assert!(matches!(patience.work(hangs).await, Err(Unread::Late(_))));
        }
        // No more threads are begun, until those that hang have ended.
        let begun = Arc::new(());
        let another = begun.clone();
        let refused = patience.work(move || drop(another)).await;
        assert!(matches!(refused, Err(Unread::Late(_))));
        assert_eq!(Arc::strong_count(&begun), 1);
        drop(go_on);
        while patience.work(|| ()).await.is_err() {}
    }
}
