//! [`Replicas`]: one replica per key that is open, its operations on their way, and the clock they are stamped by.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use datasole_core::{
    CallError, CallId, Client as Core, Millis, Payload, StreamId, SubscriptionId, codes,
    crdt::{Crdt, CrdtError, CrdtKind, CrdtLimits, Edit, Op, Replica},
};
use tokio::sync::watch;

use super::CrdtStorage;
use crate::{
    error::EditError,
    refusal::{Answer, Complaints, Refusal},
    signal::{End, Followers},
    status::SyncStatus,
};

/// Operations on a key that may be without an answer (`docs/protocol.md`, *CRDTs*).
const WINDOW: usize = 64;

/// Times in a row that a server's history may be unreadable before it is given up.
const MAX_FAULTS: u8 = 3;

/// What is decided about replicas before connecting.
#[derive(Clone)]
pub(crate) struct Policy {
    /// What the names of replicas begin with.
    pub(crate) node: String,
    pub(crate) limits: CrdtLimits,
    pub(crate) storage: Option<Arc<dyn CrdtStorage>>,
}

pub(crate) struct Replicas {
    policy: Policy,
    open: HashMap<String, Tracked>,
    /// Operations without an answer: the key, and the operation's number.
    submitted: HashMap<CallId, (String, u64)>,
    /// How many replicas have been named.
    named: u64,
    /// The server's clock minus ours; milliseconds.
    ahead: i64,
    /// The server answers nothing (version 1).
    silent: bool,
    /// Operations that the server does not have yet, of all keys.
    pending: watch::Sender<usize>,
}

struct Tracked {
    replica: Replica,
    subscription: SubscriptionId,
    handles: usize,
    followers: Followers,
    /// The server has told what it has: operations can be sent.
    ready: bool,
    /// The server has asked to wait until then.
    wait: Option<Millis>,
    /// As last counted into the sum.
    pending: usize,
    /// What came in a row and could not be applied.
    faults: u8,
    refused: Option<(i32, String)>,
}

impl Replicas {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            open: HashMap::new(),
            submitted: HashMap::new(),
            named: 0,
            ahead: 0,
            silent: false,
            pending: watch::Sender::new(0),
        }
    }

    // --- the program ---

    pub(crate) fn open(&mut self, core: &mut Core, now: Millis, kind: CrdtKind, key: &str) -> Result<(), EditError> {
        if let Some(tracked) = self.open.get_mut(key) {
            let expected = tracked.replica.kind();
            if expected != kind {
                return Err(CrdtError::WrongKind { expected, found: kind }.into());
            }
            if tracked.refused.take().is_some() {
                tracked.subscription = core.subscribe(now, StreamId::crdt(key))?;
            }
            tracked.handles += 1;
            self.count(key);
            return Ok(());
        }
        let replica = self.replica(kind, key)?;
        let subscription = core.subscribe(now, StreamId::crdt(key))?;
        let tracked = Tracked {
            replica,
            subscription,
            handles: 1,
            followers: Followers::default(),
            ready: false,
            wait: None,
            pending: 0,
            faults: 0,
            refused: None,
        };
        self.open.insert(key.to_owned(), tracked);
        self.count(key);
        Ok(())
    }

    /// The one that the storage has, or a new one.
    fn replica(&mut self, kind: CrdtKind, key: &str) -> Result<Replica, EditError> {
        let Policy { node, limits, storage } = &self.policy;
        if let Some(saved) = storage.as_ref().and_then(|storage| storage.load(key)) {
            let replica = Replica::restore(&saved, *limits)?;
            let found = replica.kind();
            if found != kind {
                return Err(CrdtError::WrongKind { expected: kind, found }.into());
            }
            return Ok(replica);
        }
        self.named += 1;
        Ok(Replica::new(kind, &format!("{node}{:x}", self.named), *limits)?)
    }

    /// The last handle goes; a replica with something to send stays until that has been done.
    pub(crate) fn unfollow(&mut self, core: &mut Core, now: Millis, key: &str) {
        let Some(tracked) = self.open.get_mut(key) else { return };
        tracked.handles -= 1;
        self.release(core, now, key);
    }

    fn release(&mut self, core: &mut Core, now: Millis, key: &str) {
        let done = |tracked: &Tracked| tracked.handles == 0 && (tracked.pending == 0 || tracked.refused.is_some());
        if self.open.get(key).is_some_and(done)
            && let Some(tracked) = self.open.remove(key)
        {
            core.unsubscribe(now, tracked.subscription);
            self.pending.send_modify(|pending| *pending -= tracked.pending);
        }
    }

    /// Reads the value as it is here: confirmed, with what is pending on top. `None` after the client was closed.
    pub(crate) fn read<R>(&self, key: &str, read: impl FnOnce(&Crdt) -> R) -> Option<R> {
        self.open.get(key).map(|tracked| read(tracked.replica.current()))
    }

    pub(crate) fn status(&self, key: &str) -> SyncStatus {
        match self.open.get(key) {
            None => SyncStatus::Loading,
            Some(Tracked { refused: Some((code, message)), .. }) => {
                SyncStatus::Refused { code: *code, message: message.clone() }
            }
            Some(tracked) if tracked.pending > 0 => SyncStatus::Pending(tracked.pending),
            Some(tracked) if tracked.followers.is_loaded() => SyncStatus::Synced,
            Some(_) => SyncStatus::Loading,
        }
    }

    pub(crate) fn is_loaded(&self, key: &str) -> bool {
        self.open.get(key).is_some_and(|tracked| tracked.followers.is_loaded())
    }

    pub(crate) fn followers(&mut self, key: &str) -> Option<&mut Followers> {
        self.open.get_mut(key).map(|tracked| &mut tracked.followers)
    }

    pub(crate) fn all_followers(&mut self) -> impl Iterator<Item = &mut Followers> {
        self.open.values_mut().map(|tracked| &mut tracked.followers)
    }

    /// The operations that the server does not have yet, of all keys.
    pub(crate) fn pending(&self) -> watch::Receiver<usize> {
        self.pending.subscribe()
    }

    pub(crate) fn edit(
        &mut self,
        core: &mut Core,
        now: Millis,
        key: &str,
        edit: Edit,
        complaints: &Complaints,
    ) -> Result<(), EditError> {
        let time = self.time();
        let Some(tracked) = self.open.get_mut(key) else { return Err(EditError::Closed) };
        if let Some((code, message)) = tracked.refused.clone() {
            return Err(EditError::Refused { code, message });
        }
        if tracked.replica.edit(time, edit)?.is_none() {
            return Ok(());
        }
        // Before it is sent: a number must not be given twice.
        if let Some(storage) = &self.policy.storage {
            storage.save(key, Some(tracked.replica.save().get()));
        }
        tracked.followers.news();
        self.send(core, now, key, complaints);
        self.count(key);
        Ok(())
    }

    /// Unix milliseconds by the server's clock, as far as it is known.
    fn time(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        u64::try_from(now).unwrap_or(u64::MAX).saturating_add_signed(self.ahead)
    }

    // --- sending ---

    fn send(&mut self, core: &mut Core, now: Millis, key: &str, complaints: &Complaints) {
        let Some(tracked) = self.open.get_mut(key) else { return };
        if !tracked.ready || tracked.wait.is_some_and(|until| now < until) {
            return;
        }
        tracked.wait = None;
        let stream = StreamId::crdt(key);
        if self.silent {
            for op in tracked.replica.take_v1() {
                if let Err(refused) = core.submit(now, &stream, Payload::Json(op.to_json_v1())) {
                    complaints.tell(refusal(&stream, &op, refused.code(), refused.to_string()));
                }
            }
            return;
        }
        for op in tracked.replica.to_send(WINDOW) {
            match core.submit(now, &stream, Payload::Json(op.to_json())) {
                Ok(call) => drop(self.submitted.insert(call, (key.to_owned(), op.counter()))),
                Err(refused) => tracked.settle(&stream, op.counter(), refused.into(), now, complaints),
            }
        }
    }

    /// Sums up what is pending, after something may have changed that.
    fn count(&mut self, key: &str) {
        let Some(tracked) = self.open.get_mut(key).filter(|tracked| tracked.refused.is_none()) else { return };
        let (before, after) = (tracked.pending, tracked.replica.pending());
        if before == after {
            return;
        }
        tracked.pending = after;
        tracked.followers.news();
        self.pending.send_modify(|pending| *pending = *pending - before + after);
        if after == 0
            && let Some(storage) = &self.policy.storage
        {
            storage.save(key, None);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.open.values().filter(|tracked| tracked.ready).filter_map(|tracked| tracked.wait).min()
    }

    pub(crate) fn run(&mut self, core: &mut Core, now: Millis, complaints: &Complaints) {
        for key in self.open.keys().cloned().collect::<Vec<_>>() {
            self.send(core, now, &key, complaints);
            self.count(&key);
        }
    }

    // --- the server ---

    pub(crate) fn connected(&mut self, protocol: u8, server_time: Option<u64>) {
        self.silent = protocol == 1;
        if let Some(theirs) = server_time {
            self.ahead = 0;
            self.ahead = i64::try_from(i128::from(theirs) - i128::from(self.time())).unwrap_or(0);
        }
    }

    pub(crate) fn lost(&mut self) {
        self.submitted.clear();
        for tracked in self.open.values_mut() {
            tracked.ready = false;
            tracked.wait = None;
            tracked.replica.detached();
        }
    }

    /// What is missing follows: nothing (version 1), entries, or a snapshot.
    pub(crate) fn subscribed(
        &mut self,
        core: &mut Core,
        now: Millis,
        key: &str,
        recovered: bool,
        complaints: &Complaints,
    ) {
        let Some(tracked) = self.open.get_mut(key) else { return };
        tracked.ready = recovered || self.silent;
        if recovered && !tracked.followers.is_loaded() {
            tracked.followers.change();
        }
        self.send(core, now, key, complaints);
        self.count(key);
    }

    /// The subscription was refused.
    pub(crate) fn refused(&mut self, key: &str, code: i32, message: &str) {
        let Some(tracked) = self.open.get_mut(key) else { return };
        tracked.refused = Some((code, message.to_owned()));
        tracked.ready = false;
        // Nobody is to wait for what will not be sent. It stays in the storage.
        let unsent = std::mem::take(&mut tracked.pending);
        self.pending.send_modify(|pending| *pending -= unsent);
        if tracked.handles == 0 {
            self.open.remove(key);
        }
    }

    /// An operation of anyone or, `whole`, what the server has.
    pub(crate) fn entry(
        &mut self,
        core: &mut Core,
        now: Millis,
        key: &str,
        payload: &Payload,
        whole: bool,
        complaints: &Complaints,
    ) {
        let (silent, limits) = (self.silent, self.policy.limits);
        let Some(tracked) = self.open.get_mut(key) else { return };
        match tracked.take(payload.as_json().unwrap_or_default(), whole, silent, &limits) {
            Ok(()) => tracked.faults = 0,
            Err(error) => {
                tracing::warn!(key, %error, "the server's history does not fit ours");
                tracked.ready = false;
                tracked.faults += 1;
                if tracked.faults < MAX_FAULTS {
                    core.resync(now, &StreamId::crdt(key));
                } else {
                    let message = error.to_string();
                    tracked.followers.end(&End::Refused { code: codes::PARSE, message: message.clone() });
                    core.unsubscribe(now, tracked.subscription);
                    self.refused(key, codes::PARSE, &message);
                }
                return;
            }
        }
        tracked.followers.change();
        if whole {
            self.send(core, now, key, complaints);
        }
        self.count(key);
        self.release(core, now, key);
    }

    /// The answer to an operation; given back when the call was none.
    pub(crate) fn answered(
        &mut self,
        core: &mut Core,
        now: Millis,
        call: CallId,
        outcome: Result<Payload, CallError>,
        complaints: &Complaints,
    ) -> Option<Result<Payload, CallError>> {
        let Some((key, counter)) = self.submitted.remove(&call) else { return Some(outcome) };
        let tracked = self.open.get_mut(&key)?;
        tracked.settle(&StreamId::crdt(&key), counter, outcome.into(), now, complaints);
        self.send(core, now, &key, complaints);
        self.count(&key);
        self.release(core, now, &key);
        None
    }
}

impl Tracked {
    fn take(&mut self, json: &str, whole: bool, silent: bool, limits: &CrdtLimits) -> Result<(), CrdtError> {
        if !whole {
            return self.replica.remote(&Op::parse(json, limits)?).map(drop);
        }
        let state = Crdt::from_json(json, limits)?;
        match state {
            Some(state) if silent => self.replica.remote_v1_state(&state),
            None if silent => Ok(()),
            state => {
                self.ready = true;
                self.replica.snapshot(state)
            }
        }
    }

    /// What came of an operation that was sent.
    fn settle(&mut self, stream: &StreamId, counter: u64, answer: Answer, now: Millis, complaints: &Complaints) {
        match answer {
            Answer::Taken => self.replica.acked(counter),
            Answer::Unknown => self.replica.retry(counter),
            Answer::Again(wait) => {
                self.replica.retry(counter);
                self.wait = self.wait.max(Some(now + wait));
            }
            Answer::Never { code, message } => {
                if let Some(op) = self.replica.refused(counter) {
                    complaints.tell(refusal(stream, &op, code, message));
                }
                self.followers.news();
            }
        }
    }
}

fn refusal(stream: &StreamId, op: &Op, code: i32, message: String) -> Refusal {
    Refusal { stream: stream.clone(), code, message, payload: Payload::Json(op.to_json()) }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("keys", &self.open.keys()).finish_non_exhaustive()
    }
}
