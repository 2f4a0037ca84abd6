//! [`Keeper`], the task of a document: applies remote updates and answers the core's questions.

use std::{collections::VecDeque, sync::Arc};

use datasole_core::{Client as Core, Millis, Question};
use yrs::{
    AsyncTransact, Doc, ReadTxn, StateVector, Update, merge_updates_v1,
    updates::{decoder::Decode, encoder::Encode},
};

use super::link::{Link, Note, ORIGIN};
use crate::router::{Follower, Shared};

pub(crate) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<Link>,
    /// An update was applied since the last that could not be.
    pub(super) applied: bool,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        while let Some(notes) = self.link.take_notes() {
            if notes.is_empty() {
                self.link.wake.notified().await;
            }
            self.work(notes).await;
        }
        AsyncTransact::transact_mut(&self.link.doc).await.unobserve_update_v1(self.link.observer());
    }

    async fn work(&mut self, notes: VecDeque<Note>) {
        let mut updates = Vec::new();
        for note in notes {
            match note {
                Note::Update(update) => updates.push(update),
                Note::Missed => self.command(|core, now, link| core.unfit(now, &link.stream, true)),
                Note::Question(question) => {
                    self.apply(std::mem::take(&mut updates)).await;
                    self.answer(question).await;
                }
            }
        }
        self.apply(updates).await;
    }

    /// Applies updates in one transaction.
    async fn apply(&mut self, updates: Vec<Vec<u8>>) {
        if updates.is_empty() {
            return;
        }
        let mut transaction = AsyncTransact::transact_mut_with(&self.link.doc, ORIGIN).await;
        let before = transaction.has_missing_updates().then(|| transaction.state_vector());
        let mut apply = |update| transaction.apply_update(update).is_ok();
        let fitted = updates.iter().filter(|update| Update::decode_v1(update).is_ok_and(&mut apply)).count();
        if let Some(before) = before.filter(|before| *before != transaction.state_vector()) {
            // What was missing may be the server's, what waited for it an own edit: the server is told of both.
            self.link.edited(&self.shared, &transaction.encode_diff_v1(&before));
        }
        drop(transaction);
        self.applied |= fitted > 0;
        self.link.feed().followers().tell();
        if fitted < updates.len() {
            tracing::warn!(key = self.link.stream.key, "an update does not fit the local document");
            let applied = std::mem::take(&mut self.applied);
            self.command(|core, now, link| core.unfit(now, &link.stream, applied));
        }
    }

    async fn answer(&self, question: Question) {
        let answer = |answer| self.command(|core, now, link| core.answer(now, &link.stream.key, answer));
        match question {
            Question::Merge { updates } => answer(merge_updates_v1(&updates).unwrap_or_default()),
            Question::StateVector => answer(self.link.doc.transact().await.state_vector().encode_v1()),
            Question::Difference { theirs, small } => {
                // An unreadable state vector counts as empty.
                let theirs = StateVector::decode_v1(&theirs).unwrap_or_default();
                // Held until the answer is given: no edit comes in between that is not in it.
                let transaction = self.link.doc.transact().await;
                answer(if small { smallest(&transaction, &theirs) } else { transaction.encode_diff_v1(&theirs) });
            }
            Question::Awareness => {}
        }
    }

    fn command(&self, command: impl FnOnce(&mut Core, Millis, &Link)) {
        self.shared.command(|router, now| command(router.core_mut(), now, &self.link));
    }
}

/// The content that a document has beyond a state vector, without the deleted content that an undo manager keeps.
fn smallest(transaction: &impl ReadTxn, theirs: &StateVector) -> Vec<u8> {
    let whole = transaction.encode_diff_v1(&StateVector::default());
    let copy = Doc::new();
    let mut copying = yrs::Transact::transact_mut(&copy);
    if Update::decode_v1(&whole).is_ok_and(|update| copying.apply_update(update).is_ok()) {
        drop(copying);
        yrs::Transact::transact(&copy).encode_diff_v1(theirs)
    } else {
        transaction.encode_diff_v1(theirs)
    }
}

impl Drop for Keeper {
    /// Also runs if the runtime shuts down, or an observer of the program's panics: readers must end.
    fn drop(&mut self) {
        self.link.end();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    impl Keeper {
        /// Works up to the next question, for a test that answers one after the other.
        pub(crate) fn answer_next(&mut self) {
            let mut notes = self.link.take_notes().unwrap_or_default();
            let upto = notes.iter().position(|note| matches!(note, Note::Question(_))).map_or(notes.len(), |at| at + 1);
            let rest = notes.split_off(upto);
            self.work(notes).now_or_never().unwrap_or_else(|| panic!("nobody holds the document"));
            rest.into_iter().for_each(|note| self.link.local().note(note));
        }
    }
}
