//! A byte stream that remembers incoming bytes as signs of life. Half a message is one, too: no peer can answer a ping
//! in the middle of a frame. What comes of a message is counted until the message is complete.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::Arriving;

/// Bytes that are read from the socket at once. The parser takes them in smaller pieces, so that its own buffer is small.
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

pub(super) struct Heard<S> {
    stream: S,
    /// None where all that was read is taken.
    ahead: Option<Box<Ahead>>,
    heard: bool,
    /// Bytes that may still come; `usize::MAX` without a bound.
    allowance: usize,
    /// The bytes of the message that is coming.
    arriving: Arriving,
    /// Nothing is read: there is no room.
    stalled: bool,
    /// The last bytes of the last read.
    last: [u8; 4],
}

impl<S> Heard<S> {
    /// A stream of which `read` has been read already.
    pub(super) fn new(stream: S, read: &[u8], allowance: Option<usize>, arriving: Arriving) -> Self {
        Self {
            stream,
            ahead: (!read.is_empty()).then(|| Ahead::of(read)),
            heard: false,
            allowance: allowance.unwrap_or(usize::MAX),
            arriving,
            stalled: false,
            last: [0; 4],
        }
    }

    /// Others read on this thread: what was read and not taken is kept apart from the buffer for all.
    pub(super) fn rest(&mut self) {
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.bytes.len() == AHEAD) {
            self.ahead = Some(Ahead::of(ahead.rest()));
            SPARE.set(Some(ahead));
        }
    }

    /// A message is complete: what comes from here on is of the next one.
    pub(super) fn complete(&mut self) {
        self.heard = false;
        self.arriving.clear();
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

    /// True if more came than may.
    pub(super) fn is_exceeded(&self) -> bool {
        self.allowance == 0
    }

    /// True if what came last is a WebSocket close without a mask, as some proxies say goodbye.
    pub(super) fn ends_in_bare_close(&self) -> bool {
        matches!(self.last, [0x88, 2, ..] | [_, _, 0x88, 0])
    }

    /// True if bytes came since the last call.
    pub(super) fn take(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }
}

impl<S: AsyncRead + Unpin> Heard<S> {
    /// Moves bytes that were read, or can be, into a buffer.
    fn poll_take(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ahead = match self.ahead.take() {
            Some(ahead) => ahead,
            None if buffer.remaining() >= AHEAD => return Pin::new(&mut self.stream).poll_read(cx, buffer),
            None => {
                let mut spare = SPARE.take().unwrap_or_else(|| Ahead::of(&[0; AHEAD]));
                let mut into = ReadBuf::new(&mut spare.bytes);
                let read = Pin::new(&mut self.stream).poll_read(cx, &mut into);
                (spare.at, spare.end) = (0, into.filled().len());
                if !matches!(read, Poll::Ready(Ok(()))) {
                    SPARE.set(Some(spare));
                    return read;
                }
                spare
            }
        };
        let taken = ahead.rest().len().min(buffer.remaining());
        buffer.put_slice(&ahead.rest()[..taken]);
        ahead.at += taken;
        if !ahead.rest().is_empty() {
            self.ahead = Some(ahead);
        } else if ahead.bytes.len() == AHEAD {
            SPARE.set(Some(ahead));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stalled {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(self.poll_take(cx, buffer))?;
        let read = &buffer.filled()[before..];
        self.heard |= !read.is_empty();
        self.stalled = !self.arriving.grow(read.len());
        if let Some(last) = read.last_chunk::<4>() {
            self.last = *last;
        } else if !read.is_empty() {
            self.last.rotate_left(read.len());
            self.last[4 - read.len()..].copy_from_slice(read);
        }
        if self.allowance != usize::MAX {
            self.allowance = self.allowance.saturating_sub(read.len());
            if self.allowance == 0 && !read.is_empty() {
                return Poll::Ready(Err(io::Error::other("too much before AUTH")));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
