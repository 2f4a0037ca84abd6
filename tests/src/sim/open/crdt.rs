//! [`HeldCrdt`]: a CRDT at a client, with a book of its edits.

use std::collections::{BTreeMap, BTreeSet};

use datasole_core::{
    Client, CommandError, EditOutcome, Millis, Payload, Progress, StreamId, SyncPhase,
    crdt::{Crdt, CrdtKind, CrdtLimits, Edit, Op, Replica},
};
use serde_json::json;

use crate::{
    random::Random,
    sim::{Stats, tap::Id},
};

/// Unix milliseconds at the beginning of the world: long ago, so that no server sets a stamp back.
const EPOCH: u64 = 1_700_000_000_000;

/// One edit that the core took.
#[derive(Debug)]
pub(in crate::sim) struct Made {
    pub(in crate::sim) node: String,
    pub(in crate::sim) counter: u64,
    pub(in crate::sim) fate: Option<Fate>,
}

/// How an edit was settled, and where.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Fate {
    pub(in crate::sim) outcome: EditOutcome,
    pub(in crate::sim) protocol: u8,
    /// Which memory the server of that connection had.
    pub(in crate::sim) memory: usize,
}

pub(in crate::sim) struct HeldCrdt {
    pub(in crate::sim) stream: StreamId,
    pub(in crate::sim) replica: Replica,
    pub(in crate::sim) handles: usize,
    pub(in crate::sim) progress: Progress,
    pub(in crate::sim) made: BTreeMap<u64, Made>,
    /// Replicas and numbers of operations that the server refused for good.
    rejected: BTreeSet<(String, u64)>,
    user: String,
    replicas: u64,
    unsettled: usize,
    skew: u64,
}

impl HeldCrdt {
    pub(super) fn new(key: &str, kind: CrdtKind, user: &str, random: &mut Random) -> Self {
        Self {
            stream: StreamId::crdt(key),
            replica: replica(kind, user, 0),
            handles: 0,
            progress: Progress::default(),
            made: BTreeMap::new(),
            rejected: BTreeSet::new(),
            user: user.to_owned(),
            replicas: 0,
            unsettled: 0,
            skew: random.below(3_000),
        }
    }

    pub(super) fn open(&mut self, client: &mut Client, host: Millis) {
        if self.handles == 0 {
            // What was made before is the core's to send, not this holder's to show.
            self.replicas += 1;
            self.replica = replica(self.replica.kind(), &self.user, self.replicas);
        }
        self.handles += 1;
        client.open(host, self.stream.clone(), None).unwrap();
    }

    pub(super) fn leave(&mut self, client: &mut Client, host: Millis) {
        self.handles -= 1;
        client.leave(host, &self.stream);
    }

    pub(in crate::sim) fn edit(&mut self, client: &mut Client, host: Millis, now: u64, random: &mut Random) {
        let edit = edit(random, self.replica.kind());
        let Some(op) = self.replica.edit(EPOCH + now + self.skew, edit).unwrap() else { return };
        let number = self.made.last_key_value().map_or(1, |(last, _)| last + 1);
        let (node, counter) = (op.node().to_owned(), op.counter());
        match client.edit(host, &self.stream, number, Payload::Json(op.to_json())) {
            Ok(()) => {
                self.unsettled += 1;
                self.made.insert(number, Made { node, counter, fate: None });
            }
            Err(CommandError::Refused { code, message }) => {
                assert!(matches!(self.progress.phase, SyncPhase::Refused { .. }), "refused before it was told");
                self.replica.settled(counter, &EditOutcome::Refused { code, message });
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn entry(&mut self, payload: &Payload, whole: bool, protocol: u8) {
        let (json, limits) = (payload.as_json().unwrap(), CrdtLimits::default());
        if whole {
            match (Crdt::from_json(json, &limits).unwrap(), protocol) {
                (Some(state), 1) => self.replica.remote_v1_state(&state).unwrap(),
                (None, 1) => {}
                (state, _) => self.replica.snapshot(state).unwrap(),
            }
        } else {
            self.replica.remote(&Op::parse(json, &limits).unwrap()).unwrap();
        }
    }

    pub(super) fn settled(&mut self, number: u64, fate: Fate, stats: &mut Stats) {
        let made = self.made.get_mut(&number).expect("an edit that nobody made was settled");
        let refused = matches!(fate.outcome, EditOutcome::Refused { .. });
        match &made.fate {
            None => self.unsettled -= 1,
            // It will not return after all.
            Some(Fate { outcome: EditOutcome::Stored { returns: true }, .. })
                if fate.outcome == (EditOutcome::Stored { returns: false }) =>
            {
                stats.count("stored, then out of sight");
            }
            // The server has lost what it had stored, and takes it no more.
            Some(Fate { outcome: EditOutcome::Stored { returns: true }, .. }) if refused => {
                stats.count("stored, then refused")
            }
            Some(before) => panic!("{made:?} was settled as {before:?}, and then as {fate:?}"),
        }
        assert_eq!(refused, self.rejected.contains(&(made.node.clone(), made.counter)), "{made:?}: {fate:?}");
        stats.count(match fate.outcome {
            EditOutcome::Stored { returns: true } => "stored",
            EditOutcome::Stored { returns: false } => "stored out of sight",
            EditOutcome::Refused { .. } => "edits refused",
        });
        if made.node == self.replica.node() {
            self.replica.settled(made.counter, &fate.outcome);
        }
        made.fate = Some(fate);
    }

    /// The server refused an operation: also one that it had stored before, and lost.
    pub(super) fn rejected(&mut self, payload: &Payload) {
        let op = Op::parse(payload.as_json().unwrap(), &CrdtLimits::default()).unwrap();
        assert!(self.rejected.insert((op.node().to_owned(), op.counter())), "told twice: {}", op.to_json());
    }

    /// An operation is sent: one that was refused is not, but `none` in its place.
    pub(super) fn check_sent(&self, id: &Id) {
        let rejected = self.rejected.contains(&(id.node.clone(), id.counter));
        assert_eq!(id.op == "none", rejected, "{id:?} was sent");
        assert!(id.done < id.counter, "{id:?}");
    }

    /// After everything that the core has told.
    pub(super) fn check(&self) {
        assert_eq!(self.progress.pending, self.unsettled, "edits of {:?} that are not settled", self.stream);
    }
}

fn replica(kind: CrdtKind, user: &str, number: u64) -> Replica {
    Replica::new(kind, &format!("{user}-{number}"), CrdtLimits::default()).unwrap()
}

/// Any edit; few keys and values, so that they meet.
fn edit(random: &mut Random, kind: CrdtKind) -> Edit {
    let (by, removes) = (random.magnitude(10), random.below(3) == 0);
    let key = ["a", "b", "ü"][random.below(3) as usize];
    match kind {
        CrdtKind::PnCounter if removes => Edit::Decrement(by),
        CrdtKind::GCounter | CrdtKind::PnCounter => Edit::Increment(by),
        CrdtKind::LwwRegister => Edit::Set(json!(by)),
        CrdtKind::LwwMap if removes => Edit::Delete(key.into()),
        CrdtKind::LwwMap => Edit::Put(key.into(), json!([by])),
        CrdtKind::OrSet if removes => Edit::Remove(json!(by % 4)),
        CrdtKind::GSet | CrdtKind::OrSet => Edit::Add(json!(by % 4)),
    }
}
