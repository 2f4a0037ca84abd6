//! [`Content`]: the content of a CRDT's stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{
    StreamKind,
    crdt::{Crdt, CrdtLimits, Op},
    frame::Opcode,
};
use serde::de::IgnoredAny;

use crate::{
    backend::{
        BackendError,
        log::{Rule, Stored},
    },
    connection::Protocol,
    entry::Entry,
    hub::{At, Bounds, Compaction, Delivery, Displaced, Form, Inapplicable, Job, Kind, Read, Rules, Showing, Spec, V1},
    limits::{Limits, Replay},
    message::{self, OBJECT, Object, framed},
    primitives::{
        crdt::owner::{Claim, Newcomers, Owners},
        reservation::Reservation,
    },
};

// Before the JSON of an operation or a state, and a line break, may stand what is for servers only: the owner to whom the
// operation binds its replica, and the owners of a state's replicas.

/// An operation: its JSON.
pub(super) const OPERATION: u8 = b'o';
/// The CRDT was compacted: the JSON of its whole state.
const STATE: u8 = b's';
/// The CRDT was removed.
const REMOVED: u8 = b'r';

/// The line of CRDTs in the table of kinds.
pub(crate) fn kind(limits: &Arc<Limits>) -> Spec {
    let settings =
        Arc::new(Settings { limits: limits.crdt(), retention: limits.crdt_retention, replay: limits.replay });
    let make = move |_: &str| -> Box<dyn Kind> { Box::new(Content::new(settings.clone())) };
    Spec {
        kind: StreamKind::Crdt,
        spare: limits.max_idle_crdts,
        bounds: Bounds::default(),
        v1_follows: true,
        make: Box::new(make),
    }
}

#[derive(Debug)]
struct Settings {
    limits: CrdtLimits,
    /// Time for which silent replicas and tombstones are remembered.
    retention: Duration,
    replay: Replay,
}

/// A CRDT; nothing until its first operation.
#[derive(Debug)]
pub(crate) struct Content {
    /// Shared with work on the whole, which others do not wait for.
    crdt: Option<Arc<Crdt>>,
    owners: Owners,
    /// New names of late.
    pub(super) newcomers: Newcomers,
    pending: Option<Pending>,
    /// How many times the CRDT may have changed.
    revision: u64,
    settings: Arc<Settings>,
}

/// A change that is being stored.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    change: Change,
    rule: Rule,
    /// The revision on which it was planned.
    revision: u64,
}

#[derive(Debug)]
enum Change {
    /// An operation, with the claim to be its replica if it is a client's, and the reservation of the key if it creates
    /// the key.
    Operation(Op, Option<Claim>, Option<Reservation>),
    /// A removal, with the count that the key is part of.
    Remove(Option<Arc<AtomicUsize>>),
}

impl Content {
    fn new(settings: Arc<Settings>) -> Self {
        Self {
            crdt: None,
            owners: Owners::default(),
            newcomers: Newcomers::default(),
            pending: None,
            revision: 0,
            settings,
        }
    }

    /// The CRDT as it is stored.
    pub(super) fn crdt(&self) -> Option<&Crdt> {
        self.crdt.as_deref()
    }

    /// The owners of replicas: who may go on as which.
    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Plans the operation of an entry.
    pub(super) fn intend(
        &mut self,
        entry: &Entry,
        (op, claim): (Op, Option<Claim>),
        rule: Rule,
        reservation: Option<Reservation>,
    ) {
        self.plan(entry, Change::Operation(op, claim, reservation), rule);
    }

    /// Plans to remove the CRDT, if there is one, and its part in a count.
    pub(super) fn plan_remove(&mut self, counted: Option<Arc<AtomicUsize>>) -> Option<Entry> {
        self.crdt.as_ref()?;
        let entry = Entry::new(REMOVED, &[]);
        self.plan(&entry, Change::Remove(counted), Rule::Exactly);
        Some(entry)
    }

    fn plan(&mut self, entry: &Entry, change: Change, rule: Rule) {
        self.pending = Some(Pending { entry: entry.clone(), change, rule, revision: self.revision });
    }

    /// The CRDT to change, which is counted; an empty one of the operation's type, if there is none.
    fn open(&mut self, op: &Op) -> &mut Crdt {
        self.revision += 1;
        Arc::make_mut(self.crdt.get_or_insert_with(|| Arc::new(Crdt::new(op.kind()))))
    }

    fn operate(&mut self, op: &Op, limits: &CrdtLimits) -> Result<(), Inapplicable> {
        self.open(op).apply(op, limits).map(drop).map_err(|_| Inapplicable)
    }

    fn take(&mut self, step: Step) -> Result<Option<Displaced>, Inapplicable> {
        match step {
            Step::Operation(op, owner) => {
                // One that others have overtaken by making the key of another type is void, on every node alike.
                if self.operate(&op, &unlimited()).is_ok() && !owner.is_empty() {
                    self.owners.bind(op.node(), &owner).ok_or(Inapplicable)?;
                }
                Ok(None)
            }
            Step::State(crdt, owners) => {
                self.owners = owners;
                Ok(self.replace(crdt))
            }
        }
    }

    /// Takes a CRDT in place of the one before; returns that where it is large.
    fn replace(&mut self, crdt: Option<Arc<Crdt>>) -> Option<Displaced> {
        self.revision += 1;
        let displaced = std::mem::replace(&mut self.crdt, crdt)?;
        (displaced.size() > SMALL).then_some(displaced)
    }
}

/// Bytes of a CRDT that is dropped at once; dropping more takes long.
const SMALL: usize = 64 * 1024;

/// The change that an entry makes to the CRDT.
enum Step {
    /// An operation, and the owner to whom it binds its replica.
    Operation(Op, Box<str>),
    /// Another CRDT takes its place, or nothing.
    State(Option<Arc<Crdt>>, Owners),
}

impl Step {
    /// Reads an entry, which takes as long as it is.
    fn read(entry: &Entry) -> Option<Self> {
        let (private, json) = parts(entry.text());
        match entry.tag() {
            OPERATION => Some(Self::Operation(Op::parse(json, &unlimited()).ok()?, private.into())),
            STATE => {
                let crdt = Crdt::from_json(json, &unlimited()).ok()?;
                Some(Self::State(crdt.map(Arc::new), Owners::parse(private)?))
            }
            REMOVED => Some(Self::State(None, Owners::default())),
            _ => None,
        }
    }
}

impl Kind for Content {
    fn rules(&self) -> Rules {
        Rules {
            stored: true,
            relayed: false,
            replay: self.settings.replay,
            compaction: self.settings.replay,
            delivery: Delivery::Conflated,
            v1: V1::Whole,
            evictable: true,
            numbered: false,
        }
    }

    fn form(&self) -> &'static dyn Form {
        &Operations
    }

    fn restore(&mut self, stored: &Stored) -> Result<(), BackendError> {
        for bytes in stored.bytes() {
            let step = Entry::stored(bytes.clone()).and_then(|entry| Step::read(&entry));
            step.ok_or(Inapplicable)
                .and_then(|step| self.take(step))
                .map_err(|_| BackendError::Corrupt("an entry of a CRDT".into()))?;
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, read: Option<Read>) -> Result<Option<Displaced>, Inapplicable> {
        match self.pending.take() {
            Some(Pending { entry: own, change, revision, .. }) if own == *entry => match change {
                Change::Operation(op, claim, reservation) => {
                    if revision == self.revision {
                        self.open(&op).apply_planned(&op);
                    } else {
                        let limits = self.settings.limits;
                        self.operate(&op, &limits)?;
                    }
                    if let Some(claim) = claim {
                        self.owners.take(op.node(), claim);
                    }
                    // From here on the key exists.
                    reservation.into_iter().for_each(Reservation::keep);
                    Ok(None)
                }
                Change::Remove(counted) => {
                    self.owners = Owners::default();
                    if let Some(count) = counted {
                        count.fetch_sub(1, Ordering::Relaxed);
                    }
                    Ok(self.replace(None))
                }
            },
            _ => {
                let step = match read {
                    Some(read) => read.downcast().map(|step| *step).ok(),
                    None => Step::read(entry),
                };
                self.take(step.ok_or(Inapplicable)?)
            }
        }
    }

    fn rule(&self, _: &Entry) -> Rule {
        self.pending.as_ref().map_or(Rule::Exactly, |pending| pending.rule)
    }

    fn retract(&mut self) -> Option<Displaced> {
        self.pending = None;
        None
    }

    fn snapshot(&mut self) -> Option<Job<Bytes>> {
        let Some(crdt) = self.crdt.clone() else { return Some(Box::new(|| Entry::new(REMOVED, &[]).bytes().clone())) };
        let owners = self.owners.clone();
        Some(Box::new(move || state(&crdt, &owners).bytes().clone()))
    }

    fn compact(&self, now: u64) -> Option<Compaction> {
        let (crdt, mut owners) = (self.crdt.clone()?, self.owners.clone());
        let Settings { retention, limits, .. } = *self.settings;
        Some(Box::new(move || {
            let crdt = collected(&crdt, now, retention, &limits)?;
            owners.retain(|node| crdt.remembers(node));
            let entry = state(&crdt, &owners);
            Some((entry, Box::new(Step::State(Some(crdt), owners)) as Read))
        }))
    }

    fn is_gone(&self) -> bool {
        self.crdt.is_none()
    }

    /// Version 1 has no message for a CRDT that does not exist.
    fn show(&mut self, protocol: Protocol) -> Option<Showing> {
        let crdt = self.crdt.clone();
        if crdt.is_none() && protocol == Protocol::V1 {
            return None;
        }
        Some(Box::new(move |at| {
            let state = crdt.map(|crdt| match protocol {
                Protocol::V2 => crdt.to_text(),
                Protocol::V1 => crdt.to_text_v1(),
            });
            let state = state.as_deref().unwrap_or("null");
            (message(Opcode::CrdtState, "state", state.as_bytes(), at), state.len())
        }))
    }

    fn weight(&self) -> usize {
        self.crdt.as_ref().map_or(0, |crdt| crdt.size())
    }
}

/// The entries of CRDTs.
#[derive(Debug)]
struct Operations;

impl Form for Operations {
    fn reads(&self, entry: &Entry) -> bool {
        match entry.tag() {
            OPERATION | STATE => serde_json::from_str::<IgnoredAny>(parts(entry.text()).1).is_ok(),
            tag => tag == REMOVED,
        }
    }

    fn read(&self, entry: &Entry) -> Option<Read> {
        Some(Box::new(Step::read(entry)?))
    }

    fn most(&self, entry: &Entry, key: &str) -> Option<usize> {
        let (member, json) = shown(entry);
        Some(message::most_placed(key, member, json.as_bytes()))
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        let opcode = if entry.tag() == OPERATION { Opcode::CrdtOp } else { Opcode::CrdtState };
        let (member, json) = shown(entry);
        message(opcode, member, json.as_bytes(), at)
    }
}

/// The member that shows an entry to clients, and its JSON.
fn shown(entry: &Entry) -> (&'static str, &str) {
    match entry.tag() {
        OPERATION => ("op", parts(entry.text()).1),
        STATE => ("state", parts(entry.text()).1),
        _ => ("state", "null"),
    }
}

/// An entry's content: what is for servers only, and the JSON, which is an object.
fn parts(content: &str) -> (&str, &str) {
    if content.starts_with('{') { ("", content) } else { content.split_once('\n').unwrap_or(("", content)) }
}

/// An entry of JSON with what is for servers only.
pub(super) fn entry(tag: u8, private: &str, json: &str) -> Entry {
    let line = if private.is_empty() { "" } else { "\n" };
    Entry::of(tag, &[private.as_bytes(), line.as_bytes(), json.as_bytes()])
}

fn state(crdt: &Crdt, owners: &Owners) -> Entry {
    entry(STATE, &owners.text(), &crdt.to_text())
}

fn message(opcode: Opcode, member: &str, json: &[u8], at: &At<'_>) -> Bytes {
    framed(opcode, 0, OBJECT + at.key.len() + json.len(), at.compress_above, |out| {
        Object::new(out).text("key", at.key).raw(member, json).position(at.position).end();
    })
}

/// Limits for stored CRDTs: these were within the limits once, which may have changed.
fn unlimited() -> CrdtLimits {
    // Nothing is longer; and what is added to it does not overflow.
    const NONE: usize = usize::MAX / 2;
    CrdtLimits {
        max_bytes: NONE,
        max_value: NONE,
        max_depth: NONE,
        max_entries: NONE,
        max_key: NONE,
        max_replicas: NONE,
        max_ahead: NONE,
        max_dots: NONE,
        max_node: NONE,
        ..CrdtLimits::default()
    }
}

/// The shortest time that a CRDT remembers.
pub(super) const RETENTION: Duration = Duration::from_secs(10 * 60);

/// The CRDT without replicas and tombstones older than the retention, if it has any. Every page that was ever open is a
/// replica, so a CRDT that is half full remembers less.
pub(super) fn collected(crdt: &Crdt, now: u64, mut retention: Duration, limits: &CrdtLimits) -> Option<Arc<Crdt>> {
    let is_crowded = |crdt: &Crdt| crdt.size() > limits.max_bytes / 2 || crdt.replicas() > limits.max_replicas / 2;
    let mut collected = crdt.clone();
    loop {
        let age = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        collected.forget(now.saturating_sub(age), age);
        if !is_crowded(&collected) || retention <= RETENTION {
            break;
        }
        retention = (retention / 2).max(RETENTION);
    }
    let forgot = collected.replicas() < crdt.replicas() || collected.size() < crdt.size();
    forgot.then(|| Arc::new(collected))
}
