//! [`Link`]: the part of a document shared by its handles, its observer, the router and its task.
//!
//! The router leaves notes and wakes the task, which applies them under the document's own lock, where the program's
//! observers run and may call this client. Lock order: the document's lock before the router's.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU64},
};

use datasole_core::{Client as Core, Millis, Payload, Question, StreamId, awareness::States};
use tokio::sync::Notify;
use yrs::{Doc, TransactionAcqError};

use crate::{
    router::{Follower, Notice, Shared},
    signal::{End, Feed},
    status::SyncStatus,
};

/// Received and not applied yet, above which it is dropped and the server's state compared again; updates and bytes.
const MAX_RECEIVED: usize = 10_000;
const MAX_RECEIVED_BYTES: usize = 8 * 1024 * 1024;

/// The last clock with which the awareness of any document of this program was announced.
static LAST_CLOCK: AtomicU64 = AtomicU64::new(0);

/// Marks the transactions that apply what came from the server.
pub(super) const ORIGIN: &str = "datasole";

/// One document of one client, shared by everything that works on it.
pub(super) struct Link {
    pub(super) stream: StreamId,
    pub(super) doc: Doc,
    /// The readers of the status.
    feed: Arc<Feed>,
    /// The readers of the awareness of others.
    pub(super) shown: Arc<Feed>,
    local: Mutex<Local>,
    /// There is something for the task.
    pub(super) wake: Notify,
}

pub(super) struct Local {
    notes: VecDeque<Note>,
    /// The updates among the notes, and their bytes.
    updates: (usize, usize),
    /// The edits handed to the core, and how many of them the server has stored.
    made: u64,
    stored: u64,
    pub(super) awareness: States,
    ended: bool,
}

/// Notes for the task.
pub(super) enum Note {
    Update(Vec<u8>),
    /// Updates were dropped.
    Missed,
    Question(Question),
}

impl Local {
    fn new(client: u64) -> Self {
        let awareness = States::new(client, &LAST_CLOCK);
        Self { notes: VecDeque::new(), updates: (0, 0), made: 0, stored: 0, awareness, ended: false }
    }

    pub(super) fn note(&mut self, note: Note) {
        if let Note::Update(update) = &note {
            self.updates = (self.updates.0 + 1, self.updates.1 + update.len());
        }
        self.notes.push_back(note);
        if self.updates.0 > MAX_RECEIVED || self.updates.1 > MAX_RECEIVED_BYTES {
            self.updates = (0, 0);
            self.notes.retain(|note| matches!(note, Note::Question(_)));
            self.notes.push_back(Note::Missed);
        }
    }
}

impl Link {
    pub(super) fn new(stream: StreamId, doc: Doc) -> Self {
        let (feed, shown, wake) = (Arc::new(Feed::lasting()), Arc::default(), Notify::new());
        let local = Mutex::new(Local::new(doc.client_id().get()));
        Self { stream, doc, feed, shown, local, wake }
    }

    /// Hands what is edited from now on to the core. Fails while a transaction is under way.
    pub(super) fn observe(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<(), TransactionAcqError> {
        let (link, shared) = (Arc::downgrade(self), Arc::downgrade(shared));
        self.doc.observe_update_v1(self.observer(), move |transaction, event| {
            if transaction.origin().is_none_or(|origin| origin.as_ref() != ORIGIN.as_bytes())
                && let (Some(link), Some(shared)) = (link.upgrade(), Weak::upgrade(&shared))
            {
                link.edited(&shared, &event.update);
            }
        })
    }

    /// Names the observer of one link, so that two clients of one program can follow the same `Doc`.
    pub(super) fn observer(&self) -> String {
        format!("datasole {:p}", &raw const *self)
    }

    /// Hands an edit to the core.
    pub(super) fn edited(&self, shared: &Shared, update: &[u8]) {
        let update = Payload::Binary(update.to_vec());
        shared.command(|router, now| {
            let mut local = self.local();
            let edit = local.made + 1;
            // After the end another link may follow the same document.
            let core = router.open_core().ok().filter(|_| !local.ended);
            if core.is_some_and(|core| core.edit(now, &self.stream, edit, update).is_ok()) {
                local.made = edit;
            }
        });
        self.feed.followers().tell();
    }

    /// How many edits were made.
    pub(super) fn made(&self) -> u64 {
        self.local().made
    }

    /// The status, where the updates up to `made` count.
    pub(super) fn status(&self, made: u64) -> SyncStatus {
        let pending = made.saturating_sub(self.local().stored);
        SyncStatus::new(self.feed.followers().phase(), usize::try_from(pending).unwrap_or(usize::MAX))
    }

    /// The notes for the task; `None` after the end.
    pub(super) fn take_notes(&self) -> Option<VecDeque<Note>> {
        let mut local = self.local();
        local.updates = (0, 0);
        (!local.ended).then(|| std::mem::take(&mut local.notes))
    }

    pub(super) fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower for Link {
    fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    fn apply(&self, payload: Payload, _: bool) -> Result<(), String> {
        if let Payload::Binary(update) = payload {
            self.local().note(Note::Update(update));
            self.wake.notify_one();
        }
        Ok(())
    }

    fn take(&self, core: &mut Core, now: Millis, notice: Notice) {
        let mut local = self.local();
        match notice {
            Notice::Ask(Question::Awareness) => core.aware(now, &self.stream.key, local.awareness.renew()),
            Notice::Ask(question) => {
                local.note(Note::Question(question));
                self.wake.notify_one();
            }
            Notice::Awareness(update) => {
                let (changed, answer) = local.awareness.apply(&update);
                if changed {
                    self.shown.followers().change();
                }
                if answer.is_some() {
                    core.aware(now, &self.stream.key, answer);
                }
            }
            Notice::Progress(progress) => {
                local.stored = progress.stored;
                self.feed.followers().tell();
            }
            Notice::Settled { .. } => {}
        }
    }

    fn lost(&self) {
        if self.local().awareness.forget_others() {
            self.shown.followers().change();
        }
    }

    fn is_settled(&self) -> bool {
        !matches!(self.status(self.made()), SyncStatus::Pending(_))
    }

    fn end(&self) {
        self.local().ended = true;
        self.feed.followers().end(End::Closed);
        self.shown.followers().end(End::Closed);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_received_is_bounded() {
        for (count, bytes, missed) in [
            (MAX_RECEIVED - 1, 1, false),
            (MAX_RECEIVED, 1, false),
            (MAX_RECEIVED + 1, 1, true),
            (8, MAX_RECEIVED_BYTES / 8, false),
            (8, MAX_RECEIVED_BYTES / 8 + 1, true),
        ] {
            let mut local = Local::new(1);
            local.note(Note::Question(Question::StateVector));
            (0..count).for_each(|_| local.note(Note::Update(vec![0; bytes])));
            assert_eq!(matches!(local.notes.back(), Some(Note::Missed)), missed, "{count} of {bytes}");
            assert!(matches!(local.notes[0], Note::Question(_)), "a question is never dropped");
            assert_eq!(local.notes.len(), if missed { 2 } else { count + 1 });
        }
    }
}
