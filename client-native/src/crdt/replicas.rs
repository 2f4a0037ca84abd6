//! [`Tracked`], the replica of one key with its readers, and [`Replicas`], the part shared by all replicas of a client.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use datasole_core::{
    Client as Core, EditOutcome, Millis, Payload, StreamId,
    crdt::{Crdt, CrdtError, CrdtKind, CrdtLimits, Edit, Replica},
};
use tokio::sync::watch;

use super::storage::CrdtStorage;
use crate::{
    error::EditError,
    router::{Follower, Notice, Router},
    signal::Feed,
    status::SyncStatus,
};

/// Options of replicas.
#[derive(Clone)]
pub(crate) struct Policy {
    /// The prefix of replica names.
    pub(crate) node: String,
    /// The replicas show it to be the owners of their names.
    pub(crate) secret: Option<String>,
    pub(crate) limits: CrdtLimits,
    pub(crate) storage: Option<Arc<dyn CrdtStorage>>,
}

pub(crate) struct Replicas {
    policy: Policy,
    /// How many replicas have been named.
    named: AtomicU64,
    /// The edits that the server has not stored yet, of all keys.
    pub(super) pending: watch::Sender<usize>,
}

impl Replicas {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, named: AtomicU64::new(0), pending: watch::Sender::new(0) }
    }

    /// The replica that the storage has, or a new one.
    fn load(&self, kind: CrdtKind, key: &str) -> Result<Replica, CrdtError> {
        let Policy { node, secret, limits, storage } = &self.policy;
        if let Some(saved) = storage.as_ref().and_then(|storage| storage.load(key)) {
            return Replica::restore(&saved, *limits);
        }
        // Everybody sees the names of keys that they follow; those of others are not to be guessed from them.
        let number = self.named.fetch_add(1, Ordering::Relaxed) + 1;
        let number = getrandom::u64().unwrap_or(number);
        let replica = Replica::new(kind, &format!("{node}{number:x}"), *limits)?;
        Ok(match secret {
            Some(secret) => replica.with_secret(secret),
            None => replica,
        })
    }
}

/// The replica of one key that is open.
pub(super) struct Tracked {
    replicas: Arc<Replicas>,
    stream: StreamId,
    feed: Arc<Feed>,
    local: Mutex<Local>,
}

struct Local {
    replica: Replica,
    /// The pending edits, as last counted into the sum.
    counted: usize,
}

impl Tracked {
    pub(super) fn load(replicas: &Arc<Replicas>, kind: CrdtKind, stream: StreamId) -> Result<Arc<Self>, EditError> {
        let local = Mutex::new(Local { replica: replicas.load(kind, &stream.key)?, counted: 0 });
        let tracked = Self { replicas: replicas.clone(), stream, feed: Arc::default(), local };
        tracked.check(kind)?;
        Ok(Arc::new(tracked))
    }

    pub(super) fn check(&self, kind: CrdtKind) -> Result<(), CrdtError> {
        let expected = self.local().replica.kind();
        if expected == kind { Ok(()) } else { Err(CrdtError::WrongKind { expected, found: kind }) }
    }

    /// Reads the local value: the confirmed value with the pending edits on top.
    pub(super) fn read<R>(&self, read: impl FnOnce(&Crdt) -> R) -> R {
        read(self.local().replica.current())
    }

    pub(super) fn status(&self) -> SyncStatus {
        let pending = self.local().replica.pending();
        SyncStatus::new(self.feed.followers().phase(), pending)
    }

    pub(super) fn edit(&self, router: &mut Router, now: Millis, edit: Edit) -> Result<(), EditError> {
        let time = router.server_time();
        let core = router.open_core()?;
        let mut local = self.local();
        let Some(op) = local.replica.edit(time, edit)? else { return Ok(()) };
        // Before the operation is sent: a number must not be given twice.
        self.save(&local.replica);
        let handed = core.edit(now, &self.stream, op.counter(), Payload::Json(local.replica.sent(&op)));
        if let Err(error) = &handed {
            let outcome = EditOutcome::Refused { code: error.code(), message: error.to_string() };
            local.replica.settled(op.counter(), &outcome);
            self.save(&local.replica);
        }
        self.count(&mut local);
        handed.map_err(EditError::from)
    }

    fn save(&self, replica: &Replica) {
        if let Some(storage) = &self.replicas.policy.storage {
            let saved = (replica.pending() > 0).then(|| replica.save());
            storage.save(&self.stream.key, saved.as_ref().map(|saved| saved.get()));
        }
    }

    /// Updates the sum of pending edits, after this replica's may have changed.
    fn count(&self, local: &mut Local) {
        let after = local.replica.pending();
        let before = std::mem::replace(&mut local.counted, after);
        if before == after {
            return;
        }
        self.replicas.pending.send_modify(|pending| *pending = *pending - before + after);
        self.feed.followers().tell();
        if after == 0 {
            self.save(&local.replica);
        }
    }

    /// A panic under the lock is a panic in a caller's `Deserialize`, which only reads.
    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower for Tracked {
    fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Hands the edits of an earlier run to the core.
    fn opened(&self, core: &mut Core, now: Millis) {
        let local = &mut *self.local();
        for op in local.replica.own() {
            if let Err(error) = core.edit(now, &self.stream, op.counter(), Payload::Json(local.replica.sent(op))) {
                tracing::warn!(key = self.stream.key, %error, "an edit of an earlier run is not sent");
            }
        }
        self.count(local);
    }

    fn apply(&self, payload: Payload, whole: bool) -> Result<(), String> {
        let local = &mut *self.local();
        let applied = local.replica.entry(payload.as_json().unwrap_or_default(), whole);
        self.count(local);
        applied.map_err(|error| error.to_string())
    }

    fn take(&self, _: &mut Core, _: Millis, notice: Notice) {
        if let Notice::Settled { edit, outcome } = notice {
            let local = &mut *self.local();
            local.replica.settled(edit, &outcome);
            self.count(local);
            self.feed.followers().tell();
        }
    }

    fn is_settled(&self) -> bool {
        self.local().replica.pending() == 0
    }
}
