//! [`Shared`]: the content of a document's stream, and the awareness of its followers.

use std::sync::Arc;

use bytes::Bytes;
use datasole_core::{StreamKind, frame::Opcode, wire::push_varuint};
use tokio::time::Instant;

use super::{
    awareness::{self, Awareness},
    document::{self, Document},
    error::DocError,
    ledger::{Account, Ledger},
    message::Message,
    work,
};
use crate::{
    account::Standing,
    backend::{
        BackendError,
        log::{Rule, Stored},
    },
    entry::Entry,
    hub::{self, At, Delivery, Displaced, Form, Inapplicable, Job, Kind, Lent, Read, Rules, Seat, Spec, Taken, V1},
    limits::{Limits, Replay},
    message::framed,
    primitives::reservation::Reservation,
};

/// A change of a document: a Yjs update.
const UPDATE: u8 = b'u';

/// The line of documents in the table of kinds.
pub(crate) fn kind(limits: &Arc<Limits>) -> Spec {
    let ledger = Arc::new(Ledger::new(limits));
    let (own, room) = (limits.clone(), ledger.clone());
    let make = move |key: &str| -> Box<dyn Kind> { Box::new(Shared::new(key, own.clone(), ledger.clone())) };
    let bounds = hub::Bounds { stay: limits.doc_stay, room: Some(Box::new(move || room.room())) };
    Spec { kind: StreamKind::Doc, spare: limits.max_idle_docs, bounds, v1_follows: false, make: Box::new(make) }
}

/// A document in memory, with the awareness of its followers.
#[derive(Debug)]
pub(crate) struct Shared {
    key: Box<str>,
    held: Held,
    pub(super) awareness: Awareness,
    /// True if the backend has anything of the document.
    exists: bool,
    /// A reservation for the document, if the pending changes create it.
    reservation: Option<Reservation>,
    account: Account,
    limits: Arc<Limits>,
}

/// Where the document is.
#[derive(Debug)]
enum Held {
    Here(Box<Document>),
    /// Somebody who has the right to change it works on it.
    Lent {
        state_vector: Vec<u8>,
        /// Updates of others that have been stored since.
        since: Vec<Bytes>,
    },
}

impl Shared {
    fn new(key: &str, limits: Arc<Limits>, ledger: Arc<Ledger>) -> Self {
        let mut shared = Self {
            key: key.into(),
            held: Held::Here(Box::new(Document::empty(bounds(&limits)))),
            awareness: Awareness::default(),
            exists: false,
            reservation: None,
            account: Account::new(ledger),
            limits,
        };
        shared.settle(None);
        shared
    }

    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    /// The document. Whoever has the right to change it finds it here, unless it is damaged.
    pub(super) fn document(&mut self) -> Result<&mut Document, DocError> {
        match &mut self.held {
            Held::Here(document) => Ok(document),
            Held::Lent { .. } => Err(DocError::Damaged),
        }
    }

    /// Lends the document to whoever has the right to change it, who brings it back.
    pub(super) fn lend(&mut self) -> Result<Box<Document>, DocError> {
        let lent = Held::Lent { state_vector: self.document()?.state_vector(), since: Vec::new() };
        match std::mem::replace(&mut self.held, lent) {
            Held::Here(document) => Ok(document),
            Held::Lent { .. } => Err(DocError::Damaged),
        }
    }

    /// Takes the document back; or tells what it must take before. Nothing if it is not wanted any more: the stream has
    /// started over.
    pub(super) fn take_home(
        &mut self,
        document: Box<Document>,
        by: Option<&Arc<Standing>>,
    ) -> Option<(Box<Document>, Vec<Bytes>)> {
        let Held::Lent { since, .. } = &mut self.held else { return None };
        if !since.is_empty() {
            return Some((document, std::mem::take(since)));
        }
        self.held = Held::Here(document);
        self.settle(by);
        None
    }

    /// Takes note of the memory that the document takes after a change by somebody, unless it was the server.
    pub(super) fn settle(&mut self, by: Option<&Arc<Standing>>) {
        if let Held::Here(document) = &self.held {
            self.account.settle(document.memory(), by);
        }
    }

    /// How much the document may grow, by this owner; bytes of memory.
    pub(super) fn left(&self, owner: &Standing) -> usize {
        self.account.left(owner)
    }

    /// The updates since the last snapshot and their bytes, if one should take their place.
    pub(super) fn due(&self) -> Option<(usize, usize)> {
        let Held::Here(document) = &self.held else { return None };
        document.is_due(&self.limits).then(|| document.tail())
    }

    /// The entry of an update that is pending in the document.
    pub(super) fn intend(&mut self, update: &[u8], reservation: Option<Reservation>) -> Entry {
        self.reservation = reservation;
        entry(update)
    }
}

/// The entry of an update; the whole document is one, too.
pub(super) fn entry(update: &[u8]) -> Entry {
    Entry::new(UPDATE, update)
}

fn bounds(limits: &Limits) -> document::Bounds {
    document::Bounds { size: limits.max_doc, memory: limits.max_doc_memory }
}

impl Kind for Shared {
    fn rules(&self) -> Rules {
        Rules {
            stored: true,
            relayed: false,
            replay: Replay::NONE,
            // It takes milliseconds: see `work::compact`.
            compaction: Replay { entries: usize::MAX, bytes: usize::MAX, age: None },
            delivery: Delivery::Others,
            v1: V1::Nothing,
            evictable: true,
            numbered: true,
        }
    }

    fn form(&self) -> &'static dyn Form {
        &Updates
    }

    fn restore(&mut self, stored: &Stored) -> Result<(), BackendError> {
        let corrupt = || BackendError::Corrupt(format!("document {:?}", self.key));
        let update = |bytes: &Bytes| match Entry::stored(bytes.clone()) {
            Some(entry) if entry.tag() == UPDATE => Ok(bytes.slice(1..)),
            _ => Err(corrupt()),
        };
        let snapshot = stored.snapshot.as_ref().map(|(_, bytes)| update(bytes)).transpose()?;
        let entries = stored
            .since_snapshot()
            .iter()
            .map(|entry| update(&entry.bytes))
            .collect::<Result<Vec<Bytes>, BackendError>>()?;
        let document = Document::load(snapshot, entries, bounds(&self.limits)).map_err(|error| {
            tracing::error!(%error, key = self.key, "a stored document cannot be read");
            corrupt()
        })?;
        self.held = Held::Here(Box::new(document));
        self.settle(None);
        self.exists = stored.mark.position.seq > 0;
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, _: Option<Read>) -> Result<Option<Displaced>, Inapplicable> {
        match &mut self.held {
            Held::Here(document) if document.is_pending(entry.content()) => document.settle(),
            Held::Here(document) => {
                self.reservation = None;
                document.take(entry.content()).map_err(|_| Inapplicable)?;
            }
            Held::Lent { since, .. } => since.push(entry.bytes().slice(1..)),
        }
        self.settle(None);
        self.exists = true;
        self.reservation.take().into_iter().for_each(Reservation::keep);
        Ok(None)
    }

    fn rule(&self, _: &Entry) -> Rule {
        Rule::Behind
    }

    fn is_long(&self, bytes: usize) -> bool {
        match &self.held {
            Held::Here(document) => document.is_long(bytes),
            Held::Lent { .. } => false,
        }
    }

    fn part_with(&mut self) -> Option<Lent> {
        self.lend().ok().map(|document| document as Lent)
    }

    fn take_back(&mut self, lent: Lent) -> Option<Job<Option<Lent>>> {
        let (document, since) = self.take_home(lent.downcast().ok()?, None)?;
        let key = self.key.clone();
        Some(Box::new(move || work::take_all(document, &since, &key).map(|document| document as Lent)))
    }

    fn retract(&mut self) -> Option<Displaced> {
        self.reservation = None;
        if let Held::Here(document) = &mut self.held {
            document.retract();
        }
        None
    }

    fn snapshot(&mut self) -> Option<Job<Bytes>> {
        None
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn memory(&self) -> usize {
        self.account.bytes()
    }

    fn greeting(&self, at: &At<'_>) -> Vec<Bytes> {
        let asked = match &self.held {
            Held::Here(document) => message(0, &Message::Ask(&document.state_vector()), at),
            Held::Lent { state_vector, .. } => message(0, &Message::Ask(state_vector), at),
        };
        let present = self.awareness.all().map(|all| message(0, &Message::Awareness(&all), at));
        std::iter::once(asked).chain(present).collect()
    }

    fn restart(&mut self, at: &At<'_>) -> Vec<Bytes> {
        let whole = self.document().and_then(|document| document.encode());
        whole.iter().map(|whole| message(0, &Message::Answer(whole), at)).collect()
    }

    fn leave(&mut self, serial: u64, at: &At<'_>) -> Option<Bytes> {
        let gone = self.awareness.leave(Seat::here(serial), Instant::now())?;
        Some(message(0, &Message::Awareness(&gone), at))
    }

    fn share(&self, serial: u64) -> Option<Bytes> {
        self.awareness.share(serial).map(Bytes::from)
    }

    fn sharers(&self) -> Vec<u64> {
        self.awareness.sharers()
    }

    fn take_share(&mut self, of: Seat, share: Option<&[u8]>, at: &At<'_>) -> Taken {
        match self.awareness.take(of, share, Instant::now()) {
            None => Taken::Nothing,
            Some(news) => {
                Taken::Message { message: message(0, &Message::Awareness(&news), at), robbed: self.awareness.robbed() }
            }
        }
    }

    fn inherit(&mut self, before: &mut dyn Kind) {
        if let Some(before) = hub::of::<Self>(before) {
            self.awareness = std::mem::take(&mut before.awareness);
        }
    }
}

/// The entries of documents: updates.
#[derive(Debug)]
struct Updates;

impl Form for Updates {
    fn reads(&self, entry: &Entry) -> bool {
        entry.tag() == UPDATE
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        message(at.position.seq, &Message::Change(entry.content()), at)
    }
}

impl Shared {
    /// Takes a follower's awareness update; returns the message for the others.
    pub(super) fn announce(
        &mut self,
        author: &awareness::Author<'_>,
        update: &[u8],
        at: &At<'_>,
    ) -> Result<Option<Bytes>, DocError> {
        let news = self.awareness.apply(author, update, Instant::now())?;
        Ok(news.map(|news| message(0, &Message::Awareness(&news), at)))
    }
}

/// The message that carries one of y-protocols; `seq` is 0 for what is no entry.
pub(super) fn message(seq: u64, message: &Message<'_>, at: &At<'_>) -> Bytes {
    framed(Opcode::Doc, at.channel, 16 + message.len(), at.compress_above, |out| {
        push_varuint(out, seq);
        message.write(out);
    })
}
