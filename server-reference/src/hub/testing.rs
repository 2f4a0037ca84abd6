//! A kind of streams for tests: their content is the latest number, their entries are numbers.

use std::sync::Arc;

use bytes::Bytes;
use datasole_core::{Position, StreamId, frame::Opcode};

use super::{
    held::Held,
    kind::{At, Delivery, Displaced, Form, Inapplicable, Job, Kind, Lent, Read, Rules, Showing, V1},
    ready::Next,
    stream::{Common, Rest, Start, Stream},
    window::Window,
};
use crate::{
    backend::{
        BackendError,
        log::{self, Mark, Stored, Tag},
    },
    connection::Protocol,
    desk::Desk,
    entry::Entry,
    limits::{Limits, Replay},
    message::{self, Object, framed},
};

/// The latest number. Its frames look like those of a state.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    latest: u64,
    replay: Option<Replay>,
    /// Whether it is large, and making the message that shows it panics.
    broken: bool,
    /// Whether it loses what it parts with.
    lossy: bool,
}

/// An entry.
pub(crate) fn number(number: u64) -> Entry {
    Entry::new(b'n', number.to_string().as_bytes())
}

impl Numbers {
    /// A stream without a hub, its messages uncompressed.
    pub(crate) fn stream(key: &str, position: Position, replay: Replay) -> Arc<Stream> {
        Self { latest: position.seq, replay: Some(replay), ..Self::default() }.at(key, position)
    }

    /// A large one that cannot be shown.
    pub(crate) fn broken(key: &str) -> Arc<Stream> {
        Self { broken: true, ..Self::default() }.at(key, Position::default())
    }

    /// One that loses what it parts with.
    pub(crate) fn lossy(key: &str) -> Arc<Stream> {
        Self { lossy: true, ..Self::default() }.at(key, Position::default())
    }

    fn at(self, key: &str, position: Position) -> Arc<Stream> {
        let content: Box<dyn Kind> = Box::new(self);
        let limits = Limits::default().with(|limits| limits.compress_above = usize::MAX);
        let common = Common::new(&*content, &limits, Arc::default(), Desk::default());
        let mark = Mark { position, tag: Tag::default() };
        let start = Start { mark, content, window: Window::default(), held: Held::default(), again: Vec::new() };
        Arc::new(Stream::new(StreamId::state(key), start, common, 0))
    }

    /// Publishes the number of the next entry.
    pub(crate) fn count(stream: &Arc<Stream>) {
        Self::publish(stream, stream.position().seq + 1, 0);
    }

    /// Publishes a number as if others had appended it.
    pub(crate) fn publish(stream: &Arc<Stream>, published: u64, now: u64) {
        let entry = log::Entry { bytes: number(published).bytes().clone(), ..log::Entry::default() };
        let next = std::iter::once(Next::from(&entry));
        stream.accept((stream.position(), next), (now, &[]), &mut Rest::default()).unwrap();
    }
}

impl Kind for Numbers {
    fn rules(&self) -> Rules {
        let replay = self.replay.unwrap_or(Replay::NONE);
        Rules {
            stored: false,
            relayed: false,
            replay,
            compaction: replay,
            delivery: Delivery::Conflated,
            v1: V1::Followed,
            evictable: false,
            numbered: false,
        }
    }

    fn form(&self) -> &'static dyn Form {
        &Digits
    }

    fn restore(&mut self, _: &Stored) -> Result<(), BackendError> {
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, _: Option<Read>) -> Result<Option<Displaced>, Inapplicable> {
        self.latest = entry.text().parse().map_err(|_| Inapplicable)?;
        Ok(None)
    }

    fn snapshot(&mut self) -> Option<Job<Bytes>> {
        let latest = self.latest;
        Some(Box::new(move || number(latest).bytes().clone()))
    }

    fn is_gone(&self) -> bool {
        self.latest == 0
    }

    fn part_with(&mut self) -> Option<Lent> {
        self.lossy.then(|| Box::new(()) as Lent)
    }

    fn take_back(&mut self, _lent: Lent) -> Option<Job<Option<Lent>>> {
        Some(Box::new(|| None))
    }

    fn weight(&self) -> usize {
        if self.broken { 1 << 20 } else { 0 }
    }

    fn show(&mut self, _: Protocol) -> Option<Showing> {
        let Self { latest, broken, .. } = *self;
        Some(Box::new(move |at| {
            assert!(!broken, "for a test");
            let shown = framed(Opcode::StateSnapshot, 0, 0, at.compress_above, |out| {
                Object::new(out).text("key", at.key).number("data", latest).position(at.position).end();
            });
            (shown, 0)
        }))
    }
}

/// The entries: numbers.
#[derive(Debug)]
struct Digits;

impl Form for Digits {
    fn reads(&self, entry: &Entry) -> bool {
        entry.text().parse::<u64>().is_ok()
    }

    fn most(&self, entry: &Entry, key: &str) -> Option<usize> {
        Some(message::most(key, entry.content()))
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        framed(Opcode::StatePatch, 0, 0, at.compress_above, |out| {
            let patches = format!(r#"[{{"op":"replace","path":"","value":{}}}]"#, entry.text());
            Object::new(out).text("key", at.key).raw("patches", patches.as_bytes()).position(at.position).end();
        })
    }
}
