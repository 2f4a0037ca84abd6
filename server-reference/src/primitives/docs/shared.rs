//! [`Shared`]: the content of a document's stream, and the awareness of its followers.

use std::sync::Arc;

use bytes::Bytes;
use datasole_core::{StreamKind, frame::Opcode, wire::push_varuint};

use super::{awareness::Awareness, document::Document, error::DocError, message::Message};
use crate::{
    backend::{
        BackendError,
        log::{Rule, Stored},
    },
    entry::Entry,
    hub::{At, Delivery, Inapplicable, Kind, Rules, Spec, V1},
    limits::{Limits, Replay},
    message::framed,
    primitives::reservation::Reservation,
};

/// A change of a document: a Yjs update.
const UPDATE: u8 = b'u';

/// The line of documents in the table of kinds.
pub(crate) fn kind(limits: &Arc<Limits>) -> Spec {
    let own = limits.clone();
    let make = move |key: &str| -> Box<dyn Kind> { Box::new(Shared::new(key, own.clone())) };
    Spec { kind: StreamKind::Doc, spare: limits.max_idle_docs, v1_follows: false, make: Box::new(make) }
}

/// A document in memory, with the awareness of its followers.
#[derive(Debug)]
pub(crate) struct Shared {
    key: Box<str>,
    pub(super) document: Document,
    pub(super) awareness: Awareness,
    /// True if the backend has anything of the document.
    exists: bool,
    /// A reservation for the document, if the pending changes create it.
    reservation: Option<Reservation>,
    limits: Arc<Limits>,
}

impl Shared {
    fn new(key: &str, limits: Arc<Limits>) -> Self {
        let document = Document::empty(limits.max_doc);
        Self { key: key.into(), document, awareness: Awareness::default(), exists: false, reservation: None, limits }
    }

    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// The entry of an update that is pending in the document.
    pub(super) fn intend(&mut self, update: &[u8], reservation: Option<Reservation>) -> Entry {
        self.reservation = reservation;
        Entry::new(UPDATE, update)
    }
}

impl Kind for Shared {
    fn rules(&self) -> Rules {
        let (entries, bytes) = (self.limits.doc_compact_entries, self.limits.doc_compact_bytes);
        Rules {
            stored: true,
            relayed: false,
            replay: Replay::NONE,
            compaction: Replay { entries, bytes, age: None },
            delivery: Delivery::Others,
            v1: V1::Nothing,
            evictable: true,
            numbered: true,
        }
    }

    fn restore(&mut self, stored: &Stored) -> Result<(), BackendError> {
        let corrupt = || BackendError::Corrupt(format!("document {:?}", self.key));
        let update = |bytes: &Bytes| match Entry::stored(bytes.clone()) {
            Some(entry) if entry.tag() == UPDATE => Ok(bytes.slice(1..)),
            _ => Err(corrupt()),
        };
        let snapshot = stored.snapshot.as_ref().map(|(_, bytes)| update(bytes)).transpose()?;
        let entries = stored
            .since_snapshot()
            .iter()
            .map(|entry| update(&entry.bytes))
            .collect::<Result<Vec<Bytes>, BackendError>>()?;
        self.document = Document::load(snapshot, entries, self.limits.max_doc).map_err(|error| {
            tracing::error!(%error, key = self.key, "a stored document cannot be read");
            corrupt()
        })?;
        self.exists = stored.mark.position.seq > 0;
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Inapplicable> {
        if self.document.is_pending(entry.content()) {
            self.document.settle();
        } else {
            self.retract();
            self.document.take(entry.content()).map_err(|_| Inapplicable)?;
        }
        self.exists = true;
        self.reservation.take().into_iter().for_each(Reservation::keep);
        Ok(())
    }

    fn rule(&self, _: &Entry) -> Rule {
        Rule::Behind
    }

    fn retract(&mut self) {
        self.reservation = None;
        if let Err(error) = self.document.retract() {
            tracing::error!(%error, key = self.key, "a document cannot be restored");
        }
    }

    /// The whole document; nothing when it cannot be written.
    fn snapshot(&mut self) -> Option<Bytes> {
        let snapshot = self.document.compact();
        if let Err(error) = &snapshot {
            tracing::error!(%error, key = self.key, "a document cannot be compacted");
        }
        snapshot.ok().map(|snapshot| Entry::new(UPDATE, &snapshot).bytes().clone())
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn reads(&self, entry: &Entry) -> bool {
        entry.tag() == UPDATE
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        message(at.position.seq, &Message::Change(entry.content()), at)
    }

    fn greeting(&self, at: &At<'_>) -> Vec<Bytes> {
        let asked = message(0, &Message::Ask(&self.document.state_vector()), at);
        let present = self.awareness.all().map(|all| message(0, &Message::Awareness(&all), at));
        std::iter::once(asked).chain(present).collect()
    }

    fn restart(&mut self, at: &At<'_>) -> Vec<Bytes> {
        let whole = self.document.encode().ok().map(|whole| message(0, &Message::Answer(&whole), at));
        whole.into_iter().chain(self.greeting(at)).collect()
    }

    fn leave(&mut self, serial: u64, at: &At<'_>) -> Option<Bytes> {
        self.awareness.leave(serial).map(|gone| message(0, &Message::Awareness(&gone), at))
    }
}

impl Shared {
    /// Takes a follower's awareness update; returns the message for the others.
    pub(super) fn announce(&mut self, serial: u64, update: &[u8], at: &At<'_>) -> Result<Option<Bytes>, DocError> {
        let news = self.awareness.apply(serial, update)?;
        Ok(news.map(|news| message(0, &Message::Awareness(&news), at)))
    }
}

/// The message that carries one of y-protocols; `seq` is 0 for what is no entry.
pub(super) fn message(seq: u64, message: &Message<'_>, at: &At<'_>) -> Bytes {
    framed(Opcode::Doc, at.channel, 16 + message.len(), at.compress_above, |out| {
        push_varuint(out, seq);
        message.write(out);
    })
}
