//! [`Reader`]: messages and control frames from the bytes of a client, without a socket.
//!
//! A frame that has come as a whole is unmasked where it lies. Nothing is kept at rest: what belongs to a message that is
//! not complete is in one box. What a frame announces takes no memory before it comes: no payload takes more than four times
//! the bytes that have.

use std::{mem::take, ops::Range};

use super::frame::{Header, LONGEST, Opcode, Violation, check_close, unmask};

/// The rest of a frame from which on it is read straight into the message; bytes.
const DIRECT: usize = 8 * 1024;

/// A message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Never [`Opcode::Continuation`].
    pub(super) opcode: Opcode,
    payload: Payload,
}

#[derive(Debug, PartialEq, Eq)]
enum Payload {
    /// In the bytes that were read last.
    There(Range<usize>),
    /// Gathered from several pieces.
    Here(Vec<u8>),
}

impl Found {
    /// The payload; `input` is what the reader was given with it.
    pub(super) fn payload<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        match &self.payload {
            Payload::There(range) => input.get(range.clone()).unwrap_or_default(),
            Payload::Here(payload) => payload,
        }
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    /// Bytes of the longest message.
    limit: usize,
    /// None between two messages.
    part: Option<Box<Part>>,
}

/// What has come of a message, or of a frame.
#[derive(Debug, Default)]
struct Part {
    /// The beginning of a header.
    head: Vec<u8>,
    /// The frame whose payload is coming.
    frame: Option<Coming>,
    /// The payload of a control frame.
    control: Vec<u8>,
    /// The kind of the message.
    kind: Option<Opcode>,
    payload: Vec<u8>,
    /// Bytes of a text that are UTF-8.
    valid: usize,
}

#[derive(Debug)]
struct Coming {
    fin: bool,
    opcode: Opcode,
    /// Turned to the next byte.
    mask: [u8; 4],
    /// Bytes that are missing.
    left: usize,
}

impl Reader {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, part: None }
    }

    /// True where no message has begun that is not complete.
    pub(super) fn is_between(&self) -> bool {
        self.part.is_none()
    }

    /// Takes bytes up to the end of the next message or control frame: how many, and that. Less than all are taken only
    /// before the end of one. After an error nothing more can be read.
    pub(super) fn read(&mut self, input: &mut [u8]) -> Result<(usize, Option<Found>), Violation> {
        match &mut self.part {
            Some(part) => {
                let read = part.read(input, self.limit)?;
                self.part.take_if(|part| part.is_over());
                Ok(read)
            }
            None => {
                if let Some(whole) = whole(input, self.limit)? {
                    return Ok(whole);
                }
                let mut part = Box::<Part>::default();
                let read = part.read(input, self.limit)?;
                self.part = Some(part).filter(|part| !part.is_over());
                Ok(read)
            }
        }
    }

    /// Where the next bytes belong without a detour, and how many at most, while some of a long message has come and most of
    /// a long frame is missing. Whoever appends some calls [`filled`](Self::filled).
    pub(super) fn room(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let part = self.part.as_mut()?;
        let frame = part.frame.as_ref().filter(|frame| frame.left >= DIRECT && !frame.opcode.is_control())?;
        let (left, come) = (frame.left, part.payload.len());
        if come < DIRECT / 2 {
            return None;
        }
        reserve(&mut part.payload, come.min(DIRECT), frame);
        let room = part.payload.capacity() - come;
        Some((&mut part.payload, room.min(left)))
    }

    /// Takes note of bytes appended to [`room`](Self::room), whose length was `before`.
    pub(super) fn filled(&mut self, before: usize) -> Result<Option<Found>, Violation> {
        let Some(part) = &mut self.part else { return Ok(None) };
        let found = part.came(before)?;
        self.part.take_if(|part| part.is_over());
        Ok(found)
    }
}

/// The message or control frame that `input` begins with, if that is all of it.
fn whole(input: &mut [u8], limit: usize) -> Result<Option<(usize, Option<Found>)>, Violation> {
    let Some((header, at)) = Header::read(input)? else { return Ok(None) };
    let Header { fin, opcode, mask, length } = header;
    if !fin || opcode == Opcode::Continuation {
        return Ok(None);
    }
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= limit || opcode.is_control()) else {
        return Err(Violation::TooBig);
    };
    let end = at.saturating_add(length);
    let Some(payload) = input.get_mut(at..end) else { return Ok(None) };
    unmask(payload, mask);
    match opcode {
        Opcode::Text => drop(std::str::from_utf8(payload).map_err(|_| Violation::Utf8)?),
        Opcode::Close => check_close(payload)?,
        _ => {}
    }
    Ok(Some((end, Some(Found { opcode, payload: Payload::There(at..end) }))))
}

/// Makes room for so many bytes of a frame, which have come, or of which as many have; for all that is missing where that ends
/// the message and is not much more.
fn reserve(payload: &mut Vec<u8>, bytes: usize, frame: &Coming) {
    if frame.fin && frame.left <= payload.len() + 2 * bytes {
        payload.reserve_exact(frame.left);
    } else {
        payload.reserve(bytes);
    }
}

impl Part {
    /// True if nothing of it is needed any more.
    fn is_over(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.kind.is_none()
    }

    fn read(&mut self, input: &mut [u8], limit: usize) -> Result<(usize, Option<Found>), Violation> {
        let mut taken = 0;
        loop {
            if self.frame.is_none() {
                let had = self.head.len();
                let more = (LONGEST - had).min(input.len() - taken);
                self.head.extend_from_slice(&input[taken..taken + more]);
                let Some((header, length)) = Header::read(&self.head)? else { return Ok((taken + more, None)) };
                taken += length - had;
                self.head.clear();
                self.begin(&header, limit)?;
            }
            let Some(frame) = &self.frame else { return Ok((taken, None)) };
            let more = frame.left.min(input.len() - taken);
            let payload = if frame.opcode.is_control() { &mut self.control } else { &mut self.payload };
            let before = payload.len();
            reserve(payload, more, frame);
            payload.extend_from_slice(&input[taken..taken + more]);
            taken += more;
            let found = self.came(before)?;
            if found.is_some() || self.frame.is_some() {
                return Ok((taken, found));
            }
        }
    }

    /// Begins a frame, if it may follow what has come.
    fn begin(&mut self, header: &Header, limit: usize) -> Result<(), Violation> {
        let Header { fin, opcode, mask, length } = *header;
        match (opcode, self.kind) {
            (Opcode::Text | Opcode::Binary, Some(_)) | (Opcode::Continuation, None) => return Err(Violation::Protocol),
            (Opcode::Text | Opcode::Binary, None) => self.kind = Some(opcode),
            _ => {}
        }
        let room = if opcode.is_control() { usize::MAX } else { limit.saturating_sub(self.payload.len()) };
        let left = usize::try_from(length).ok().filter(|length| *length <= room).ok_or(Violation::TooBig)?;
        self.frame = Some(Coming { fin, opcode, mask, left });
        Ok(())
    }

    /// Takes note of bytes of the frame that lie behind `before` where its payload is gathered.
    fn came(&mut self, before: usize) -> Result<Option<Found>, Violation> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let is_control = frame.opcode.is_control();
        let payload = if is_control { &mut self.control } else { &mut self.payload };
        let bytes = payload.get_mut(before..).unwrap_or_default();
        unmask(bytes, frame.mask);
        frame.mask.rotate_left(bytes.len() % 4);
        frame.left = frame.left.saturating_sub(bytes.len());
        let Coming { fin, opcode, left, .. } = *frame;
        if !is_control && self.kind == Some(Opcode::Text) {
            self.valid += valid(&self.payload[self.valid..])?;
        }
        if left > 0 {
            return Ok(None);
        }
        self.frame = None;
        if is_control {
            let payload = take(&mut self.control);
            if opcode == Opcode::Close {
                check_close(&payload)?;
            }
            return Ok(Some(Found { opcode, payload: Payload::Here(payload) }));
        }
        let Some(kind) = self.kind.take_if(|_| fin) else { return Ok(None) };
        if kind == Opcode::Text && self.valid < self.payload.len() {
            return Err(Violation::Utf8);
        }
        self.valid = 0;
        Ok(Some(Found { opcode: kind, payload: Payload::Here(take(&mut self.payload)) }))
    }
}

/// The length of the beginning of `text` that is UTF-8; a character may be cut off at the end.
fn valid(text: &[u8]) -> Result<usize, Violation> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(Violation::Utf8),
    }
}

#[cfg(any(test, feature = "arbitrary"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
