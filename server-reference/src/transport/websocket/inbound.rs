//! The socket of a connection, as messages: reads ahead for a [`Reader`], and counts what has come of a message until that is
//! complete. Incoming bytes are signs of life, half a message too: no peer can answer a ping in the middle of a frame.

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{
    frame::{Opcode, SHORTEST, Violation},
    reader::{Found, Reader},
};
use crate::{budget::Arriving, mailbox::Close};

/// Bytes that are read from the socket at once.
const AHEAD: usize = 8 * 1024;

thread_local! {
    /// The buffer of whichever connection reads on this thread: idle ones have none.
    static SPARE: Cell<Option<Box<Ahead>>> = const { Cell::new(None) };
}

/// Bytes that were read and not taken yet.
struct Ahead {
    bytes: Box<[u8]>,
    at: usize,
    end: usize,
}

impl Ahead {
    fn of(bytes: &[u8]) -> Box<Self> {
        Box::new(Self { bytes: bytes.into(), at: 0, end: bytes.len() })
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }
}

/// What ends a connection while it is read.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("too much before AUTH was accepted")]
    Exceeded,
}

impl Failure {
    /// How the server closes after it; `None` where the peer has gone, or has said goodbye in its own way.
    pub(super) fn close(&self) -> Option<Close> {
        let code = match self {
            Self::Io(_) | Self::Violation(Violation::BareClose) => return None,
            Self::Violation(Violation::Protocol) => 1002,
            Self::Violation(Violation::Utf8) => 1007,
            Self::Violation(Violation::TooBig) | Self::Exceeded => 1009,
        };
        Some(Close { code, reason: self.to_string() })
    }
}

pub(super) struct Inbound<S> {
    stream: S,
    reader: Reader,
    /// None at rest.
    ahead: Option<Box<Ahead>>,
    /// Bytes came that completed no message.
    heard: bool,
    /// Nothing is read: there is no room.
    stalled: bool,
    /// Bytes that may still come; `usize::MAX` without a bound.
    allowance: usize,
    /// The bytes of the message that is coming.
    arriving: Arriving,
}

impl<S> Inbound<S> {
    /// A stream of which `read` has been read already, with messages of up to `limit` bytes.
    pub(super) fn new(stream: S, read: &[u8], limit: usize, allowance: Option<usize>, arriving: Arriving) -> Self {
        Self {
            stream,
            reader: Reader::new(limit),
            ahead: (!read.is_empty()).then(|| Ahead::of(read)),
            heard: false,
            stalled: false,
            allowance: allowance.unwrap_or(usize::MAX),
            arriving,
        }
    }

    /// The stream, to write to.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Others read on this thread: what was read and not taken is kept apart from the buffer for all.
    pub(super) fn rest(&mut self) {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.bytes.len() == AHEAD || ahead.rest().is_empty()) else {
            return;
        };
        if !ahead.rest().is_empty() {
            self.ahead = Some(Ahead::of(ahead.rest()));
        }
        if ahead.bytes.len() == AHEAD {
            SPARE.set(Some(ahead));
        }
    }

    /// True if nothing is read, until [`go_on`](Self::go_on), because there is no room.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub(super) fn go_on(&mut self) {
        self.stalled = false;
    }

    /// Lets any number of bytes come from here on.
    pub(super) fn lift(&mut self) {
        self.allowance = usize::MAX;
    }

    /// True where no message has begun that is not complete.
    pub(super) fn is_between(&self) -> bool {
        self.reader.is_between()
    }

    /// True if bytes came since the last call, and a message has begun that is not complete.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Takes note of bytes that the reader has taken.
    fn taken(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.allowance != usize::MAX {
            self.allowance = self.allowance.saturating_sub(bytes);
            if self.allowance == 0 && bytes > 0 {
                return Err(Failure::Exceeded);
            }
        }
        if self.reader.is_between() {
            self.heard = false;
            self.arriving.clear();
        } else {
            self.heard |= bytes > 0;
            self.stalled = !self.arriving.grow(bytes);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> Inbound<S> {
    /// The next message or control frame; `None` at the end of the stream.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message<'_>>, Failure>> {
        let (from, found) = loop {
            if self.stalled {
                return Poll::Pending;
            }
            if self.ahead.as_ref().is_none_or(|ahead| ahead.rest().is_empty()) {
                if let Some((payload, most)) = self.reader.room() {
                    let before = payload.len();
                    let mut into = payload.limit(most);
                    let bytes = ready!(pin!(self.stream.read_buf(&mut into)).poll(cx))?;
                    let found = self.reader.filled(before)?;
                    self.taken(bytes)?;
                    match found {
                        Some(found) => break (0, found),
                        None if bytes == 0 => return Poll::Ready(Ok(None)),
                        None => continue,
                    }
                }
                if !ready!(self.poll_fill(cx))? {
                    return Poll::Ready(Ok(None));
                }
            }
            let Some(ahead) = &mut self.ahead else { continue };
            let from = ahead.at;
            let (taken, found) = self.reader.read(&mut ahead.bytes[from..ahead.end])?;
            ahead.at += taken;
            self.taken(taken)?;
            if let Some(found) = found {
                break (from, found);
            }
        };
        let input = self.ahead.as_ref().map_or(&[][..], |ahead| &ahead.bytes[from..]);
        Poll::Ready(Ok(Some(Message { found, input })))
    }

    /// Reads ahead; `false` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut ahead = match self.ahead.take() {
            Some(ahead) if ahead.bytes.len() == AHEAD => ahead,
            _ => SPARE.take().unwrap_or_else(|| Ahead::of(&[0; AHEAD])),
        };
        let mut into = ReadBuf::new(&mut ahead.bytes);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut into);
        (ahead.at, ahead.end) = (0, if read.is_ready() { into.filled().len() } else { 0 });
        let has_some = ahead.end > 0;
        self.ahead = Some(ahead);
        read.map_ok(|()| has_some)
    }
}

/// What came, in the buffer where it lies.
pub(super) struct Message<'a> {
    found: Found,
    input: &'a [u8],
}

impl Message<'_> {
    pub(super) fn opcode(&self) -> Opcode {
        self.found.opcode
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.found.payload(self.input)
    }

    /// Bytes of a control frame, with its header.
    pub(super) fn framed(&self) -> usize {
        SHORTEST + self.payload().len()
    }
}

#[cfg(test)]
mod tests;
