//! Where records end: standard error, or journald.
//!
//! Called by the queue's thread alone, which may wait here. A sink that can't write says which records
//! are lost, and goes on.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr,
};

use super::journal;

/// journald's socket.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Takes records.
pub(super) trait Sink: Send {
    /// Write them; answers the places of those that are lost, the first one first.
    fn write(&mut self, records: &[Vec<u8>]) -> Vec<usize>;
}

/// Whether this is a stream of journald's, as systemd says it.
pub(super) fn is_journal(stream: impl AsFd) -> bool {
    let Ok(journal) = std::env::var("JOURNAL_STREAM") else { return false };
    // Somebody may have pointed it elsewhere since.
    fstat(stream).is_ok_and(|stat| journal == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Standard error, or a file in its place.
#[derive(Default)]
pub(super) struct StandardError {
    /// The last write ended inside of a line.
    torn: bool,
}

impl StandardError {
    /// Answers how many bytes could be written.
    fn write_all(&mut self, to: &mut impl Write, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match to.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(n) => {
                    written += n;
                    self.torn = written < bytes.len();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A terminal that another program has made so.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(_) => break,
            }
        }
        written
    }

    fn write_records(&mut self, to: &mut impl Write, records: &[Vec<u8>]) -> Vec<usize> {
        if self.torn && self.write_all(to, b"\n") == 0 {
            return (0..records.len()).collect();
        }
        let mut left = self.write_all(to, &records.concat());
        let is_lost = |place: &usize| {
            let fits = records[*place].len() <= left;
            left = if fits { left - records[*place].len() } else { 0 };
            !fits
        };
        (0..records.len()).filter(is_lost).collect()
    }
}

impl Sink for StandardError {
    fn write(&mut self, records: &[Vec<u8>]) -> Vec<usize> {
        self.write_records(&mut io::stderr().lock(), records)
    }
}

/// journald by its own protocol; lines on standard error while it is away.
pub(super) struct Journald {
    socket: UnixDatagram,
    address: PathBuf,
    instead: StandardError,
}

impl Journald {
    pub(super) fn new() -> io::Result<Self> {
        // The real binary is tested with another one.
        #[cfg(debug_assertions)]
        if let Some(address) = std::env::var_os("HANDLERD_TEST_JOURNAL") {
            return Journald::at(address);
        }
        Journald::at(JOURNAL)
    }

    fn at(address: impl Into<PathBuf>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        Ok(Journald { socket, address: address.into(), instead: StandardError::default() })
    }

    fn send(&self, record: &[u8]) -> io::Result<()> {
        match self.socket.send_to(record, &self.address) {
            Ok(_) => Ok(()),
            Err(error) if is_too_large(&error) => self.send_as_file(record),
            Err(error) => Err(error),
        }
    }

    /// What is too large for a datagram goes as a file in memory that can't change any more.
    fn send_as_file(&self, record: &[u8]) -> io::Result<()> {
        let file = memfd_create("handlerd-log", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(file);
        file.write_all(record)?;
        let file = OwnedFd::from(file);
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        let address = SocketAddrUnix::new(&self.address)?;
        let nothing = [IoSlice::new(&[])];
        sendmsg_addr(&self.socket, &address, &nothing, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn is_too_large(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let too_large = [Errno::MSGSIZE, Errno::NOBUFS].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| too_large.contains(&code))
}

impl Sink for Journald {
    fn write(&mut self, records: &[Vec<u8>]) -> Vec<usize> {
        let is_away = |place: &usize| self.send(&records[*place]).is_err();
        let away: Vec<usize> = (0..records.len()).filter(is_away).collect();
        let lines: Vec<_> = away.iter().map(|place| journal::as_line(&records[*place])).collect();
        let lost = if lines.is_empty() { Vec::new() } else { self.instead.write(&lines) };
        lost.into_iter().map(|place| away[place]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    /// One record, whichever way it came.
    fn received(socket: &UnixDatagram) -> (Vec<u8>, bool) {
        let mut bytes = vec![0; 1 << 20];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut bytes)];
        let got = recvmsg(socket, &mut into, &mut control, RecvFlags::empty()).expect("a record");
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                let mut file = std::fs::File::from(files.next().expect("a file"));
                let mut record = Vec::new();
                std::io::Seek::rewind(&mut file).expect("a file");
                file.read_to_end(&mut record).expect("a file");
                assert!(file.write_all(b"more").is_err(), "it is sealed");
                return (record, true);
            }
        }
        bytes.truncate(got.bytes);
        (bytes, false)
    }

    #[test]
    fn a_record_of_any_size_arrives() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("journal");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let mut journald = Journald::at(&path).expect("a socket");
        for (size, as_file) in [(10, false), (5 << 20, true)] {
            let record = [b"PRIORITY=4\nMESSAGE=".to_vec(), vec![b'x'; size], b"\n".to_vec()];
            let record = record.concat();
            assert_eq!(journald.write(std::slice::from_ref(&record)), [0; 0]);
            let (got, file) = received(&socket);
            assert_eq!((got == record, file), (true, as_file), "{size} bytes");
        }
    }

    #[test]
    fn a_line_that_was_torn_is_ended_before_the_next() {
        struct Full(Vec<u8>, usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let fits = bytes.len().min(self.1 - self.0.len());
                self.0.extend_from_slice(&bytes[..fits]);
                if fits == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(fits) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut sink, mut disk) = (StandardError::default(), Full(Vec::new(), 10));
        let lines = ["one\n", "two\n", "three\n", "four\n"].map(|line| line.as_bytes().to_vec());
        assert_eq!(sink.write_records(&mut disk, &lines[..1]), [0; 0]);
        assert!(!sink.torn);
        assert_eq!(sink.write_records(&mut disk, &lines[1..]), [1, 2], "which is lost");
        assert!(sink.torn);
        disk.1 = 20;
        assert_eq!(sink.write_records(&mut disk, &lines[3..]), [0; 0]);
        assert_eq!(disk.0, b"one\ntwo\nth\nfour\n");
    }
}
