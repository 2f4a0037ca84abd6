//! The client half of RFC 6455, as far as a load generator needs it: requests are framed once, answers are counted
//! without being looked at.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

const UPGRADE: &[u8] = b"GET /__ds HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: datasole.v1, datasole.v2\r\n\r\n";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A masked binary frame around `message`.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    masked(BINARY, message)
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A header of a server frame: opcode, its own length and its payload's; `None` while it is incomplete.
fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, payload) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        payload => (2, payload as usize),
    };
    Some((first & 0x0f, length, payload))
}

/// One connection. Opened blocking; [`Connection::poll`] never blocks.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes that were read and not used: whole frames while opening, a cut header afterwards.
    unread: Vec<u8>,
    /// Bytes of the current payload that are still to come.
    skip: usize,
    /// What the current frame counts: control frames count nothing.
    counts: usize,
    /// Bytes sent and read so far.
    pub(crate) moved: u64,
    /// The number that names a document, if it follows one.
    pub(crate) channel: u64,
}

impl Connection {
    /// Connects and asks for the upgrade, without waiting for the answer.
    pub(crate) fn begin(port: u16) -> io::Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.write_all(UPGRADE)?;
        Ok(Self { stream, unread: Vec::new(), skip: 0, counts: 0, moved: 0, channel: 0 })
    }

    /// Waits for the upgrade and the first message, which is HELLO.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more()?;
        };
        if !self.unread.starts_with(b"HTTP/1.1 101") {
            let answer = String::from_utf8_lossy(&self.unread);
            return Err(io::Error::other(format!("the upgrade was refused: {answer}")));
        }
        self.unread.drain(..end);
        self.read_message().map(drop)
    }

    /// Waits for the next message.
    pub(crate) fn read_message(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some((opcode, start, payload)) = header(&self.unread)
                && self.unread.len() >= start + payload
            {
                let message = self.unread[start..start + payload].to_vec();
                self.unread.drain(..start + payload);
                match opcode {
                    BINARY => return Ok(message),
                    PING => self.send(&masked(PONG, &message))?,
                    opcode => return Err(unexpected(opcode)),
                }
            } else {
                self.read_more()?;
            }
        }
    }

    /// Ends opening: nothing blocks any more.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        self.unread.shrink_to_fit();
        self.stream.set_nonblocking(true)
    }

    /// Sends frames. The load never has more on the way than a socket takes at once.
    pub(crate) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.moved += frames.len() as u64;
        self.stream.write_all(frames)
    }

    /// Reads what has come, using `buffer` for it, and counts the frames that ended.
    pub(crate) fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let kept = self.unread.len();
        buffer[..kept].copy_from_slice(&self.unread);
        match self.stream.read(&mut buffer[kept..]) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(read) => {
                self.moved += read as u64;
                self.unread.clear();
                self.count(&buffer[..kept + read])
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn count(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let mut ended = 0;
        loop {
            if self.skip > bytes.len() {
                self.skip -= bytes.len();
                return Ok(ended);
            }
            bytes = &bytes[self.skip..];
            self.skip = 0;
            ended += std::mem::take(&mut self.counts);
            let Some((opcode, length, payload)) = header(bytes) else {
                self.unread.extend_from_slice(bytes);
                return Ok(ended);
            };
            bytes = &bytes[length..];
            self.skip = payload;
            match opcode {
                BINARY => self.counts = 1,
                // Any frame shows that we live, so the ping's payload need not be waited for.
                PING => self.send(&masked(PONG, &[]))?,
                opcode => return Err(unexpected(opcode)),
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            read => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }
}

fn unexpected(opcode: u8) -> io::Error {
    let what = if opcode == CLOSE { "a close frame" } else { "an unexpected frame" };
    io::Error::other(format!("the server sent {what} (opcode {opcode:#x})"))
}
