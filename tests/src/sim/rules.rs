//! Who may read and change which stream: the application changes its mind.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use datasole_core::StreamId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Read,
    Write,
}

/// What is forbidden; shared with the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Arc<Mutex<BTreeSet<(Verb, String, StreamId)>>>);

impl Rules {
    pub(super) fn may(&self, verb: Verb, user: &str, stream: &StreamId) -> bool {
        let forbidden = self.0.lock().unwrap();
        forbidden.is_empty() || !forbidden.contains(&(verb, user.to_owned(), stream.clone()))
    }

    /// Allows what is forbidden and forbids what is allowed.
    pub(super) fn flip(&self, verb: Verb, user: &str, stream: StreamId) {
        let mut forbidden = self.0.lock().unwrap();
        let rule = (verb, user.to_owned(), stream);
        if !forbidden.remove(&rule) {
            forbidden.insert(rule);
        }
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}
