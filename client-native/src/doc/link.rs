//! [`Link`]: what the handles of a document, its observer, the router and its task share; [`Documents`], the links that
//! are open.
//!
//! The router and the observer only leave notes and wake the task: an update is applied under the document's own lock,
//! where the program's observers run and may call this client.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use datasole_core::{CallError, CallId, Payload, SubscriptionId};
use tokio::sync::{Notify, watch};
use yrs::Doc;

use super::awareness::Table;
use crate::{refusal::Answer, status::SyncStatus};

/// Received and not applied yet, above which it is dropped and asked for again; messages and bytes.
const MAX_RECEIVED: usize = 10_000;
const MAX_RECEIVED_BYTES: usize = 8 * 1024 * 1024;

/// Updates made here and not sent yet, above which the server's state is compared instead.
const MAX_WAITING: usize = 4_096;
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// One document of one client.
pub(crate) struct Link {
    pub(super) key: String,
    pub(super) doc: Doc,
    notes: Mutex<Notes>,
    edits: Mutex<Edits>,
    awareness: Mutex<Table>,
    /// There is something for the task.
    pub(super) wake: Notify,
    pub(super) status: watch::Sender<Progress>,
    /// Counts changes of what others show.
    pub(super) shown: watch::Sender<u64>,
}

/// How far the document is known to be stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The server has told what it has and taken what it had not, on this connection.
    pub(super) compared: bool,
    /// Updates made here that the server has.
    pub(super) stored: u64,
    pub(super) refused: Option<(i32, String)>,
    pub(super) closed: bool,
}

/// What the router has to tell the task.
pub(super) enum Note {
    Subscribed,
    Message(Vec<u8>),
    Answered(CallId, Answer),
    Lost,
    Refused { code: i32, message: String },
    Closed,
}

#[derive(Default)]
pub(super) struct Notes {
    pub(super) queue: VecDeque<Note>,
    messages: usize,
    bytes: usize,
    /// Messages were dropped.
    pub(super) missed: bool,
}

impl Notes {
    fn push(&mut self, note: Note) {
        match &note {
            Note::Message(message) => {
                self.messages += 1;
                self.bytes += message.len();
                if self.messages > MAX_RECEIVED || self.bytes > MAX_RECEIVED_BYTES {
                    self.drop_messages();
                    self.missed = true;
                    return;
                }
            }
            // What came before is of no use after these.
            Note::Subscribed | Note::Lost => {
                self.drop_messages();
                self.queue.retain(|note| !matches!(note, Note::Subscribed | Note::Lost | Note::Answered(..)));
                self.missed = false;
            }
            Note::Answered(..) | Note::Refused { .. } | Note::Closed => {}
        }
        self.queue.push_back(note);
    }

    fn drop_messages(&mut self) {
        self.queue.retain(|note| !matches!(note, Note::Message(_)));
        self.messages = 0;
        self.bytes = 0;
    }
}

/// What is made here.
#[derive(Default)]
pub(super) struct Edits {
    /// Updates made so far.
    pub(super) made: u64,
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    collecting: bool,
    /// More was made than is kept: the server's state is to be compared.
    pub(super) overflowed: bool,
}

impl Edits {
    fn push(&mut self, update: &[u8]) {
        self.made += 1;
        if !self.collecting {
            return;
        }
        if self.waiting.len() >= MAX_WAITING
            || self.bytes + update.len() > MAX_WAITING_BYTES && !self.waiting.is_empty()
        {
            self.stop();
            self.overflowed = true;
            return;
        }
        self.bytes += update.len();
        self.waiting.push_back(update.to_vec());
    }

    /// From here on updates are kept; what was made before is for a comparison to find. Returns how much that is.
    pub(super) fn collect(&mut self) -> u64 {
        self.stop();
        self.collecting = true;
        self.made
    }

    /// Nothing is kept; the document has everything.
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
        self.collecting = false;
        self.overflowed = false;
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The oldest updates, at most so many and, beyond the first, so many bytes; and the number of the last.
    pub(super) fn take(&mut self, count: usize, bytes: usize) -> (Vec<Vec<u8>>, u64) {
        let mut taken = Vec::new();
        let mut sum = 0;
        while taken.len() < count
            && let Some(update) = self.waiting.pop_front_if(|update| taken.is_empty() || sum + update.len() <= bytes)
        {
            sum += update.len();
            taken.push(update);
        }
        self.bytes -= sum;
        (taken, self.made - self.waiting.len() as u64)
    }
}

impl Link {
    pub(super) fn new(key: &str, doc: Doc) -> Self {
        Self {
            key: key.to_owned(),
            doc,
            notes: Mutex::default(),
            edits: Mutex::default(),
            awareness: Mutex::default(),
            wake: Notify::new(),
            status: watch::Sender::default(),
            shown: watch::Sender::default(),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    fn note(&self, note: Note) {
        lock(&self.notes).push(note);
        self.wake.notify_one();
    }

    pub(super) fn take_notes(&self) -> Notes {
        std::mem::take(&mut *lock(&self.notes))
    }

    /// The observer's: an update that was made here.
    pub(super) fn edited(&self, update: &[u8]) {
        self.edits().push(update);
        self.wake.notify_one();
    }

    pub(super) fn edits(&self) -> MutexGuard<'_, Edits> {
        lock(&self.edits)
    }

    pub(super) fn awareness(&self) -> MutexGuard<'_, Table> {
        lock(&self.awareness)
    }

    pub(super) fn own(&self) -> u64 {
        self.doc.client_id().get()
    }

    pub(super) fn sync_status(&self) -> SyncStatus {
        let made = self.edits().made;
        let progress = self.status.borrow();
        let pending = made.saturating_sub(progress.stored);
        match &progress.refused {
            Some((code, message)) => SyncStatus::Refused { code: *code, message: message.clone() },
            None if pending > 0 => SyncStatus::Pending(usize::try_from(pending).unwrap_or(usize::MAX)),
            None if progress.compared => SyncStatus::Synced,
            None => SyncStatus::Loading,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The documents of one client; under the router's lock.
#[derive(Default)]
pub(crate) struct Documents {
    open: HashMap<String, Opened>,
    submitted: HashMap<CallId, Arc<Link>>,
}

struct Opened {
    link: Arc<Link>,
    subscription: SubscriptionId,
    handles: usize,
}

impl Documents {
    /// Another handle of a document that is open.
    pub(crate) fn join(&mut self, key: &str) -> Option<Arc<Link>> {
        let opened = self.open.get_mut(key)?;
        opened.handles += 1;
        Some(opened.link.clone())
    }

    pub(crate) fn add(&mut self, link: Arc<Link>, subscription: SubscriptionId) {
        self.open.insert(link.key.clone(), Opened { link, subscription, handles: 1 });
    }

    /// A handle goes; the task leaves once nothing is pending.
    pub(super) fn leave(&mut self, key: &str) {
        if let Some(opened) = self.open.get_mut(key) {
            opened.handles -= 1;
            opened.link.wake.notify_one();
        }
    }

    /// Ends a document that has no handles.
    pub(crate) fn release(&mut self, key: &str) -> Option<SubscriptionId> {
        let opened = self.open.get(key).filter(|opened| opened.handles == 0)?;
        let subscription = opened.subscription;
        self.open.remove(key);
        Some(subscription)
    }

    pub(super) fn submitted(&mut self, call: CallId, link: &Arc<Link>) {
        self.submitted.insert(call, link.clone());
    }

    pub(super) fn has_handles(&self, key: &str) -> bool {
        self.open.get(key).is_some_and(|opened| opened.handles > 0)
    }

    // --- the router's ---

    fn note(&self, key: &str, note: Note) {
        if let Some(opened) = self.open.get(key) {
            opened.link.note(note);
        }
    }

    pub(crate) fn subscribed(&self, key: &str) {
        self.note(key, Note::Subscribed);
    }

    pub(crate) fn message(&self, key: &str, payload: Payload) {
        if let Payload::Binary(message) = payload {
            self.note(key, Note::Message(message));
        }
    }

    pub(crate) fn answered(&mut self, call: CallId, outcome: Result<Payload, CallError>) {
        if let Some(link) = self.submitted.remove(&call) {
            link.note(Note::Answered(call, outcome.into()));
        }
    }

    pub(crate) fn refused(&self, key: &str, code: i32, message: &str) {
        self.note(key, Note::Refused { code, message: message.to_owned() });
    }

    pub(crate) fn lost(&mut self) {
        self.submitted.clear();
        self.open.values().for_each(|opened| opened.link.note(Note::Lost));
    }

    pub(crate) fn close(&mut self) {
        for (_, opened) in self.open.drain() {
            opened.link.note(Note::Closed);
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("key", &self.key).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("keys", &self.open.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_received_is_bounded() {
        let message = |bytes| Note::Message(vec![0; bytes]);
        for (count, bytes, missed) in [
            (MAX_RECEIVED - 1, 1, false),
            (MAX_RECEIVED, 1, false),
            (MAX_RECEIVED + 1, 1, true),
            (8, MAX_RECEIVED_BYTES / 8, false),
            (8, MAX_RECEIVED_BYTES / 8 + 1, true),
        ] {
            let mut notes = Notes::default();
            notes.push(Note::Lost);
            (0..count).for_each(|_| notes.push(message(bytes)));
            assert_eq!(notes.missed, missed, "{count} of {bytes}");
            assert_eq!(notes.queue.len(), if missed { 1 } else { count + 1 });
        }
    }

    /// Updates of these sizes, and whether they were too much.
    fn check(count: usize, size: usize, overflowed: bool) {
        let mut edits = Edits::default();
        edits.push(&[0]);
        assert_eq!((edits.collect(), edits.waiting()), (1, 0));
        (0..count).for_each(|_| edits.push(&vec![0; size]));
        assert_eq!(edits.overflowed, overflowed, "{count} of {size}");
        assert_eq!((edits.made, edits.waiting()), (1 + count as u64, if overflowed { 0 } else { count }));
    }

    #[test]
    fn what_waits_to_be_sent_is_bounded() {
        check(MAX_WAITING - 1, 1, false);
        check(MAX_WAITING, 1, false);
        check(MAX_WAITING + 1, 1, true);
        check(4, MAX_WAITING_BYTES / 4, false);
        check(4, MAX_WAITING_BYTES / 4 + 1, true);
        check(1, MAX_WAITING_BYTES + 1, false);
    }

    #[test]
    fn batches_are_bounded_and_numbered() {
        let mut edits = Edits::default();
        edits.collect();
        (0..5).for_each(|_| edits.push(&[0; 10]));
        let mut take = |count, bytes| {
            let (taken, upto) = edits.take(count, bytes);
            (taken.len(), upto)
        };
        assert_eq!(take(1, 100), (1, 1));
        assert_eq!(take(9, 20), (2, 3));
        assert_eq!(take(9, 1), (1, 4), "one always");
        assert_eq!(take(9, 100), (1, 5));
        assert_eq!(take(9, 100), (0, 5));
    }
}
