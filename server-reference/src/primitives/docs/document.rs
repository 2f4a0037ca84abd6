//! [`Document`]: a Yjs document, made by yrs from the updates of untrusted clients.

use std::{
    collections::HashMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use datasole_core::wire::push_varuint;
use yrs::{
    Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Transaction, TransactionMut, Update as YrsUpdate,
    updates::decoder::Decode,
};

use super::error::DocError;
use super::{
    habit::Habit,
    index::{Index, Mark},
    lib0::Reader,
    update::{self, PIECE, RANGES, Update},
};
use crate::{desk::thread_time, limits::Limits};

/// Bytes that a new block may take beyond its bytes in the update: it may split another, whose second part gets a head.
const SPLIT: usize = 32;

/// The processor time that an update may take; longer by half for every 2,500 blocks. Where many units are meant for one
/// place, yrs looks at all of them for each: for a hostile update of 1 MiB that takes hours.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a stored update may take.
const UNHURRIED: Duration = Duration::from_secs(3_600);

/// Memory that a block takes in yrs and in the index; bytes, measured.
const BLOCK: usize = 600;

/// Memory of an update that is kept, beyond its bytes.
const HELD: usize = 64;

/// Bytes of updates that are taken at once: some hundreds of blocks, of a few microseconds each.
const LONG: usize = 4 * 1024;

/// Memory of a document without content, with its stream; bytes.
const EMPTY: usize = 4 * 1024;

/// The bounds of one document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Encoded bytes.
    pub(crate) size: usize,
    /// Bytes of memory, estimated.
    pub(crate) memory: usize,
}

/// A Yjs document, and the updates it is made of.
///
/// An update takes effect as a whole or not at all, and is pending until it has been stored. The changes that yrs
/// reports are published and stored, never the bytes of a peer. What a refused update, or one that could not be stored,
/// has left behind is taken away before anything else is done.
pub(crate) struct Document {
    doc: Doc,
    index: Index,
    /// The document as of the last snapshot, and how many blocks it had then, or when it was loaded.
    base: Bytes,
    base_blocks: usize,
    /// The updates since the last snapshot.
    tail: Vec<Bytes>,
    /// The bytes of both.
    kept: usize,
    /// Pending changes: in the document, not stored yet.
    pending: Option<(Bytes, Mark)>,
    /// The state vector of what is stored, if the document holds more than that, which is to be taken away.
    spoilt: Option<Vec<u8>>,
    /// Upper bounds of its encoded length and of its blocks; exact if `measured`.
    size: usize,
    blocks: usize,
    measured: bool,
    bounds: Bounds,
    patience: Duration,
    /// How long its updates take.
    pub(super) habit: Habit,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Document {
    /// An empty document.
    pub(crate) fn empty(bounds: Bounds) -> Self {
        let options = Options { offset_kind: OffsetKind::Utf16, cleanup_formatting: false, ..Options::default() };
        Self {
            doc: Doc::with_options(options),
            index: Index::default(),
            base: Bytes::from_static(YrsUpdate::EMPTY_V1),
            base_blocks: 0,
            tail: Vec::new(),
            kept: YrsUpdate::EMPTY_V1.len(),
            pending: None,
            spoilt: None,
            size: YrsUpdate::EMPTY_V1.len(),
            blocks: 0,
            measured: true,
            bounds,
            patience: PATIENCE,
            habit: Habit::default(),
        }
    }

    /// The document that a snapshot and the updates after it make. Deleting may take it beyond its bounds by an eighth, so
    /// that one can delete from a document that is full.
    pub(crate) fn load(base: Option<Bytes>, tail: Vec<Bytes>, bounds: Bounds) -> Result<Self, DocError> {
        let mut document = Self { tail, measured: false, ..Self::empty(bounds) };
        document.base = base.unwrap_or(document.base);
        document.kept = 0;
        let mut updates = Vec::new();
        for bytes in std::iter::once(&document.base).chain(&document.tail) {
            document.index.advance(&Update::parse(bytes)?)?;
            document.kept += bytes.len();
            updates.push(decode(bytes)?);
        }
        document.transact(|transaction| updates.into_iter().try_for_each(|update| integrate(transaction, update)))?;
        document.measure()?;
        document.base_blocks = document.blocks;
        Ok(document)
    }

    /// The memory that it takes; estimated, bytes.
    pub(crate) fn memory(&self) -> usize {
        EMPTY + self.kept + HELD * self.tail.len() + 2 * self.size + BLOCK * self.blocks
    }

    /// The most that so many units of work ([`update::effort`]) may cost, whatever they are: each may concern all blocks.
    pub(super) fn cost(&self, units: usize) -> usize {
        let units = if self.spoilt.is_some() { units + self.kept / 16 } else { units };
        (self.blocks + 64) * units
    }

    /// True if a snapshot should take the place of the updates since the last one: it costs as much as the document has blocks, of
    /// which each update pays for four.
    pub(super) fn is_due(&self, limits: &Limits) -> bool {
        let (updates, bytes) = self.tail();
        updates > limits.doc_compact_entries.max(self.base_blocks / 4) || bytes > limits.doc_compact_bytes
    }

    /// Whether taking so many bytes of stored updates takes milliseconds. What is pending is taken away before, which takes as
    /// long as the document.
    pub(super) fn is_long(&self, bytes: usize) -> bool {
        let pending = if self.pending.is_some() || self.spoilt.is_some() { self.kept } else { 0 };
        bytes + pending > LONG
    }

    /// The number of the updates since the last snapshot, and their bytes.
    pub(crate) fn tail(&self) -> (usize, usize) {
        (self.tail.len(), self.kept - self.base.len())
    }

    /// Takes away what a refused update has left, and what could not be stored.
    pub(crate) fn mend(&mut self) -> Result<(), DocError> {
        self.retract();
        if self.spoilt.is_some() { self.restore() } else { Ok(()) }
    }

    /// Applies an update that may take so much more memory; returns the changes, now pending, if it had any. A refused
    /// update leaves nothing behind that others see.
    pub(crate) fn apply(&mut self, bytes: &[u8], room: usize) -> Result<Option<Bytes>, DocError> {
        self.mend()?;
        let update = Update::parse(bytes)?;
        let mark = self.index.advance(&update)?;
        // yrs gets only updates with something new.
        let all: usize = update.clients.iter().map(|(_, blocks)| blocks.len()).sum();
        let decoded = self.admit(&mark, room).and_then(|()| {
            if mark.order.len() == all && all <= PIECE && update.deletes.len() <= RANGES {
                return Ok(vec![decode(bytes)?]);
            }
            update.pieces(&mark.order).iter().map(|piece| decode(piece)).collect()
        });
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                self.index.go_back(mark);
                return Err(error);
            }
        };
        let blocks = u32::try_from(mark.order.len()).unwrap_or(u32::MAX);
        let patience = self.patience + (self.patience / 5_000).saturating_mul(blocks);
        let until = (decoded.len() > 1).then(|| thread_time() + patience);
        let outcome = self.transact(|transaction| {
            for piece in decoded {
                if until.is_some_and(|until| thread_time() > until) {
                    return Err(DocError::TooSlow);
                }
                integrate(transaction, piece)?;
            }
            Ok(Change::of(transaction))
        });
        match outcome.and_then(|change| self.keep(change, &mark)) {
            Ok(new) => Ok(self.await_storage(new, mark)),
            Err(error) => {
                self.spoil(&mark);
                Err(match error {
                    DocError::Damaged => DocError::Malformed("it cannot be applied"),
                    error => error,
                })
            }
        }
    }

    /// Applies a stored update, which can no longer be refused.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), DocError> {
        self.mend()?;
        let (bounds, patience) = (self.bounds, self.patience);
        (self.bounds, self.patience) = (Bounds { size: usize::MAX / 2, memory: usize::MAX / 2 }, UNHURRIED);
        let taken = self.apply(bytes, usize::MAX);
        (self.bounds, self.patience) = (bounds, patience);
        self.settle();
        taken.map(drop)
    }

    /// Settles the pending changes: they have been stored.
    pub(crate) fn settle(&mut self) {
        if let Some((update, _)) = self.pending.take() {
            self.kept += update.len();
            self.tail.push(update);
        }
    }

    /// True if this update is pending.
    pub(crate) fn is_pending(&self, update: &[u8]) -> bool {
        self.pending.as_ref().is_some_and(|(pending, _)| pending == update)
    }

    /// Gives up the pending changes: they could not be stored.
    pub(crate) fn retract(&mut self) {
        if let Some((_, mark)) = self.pending.take() {
            self.spoil(&mark);
        }
    }

    /// Takes note that the document holds more than what is stored, as it was before this mark.
    fn spoil(&mut self, mark: &Mark) {
        let stored = self.index.state_vector(Some(mark));
        self.spoilt.get_or_insert_with(|| encode(&stored));
    }

    /// True if something in an update is new.
    pub(crate) fn lacks(&mut self, bytes: &[u8]) -> Result<bool, DocError> {
        self.mend()?;
        let update = Update::parse(bytes)?;
        if self.index.lacks(&update) {
            return Ok(true);
        }
        if update.deletes.is_empty() {
            return Ok(false);
        }
        let deleted = self.read(|transaction| transaction.snapshot().delete_set)?;
        let deleted: HashMap<u64, Vec<Range<u32>>> =
            deleted.iter().map(|(client, ranges)| (client.get(), ranges.iter().cloned().collect())).collect();
        Ok(update.deletes.iter().any(|(client, start, end)| {
            let Some(ranges) = deleted.get(client) else { return true };
            let at = ranges.partition_point(|range| range.end < *end);
            ranges.get(at).is_none_or(|range| range.start > *start)
        }))
    }

    /// Lets the server's code change the document; returns its result, and the pending changes, if any.
    pub(crate) fn edit<R>(
        &mut self,
        edit: impl FnOnce(&mut TransactionMut<'_>) -> R,
    ) -> Result<(R, Option<Bytes>), DocError> {
        self.mend()?;
        let outcome = self.transact(|transaction| {
            // What it did before it panicked is whole, and can be committed before it is thrown away.
            let result = catch_unwind(AssertUnwindSafe(|| edit(transaction))).map_err(|_| DocError::Panicked)?;
            Ok((result, Change::of(transaction)))
        });
        outcome.and_then(|(result, change)| Ok((result, self.judge(change)?))).or_else(|error| {
            self.restore()?;
            Err(error)
        })
    }

    /// Holds changes of the server's own code to the same rules.
    fn judge(&mut self, change: Option<Change>) -> Result<Option<Bytes>, DocError> {
        let Some(change) = change else { return Ok(None) };
        let mark = self.index.advance(&Update::parse(&change.update)?)?;
        self.admit(&mark, usize::MAX)?;
        let new = self.keep(Some(change), &mark)?;
        Ok(self.await_storage(new, mark))
    }

    /// Runs a function that reads the document.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> Result<R, DocError> {
        let transaction = self.doc.try_transact().map_err(|_| DocError::Damaged)?;
        catch_unwind(AssertUnwindSafe(|| look(&transaction))).map_err(|_| DocError::Panicked)
    }

    /// The update for a replica with this state vector: all changes that it lacks.
    pub(crate) fn diff(&mut self, state_vector: &[u8]) -> Result<Vec<u8>, DocError> {
        self.mend()?;
        const MALFORMED: DocError = DocError::Malformed("a state vector cannot be read");
        let reader = &mut Reader::new(state_vector);
        let clients = reader.varuint().ok_or(MALFORMED)?;
        for _ in 0..clients {
            update::client(reader).and_then(|_| update::clock(reader)).map_err(|_| MALFORMED)?;
        }
        if !reader.is_empty() {
            return Err(MALFORMED);
        }
        let state_vector = StateVector::decode_v1(state_vector).map_err(|_| MALFORMED)?;
        self.read(|transaction| transaction.encode_state_as_update_v1(&state_vector)).map_err(|_| DocError::Damaged)
    }

    /// The state vector of the stored changes.
    pub(crate) fn state_vector(&self) -> Vec<u8> {
        match &self.spoilt {
            Some(stored) => stored.clone(),
            None => encode(&self.index.state_vector(self.pending.as_ref().map(|(_, mark)| mark))),
        }
    }

    /// All of it, as one update.
    pub(crate) fn encode(&self) -> Result<Bytes, DocError> {
        let update = self.read(|transaction| transaction.encode_state_as_update_v1(&StateVector::default()));
        update.map(|update| update.into_boxed_slice().into()).map_err(|_| DocError::Damaged)
    }

    /// Makes one update of all: a snapshot.
    pub(crate) fn compact(&mut self) -> Result<Bytes, DocError> {
        self.mend()?;
        let snapshot = self.encode()?;
        // It holds less than before: what was deleted is no longer told apart.
        let mut index = Index::default();
        let update = Update::parse(&snapshot)?;
        index.advance(&update)?;
        self.index = index;
        (self.size, self.blocks, self.measured) = (snapshot.len(), update.blocks(), true);
        (self.base, self.base_blocks) = (snapshot.clone(), self.blocks);
        self.kept = snapshot.len();
        self.tail.clear();
        Ok(snapshot)
    }

    #[cfg(test)]
    pub(super) fn hurry(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// The number of updates since the last snapshot, and the size of the index.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.tail.len(), self.index.len())
    }

    /// True if there is room for the blocks that an update inserts, which may take so much more memory.
    fn admit(&mut self, mark: &Mark, room: usize) -> Result<(), DocError> {
        if mark.order.is_empty() {
            return Ok(());
        }
        let Bounds { size, memory } = self.bounds;
        let (more, blocks) = (mark.bytes, BLOCK * mark.order.len());
        if self.size + more + SPLIT * mark.order.len() > size || self.memory() + 3 * more + blocks > memory {
            self.measure()?;
        }
        if self.size + more > size {
            return Err(DocError::TooLarge { limit: size });
        }
        if self.memory() + 3 * more + blocks > memory {
            return Err(DocError::TooManyBlocks { limit: memory });
        }
        if 3 * more + blocks > room { Err(DocError::Full) } else { Ok(()) }
    }

    /// Takes note of what changes take, unless they make the document too large.
    fn keep(&mut self, change: Option<Change>, mark: &Mark) -> Result<Option<Bytes>, DocError> {
        let Some(change) = change else { return Ok(None) };
        self.size += change.update.len() + SPLIT * (mark.order.len() + 2 * change.deletes);
        self.blocks += mark.order.len() + 2 * change.deletes;
        self.measured = false;
        let Bounds { size, memory } = self.bounds;
        let (size, memory) = (size + size / 8, memory + memory / 8);
        if self.size > size || self.memory() > memory {
            self.measure()?;
            if self.size > size {
                return Err(DocError::TooLarge { limit: self.bounds.size });
            }
            if self.memory() > memory {
                return Err(DocError::TooManyBlocks { limit: self.bounds.memory });
            }
        }
        Ok(Some(change.update))
    }

    /// Changes are pending from now on.
    fn await_storage(&mut self, new: Option<Bytes>, mark: Mark) -> Option<Bytes> {
        self.pending = new.clone().map(|update| (update, mark));
        new
    }

    fn measure(&mut self) -> Result<(), DocError> {
        if !self.measured {
            let whole = self.encode()?;
            (self.size, self.blocks, self.measured) = (whole.len(), Update::parse(&whole)?.blocks(), true);
        }
        Ok(())
    }

    /// Restores the document from its stored updates.
    fn restore(&mut self) -> Result<(), DocError> {
        let patience = self.patience;
        *self = Self::load(Some(self.base.clone()), self.tail.clone(), self.bounds)?;
        self.patience = patience;
        Ok(())
    }

    fn transact<R>(&self, f: impl FnOnce(&mut TransactionMut<'_>) -> Result<R, DocError>) -> Result<R, DocError> {
        let mut transaction = self.doc.try_transact_mut().map_err(|_| DocError::Damaged)?;
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| f(&mut transaction))) else {
            // yrs gave up half-way. Ending the transaction would go on from there; rather lose the memory.
            std::mem::forget(transaction);
            return Err(DocError::Damaged);
        };
        catch_unwind(AssertUnwindSafe(|| drop(transaction))).map_err(|_| DocError::Damaged)?;
        outcome
    }
}

/// The changes of a transaction.
struct Change {
    update: Bytes,
    /// Ranges that were deleted.
    deletes: usize,
}

impl Change {
    fn of(transaction: &TransactionMut<'_>) -> Option<Self> {
        transaction.has_changes().then(|| Self {
            // What its encoder reserves is many times a keystroke.
            update: transaction.encode_update_v1().into_boxed_slice().into(),
            deletes: transaction.delete_set().iter().map(|(_, ranges)| ranges.len()).sum(),
        })
    }
}

/// A state vector, as it is written.
fn encode(known: &[(u64, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    push_varuint(&mut out, known.len() as u64);
    for (client, clock) in known {
        push_varuint(&mut out, *client);
        push_varuint(&mut out, u64::from(*clock));
    }
    out
}

fn decode(bytes: &[u8]) -> Result<YrsUpdate, DocError> {
    let decoded = catch_unwind(|| YrsUpdate::decode_v1(bytes).ok());
    decoded.ok().flatten().ok_or(DocError::Malformed("a value cannot be read"))
}

fn integrate(transaction: &mut TransactionMut<'_>, update: YrsUpdate) -> Result<(), DocError> {
    transaction.apply_update(update).map_err(|_| DocError::Damaged)?;
    if transaction.has_missing_updates() { Err(DocError::Damaged) } else { Ok(()) }
}
