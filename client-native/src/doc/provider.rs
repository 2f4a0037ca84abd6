//! [`Provider`], the task of a document: compares its state with the server's, sends what is made here and applies what
//! is made elsewhere (the messages of y-protocols; `docs/protocol.md`, *Documents*).

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use datasole_core::{CallId, CommandError, Payload, StreamId, codes};
use tokio::time::{Instant, sleep_until};
use yrs::{
    AsyncTransact, ReadTxn, StateVector, Update, merge_updates_v1,
    sync::SyncMessage,
    updates::{decoder::Decode, encoder::Encode},
};

use super::{
    link::{Link, Note},
    observer_name,
};
use crate::{
    refusal::{Answer, Refusal},
    router::Shared,
};

/// Messages that may be without an answer.
const WINDOW: usize = 32;

/// Updates merged into one message when there are more than the window has room for; and their bytes.
const MERGED: usize = 64;
const MERGED_BYTES: usize = 128 * 1024;

/// Others take an awareness for outdated after 30 s (y-protocols).
const RENEW: Duration = Duration::from_secs(15);

/// Before something is tried again that there was no room for.
const SOON: Duration = Duration::from_millis(50);

/// What the server does not understand is met with a comparison, so many times in a row.
const MAX_FAULTS: u8 = 3;

/// Of y-protocols.
const SYNC: u8 = 0;
const AWARENESS: u8 = 1;

/// Marks the transactions that apply what came from the server.
pub(crate) const ORIGIN: &str = "datasole";

pub(super) struct Provider {
    shared: Arc<Shared>,
    link: Arc<Link>,
    stream: StreamId,
    phase: Phase,
    unanswered: VecDeque<Sent>,
    /// The server has sent what was missing here, on this connection.
    received: bool,
    /// And taken what was missing there.
    told: bool,
    /// Updates made here that the server has.
    stored: u64,
    refused: Option<(i32, String)>,
    faults: u8,
    /// When to subscribe anew.
    again: Option<Instant>,
    /// When there may be room again.
    retry: Option<Instant>,
    renew: Instant,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not subscribed.
    Away,
    /// The server has been asked for what is missing here, and has not asked yet for what is missing there.
    Asked,
    /// It has been told; what is made here follows.
    Live,
}

struct Sent {
    call: CallId,
    /// The number of the last update in it.
    upto: u64,
    /// It is what was missing there.
    whole: bool,
    answered: bool,
}

impl Provider {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>) -> Self {
        let stream = StreamId::doc(&link.key);
        Self {
            shared,
            link,
            stream,
            phase: Phase::Away,
            unanswered: VecDeque::new(),
            received: false,
            told: false,
            stored: 0,
            refused: None,
            faults: 0,
            again: None,
            retry: None,
            renew: Instant::now() + RENEW,
            closed: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.take_notes().await;
            self.keep_time();
            self.send_edits();
            self.send_awareness();
            self.publish();
            if self.closed || self.leave() {
                break;
            }
            self.wait().await;
        }
        AsyncTransact::transact_mut(&self.link.doc).await.unobserve_update_v1(observer_name(&self.link));
    }

    async fn wait(&self) {
        let renew = self.link.awareness().has_own().then_some(self.renew);
        let deadline = [self.again, self.retry, renew].into_iter().flatten().min();
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.link.wake.notified() => {}
            () = timer => {}
        }
    }

    /// Without handles, and with nothing left to do.
    fn leave(&self) -> bool {
        let mut router = self.shared.router();
        let done = self.stored >= self.link.edits().made || self.refused.is_some();
        if router.documents().has_handles(&self.link.key) || !done {
            return false;
        }
        router.release_document(self.shared.now(), &self.link.key);
        drop(router);
        self.shared.wake.notify_one();
        true
    }

    fn publish(&self) {
        self.link.status.send_modify(|progress| {
            progress.compared = self.received && self.told;
            progress.stored = self.stored;
            progress.refused.clone_from(&self.refused);
        });
    }

    // --- what comes ---

    async fn take_notes(&mut self) {
        let notes = self.link.take_notes();
        let mut updates = Vec::new();
        for note in notes.queue {
            match note {
                Note::Message(message) => {
                    if let Some(update) = self.take_message(&message).await {
                        updates.push(update);
                    }
                }
                Note::Subscribed => self.ask().await,
                Note::Answered(call, answer) => self.answered(call, answer),
                Note::Lost => self.detach(),
                Note::Refused { code, message } => {
                    self.detach();
                    self.refused = Some((code, message));
                }
                Note::Closed => self.closed = true,
            }
        }
        if !updates.is_empty() {
            self.apply(updates).await;
        }
        match self.phase {
            Phase::Live if notes.missed => self.ask_for_missing().await,
            // The server's question may have been among them.
            Phase::Asked if notes.missed => self.start_over(SOON),
            _ => {}
        }
    }

    fn detach(&mut self) {
        self.phase = Phase::Away;
        self.unanswered.clear();
        self.link.edits().stop();
        (self.received, self.told, self.again) = (false, false, None);
        if self.link.awareness().forget_others() {
            self.link.shown.send_modify(|changes| *changes += 1);
        }
    }

    /// SUBSCRIBED: both sides ask for what they miss.
    async fn ask(&mut self) {
        self.detach();
        self.refused = None;
        self.phase = Phase::Asked;
        self.ask_for_missing().await;
    }

    async fn ask_for_missing(&mut self) {
        let state = self.link.doc.transact().await.state_vector();
        self.notify(SyncMessage::SyncStep1(state));
    }

    fn notify(&mut self, message: SyncMessage) {
        if let Err(refused) = self.send(encode(message), false) {
            self.settle(refused.into());
        }
    }

    /// Takes a message; an update is given back, to be applied with those that came with it.
    async fn take_message(&mut self, message: &[u8]) -> Option<Update> {
        match message.split_first() {
            Some((&AWARENESS, rest)) => {
                // A length, which is that of the rest.
                let (_, update) = datasole_core::wire::split_varuint(rest)?;
                if self.link.awareness().apply(self.link.own(), update) {
                    self.link.shown.send_modify(|changes| *changes += 1);
                }
                return None;
            }
            Some((&SYNC, rest)) => match SyncMessage::decode_v1(rest) {
                Ok(SyncMessage::SyncStep1(theirs)) => self.answer(&theirs).await,
                Ok(SyncMessage::SyncStep2(update)) => {
                    self.received = true;
                    return self.read(&update);
                }
                Ok(SyncMessage::Update(update)) => return self.read(&update),
                Err(_) => self.fault("a message that cannot be read"),
            },
            _ => {}
        }
        None
    }

    fn read(&mut self, update: &[u8]) -> Option<Update> {
        let read = Update::decode_v1(update).ok();
        if read.is_none() {
            self.fault("an update that cannot be read");
        }
        read
    }

    async fn apply(&mut self, updates: Vec<Update>) {
        let mut failed = false;
        {
            let doc = &self.link.doc;
            let mut transaction = AsyncTransact::transact_mut_with(doc, ORIGIN).await;
            for update in updates {
                failed |= transaction.apply_update(update).is_err();
            }
        }
        if failed {
            self.fault("an update that cannot be applied");
        }
    }

    /// The server says what it has: it gets what it has not, and from then on what is made here.
    async fn answer(&mut self, theirs: &StateVector) {
        let upto = self.link.edits().collect();
        let missing = self.link.doc.transact().await.encode_diff_v1(theirs);
        self.unanswered.clear();
        self.phase = Phase::Live;
        self.submit(SyncMessage::SyncStep2(missing), upto, true);
    }

    fn answered(&mut self, call: CallId, answer: Answer) {
        // Others were sent before the last comparison.
        let Some(sent) = self.unanswered.iter_mut().find(|sent| sent.call == call) else { return };
        if !matches!(answer, Answer::Taken) {
            self.settle(answer);
            return;
        }
        sent.answered = true;
        self.faults = 0;
        while let Some(sent) = self.unanswered.pop_front_if(|sent| sent.answered) {
            self.stored = self.stored.max(sent.upto);
            self.told |= sent.whole;
        }
    }

    /// Something did not arrive.
    fn settle(&mut self, answer: Answer) {
        match answer {
            Answer::Taken | Answer::Unknown => {}
            Answer::Again(wait) => self.start_over(Duration::from_millis(wait)),
            // It refers to what the server has not: a comparison finds that, too.
            Answer::Never { code: codes::INVALID_PARAMS, message } if self.faults < MAX_FAULTS => self.fault(&message),
            Answer::Never { code, message } => {
                let refusal =
                    Refusal { stream: self.stream.clone(), code, message: message.clone(), payload: Payload::Empty };
                self.shared.router().complaints().tell(refusal);
                self.refused = Some((code, message));
                self.unanswered.clear();
                self.link.edits().stop();
            }
        }
    }

    fn fault(&mut self, why: &str) {
        tracing::warn!(key = self.link.key, why, "a document is compared again");
        self.faults = self.faults.saturating_add(1);
        if self.faults > MAX_FAULTS {
            self.settle(Answer::Never { code: codes::PARSE, message: why.to_owned() });
        } else {
            self.start_over(Duration::from_millis(100));
        }
    }

    /// Subscribes anew after a while, upon which both sides compare what they have.
    fn start_over(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.again = Some(self.again.map_or(at, |again| again.max(at)));
        self.unanswered.clear();
        self.link.edits().stop();
    }

    // --- what goes ---

    fn keep_time(&mut self) {
        let now = Instant::now();
        let overflowed = std::mem::take(&mut self.link.edits().overflowed);
        if self.again.is_some_and(|again| again <= now) || overflowed && self.phase == Phase::Live {
            self.again = None;
            self.shared.command(|router, now| router.core_mut().resync(now, &self.stream));
        }
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
        }
        if self.renew <= now {
            self.renew = now + RENEW;
            self.link.awareness().renew();
        }
    }

    /// Sends what was made here: one update a message while there is room, merged where there is not.
    fn send_edits(&mut self) {
        while self.phase == Phase::Live
            && self.again.is_none()
            && self.retry.is_none()
            && self.unanswered.len() < WINDOW
        {
            let (updates, upto) = {
                let mut edits = self.link.edits();
                let room = WINDOW - self.unanswered.len();
                let count = if edits.waiting() <= room { 1 } else { MERGED };
                edits.take(count, MERGED_BYTES)
            };
            let update = match <[Vec<u8>; 1]>::try_from(updates) {
                Ok([update]) => update,
                Err(updates) if updates.is_empty() => return,
                Err(updates) => match merge_updates_v1(&updates) {
                    Ok(merged) => merged,
                    // They are the document's own; a comparison does without them.
                    Err(_) => return self.fault("updates that cannot be merged"),
                },
            };
            self.submit(SyncMessage::Update(update), upto, false);
        }
    }

    fn submit(&mut self, message: SyncMessage, upto: u64, whole: bool) {
        match self.send(encode(message), true) {
            Ok(Some(call)) => self.unanswered.push_back(Sent { call, upto, whole, answered: false }),
            Ok(None) => {}
            Err(refused) => self.settle(refused.into()),
        }
    }

    fn send_awareness(&mut self) {
        if self.phase == Phase::Away || self.retry.is_some() || !self.link.awareness().is_unsent() {
            return;
        }
        if !self.shared.router().has_room() {
            self.retry = Some(Instant::now() + SOON);
            return;
        }
        let update = self.link.awareness().announce(self.link.own());
        let mut message = vec![AWARENESS];
        datasole_core::wire::push_varuint(&mut message, update.len() as u64);
        message.extend_from_slice(&update);
        if let Err(refused) = self.send(message, false) {
            tracing::debug!(key = self.link.key, %refused, "awareness was not sent");
        }
    }

    /// Sends a message, to be answered or not.
    fn send(&self, message: Vec<u8>, answered: bool) -> Result<Option<CallId>, CommandError> {
        let payload = Payload::Binary(message);
        self.shared.command(|router, now| {
            if !answered {
                return router.core_mut().notify(now, &self.stream, &payload).map(|()| None);
            }
            let call = router.core_mut().submit(now, &self.stream, payload)?;
            router.documents().submitted(call, &self.link);
            Ok(Some(call))
        })
    }
}

impl Drop for Provider {
    /// Also when the runtime shuts down, or an observer of the program's panics: whoever waits is told.
    fn drop(&mut self) {
        self.link.status.send_modify(|progress| progress.closed = true);
    }
}

fn encode(message: SyncMessage) -> Vec<u8> {
    yrs::sync::Message::Sync(message).encode_v1()
}
