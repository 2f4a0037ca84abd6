//! [`Turns`]: the turns to append that this node waits for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use datasole_core::StreamId;
use tokio::sync::Notify;

use crate::sync::lock;

/// Streams whose turn is waited for: of each, only who has the right to append waits.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<StreamId, Arc<Notify>>>);

/// A turn that is waited for, until this is dropped.
pub(super) struct Awaited<'a> {
    turns: &'a Turns,
    stream: &'a StreamId,
    came: Arc<Notify>,
}

impl Turns {
    /// Begins to wait: a turn that comes from here on is noticed.
    pub(super) fn wait<'a>(&'a self, stream: &'a StreamId) -> Awaited<'a> {
        let came = lock(&self.0).entry(stream.clone()).or_default().clone();
        Awaited { turns: self, stream, came }
    }

    /// Tells who waits that the turn has come; `false` if nobody does.
    pub(super) fn came(&self, stream: &StreamId) -> bool {
        let turns = lock(&self.0);
        let awaited = turns.get(stream);
        awaited.inspect(|came| came.notify_one()).is_some()
    }
}

impl Awaited<'_> {
    /// Waits until the turn has come.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        lock(&self.turns.0).remove(self.stream);
    }
}
