//! [`Document`]: a Yjs document, made by yrs from the updates of untrusted clients.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use bytes::Bytes;
use datasole_core::wire::push_varuint;
use yrs::{
    ClientID, Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Transaction, TransactionMut,
    Update as YrsUpdate, updates::decoder::Decode,
};

use super::error::DocError;
use super::{
    index::{Index, Mark},
    lib0::Reader,
    update::{self, PIECE, Update},
};

/// Bytes that a new block may take beyond its bytes in the update: it may split another, whose second part gets a head.
const SPLIT: usize = 32;

/// How long an update may take; longer by half for every 10,000 blocks. Where many units are meant for one place, yrs
/// looks at all of them for each: for a hostile update of 1 MiB that takes hours.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a stored update may take.
const UNHURRIED: Duration = Duration::from_secs(3_600);

/// A Yjs document, and the updates it is made of.
///
/// An update takes effect as a whole or not at all, and is pending until it has been stored. The changes that yrs
/// reports are published and stored, never the bytes of a peer.
pub(crate) struct Document {
    doc: Doc,
    index: Index,
    /// The document as of the last snapshot.
    base: Bytes,
    /// The updates since the last snapshot.
    tail: Vec<Bytes>,
    /// Pending changes: in the document, not stored yet.
    pending: Option<(Bytes, Mark)>,
    /// An upper bound of its encoded length; exact if `measured`.
    size: usize,
    measured: bool,
    max_size: usize,
    patience: Duration,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Document {
    /// An empty document.
    pub(crate) fn empty(max_size: usize) -> Self {
        let options = Options { offset_kind: OffsetKind::Utf16, cleanup_formatting: false, ..Options::default() };
        Self {
            doc: Doc::with_options(options),
            index: Index::default(),
            base: Bytes::from_static(YrsUpdate::EMPTY_V1),
            tail: Vec::new(),
            pending: None,
            size: YrsUpdate::EMPTY_V1.len(),
            measured: true,
            max_size,
            patience: PATIENCE,
        }
    }

    /// The document that a snapshot and the updates after it make. It takes at most `max_size` bytes encoded; deleting
    /// may take it beyond by an eighth, so that one can delete from a document that is full.
    pub(crate) fn load(base: Option<Bytes>, tail: Vec<Bytes>, max_size: usize) -> Result<Self, DocError> {
        let mut document = Self { tail, measured: false, ..Self::empty(max_size) };
        document.base = base.unwrap_or(document.base);
        let mut updates = Vec::new();
        for bytes in std::iter::once(&document.base).chain(&document.tail) {
            document.index.advance(&Update::parse(bytes)?)?;
            updates.push(decode(bytes)?);
        }
        document.transact(|transaction| updates.into_iter().try_for_each(|update| integrate(transaction, update)))?;
        document.measure()?;
        Ok(document)
    }

    /// Applies an update; returns the changes, now pending, if it had any. A refused update leaves the document
    /// unchanged.
    pub(crate) fn apply(&mut self, bytes: &[u8]) -> Result<Option<Bytes>, DocError> {
        let update = Update::parse(bytes)?;
        let mark = self.index.advance(&update)?;
        // yrs gets only updates with something new.
        let all: usize = update.clients.iter().map(|(_, blocks)| blocks.len()).sum();
        let decoded = self.admit(&mark).and_then(|()| {
            if mark.order.len() == all && all <= PIECE {
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
        let (begun, time) = (Instant::now(), self.patience + (self.patience / 20_000).saturating_mul(blocks));
        let outcome = self.transact(|transaction| {
            for piece in decoded {
                if begun.elapsed() > time {
                    return Err(DocError::TooSlow);
                }
                integrate(transaction, piece)?;
            }
            Ok(Change::of(transaction))
        });
        outcome.and_then(|change| self.keep(change, mark)).or_else(|error| {
            self.restore()?;
            Err(match error {
                DocError::Damaged => DocError::Malformed("it cannot be applied"),
                error => error,
            })
        })
    }

    /// Applies a stored update, which can no longer be refused.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), DocError> {
        let (max_size, patience) = (self.max_size, self.patience);
        (self.max_size, self.patience) = (usize::MAX / 2, UNHURRIED);
        let taken = self.apply(bytes);
        (self.max_size, self.patience) = (max_size, patience);
        self.settle();
        taken.map(drop)
    }

    /// Settles the pending changes: they have been stored.
    pub(crate) fn settle(&mut self) {
        self.tail.extend(self.pending.take().map(|(update, _)| update));
    }

    /// True if this update is pending.
    pub(crate) fn is_pending(&self, update: &[u8]) -> bool {
        self.pending.as_ref().is_some_and(|(pending, _)| pending == update)
    }

    /// Undoes the pending changes: they could not be stored.
    pub(crate) fn retract(&mut self) -> Result<(), DocError> {
        if self.pending.is_some() { self.restore() } else { Ok(()) }
    }

    /// True if something in an update is new.
    pub(crate) fn lacks(&self, bytes: &[u8]) -> Result<bool, DocError> {
        let update = Update::parse(bytes)?;
        if self.index.lacks(&update) {
            return Ok(true);
        }
        if update.deletes.is_empty() {
            return Ok(false);
        }
        let deleted = self.read(|transaction| transaction.snapshot().delete_set)?;
        Ok(update.deletes.iter().any(|(client, start, end)| {
            let ranges = deleted.get(&ClientID::new(*client));
            !ranges.is_some_and(|ranges| ranges.ranges().any(|range| range.start <= *start && *end <= range.end))
        }))
    }

    /// Lets the server's code change the document; returns its result, and the pending changes, if any.
    pub(crate) fn edit<R>(
        &mut self,
        edit: impl FnOnce(&mut TransactionMut<'_>) -> R,
    ) -> Result<(R, Option<Bytes>), DocError> {
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
        self.admit(&mark)?;
        self.keep(Some(change), mark)
    }

    /// Runs a function that reads the document.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> Result<R, DocError> {
        let transaction = self.doc.try_transact().map_err(|_| DocError::Damaged)?;
        catch_unwind(AssertUnwindSafe(|| look(&transaction))).map_err(|_| DocError::Panicked)
    }

    /// The update for a replica with this state vector: all changes that it lacks.
    pub(crate) fn diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, DocError> {
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
        let known = self.index.state_vector(self.pending.as_ref().map(|(_, mark)| mark));
        let mut out = Vec::new();
        push_varuint(&mut out, known.len() as u64);
        for (client, clock) in known {
            push_varuint(&mut out, client);
            push_varuint(&mut out, u64::from(clock));
        }
        out
    }

    /// All of it, as one update.
    pub(crate) fn encode(&self) -> Result<Bytes, DocError> {
        let update = self.read(|transaction| transaction.encode_state_as_update_v1(&StateVector::default()));
        update.map(Bytes::from).map_err(|_| DocError::Damaged)
    }

    /// Makes one update of all: a snapshot.
    pub(crate) fn compact(&mut self) -> Result<Bytes, DocError> {
        let snapshot = self.encode()?;
        // It holds less than before: what was deleted is no longer told apart.
        let mut index = Index::default();
        index.advance(&Update::parse(&snapshot)?)?;
        self.index = index;
        self.size = snapshot.len();
        self.measured = true;
        self.base = snapshot.clone();
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

    /// True if there is room for the blocks that an update inserts.
    fn admit(&mut self, mark: &Mark) -> Result<(), DocError> {
        if mark.order.is_empty() || self.size + mark.bytes + SPLIT * mark.order.len() <= self.max_size {
            return Ok(());
        }
        self.measure()?;
        if self.size + mark.bytes <= self.max_size { Ok(()) } else { Err(self.full()) }
    }

    /// Keeps changes as pending, unless they make the document too large.
    fn keep(&mut self, change: Option<Change>, mark: Mark) -> Result<Option<Bytes>, DocError> {
        let Some(change) = change else { return Ok(None) };
        self.size += change.update.len() + SPLIT * (mark.order.len() + 2 * change.deletes);
        self.measured = false;
        let bound = self.max_size + self.max_size / 8;
        if self.size > bound {
            self.measure()?;
            if self.size > bound {
                return Err(self.full());
            }
        }
        self.pending = Some((change.update.clone(), mark));
        Ok(Some(change.update))
    }

    fn full(&self) -> DocError {
        DocError::TooLarge { limit: self.max_size }
    }

    fn measure(&mut self) -> Result<(), DocError> {
        if !self.measured {
            self.size = self.encode()?.len();
            self.measured = true;
        }
        Ok(())
    }

    /// Restores the document from its stored updates.
    fn restore(&mut self) -> Result<(), DocError> {
        *self = Self::load(Some(self.base.clone()), self.tail.clone(), self.max_size)?;
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
            update: transaction.encode_update_v1().into(),
            deletes: transaction.delete_set().iter().map(|(_, ranges)| ranges.len()).sum(),
        })
    }
}

fn decode(bytes: &[u8]) -> Result<YrsUpdate, DocError> {
    let decoded = catch_unwind(|| YrsUpdate::decode_v1(bytes).ok());
    decoded.ok().flatten().ok_or(DocError::Malformed("a value cannot be read"))
}

fn integrate(transaction: &mut TransactionMut<'_>, update: YrsUpdate) -> Result<(), DocError> {
    transaction.apply_update(update).map_err(|_| DocError::Damaged)?;
    if transaction.has_missing_updates() { Err(DocError::Damaged) } else { Ok(()) }
}
