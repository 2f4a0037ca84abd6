//! CRDTs: data that several clients and the server change at once, and that ends the same for all.
//!
//! The server orders operations: each is planned on the CRDT, stored by the backend, and only then applied, published
//! and acknowledged. `datasole_core::crdt` defines their meaning.

mod content;
mod error;
mod handles;
mod owner;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
};

use datasole_core::{
    Position, StreamId, StreamKind, codes,
    crdt::{Applied, Change, Crdt, CrdtError, CrdtKind, CrdtLimits, Edit, Op},
    wire,
};
use serde::Deserialize;

pub(crate) use self::content::kind;
use self::{
    content::{Content, RETENTION},
    owner::{Claim, Owner},
};
pub use self::{
    error::EditError,
    handles::{Counter, Crdts, Map, Register, Set},
};
use crate::{
    answer::{Author, Refusal, Request},
    backend::{BackendError, log::Rule},
    clock::{Clock, unix_millis},
    connection::{Connection, Protocol},
    entry::Entry,
    hub::{self, Hub, Kind, Stream, Writer},
    limits::{ENVELOPE, Limits},
    primitives::reservation::{Count, Reservation},
};

/// Types, limits and counts of all CRDTs of the server.
pub(crate) struct Registry {
    /// Types by registered key.
    kinds: HashMap<String, CrdtKind>,
    /// True if clients may create unregistered keys.
    open: bool,
    limits: CrdtLimits,
    max_keys: usize,
    max_keys_per_connection: usize,
    max_keys_per_user: usize,
    max_new_replicas: usize,
    max_payload: usize,
    max_key: usize,
    /// The server's name as a replica.
    node: String,
    /// By which new replicas are counted.
    clock: Arc<dyn Clock>,
    /// The number of unregistered keys.
    unregistered: Count,
}

/// A client, and what it shows to be the owner of a replica.
type Shown<'a> = (Owner, &'a Arc<Connection>);

/// A requested operation on a CRDT.
pub(crate) enum Wanted {
    /// An operation of a client, with the secret of its replica if it has one.
    Op(Op, Option<Box<str>>),
    /// An operation of a version 1 client, as it came.
    V1(String),
    /// An edit of the server.
    Edit(CrdtKind, Edit),
}

impl Registry {
    pub(crate) fn new(
        kinds: HashMap<String, CrdtKind>,
        open: bool,
        limits: &Limits,
        epoch: u64,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            kinds,
            open,
            limits: limits.crdt(),
            max_keys: limits.max_crdt_keys,
            max_keys_per_connection: limits.max_crdt_keys_per_connection,
            max_keys_per_user: limits.max_crdt_keys_per_user,
            max_new_replicas: limits.max_crdt_replicas_per_user,
            max_payload: limits.max_payload,
            max_key: limits.max_key,
            node: format!("server-{epoch:x}"),
            clock,
            unregistered: Count::default(),
        }
    }

    /// The number of unregistered keys, for somebody who may be about to create one.
    async fn unregistered(&self, hub: &Hub, creates: bool) -> Result<&Arc<AtomicUsize>, BackendError> {
        let counts = |key: &str| !self.kinds.contains_key(key);
        if creates {
            self.unregistered.fresh(hub, StreamKind::Crdt, counts).await
        } else {
            self.unregistered.get(hub, StreamKind::Crdt, counts).await
        }
    }

    /// Plans a requested operation on a CRDT that may not exist yet; `None` if nothing is to change.
    fn plan(&self, key: &str, crdt: Option<&Crdt>, wanted: &Wanted) -> Result<Option<Op>, EditError> {
        let (now, limits) = (unix_millis(), &self.limits);
        let fresh;
        let crdt = match (crdt, wanted) {
            (Some(crdt), _) => crdt,
            // A `none` for a key that does not exist has no effect.
            (None, Wanted::Op(op, _)) if *op.change() == Change::None => return Ok(None),
            (None, _) => {
                let kind = match (self.kinds.get(key), wanted) {
                    (Some(kind), _) => *kind,
                    (None, Wanted::Op(op, _)) => op.kind(),
                    (None, Wanted::V1(text)) => kind_of(text)?,
                    (None, Wanted::Edit(kind, _)) => *kind,
                };
                fresh = Crdt::new(kind);
                &fresh
            }
        };
        Ok(match wanted {
            Wanted::Op(op, _) => match crdt.admit(op.clone(), now, limits)? {
                (op, Applied::New) => Some(op),
                (_, Applied::Replay) => None,
            },
            Wanted::V1(text) => Some(crdt.from_v1(text, now, limits)?),
            Wanted::Edit(kind, edit) => {
                if !is_a(crdt.kind(), *kind) {
                    return Err(CrdtError::WrongKind { expected: crdt.kind(), found: *kind }.into());
                }
                crdt.compose(&self.node, now, edit, limits)?
            }
        })
    }

    /// Checks that the client may go on as the replica of an operation.
    fn claim(&self, content: &Content, op: &Op, (owner, client): Shown<'_>) -> Result<Claim, EditError> {
        if op.node() == self.node {
            return Err(CrdtError::Malformed("nodeId is the server's own").into());
        }
        let claim = content.owners().claim(op.node(), owner, client).ok_or(EditError::Foreign)?;
        if let (false, Some(crdt)) = (matches!(claim, Claim::Proven), content.crdt()) {
            crdt.within(op, &self.limits)?;
        }
        Ok(claim)
    }

    fn check_key(&self, key: &str) -> Result<(), EditError> {
        if key.is_empty() || key.len() > self.max_key {
            return Err(EditError::Key { bytes: key.len(), limit: self.max_key });
        }
        Ok(())
    }

    /// Makes an operation an entry, with a reservation of the key if it comes into being. A trial leaves no trace.
    fn propose(
        &self,
        key: &str,
        (op, wanted): (Op, &Wanted),
        claim: Option<Claim>,
        content: &mut Content,
        (admission, is_trial): (&Admission<'_>, bool),
    ) -> Result<Entry, EditError> {
        let owner = if let Some(Claim::Free(owner)) = &claim { owner.text() } else { String::new() };
        let entry = content::entry(content::OPERATION, &owner, &op.to_text());
        let bytes = entry.content().len() + ENVELOPE + 6 * key.len();
        if bytes > self.max_payload {
            return Err(EditError::TooLarge { bytes, limit: self.max_payload });
        }
        let reservation = if content.crdt().is_some() { None } else { admission.reserve(self)? };
        if is_trial {
            return Ok(entry);
        }
        let is_new = !content.crdt().is_some_and(|crdt| crdt.remembers(op.node()));
        if let (true, Some(_), Some(shown)) = (is_new, &claim, admission.client) {
            // Names take room for as long as a crowded CRDT remembers, at least.
            let limits = (self.max_new_replicas, (self.limits.max_replicas / 4).max(1));
            let admitted = content.newcomers.admit(self.clock.monotonic(), shown, limits, RETENTION);
            admitted.map_err(|wait| EditError::Replicas { wait })?;
        }
        // An operation that a client has numbered goes with whatever comes between. The others are numbered by what is here,
        // where one of unknown outcome may be missing; and a key comes into being once, and a name is bound once.
        let is_numbered = matches!(wanted, Wanted::Op(..)) && content.crdt().is_some() && owner.is_empty();
        content.intend(&entry, (op, claim), if is_numbered { Rule::Behind } else { Rule::Exactly }, reservation);
        Ok(entry)
    }

    /// Plans, stores, applies and publishes an operation; returns its position if anything has changed.
    async fn change(
        &self,
        hub: &Arc<Hub>,
        stream: &Arc<Stream>,
        writer: Writer,
        wanted: Wanted,
        author: Option<Author>,
        client: Option<Shown<'_>>,
    ) -> Result<Option<Position>, EditError> {
        let key = &stream.id().key;
        let registered = self.kinds.contains_key(key);
        let total = if registered { None } else { Some(self.unregistered(hub, stream.gone_at().is_some()).await?) };
        let admission = Admission { key, total, client };
        let plan = |content: &mut Content, is_trial| {
            let claim = match (&wanted, client) {
                (Wanted::Op(op, _), Some(client)) => Some(self.claim(content, op, client)?),
                _ => None,
            };
            match self.plan(key, content.crdt(), &wanted)? {
                Some(op) => self.propose(key, (op, &wanted), claim, content, (&admission, is_trial)).map(Some),
                None => Ok(None),
            }
        };
        let creator = admission.creator(self, stream);
        if let Some(client) = creator {
            // A change that comes to nothing by itself needs no permit.
            let tried = stream.with_content(|content| hub::of(content).map_or(Ok(None), |content| plan(content, true)));
            if tried?.is_none() {
                return Ok(None);
            }
            if !hub.may_create(stream.id(), client, self.max_keys_per_user).await {
                return Err(EditError::Keys { limit: self.max_keys_per_user });
            }
        }
        // A CRDT's stream holds nothing else.
        let plan = |content: &mut dyn Kind| hub::of(content).map_or(Ok(None), |content| plan(content, false));
        let changed = hub.transact(stream, writer, author, plan).await;
        if let (Some(client), Ok(Some(_))) = (creator, &changed) {
            client.standing().spend(stream.id());
        }
        changed
    }

    /// Performs an edit of the server's own.
    async fn edit(&self, hub: &Arc<Hub>, key: &str, kind: CrdtKind, edit: Edit) -> Result<(), EditError> {
        self.check_key(key)?;
        let stream = hub.open(StreamKind::Crdt, key).await?;
        let writer = stream.writer().await;
        let outcome = self.change(hub, &stream, writer, Wanted::Edit(kind, edit), None, None).await;
        hub.release(stream).await;
        outcome.map(drop)
    }

    /// Removes a key, if there is one.
    async fn remove(&self, hub: &Arc<Hub>, key: &str) -> Result<(), EditError> {
        let Some(stream) = hub.find(StreamKind::Crdt, key).await? else { return Ok(()) };
        let registered = self.kinds.contains_key(key);
        let counted = if registered { None } else { Some(self.unregistered(hub, false).await?.clone()) };
        let writer = stream.writer().await;
        let plan = |content: &mut Content| Ok(content.plan_remove(counted.clone()));
        let removed = hub.transact(&stream, writer, None, |content| hub::of(content).map_or(Ok(None), plan)).await;
        hub.release(stream).await;
        removed.map(drop)
    }

    /// Reads the payload of a CRDT_OP frame: the key and the requested operation.
    pub(crate) fn read(
        &self,
        protocol: Protocol,
        correlation: u32,
        payload: &[u8],
    ) -> Result<(StreamId, Wanted), Refusal> {
        let frame: wire::CrdtOp<'_> = serde_json::from_slice(payload)
            .map_err(|_| Refusal::new(codes::PARSE, "the payload is not an operation"))?;
        self.check_key(&frame.key).map_err(Refusal::from)?;
        let id = StreamId::crdt(frame.key);
        if protocol == Protocol::V1 {
            return Ok((id, Wanted::V1(frame.op.get().to_owned())));
        }
        if correlation == 0 {
            return Err(Refusal::new(codes::INVALID_REQUEST, "an operation needs a correlation id"));
        }
        let (op, secret) = Op::with_secret(frame.op.get(), &self.limits).map_err(EditError::from)?;
        Ok((id, Wanted::Op(op, secret.map(Into::into))))
    }

    /// Serves a CRDT_OP frame.
    pub(crate) async fn serve(&self, hub: &Arc<Hub>, request: &Request, id: &StreamId, wanted: Wanted) {
        match self.try_serve(hub, request, id, wanted).await {
            // Acknowledged as it was published.
            Ok(Some(_)) => {}
            Ok(None) => request.acknowledge(0),
            Err(error) => request.refuse(&error.into()),
        }
    }

    async fn try_serve(
        &self,
        hub: &Arc<Hub>,
        request: &Request,
        id: &StreamId,
        wanted: Wanted,
    ) -> Result<Option<Position>, EditError> {
        // Operations of one connection are ordered as they came, also where the backend takes its time to open a key.
        let turn = request.connection.own().turn.lock().await;
        let stream = hub.open(StreamKind::Crdt, &id.key).await?;
        let writer = stream.writer().await;
        drop(turn);
        let secret = if let Wanted::Op(_, secret) = &wanted { secret.as_deref() } else { None };
        let user = request.identity.authenticated.then_some(&*request.identity.user_id);
        let client = Some((Owner::of(&id.key, user, secret), &request.connection));
        let changed = self.change(hub, &stream, writer, wanted, request.author(), client).await;
        hub.release(stream).await;
        changed
    }
}

/// The permission to create a key, within the limits of keys.
struct Admission<'a> {
    key: &'a str,
    /// The number of unregistered keys; `None` if this key is registered.
    total: Option<&'a Arc<AtomicUsize>>,
    /// The client that creates the key, unless the server does.
    client: Option<Shown<'a>>,
}

impl Admission<'_> {
    /// Reserves the key; `None` where it needs no reservation.
    fn reserve(&self, registry: &Registry) -> Result<Option<Reservation>, EditError> {
        let Some(total) = self.total else { return Ok(None) };
        if self.client.is_some() && !registry.open {
            return Err(EditError::Unregistered(self.key.to_owned()));
        }
        let mut reservation = Reservation::default();
        let total = reservation.take(total);
        let Some((_, client)) = self.client else { return Ok(Some(reservation)) };
        let own = reservation.take(client.created(StreamKind::Crdt));
        let of_owner = reservation.take(client.standing().created(StreamKind::Crdt));
        let Registry { max_keys_per_connection, max_keys_per_user, max_keys, .. } = *registry;
        for (taken, limit) in [(own, max_keys_per_connection), (of_owner, max_keys_per_user), (total, max_keys)] {
            if taken >= limit {
                return Err(EditError::Keys { limit });
            }
        }
        Ok(Some(reservation))
    }

    /// The client, where the quota of its owner, which all servers share, is to be asked: the key does not exist.
    fn creator(&self, registry: &Registry, stream: &Stream) -> Option<&Arc<Connection>> {
        let (Some(_), Some((_, client)), true) = (self.total, self.client, registry.open) else { return None };
        let exists = stream.with(|content: &mut Content| content.crdt().is_some());
        (!exists).then_some(client)
    }
}

/// True if a CRDT of one type can be used as another: a `g-counter` is also a counter, a `g-set` also a set.
fn is_a(kind: CrdtKind, wanted: CrdtKind) -> bool {
    use CrdtKind::{GCounter, GSet, OrSet, PnCounter};
    kind == wanted || matches!((kind, wanted), (GCounter, PnCounter) | (GSet, OrSet))
}

/// The type that an operation of version 1 names.
fn kind_of(op: &str) -> Result<CrdtKind, CrdtError> {
    #[derive(Deserialize)]
    struct Typed {
        r#type: CrdtKind,
    }
    Ok(serde_json::from_str::<Typed>(op)?.r#type)
}
