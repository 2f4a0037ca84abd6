//! [`StateValue`]: the content of a state's stream.
//!
//! A patch is planned by applying it: the value is touched once, and the way back is kept until the entry is stored.
//! Readers see the previous value meanwhile.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use bytes::Bytes;
use datasole_core::{
    patch::{Operation, Patch, PatchLimits, Undo, apply_undoable, diff_text},
    tree::{self, Tree},
};

use super::{
    Draft, SMALL, StateError,
    form::{Changes, PATCH, REMOVED, Step, VALUE, whole},
};
use crate::{
    backend::{BackendError, log::Stored},
    connection::Protocol,
    entry::Entry,
    hub::{self, Delivery, Displaced, Form, Inapplicable, Job, Kind, Read, Rules, Showing, V1},
    limits::{ENVELOPE, Limits},
};

/// A state's value.
///
/// A short one is its text until somebody changes a part of it: a tree is larger.
#[derive(Debug)]
pub(crate) struct StateValue {
    value: Option<Tree>,
    /// The entry of the whole, in place of `value`.
    text: Option<Entry>,
    /// An upper bound of its length as JSON text.
    bound: usize,
    /// How often it has changed.
    revision: u64,
    /// Boxed: nothing is, most of the time.
    pending: Option<Box<Pending>>,
    limits: Arc<Limits>,
}

/// A change that is being stored.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    /// The bound of the value that it leads to.
    bound: usize,
    change: Change,
}

#[derive(Debug)]
enum Change {
    /// The value is to be replaced by this.
    Replace(Option<Tree>),
    /// The value has been changed by this patch already; the way back.
    Patched(Patch, Undo),
}

/// The value at some revision, to be compared with another without holding the stream.
#[derive(Debug, Default)]
pub(crate) struct Base {
    value: Option<Tree>,
    revision: u64,
}

/// What leads from a [`Base`] to another value.
#[derive(Debug)]
pub(crate) struct Compared {
    revision: u64,
    /// Bytes of the other value's text.
    length: usize,
    /// `None` where both are equal.
    change: Option<(Entry, Step)>,
}

impl Base {
    /// The value, if there is one.
    pub(crate) fn value(&self) -> Option<&Tree> {
        self.value.as_ref()
    }

    /// Compares it with the value of this text. Takes time that grows with both.
    pub(crate) fn compare(self, text: &str) -> Result<Compared, StateError> {
        let mut found = Compared { revision: self.revision, length: text.len(), change: None };
        let mut entry = None;
        if let Some(old) = &self.value {
            let patch = diff_text(old, text)?;
            if patch.is_empty() {
                return Ok(found);
            }
            // The patch, or the whole value where that is shorter.
            let patched = if patch.whole().is_none() { Some(Entry::json(PATCH, &patch)?) } else { None };
            entry = patched.filter(|patched| patched.content().len() < text.len());
            if let Some(patched) = entry.take_if(|_| patch.operations().len() <= IN_PLACE) {
                found.change = Some((patched, Step::Patch(patch)));
                return Ok(found);
            }
        }
        // Reading it also refuses what is nested too deeply for any client.
        let value = tree::parse(text)?;
        let entry = entry.unwrap_or_else(|| Entry::new(VALUE, text.as_bytes()));
        found.change = Some((entry, Step::Replace(Some(value))));
        Ok(found)
    }
}

/// Operations of a difference that are applied to the value. For more, the new value takes the place of the old one.
const IN_PLACE: usize = 64;

/// The room that a state has in a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room<'a> {
    pub(crate) key: &'a str,
    pub(crate) max_payload: usize,
}

impl Room<'_> {
    /// True if a value of so many bytes of JSON text fits.
    pub(crate) fn check(&self, length: usize) -> Result<(), StateError> {
        // A key takes at most six bytes for each of its own, as \u00xx.
        let bytes = length.saturating_add(ENVELOPE + 6 * self.key.len());
        if bytes > self.max_payload {
            return Err(StateError::TooLarge { key: self.key.to_owned(), bytes, limit: self.max_payload });
        }
        Ok(())
    }
}

impl StateValue {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self { value: None, text: None, bound: 0, revision: 0, pending: None, limits }
    }

    /// A copy of the value as it is stored.
    pub(crate) fn stored(&mut self) -> Option<Tree> {
        if let Some(text) = &self.text {
            return read(text);
        }
        let patched = self.pending.take_if(|pending| matches!(pending.change, Change::Patched(..)));
        let Some(Pending { entry, bound, change: Change::Patched(patch, undo) }) = patched.map(|pending| *pending)
        else {
            return self.value.clone();
        };
        self.revert(undo);
        let stored = self.value.clone();
        if let Some(value) = &mut self.value
            && let Ok(undo) = apply_undoable(value, &patch, &PatchLimits::default())
        {
            self.pending = Some(Box::new(Pending { entry, bound, change: Change::Patched(patch, undo) }));
        }
        stored
    }

    /// The same where it is no text.
    fn whole(&mut self) -> Option<Tree> {
        if self.text.is_some() { None } else { self.stored() }
    }

    /// The value as it is, for who has the right to change it.
    pub(crate) fn base(&mut self) -> Base {
        drop(self.retract());
        self.grow();
        Base { value: self.value.clone(), revision: self.revision }
    }

    /// Makes a tree of the text.
    fn grow(&mut self) {
        if let Some(text) = self.text.take() {
            self.value = read(&text);
        }
    }

    /// Takes a value in place of the one before, which an entry brought; returns that where it is large.
    fn replace(&mut self, value: Option<Tree>, entry: &Entry) -> Option<Displaced> {
        let (is_short, was_large) = (entry.tag() == VALUE && entry.content().len() <= SHORT, self.bound > SMALL);
        self.text = is_short.then(|| entry.clone());
        let displaced = std::mem::replace(&mut self.value, value.filter(|_| !is_short));
        displaced.filter(|_| was_large).map(|displaced| Arc::new(displaced) as Displaced)
    }

    /// Whether the comparison was with this value.
    pub(crate) fn is_at(&self, compared: &Compared) -> bool {
        compared.revision == self.revision
    }

    /// Plans to replace the value by another, whose JSON text this is. `compared` is what a comparison has found, if there
    /// was one; it is made here where it was with another value than this.
    pub(crate) fn plan_set(&mut self, text: &str, compared: Option<Compared>) -> Result<Option<Entry>, StateError> {
        let compared = match compared.filter(|compared| self.is_at(compared)) {
            Some(compared) => compared,
            None => self.base().compare(text)?,
        };
        let Some((entry, step)) = compared.change else { return Ok(None) };
        let (entry, change) = match step {
            Step::Replace(value) => (entry, Change::Replace(value)),
            Step::Patch(patch) => {
                self.grow();
                match apply_undoable(self.value.get_or_insert_default(), &patch, &PatchLimits::default()) {
                    Ok(undo) => (entry, Change::Patched(patch, undo)),
                    // Nobody else could apply it either.
                    Err(_) => (Entry::new(VALUE, text.as_bytes()), Change::Replace(Some(tree::parse(text)?))),
                }
            }
        };
        Ok(Some(self.intend(entry, compared.length, change)))
    }

    /// Plans to remove the state.
    pub(crate) fn plan_remove(&mut self) -> Option<Entry> {
        if self.is_gone() {
            return None;
        }
        Some(self.intend(Entry::new(REMOVED, &[]), 0, Change::Replace(None)))
    }

    /// Plans a patch. A state that does not exist starts from `null`.
    pub(crate) fn plan_patch(&mut self, room: Room<'_>, patch: &Patch) -> Result<Option<Entry>, StateError> {
        if patch.is_empty() {
            return Ok(None);
        }
        self.grow();
        let existed = self.value.is_some();
        match apply_undoable(self.value.get_or_insert_default(), patch, &PatchLimits::default()) {
            Ok(undo) => self.propose(room, existed, patch.clone(), undo).map(Some),
            Err(error) => {
                self.back(existed, Undo::default());
                Err(error.into())
            }
        }
    }

    /// Plans the changes that a function makes to the value. If it panics, the changes are undone and the panic goes
    /// on.
    pub(crate) fn plan_update(
        &mut self,
        room: Room<'_>,
        update: impl FnOnce(&mut Draft<'_>) -> Result<(), StateError>,
    ) -> Result<Option<Entry>, StateError> {
        self.grow();
        let existed = self.value.is_some();
        let mut draft = Draft::new(self.value.get_or_insert_default());
        let outcome = catch_unwind(AssertUnwindSafe(|| update(&mut draft)));
        let (operations, undo) = draft.end();
        if !matches!(outcome, Ok(Ok(()))) || operations.is_empty() {
            self.back(existed, undo);
            return outcome.unwrap_or_else(|panic| resume_unwind(panic)).map(|()| None);
        }
        self.propose(room, existed, Patch::from_operations(operations), undo).map(Some)
    }

    /// Makes an entry of a patch that has been applied, or takes it back.
    fn propose(&mut self, room: Room<'_>, existed: bool, patch: Patch, undo: Undo) -> Result<Entry, StateError> {
        match self.weigh(room, existed, &patch) {
            Ok((entry, bound)) => {
                let change = if existed { Change::Patched(patch, undo) } else { Change::Replace(self.value.take()) };
                Ok(self.intend(entry, bound, change))
            }
            Err(error) => {
                self.back(existed, undo);
                Err(error)
            }
        }
    }

    /// The entry of a patch that has been applied, and the bound of the resulting value, if that fits.
    fn weigh(&self, room: Room<'_>, existed: bool, patch: &Patch) -> Result<(Entry, usize), StateError> {
        let mut entry = Entry::json(PATCH, patch)?;
        let mut bound = grown(self.bound, patch, &entry);
        // A subscriber of a key that did not exist has nothing to apply a patch to. Else, only where the bound says
        // that it might be too long is the value measured.
        if !existed || room.check(bound).is_err() {
            let whole = Entry::json(VALUE, &self.value)?;
            bound = whole.content().len();
            room.check(bound)?;
            if !existed || entry.content().len() > bound {
                entry = whole;
            }
        }
        Ok((entry, bound))
    }

    fn intend(&mut self, entry: Entry, bound: usize, change: Change) -> Entry {
        self.pending = Some(Box::new(Pending { entry: entry.clone(), bound, change }));
        entry
    }

    fn back(&mut self, existed: bool, undo: Undo) {
        self.revert(undo);
        if !existed {
            self.value = None;
        }
    }

    /// Goes back, and returns what there was instead.
    fn revert(&mut self, undo: Undo) -> Vec<Tree> {
        self.value.as_mut().map_or_else(Vec::new, |value| undo.revert(value))
    }

    fn take(&mut self, entry: &Entry, step: Step) -> Result<Option<Displaced>, Inapplicable> {
        self.revision += 1;
        match step {
            Step::Replace(value) => {
                let displaced = self.replace(value, entry);
                self.bound = entry.content().len();
                Ok(displaced)
            }
            Step::Patch(patch) => {
                self.grow();
                let value = self.value.get_or_insert_default();
                let undo = apply_undoable(value, &patch, &PatchLimits::default()).map_err(|_| Inapplicable)?;
                self.bound = grown(self.bound, &patch, entry);
                Ok(displaced(patch, undo))
            }
        }
    }
}

impl Kind for StateValue {
    fn rules(&self) -> Rules {
        Rules {
            stored: true,
            relayed: false,
            replay: self.limits.replay,
            compaction: self.limits.replay,
            delivery: Delivery::Conflated,
            v1: V1::Followed,
            evictable: true,
            numbered: true,
        }
    }

    fn form(&self) -> &'static dyn Form {
        &Changes
    }

    fn restore(&mut self, stored: &Stored) -> Result<(), BackendError> {
        for bytes in stored.bytes() {
            let entry = Entry::stored(bytes.clone()).and_then(|entry| Step::read(&entry).map(|step| (entry, step)));
            let taken = entry.ok_or(Inapplicable).and_then(|(entry, step)| self.take(&entry, step));
            taken.map_err(|_| BackendError::Corrupt("an entry of a state".into()))?;
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, read: Option<Read>) -> Result<Option<Displaced>, Inapplicable> {
        let planned = self.pending.take_if(|pending| pending.entry == *entry);
        if let Some(Pending { bound, change, .. }) = planned.map(|pending| *pending) {
            self.revision += 1;
            let displaced = match change {
                Change::Replace(value) => self.replace(value, entry),
                Change::Patched(patch, undo) => displaced(patch, undo),
            };
            self.bound = bound;
            return Ok(displaced);
        }
        let retracted = self.retract();
        let step = match read {
            Some(read) => read.downcast().map(|step| *step).ok(),
            None => Step::read(entry),
        };
        let displaced = self.take(entry, step.ok_or(Inapplicable)?)?;
        Ok(match (retracted, displaced) {
            (Some(retracted), Some(displaced)) => Some(Arc::new((retracted, displaced))),
            (retracted, displaced) => retracted.or(displaced),
        })
    }

    fn retract(&mut self) -> Option<Displaced> {
        match self.pending.take()?.change {
            Change::Replace(value) => {
                let value = value.filter(|value| value.outweighs(MANY))?;
                Some(Arc::new(value))
            }
            Change::Patched(patch, undo) => {
                let put = self.revert(undo);
                let is_large = patch.outweighs(MANY) || put.iter().any(|value| value.outweighs(MANY));
                is_large.then(|| Arc::new((patch, put)) as Displaced)
            }
        }
    }

    fn snapshot(&mut self) -> Option<Job<Bytes>> {
        let (text, value) = (self.text.clone(), self.whole());
        Some(Box::new(move || {
            // A tree can always be written.
            let whole = text.or_else(|| value.and_then(|value| Entry::json(VALUE, &value).ok()));
            whole.unwrap_or_else(|| Entry::new(REMOVED, &[])).bytes().clone()
        }))
    }

    fn is_gone(&self) -> bool {
        self.value.is_none() && self.text.is_none()
    }

    /// A comparison with a value before is not taken for one with this value.
    fn inherit(&mut self, before: &mut dyn Kind) {
        self.revision += hub::of::<Self>(before).map_or(0, |before| before.revision + 1);
    }

    fn show(&mut self, _: Protocol) -> Option<Showing> {
        let (text, value) = (self.text.clone(), self.whole());
        Some(Box::new(move |at| {
            let written = value.and_then(|value| serde_json::to_vec(&value).ok());
            let text = text.as_ref().map(Entry::content).or(written.as_deref());
            (whole(text, at), text.map_or(0, <[u8]>::len))
        }))
    }

    fn weight(&self) -> usize {
        self.bound
    }

    fn measure(&mut self) -> Option<Job<usize>> {
        let value = self.whole()?;
        Some(Box::new(move || {
            let mut length = Length(0);
            // Counting does not fail.
            let _ = serde_json::to_writer(&mut length, &value);
            length.0
        }))
    }

    fn weighs(&mut self, bytes: usize) {
        self.bound = bytes;
    }
}

/// Values that are dropped at once; dropping more takes long.
const MANY: usize = 1_024;

/// A patch that was applied and its way back, where dropping them takes long.
fn displaced(patch: Patch, undo: Undo) -> Option<Displaced> {
    (patch.outweighs(MANY) || undo.outweighs(MANY)).then(|| Arc::new((patch, undo)) as Displaced)
}

/// Bytes of text up to which a value is kept as it is.
const SHORT: usize = 512;

/// The value of a text, which is one: it was read before it was taken.
fn read(text: &Entry) -> Option<Tree> {
    tree::parse(text.text()).ok()
}

/// Counts the bytes that are written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bound of a value behind the patch of an entry. Only a copy adds more than its own text: then nothing is known until the
/// value is measured.
fn grown(bound: usize, patch: &Patch, entry: &Entry) -> usize {
    let copies = patch.operations().iter().any(|operation| matches!(operation, Operation::Copy { .. }));
    if copies { usize::MAX } else { bound.saturating_add(entry.content().len()) }
}
