//! Open streams: CRDTs, presence rooms and documents, and every rule by which a client keeps them.
//!
//! The host owns values, handles, storage and timers; here are only ids of edits and the text or bytes to be sent.

use crate::{error::CommandError, event::Payload, stream::StreamId, table::Table};

/// Most edits of a stream that wait to be settled.
pub(crate) const MAX_EDITS: usize = 10_000;

/// The open streams of a client.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Table<StreamId, Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    handles: usize,
    edits: Vec<(u64, Payload)>,
}

impl Streams {
    /// Counts a handle of a stream.
    pub(crate) fn open(&mut self, stream: StreamId) {
        match self.open.get_mut(&stream) {
            Some(opened) => opened.handles += 1,
            None => self.open.insert(stream, Opened { handles: 1, edits: Vec::new() }),
        }
    }

    /// Counts a handle less; whether there was one.
    pub(crate) fn leave(&mut self, stream: &StreamId) -> bool {
        let Some(opened) = self.open.get_mut(stream) else { return false };
        opened.handles -= 1;
        if opened.handles == 0 {
            self.open.remove(stream);
        }
        true
    }

    /// Queues an edit.
    pub(crate) fn edit(&mut self, stream: &StreamId, edit: u64, payload: Payload) -> Result<(), CommandError> {
        let opened = self.open.get_mut(stream).ok_or(CommandError::NotOpen { what: stream.kind.name() })?;
        if opened.edits.len() >= MAX_EDITS {
            return Err(CommandError::Limit { what: "edits of a stream", limit: MAX_EDITS });
        }
        opened.edits.push((edit, payload));
        Ok(())
    }
}
