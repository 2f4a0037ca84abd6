//! Shared documents, compatible with Yjs.

use std::sync::Arc;

use bytes::Bytes;
use datasole_core::codes;

use crate::{
    backend::{BackendError, Stored},
    hub::Stream,
    session::{Request, Task},
};

/// One document in memory.
#[derive(Debug, Default)]
pub(crate) struct Document {}

impl Document {
    /// The document that a stored snapshot and entries amount to.
    pub(crate) fn restore(_key: &str, _stored: &Stored) -> Result<Self, BackendError> {
        Ok(Self {})
    }

    /// The whole document, for the backend.
    pub(crate) fn stored(&self) -> Bytes {
        Bytes::new()
    }

    /// What a new follower is sent first: messages of y-protocols.
    pub(crate) fn greeting(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// A follower has gone: what the others are told.
    pub(crate) fn leave(&mut self, _serial: u64) -> Option<Vec<u8>> {
        None
    }
}

/// Serves a DOC frame of a follower.
pub(crate) fn receive(request: Request, _stream: Arc<Stream>, _message: &[u8]) -> Option<Task> {
    request.refuse(codes::NOT_FOUND, "this server has no documents", None);
    None
}
