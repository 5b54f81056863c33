//! The embedded broker, and connections to it that send bytes as they are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::Handlerd;
use super::handlerd::patience;
use super::redis_server::free_port;

/// A daemon with the embedded broker, and the port where it listens.
pub fn broker() -> (Handlerd, u16) {
    let port = free_port();
    let config = format!(
        "[redis]\nurl = \"embedded\"\nlisten = \"127.0.0.1:{port}\"\n[channels.chat]\n\
         handlers = [\"announce\"]\npublish = \"chat.out\"\n"
    );
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config, &[]);
    let line = daemon.wait_log(&["the embedded broker", "listens at 127.0.0.1:"]);
    let (_, rest) = line.split_once("127.0.0.1:").expect("an address");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    daemon.wait_log(&["subscribed to 1 of 1 names"]);
    (daemon, digits.parse().expect("a port"))
}

/// A connection that says what it reads.
pub struct Raw {
    /// For what isn't asked and answered.
    pub stream: TcpStream,
}

impl Raw {
    /// Connect to the broker at this port.
    pub fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(patience())).expect("a limit");
        stream.set_write_timeout(Some(patience())).expect("a limit");
        stream.set_nodelay(true).expect("no delay");
        Raw { stream }
    }

    /// Send these bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("bytes are sent");
    }

    /// Check that this is what comes.
    #[track_caller]
    pub fn expect(&mut self, answer: impl AsRef<[u8]>) {
        let answer = answer.as_ref();
        let mut read = vec![0; answer.len()];
        self.stream.read_exact(&mut read).expect("an answer");
        assert_eq!(
            String::from_utf8_lossy(&read[..read.len().min(1000)]),
            String::from_utf8_lossy(&answer[..answer.len().min(1000)])
        );
        assert!(read == answer);
    }

    /// Send these bytes, and check the answer.
    #[track_caller]
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) {
        self.send(bytes);
        self.expect(answer);
    }

    /// The next line, with its end; what has come when the connection ends before that.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") && self.stream.read(&mut byte).is_ok_and(|n| n > 0) {
            line.extend_from_slice(&byte);
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let end = self.stream.read_to_end(&mut rest);
        let reset = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(end.as_ref().map_or_else(reset, |_| true), "{end:?}");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// What is answered to bytes after which the client sends nothing more.
pub fn answers(port: u16, bytes: &[u8]) -> String {
    let mut raw = Raw::connect(port);
    // One may be refused before it has sent it all.
    let _ = raw.stream.write_all(bytes);
    let _ = raw.stream.shutdown(Shutdown::Write);
    raw.rest()
}
