//! What a document's stream holds: the document, and who is in it.

use bytes::Bytes;

use super::{awareness::Awareness, document::Document, message::Message};
use crate::{
    backend::{BackendError, Stored},
    hub::Entry,
    limits::Limits,
};

/// A document in memory, with those who follow it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) document: Document,
    pub(super) awareness: Awareness,
}

impl Shared {
    /// The document that a stored snapshot and entries amount to.
    pub(crate) fn restore(key: &str, stored: Option<&Stored>, limits: &Limits) -> Result<Self, BackendError> {
        let corrupt = || BackendError::Corrupt(format!("document {key:?}"));
        let update = |bytes: &Bytes| match Entry::decode(bytes) {
            Some(Entry::Update(update)) => Ok(update),
            _ => Err(corrupt()),
        };
        let snapshot =
            stored.and_then(|stored| stored.snapshot.as_ref()).map(|(_, bytes)| update(bytes)).transpose()?;
        let fresh = stored.map(Stored::since_snapshot).unwrap_or_default();
        let entries = fresh.iter().map(update).collect::<Result<Vec<Bytes>, BackendError>>()?;
        let document = Document::load(snapshot, entries, limits.max_doc).map_err(|error| {
            tracing::error!(%error, key, "a stored document cannot be read");
            corrupt()
        })?;
        Ok(Self { document, awareness: Awareness::default() })
    }

    /// The whole document, for the backend; nothing when it cannot be written.
    pub(crate) fn stored(&mut self) -> Option<Bytes> {
        let snapshot = self.document.compact();
        if let Err(error) = &snapshot {
            tracing::error!(%error, "a document cannot be compacted");
        }
        snapshot.ok().map(|snapshot| Entry::Update(snapshot).encode())
    }

    /// What a new follower is sent first: messages of y-protocols.
    pub(crate) fn greeting(&self) -> Vec<Vec<u8>> {
        let asked = Message::Ask(&self.document.state_vector()).bytes();
        let present = self.awareness.all().map(|all| Message::Awareness(&all).bytes());
        std::iter::once(asked).chain(present).collect()
    }

    /// A follower has gone: what the others are told.
    pub(crate) fn leave(&mut self, serial: u64) -> Option<Vec<u8>> {
        self.awareness.leave(serial).map(|gone| Message::Awareness(&gone).bytes())
    }

    /// The update that was pending could not be stored.
    pub(crate) fn retract(&mut self) {
        if let Err(error) = self.document.retract() {
            tracing::error!(%error, "a document cannot be restored");
        }
    }
}
