//! A client's side of one CRDT: what the server has confirmed, and its own operations that are not in it yet, on top.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    Applied, Crdt, CrdtError, CrdtKind, CrdtLimits, Edit, Hlc, Op,
    op::{RETIRED, V1_PREFIX},
    value::{quote, raw},
};
use crate::event::EditOutcome;

/// A replica: one object in one running client, under a name that no other ever has. Edits count at once, and are
/// pending until the server has confirmed them.
///
/// The host hands each edit to [`Client::edit`](crate::Client::edit), which sends it, and tells what comes back:
/// [`settled`](Self::settled) for each outcome, [`entry`](Self::entry) for each entry of the stream. With a storage of its
/// own it writes [`save`](Self::save) after each edit and *before* sending it, or a number could be given twice after a
/// restart, and queues [`own`](Self::own) anew after [`restore`](Self::restore); two running clients must not restore the
/// same replica.
#[derive(Clone, Debug)]
pub struct Replica {
    node: Arc<str>,
    secret: Option<Arc<str>>,
    clock: Hlc,
    limits: CrdtLimits,
    confirmed: Crdt,
    current: Crdt,
    /// The number of the latest operation.
    counter: u64,
    /// Operations without an outcome, by number.
    pending: BTreeMap<u64, Op>,
    /// Those that are stored, until they arrive as an entry, or within a snapshot.
    arriving: BTreeMap<u64, Op>,
}

/// What [`Replica::save`] writes.
#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    #[serde(rename = "type")]
    kind: CrdtKind,
    node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    counter: u64,
    timestamp: u64,
    logical: u64,
    #[serde(borrow)]
    pending: Vec<&'a RawValue>,
}

impl Replica {
    /// Most operations that may be pending.
    pub const MAX_PENDING: usize = 10_000;

    /// A new replica of this name, which no other has or had: 1 to [`CrdtLimits::max_node`] bytes, neither `retired` nor
    /// beginning with `v1:`.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Malformed`] and [`CrdtError::Limit`] for the name.
    pub fn new(kind: CrdtKind, node: &str, limits: CrdtLimits) -> Result<Self, CrdtError> {
        if node.is_empty() || node == RETIRED || node.starts_with(V1_PREFIX) {
            return Err(CrdtError::Malformed("nodeId is empty or reserved"));
        }
        if node.len() > limits.max_node {
            return Err(CrdtError::Limit { what: "bytes of a nodeId", limit: limits.max_node });
        }
        Ok(Self {
            node: node.into(),
            secret: None,
            // The server bounds the drift of what it publishes.
            clock: Hlc::new(u64::MAX),
            limits,
            confirmed: Crdt::new(kind),
            current: Crdt::new(kind),
            counter: 0,
            pending: BTreeMap::new(),
            arriving: BTreeMap::new(),
        })
    }

    /// The same with a secret, 1 to 64 bytes that nobody can guess: a server gives the name to the replica that shows it,
    /// where it has not authenticated a user. Saved with the replica.
    #[must_use]
    pub fn with_secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// An operation of this replica as it goes to [`Client::edit`](crate::Client::edit): with the secret.
    pub fn sent(&self, op: &Op) -> Box<RawValue> {
        let Some(secret) = &self.secret else { return op.to_json() };
        let mut out = op.to_json().get().to_owned();
        // The last of the members.
        out.pop();
        out.push_str(",\"secret\":");
        quote(secret, &mut out);
        out.push('}');
        raw(out)
    }

    /// Its name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The type.
    pub fn kind(&self) -> CrdtKind {
        self.confirmed.kind()
    }

    /// What the server has confirmed, with the pending operations on top.
    pub fn current(&self) -> &Crdt {
        &self.current
    }

    /// What the server has confirmed.
    pub fn confirmed(&self) -> &Crdt {
        &self.confirmed
    }

    /// What the application sees.
    pub fn value(&self) -> Value {
        self.current.value()
    }

    /// How many operations have no outcome yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes an edit. `now`: Unix milliseconds, by the server's clock as far as it is known. An edit that would change
    /// nothing (the removal of what is not there) is none: `None`.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Limit`] with too much pending; [`CrdtError::Malformed`], [`CrdtError::Range`], [`CrdtError::Limit`]
    /// when the server would refuse it. Nothing has changed then.
    pub fn edit(&mut self, now: u64, edit: Edit) -> Result<Option<Op>, CrdtError> {
        let Some(change) = self.current.change(&edit, &self.limits)? else { return Ok(None) };
        if self.pending.len() + self.arriving.len() >= Self::MAX_PENDING {
            return Err(CrdtError::Limit { what: "pending operations", limit: Self::MAX_PENDING });
        }
        let mut clock = self.clock.clone();
        let (timestamp, logical) = clock.tick(now)?;
        let (kind, node, counter) = (self.kind(), self.node.clone(), self.counter + 1);
        let op = Op { kind, node, counter, timestamp, logical, done: self.done(), change }.check(&self.limits)?;
        self.current.apply(&op, &self.limits)?;
        (self.clock, self.counter) = (clock, counter);
        self.pending.insert(counter, op.clone());
        Ok(Some(op))
    }

    /// Every operation up to this one has its outcome.
    fn done(&self) -> u64 {
        self.pending.keys().next().map_or(self.counter, |first| first - 1)
    }

    /// An edit has its outcome ([`Event::Settled`](crate::Event::Settled)). A stored one stays on top until what the server
    /// confirmed contains it or, where it does not come back, is confirmed herewith; a refused one is undone.
    pub fn settled(&mut self, counter: u64, outcome: &EditOutcome) {
        match outcome {
            EditOutcome::Stored { returns: true } => {
                if let Some(op) = self.pending.remove(&counter) {
                    if self.confirmed.has_seen(&self.node, counter) {
                        self.rebuild();
                    } else {
                        self.arriving.insert(counter, op);
                    }
                }
            }
            EditOutcome::Stored { returns: false } => {
                if let Some(op) = self.drop_own(counter) {
                    // One that does not fit is left to the server.
                    let _ = self.confirmed.apply(&op, &self.limits);
                    self.rebuild();
                }
            }
            EditOutcome::Refused { .. } => {
                if self.drop_own(counter).is_some() {
                    self.rebuild();
                }
            }
        }
    }

    /// The own operations that what the server confirmed does not contain, by number: to be queued anew after
    /// [`restore`](Self::restore), each as [`sent`](Self::sent) writes it.
    pub fn own(&self) -> impl Iterator<Item = &Op> {
        self.unconfirmed()
    }

    fn drop_own(&mut self, counter: u64) -> Option<Op> {
        self.pending.remove(&counter).or_else(|| self.arriving.remove(&counter))
    }

    /// Takes an entry of the stream as the server sent it: an operation or, `whole`, the state that takes the place of what
    /// was confirmed (`null`: there is none). A plain state, of a version 1 server, is adopted instead.
    ///
    /// # Errors
    ///
    /// Those of [`Op::parse`] and [`remote`](Self::remote), of [`Crdt::from_json`] and [`snapshot`](Self::snapshot); nothing
    /// has changed then.
    pub fn entry(&mut self, json: &str, whole: bool) -> Result<(), CrdtError> {
        if !whole {
            return self.remote(&Op::parse(json, &self.limits)?).map(drop);
        }
        match Crdt::from_any(json, &self.limits)? {
            Some((state, true)) => self.remote_v1_state(&state),
            state => self.snapshot(state.map(|(state, _)| state)),
        }
    }

    /// A snapshot of the stream takes the place of what was confirmed; `None`: there is no such CRDT, yet.
    ///
    /// # Errors
    ///
    /// [`CrdtError::WrongKind`]; nothing has changed then.
    pub fn snapshot(&mut self, state: Option<Crdt>) -> Result<(), CrdtError> {
        let state = state.unwrap_or_else(|| Crdt::new(self.kind()));
        if state.kind() != self.kind() {
            return Err(CrdtError::WrongKind { expected: self.kind(), found: state.kind() });
        }
        self.confirmed = state;
        self.counter = self.counter.max(self.confirmed.last(&self.node));
        self.follow();
        self.settle();
        self.rebuild();
        Ok(())
    }

    /// An entry of the stream: an operation of anyone.
    ///
    /// # Errors
    ///
    /// Those of [`Crdt::apply`]: the server has another history, and the stream is to be subscribed anew. Nothing has
    /// changed then.
    pub fn remote(&mut self, op: &Op) -> Result<Applied, CrdtError> {
        let applied = self.confirmed.apply(op, &self.limits)?;
        self.clock.observe((op.timestamp, op.logical), 0);
        let on_top = self.current.seen.get(&op.node);
        let there = on_top.is_some_and(|seen| seen.upto >= op.done && seen.contains(op.counter));
        let same = match self.take(op) {
            // The effect of dots of a forgotten replica depends on when the operation is applied.
            Some(_) if self.confirmed.floor > 0 && !op.dots().is_empty() => false,
            // A server that has lost its data numbers what version 1 adds as before: it is not what was meant.
            Some(_) if op.dots().iter().any(|(node, _)| node.starts_with(V1_PREFIX)) => false,
            Some(sent) => there && sent.change == op.change && sent.stamp() == op.stamp(),
            // The `none` of an operation that was refused: one on top may have shown its number as done.
            None if op.node == self.node => false,
            None => self.current.apply(op, &self.limits).is_ok(),
        };
        self.counter = self.counter.max(self.confirmed.last(&self.node));
        // An addition that was put off is done when its removal comes.
        let removed = op.dots().iter().any(|(node, counter)| *node == self.node && self.is_pending(*counter));
        if removed {
            self.settle();
        }
        // What was refused here has never been there: `done` skips it.
        let settled = self.pending.is_empty() && self.arriving.is_empty();
        let skipped = settled && self.current.forgotten != self.confirmed.forgotten;
        if removed || skipped || !same {
            self.rebuild();
        }
        Ok(applied)
    }

    /// A state from a server of version 1: see [`Crdt::adopt_v1`].
    ///
    /// # Errors
    ///
    /// Those of [`Crdt::adopt_v1`]; nothing has changed then.
    pub fn remote_v1_state(&mut self, state: &Crdt) -> Result<(), CrdtError> {
        self.confirmed.adopt_v1(state)?;
        self.follow();
        self.rebuild();
        Ok(())
    }

    /// What it takes to go on after a restart, but for the confirmed state, which the server has.
    pub fn save(&self) -> Box<RawValue> {
        let (timestamp, logical) = self.clock.latest();
        let ops: BTreeMap<_, _> = self.unconfirmed().map(|op| (op.counter, op.to_json())).collect();
        let (kind, node, counter) = (self.kind(), self.node.to_string(), self.counter);
        let secret = self.secret.as_deref().map(Into::into);
        let pending = ops.values().map(AsRef::as_ref).collect();
        let saved = Saved { kind, node, secret, counter, timestamp, logical, pending };
        // Writing to memory cannot fail.
        raw(serde_json::to_string(&saved).unwrap_or_default())
    }

    /// Goes on from what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`CrdtError`] when it is not that.
    pub fn restore(saved: &str, limits: CrdtLimits) -> Result<Self, CrdtError> {
        let saved: Saved<'_> = serde_json::from_str(saved)?;
        let mut replica = Self::new(saved.kind, &saved.node, limits)?;
        replica.secret = saved.secret.map(Into::into);
        replica.clock.observe((saved.timestamp, saved.logical), 0);
        replica.counter = saved.counter;
        for json in saved.pending {
            let op = Op::parse(json.get(), &limits)?;
            let last = replica.pending.keys().next_back().copied().unwrap_or_default();
            if op.kind != saved.kind || op.node != replica.node || op.counter <= last || op.counter > saved.counter {
                return Err(CrdtError::Malformed("not what this replica has saved"));
            }
            replica.pending.insert(op.counter, op);
        }
        replica.rebuild();
        Ok(replica)
    }

    /// Takes the operation that came back as `op`, if it is one of ours.
    fn take(&mut self, op: &Op) -> Option<Op> {
        if op.node != self.node {
            return None;
        }
        self.drop_own(op.counter)
    }

    /// The operations on top.
    fn unconfirmed(&self) -> impl Iterator<Item = &Op> {
        self.arriving.values().chain(self.pending.values())
    }

    fn is_pending(&self, counter: u64) -> bool {
        self.pending.contains_key(&counter) || self.arriving.contains_key(&counter)
    }

    /// Drops what has been confirmed from the operations on top.
    fn settle(&mut self) {
        let (confirmed, node) = (&self.confirmed, &self.node);
        for own in [&mut self.pending, &mut self.arriving] {
            own.retain(|&counter, _| !confirmed.has_seen(node, counter));
        }
    }

    /// Writes later than what has been confirmed.
    fn follow(&mut self) {
        let stamp = self.confirmed.stamp();
        self.clock.observe((stamp.timestamp, stamp.logical), 0);
    }

    /// Puts the pending operations on top of what has been confirmed. One that does not fit there is left to the server.
    fn rebuild(&mut self) {
        let mut current = self.confirmed.clone();
        for op in self.unconfirmed() {
            // One that no longer fits is the server's to refuse.
            let _ = current.apply(op, &self.limits);
        }
        self.current = current;
    }
}
