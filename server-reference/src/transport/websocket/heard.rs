//! A byte stream that remembers incoming bytes as signs of life. Half a message is one, too: no peer can answer a ping
//! in the middle of a frame. What comes of a message is counted until the message is complete.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::Arriving;

pub(super) struct Heard<S> {
    stream: S,
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
    pub(super) fn new(stream: S, allowance: Option<usize>, arriving: Arriving) -> Self {
        Self {
            stream,
            heard: false,
            allowance: allowance.unwrap_or(usize::MAX),
            arriving,
            stalled: false,
            last: [0; 4],
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

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stalled {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
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
