//! [`OpenDocument`]: how a Yjs document is compared with the server's and then kept equal, with its awareness; messages
//! are those of y-protocols, updates opaque.

mod awareness;
mod message;

use std::collections::VecDeque;

use self::{
    awareness::Awareness,
    message::{Message, STATE_VECTOR, STEP_2, UPDATE},
};
use super::{
    Act, Context,
    answer::{Answer, Refused},
};
use crate::{
    error::{CommandError, codes},
    event::{Event, Payload, Question, SyncPhase},
    session::Version,
    stream::Position,
    time::Millis,
};

/// Messages that may be without an answer.
pub(crate) const WINDOW: usize = 32;

/// Updates merged into one message when more wait than the window has room for, and their bytes.
pub(crate) const MERGED: usize = 64;
pub(crate) const MERGED_BYTES: usize = 128 * 1024;

/// Updates that wait to be sent, and their bytes: with more, the server's state is compared instead.
pub(crate) const MAX_WAITING: usize = 4_096;
pub(crate) const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// Comparisons in a row after a message or an update that made no sense.
pub(crate) const MAX_FAULTS: u8 = 3;

/// Questions that the host may have left unanswered.
pub(crate) const MAX_ASKED: usize = 16;

/// Milliseconds before a comparison that is the server's or our own fault.
const AFTER_FAULT: u64 = 100;

/// Milliseconds before a question that the server has not answered is asked again: one that is refused has no id to be
/// refused under.
const PATIENCE: u64 = 10_000;

/// Milliseconds before a document with a refused edit is compared again because it has changed; at first, and at most.
const AFTER_REFUSAL: u64 = 1_000;
const LONGEST_WAIT: u64 = 60_000;

/// One document that is open.
#[derive(Debug)]
pub(crate) struct OpenDocument {
    stage: Stage,
    /// The server has answered with what was missing here, since the document was subscribed to.
    complete: bool,
    /// The same, and it counts.
    received: bool,
    /// The server has taken what was missing there.
    told: bool,
    /// The host's number of the latest edit, and of the latest that is stored with all before it.
    made: u64,
    stored: u64,
    unanswered: VecDeque<Sent>,
    /// The number of the latest submission.
    sent: u64,
    waiting: VecDeque<(u64, Vec<u8>)>,
    waiting_bytes: usize,
    asked: VecDeque<Asked>,
    /// Begins anew with every comparison: answers of the host to earlier ones are of no use.
    round: u64,
    faults: u8,
    /// When to compare anew.
    again: Option<Millis>,
    refused: Option<Refused>,
    /// An edit was refused: after further ones, which may undo it, both sides compare again. Lasts until the server has
    /// taken everything.
    rejected: bool,
    /// There were further ones.
    changed: bool,
    /// Something was refused, or may have been, and not everything taken since.
    small: bool,
    /// The wait before the next comparison after a refusal; milliseconds.
    wait: u64,
    awareness: Awareness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is exchanged.
    Away,
    /// Both sides were to ask; the server has not.
    Asked,
    /// The server has been told what was missing there: edits follow.
    Live,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    /// The last edit in it.
    upto: u64,
    /// The message is all that was missing there.
    whole: bool,
    /// The update holds no structs.
    empty: bool,
    answered: bool,
}

#[derive(Debug)]
struct Asked {
    round: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    StateVector,
    Difference,
    /// Updates up to this edit.
    Merge(u64),
}

impl OpenDocument {
    pub(crate) fn new(throttle: u64) -> Self {
        Self {
            stage: Stage::Away,
            complete: false,
            received: false,
            told: false,
            made: 0,
            stored: 0,
            unanswered: VecDeque::new(),
            sent: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            asked: VecDeque::new(),
            round: 0,
            faults: 0,
            again: None,
            refused: None,
            rejected: false,
            changed: false,
            small: false,
            wait: 0,
            awareness: Awareness::new(throttle),
        }
    }

    pub(crate) fn phase(&self) -> SyncPhase {
        match &self.refused {
            Some(Refused { code, message }) if !self.changed => {
                SyncPhase::Refused { code: *code, message: message.clone() }
            }
            _ if self.received && self.told => SyncPhase::Synced,
            _ => SyncPhase::Loading,
        }
    }

    /// Edits that are not known to be stored.
    pub(crate) fn pending(&self) -> usize {
        usize::try_from(self.made - self.stored).unwrap_or(usize::MAX)
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// The document is refused as it is.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some() && !self.changed
    }

    pub(crate) fn deadline(&self) -> Option<Millis> {
        [self.again, self.awareness.deadline()].into_iter().flatten().min()
    }

    // --- the host ---

    /// An edit of a document that is refused is counted, and lets both sides compare again after a while.
    pub(crate) fn edit(&mut self, cx: &mut Context<'_>, edit: u64, payload: Payload) -> Result<(), CommandError> {
        let Payload::Binary(update) = payload else { return Err(CommandError::Unfit { what: "doc" }) };
        if edit <= self.made {
            return Err(CommandError::Unfit { what: "doc" });
        }
        self.made = edit;
        // Stands for edits of an earlier core, which may have been refused there.
        self.small |= update == [0, 0];
        if self.stage != Stage::Live {
            self.retry(cx);
            return Ok(());
        }
        let bytes = self.waiting_bytes + update.len();
        if self.waiting.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES && !self.waiting.is_empty() {
            self.halt();
            cx.resync();
            return Ok(());
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((edit, update));
        self.flush(cx);
        Ok(())
    }

    pub(crate) fn answer(&mut self, cx: &mut Context<'_>, answer: &[u8]) {
        let Some(Asked { round, what }) = self.asked.pop_front() else { return };
        if round != self.round {
            return;
        }
        match what {
            What::StateVector => {
                cx.notify(message::sync(STATE_VECTOR, answer));
                self.again = (!self.complete).then_some(cx.now + PATIENCE);
            }
            What::Difference => {
                self.unanswered.clear();
                self.drop_waiting();
                self.stage = Stage::Live;
                self.submit(cx, STEP_2, answer, self.made);
            }
            What::Merge(upto) => self.submit(cx, UPDATE, answer, upto),
        }
        self.flush(cx);
    }

    pub(crate) fn aware(&mut self, cx: &mut Context<'_>, update: Option<Vec<u8>>) {
        self.awareness.show(cx, update);
    }

    // --- sending ---

    /// Sends what was made here: one update a message while there is room, merged by the host where there is not.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while self.stage == Stage::Live && self.unanswered.len() < WINDOW && !self.merges() {
            let alone = self.waiting.len() <= WINDOW - self.unanswered.len();
            let mut updates = Vec::new();
            let (mut upto, mut bytes) = (0, 0);
            while let Some((edit, update)) = self.waiting.front()
                && (updates.is_empty() || !alone && updates.len() < MERGED && bytes + update.len() <= MERGED_BYTES)
            {
                (upto, bytes) = (*edit, bytes + update.len());
                updates.extend(self.waiting.pop_front().map(|(_, update)| update));
            }
            self.waiting_bytes -= bytes;
            match updates.as_slice() {
                [] => return,
                [update] => self.submit(cx, UPDATE, update, upto),
                _ => self.ask(cx, What::Merge(upto), Question::Merge { updates }),
            }
        }
    }

    /// The host has been asked to merge updates: later ones wait.
    fn merges(&self) -> bool {
        self.asked.iter().any(|asked| asked.round == self.round && matches!(asked.what, What::Merge(_)))
    }

    fn submit(&mut self, cx: &mut Context<'_>, step: u8, update: &[u8], upto: u64) {
        self.sent += 1;
        let (number, whole) = (self.sent, step == STEP_2);
        // Yjs writes first for how many clients structs follow.
        let empty = update.first().is_none_or(|structs| *structs == 0);
        self.unanswered.push_back(Sent { number, upto, whole, empty, answered: false });
        cx.submit(number, Payload::Binary(message::sync(step, update)));
    }

    fn ask(&mut self, cx: &mut Context<'_>, what: What, question: Question) {
        if self.asked.len() >= MAX_ASKED {
            return self.fault(cx, "the server asks without end");
        }
        self.asked.push_back(Asked { round: self.round, what });
        cx.tell(Event::Ask { document: cx.stream.key.clone(), question });
    }

    // --- the server ---

    /// Both sides ask for what they miss.
    pub(crate) fn subscribed(&mut self, cx: &mut Context<'_>) {
        self.begin();
        if cx.version == Some(Version::V1) {
            return self.refuse(CommandError::NeedsV2 { what: "doc" }.into());
        }
        self.stage = Stage::Asked;
        self.ask(cx, What::StateVector, Question::StateVector);
        self.awareness.subscribed(cx);
    }

    /// A message came, as an entry or not.
    pub(crate) fn message(&mut self, cx: &mut Context<'_>, message: &[u8], position: Position) {
        match Message::read(message) {
            Some(Message::StateVector(theirs)) if self.stage != Stage::Away => {
                let question = Question::Difference { theirs: theirs.to_vec(), small: self.small };
                self.ask(cx, What::Difference, question);
            }
            Some(Message::StateVector(_) | Message::Other) => {}
            // The server's answer contains the changes before it, and those may refer to others that are not here.
            Some(Message::Update { whole: false, .. }) if !self.complete => {}
            Some(Message::Update { update, whole }) => {
                if whole && self.stage != Stage::Away {
                    (self.received, self.again) = (true, None);
                }
                self.complete = true;
                let payload = Payload::Binary(update.to_vec());
                cx.tell(Event::Entry { stream: cx.stream.clone(), payload, position, whole: false });
            }
            Some(Message::Awareness(update)) => {
                cx.tell(Event::Awareness { document: cx.stream.key.clone(), update: update.to_vec() });
            }
            None => self.fault(cx, "a message that cannot be read"),
        }
    }

    pub(crate) fn answered(&mut self, cx: &mut Context<'_>, number: u64, answer: Answer) {
        // Others were sent before the last comparison.
        let Some(sent) = self.unanswered.iter_mut().find(|sent| sent.number == number) else { return };
        match answer {
            Answer::Taken => {
                sent.answered = true;
                self.faults = 0;
            }
            Answer::Unknown => return,
            Answer::Again(wait) => return self.start_over(cx, wait),
            // The update refers to something the server has not: a comparison finds that, too.
            Answer::Never(Refused { code: codes::INVALID_PARAMS, message }) if self.faults < MAX_FAULTS => {
                return self.fault(cx, &message);
            }
            // A reader has nothing to tell but deletions that all have.
            Answer::Never(_) if sent.whole && sent.empty && self.made == self.stored => sent.answered = true,
            Answer::Never(refused) => {
                let upto = sent.upto;
                return self.reject(cx, refused, upto);
            }
        }
        while let Some(sent) = self.unanswered.pop_front_if(|sent| sent.answered) {
            self.stored = self.stored.max(sent.upto);
            if sent.whole {
                self.told = true;
                (self.refused, self.rejected, self.changed, self.wait) = (None, false, false, 0);
                self.small = false;
            }
        }
        self.flush(cx);
    }

    fn fault(&mut self, cx: &mut Context<'_>, why: &str) {
        if self.is_refused() {
            return;
        }
        self.faults += 1;
        if self.faults > MAX_FAULTS {
            self.reject(cx, Refused { code: codes::PARSE, message: why.to_owned() }, self.made);
        } else {
            self.start_over(cx, AFTER_FAULT);
        }
    }

    /// The server will not take what was made here, up to this edit. Told once, until the reason is another or the
    /// server has taken everything.
    fn reject(&mut self, cx: &mut Context<'_>, refused: Refused, upto: u64) {
        if !self.rejected || self.refused.as_ref().is_none_or(|known| known.code != refused.code) {
            let Refused { code, message } = refused.clone();
            cx.tell(Event::Rejected { stream: cx.stream.clone(), code, message, payload: Payload::Empty });
        }
        self.refuse(refused);
        // The next refusal is told at once.
        (self.rejected, self.faults) = (true, MAX_FAULTS);
        self.wait = (2 * self.wait).clamp(AFTER_REFUSAL, LONGEST_WAIT);
        if upto < self.made {
            self.retry(cx);
        }
    }

    /// After an edit: both sides compare again if one was refused before.
    fn retry(&mut self, cx: &mut Context<'_>) {
        self.changed = self.rejected;
        if self.changed && self.stage == Stage::Away && self.again.is_none() && cx.version.is_some() {
            self.again = Some(cx.now + self.wait);
        }
    }

    pub(crate) fn refuse(&mut self, refused: Refused) {
        self.halt();
        (self.received, self.again, self.faults) = (false, None, 0);
        (self.rejected, self.changed, self.small) = (false, false, true);
        self.refused = Some(refused);
    }

    /// Compares anew after a while.
    fn start_over(&mut self, cx: &mut Context<'_>, wait: u64) {
        self.halt();
        self.again = self.again.max(Some(cx.now + wait));
    }

    /// Both sides are to compare anew, refused before or not.
    pub(crate) fn reopen(&mut self) {
        self.halt();
        (self.refused, self.rejected, self.changed) = (None, false, false);
    }

    /// Nothing is known of the server, but that it has refused an edit.
    fn begin(&mut self) {
        self.halt();
        (self.complete, self.received, self.again) = (false, false, None);
        if !self.rejected {
            self.refused = None;
        }
    }

    /// Nothing more is exchanged until both sides have compared again.
    fn halt(&mut self) {
        self.stage = Stage::Away;
        self.told = false;
        self.round += 1;
        self.unanswered.clear();
        self.drop_waiting();
    }

    fn drop_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    pub(crate) fn run(&mut self, cx: &mut Context<'_>) {
        if self.again.is_some_and(|again| again <= cx.now) {
            self.again = None;
            cx.acts.push_back(Act::Resync(cx.stream.clone()));
        }
        self.awareness.run(cx);
    }

    /// The last handle has gone.
    pub(crate) fn withdraw(&mut self, cx: &mut Context<'_>) {
        self.awareness.show(cx, None);
    }

    pub(crate) fn lost(&mut self) {
        self.begin();
        self.awareness.lost();
    }
}
