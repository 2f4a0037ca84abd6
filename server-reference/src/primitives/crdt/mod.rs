//! CRDTs: data that several clients and the server change at once, and that ends the same for all.
//!
//! The server is the one who orders: an operation is planned on the CRDT, stored by the backend, and only then applied,
//! published and acknowledged. What it means is `datasole_core::crdt`'s.

mod handles;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasole_core::{
    Position, StreamId, StreamKind, codes,
    crdt::{Applied, Change, Crdt, CrdtError, CrdtKind, CrdtLimits, Edit, Op},
    wire,
};
use futures_util::FutureExt;
use serde::Deserialize;
use tokio::sync::OnceCell;

pub use self::handles::{Counter, Crdts, Map, Register, Set};
use crate::{
    backend::BackendError,
    connection::{Connection, Protocol},
    error::EditError,
    hub::{Author, Content, Entry, Hub, Stream, Writer, entry, unix_millis},
    limits::{ENVELOPE, Limits},
    primitives::place::Place,
    session::{Request, Task},
};

/// What the server knows about CRDTs as a whole.
pub(crate) struct Registry {
    /// Types by registered key.
    kinds: HashMap<String, CrdtKind>,
    /// Whether clients may create others.
    open: bool,
    limits: CrdtLimits,
    max_keys: usize,
    max_keys_per_connection: usize,
    max_payload: usize,
    max_key: usize,
    /// The server's name as a replica.
    node: String,
    /// How many keys exist that are not registered; counted when first asked for.
    unregistered: OnceCell<Arc<AtomicUsize>>,
}

/// What is to be done to a CRDT.
#[derive(Clone)]
enum Wanted {
    /// By a client.
    Op(Op),
    /// By a client of version 1: the operation as it came.
    V1(String),
    /// By the server.
    Edit(CrdtKind, Edit),
}

/// What that comes to.
enum Plan {
    /// An operation, on a CRDT that this key gets first if it has none.
    Change(Op),
    /// Nothing: it has been seen before, or would change nothing.
    Nothing,
}

impl Registry {
    pub(crate) fn new(kinds: HashMap<String, CrdtKind>, open: bool, limits: &Limits, epoch: u64) -> Self {
        Self {
            kinds,
            open,
            limits: limits.crdt(),
            max_keys: limits.max_crdt_keys,
            max_keys_per_connection: limits.max_crdt_keys_per_connection,
            max_payload: limits.max_payload,
            max_key: limits.max_key,
            node: format!("server-{epoch:x}"),
            unregistered: OnceCell::new(),
        }
    }

    async fn unregistered(&self, hub: &Hub) -> Result<&Arc<AtomicUsize>, BackendError> {
        let count = || async {
            let keys = hub.keys(StreamKind::Crdt).await?;
            Ok(Arc::new(AtomicUsize::new(keys.iter().filter(|key| !self.kinds.contains_key(*key)).count())))
        };
        self.unregistered.get_or_try_init(count).await
    }

    /// Takes a place for a key that is about to come into being; `None` where it needs none.
    async fn admit(&self, hub: &Hub, key: &str, client: Option<&Connection>) -> Result<Option<Place>, EditError> {
        if self.kinds.contains_key(key) {
            return Ok(None);
        }
        if client.is_some() && !self.open {
            return Err(EditError::Unregistered(key.to_owned()));
        }
        let mut place = Place::default();
        let total = place.take(self.unregistered(hub).await?);
        let Some(client) = client else { return Ok(Some(place)) };
        let own = place.take(&client.crdt_keys);
        if own >= self.max_keys_per_connection {
            return Err(EditError::Keys { limit: self.max_keys_per_connection });
        }
        if total >= self.max_keys {
            return Err(EditError::Keys { limit: self.max_keys });
        }
        Ok(Some(place))
    }

    /// Plans on what there is, or on nothing yet.
    fn plan(&self, key: &str, crdt: Option<&Crdt>, wanted: &Wanted) -> Result<Plan, EditError> {
        let (now, limits) = (unix_millis(), &self.limits);
        let fresh;
        let crdt = match (crdt, wanted) {
            (Some(crdt), _) => crdt,
            // It takes the place of what was refused, and there is nothing it could be missing to.
            (None, Wanted::Op(op)) if *op.change() == Change::None => return Ok(Plan::Nothing),
            (None, _) => {
                let kind = match (self.kinds.get(key), wanted) {
                    (Some(kind), _) => *kind,
                    (None, Wanted::Op(op)) => op.kind(),
                    (None, Wanted::V1(text)) => kind_of(text)?,
                    (None, Wanted::Edit(kind, _)) => *kind,
                };
                fresh = Crdt::new(kind);
                &fresh
            }
        };
        let planned = match wanted {
            Wanted::Op(op) if op.node() == self.node => {
                return Err(CrdtError::Malformed("nodeId is the server's own").into());
            }
            Wanted::Op(op) => match crdt.admit(op.clone(), now, limits)? {
                (op, Applied::New) => Some(op),
                (_, Applied::Replay) => None,
            },
            Wanted::V1(text) => Some(crdt.from_v1(text, now, limits)?),
            Wanted::Edit(kind, edit) => {
                if !is_a(crdt.kind(), *kind) {
                    return Err(CrdtError::WrongKind { expected: crdt.kind(), found: *kind }.into());
                }
                crdt.compose(&self.node, now, edit.clone(), limits)?
            }
        };
        let Some(op) = planned else { return Ok(Plan::Nothing) };
        let bytes = op.to_json().get().len() + ENVELOPE + 6 * key.len();
        if bytes > self.max_payload {
            return Err(EditError::TooLarge { bytes, limit: self.max_payload });
        }
        Ok(Plan::Change(op))
    }

    fn check_key(&self, key: &str) -> Result<(), EditError> {
        if key.is_empty() || key.len() > self.max_key {
            return Err(EditError::Key { bytes: key.len(), limit: self.max_key });
        }
        Ok(())
    }

    /// Plans, stores, applies and publishes; again, when another server appended in between. The position, if anything
    /// has changed.
    async fn change(
        &self,
        hub: &Arc<Hub>,
        stream: &Arc<Stream>,
        mut writer: Writer,
        wanted: Wanted,
        author: Option<Author>,
        client: Option<&Connection>,
    ) -> Result<Option<Position>, EditError> {
        let key = &stream.id().key;
        loop {
            let planned = stream.with_content(|content| {
                let crdt = crdt(content);
                let exists = crdt.is_some();
                self.plan(key, crdt, &wanted).map(|plan| (plan, exists))
            })?;
            let (Plan::Change(op), exists) = planned else { return Ok(None) };
            let place = if exists { None } else { self.admit(hub, key, client).await? };
            let (entry, limits) = (Entry::Operation(op.to_json()), self.limits);
            let apply = move |content: &mut Content| {
                if let Content::Crdt(crdt) = content {
                    let crdt = crdt.get_or_insert_with(|| Box::new(Crdt::new(op.kind())));
                    // It was planned on this very CRDT, and the writer lock kept others away since.
                    let applied = crdt.apply(&op, &limits);
                    debug_assert!(applied.is_ok(), "a planned operation applies: {applied:?}");
                }
                // From here on the key exists.
                place.into_iter().for_each(Place::keep);
            };
            if let Some(position) = hub.commit(stream, writer, entry, author.clone(), apply).await? {
                return Ok(Some(position));
            }
            writer = stream.writer().await;
        }
    }

    /// Does what the server wants.
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
        let counted = match self.kinds.get(key) {
            Some(_) => None,
            None => Some(self.unregistered(hub).await?.clone()),
        };
        loop {
            let writer = stream.writer().await;
            if stream.with_content(|content| crdt(content).is_none()) {
                break;
            }
            let counted = counted.clone();
            let remove = move |content: &mut Content| {
                *content = Content::Crdt(None);
                if let Some(count) = counted {
                    count.fetch_sub(1, Ordering::Relaxed);
                }
            };
            if hub.commit(&stream, writer, Entry::Removed, None, remove).await?.is_some() {
                break;
            }
        }
        hub.release(stream).await;
        Ok(())
    }
}

/// Serves a CRDT_OP frame.
pub(crate) fn receive(request: Request, payload: &[u8]) -> Option<Task> {
    match read(&request, payload) {
        Ok((key, wanted)) => Some(serve(request, key, wanted).boxed()),
        Err((code, why)) => {
            request.refuse(code, &why, None);
            None
        }
    }
}

fn read(request: &Request, payload: &[u8]) -> Result<(String, Wanted), (i32, String)> {
    let refused = |error: EditError| (error.code(), error.to_string());
    let frame: wire::CrdtOp<'_> =
        serde_json::from_slice(payload).map_err(|_| (codes::PARSE, "the payload is not an operation".to_owned()))?;
    let registry = request.server.crdts();
    registry.check_key(&frame.key).map_err(refused)?;
    let id = StreamId::crdt(frame.key);
    if !request.server.hub().may_write(&request.identity, &id) {
        return Err((codes::FORBIDDEN, "not allowed to change this CRDT".into()));
    }
    if request.connection.protocol() == Protocol::V1 {
        return Ok((id.key, Wanted::V1(frame.op.get().to_owned())));
    }
    if request.correlation == 0 {
        return Err((codes::INVALID_REQUEST, "an operation needs an id to be answered to".into()));
    }
    let op = Op::parse(frame.op.get(), &registry.limits).map_err(|error| refused(error.into()))?;
    Ok((id.key, Wanted::Op(op)))
}

async fn serve(request: Request, key: String, wanted: Wanted) {
    let hub = request.server.hub();
    // Operations of one connection are ordered as they came, also where the backend takes its time to open a key.
    let turn = request.connection.turn.lock().await;
    let stream = match hub.open(StreamKind::Crdt, &key).await {
        Ok(stream) => stream,
        Err(error) => return request.fail(&error),
    };
    let writer = stream.writer().await;
    drop(turn);
    let (author, client) = (request.author(), Some(&*request.connection));
    match request.server.crdts().change(hub, &stream, writer, wanted, author, client).await {
        // Acknowledged as it was published.
        Ok(Some(_)) => {}
        Ok(None) => request.acknowledge(0),
        Err(EditError::Backend(error)) => request.fail(&error),
        Err(error) => request.refuse(error.code(), &error.to_string(), None),
    }
    hub.release(stream).await;
}

/// A CRDT's stream holds nothing else.
fn crdt(content: &mut Content) -> Option<&Crdt> {
    match content {
        Content::Crdt(crdt) => crdt.as_deref(),
        _ => None,
    }
}

/// Whether a CRDT of this type can be used as one of that: what only grows is also a counter, or a set.
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

/// The message of a whole CRDT, for clients of either version; version 1 has none for one that does not exist.
pub(crate) fn snapshot(
    id: &StreamId,
    crdt: Option<&Crdt>,
    position: Position,
    protocol: Protocol,
    compress_above: usize,
) -> Option<bytes::Bytes> {
    let state = match (crdt, protocol) {
        (Some(crdt), Protocol::V2) => crdt.to_json(),
        (Some(crdt), Protocol::V1) => crdt.to_json_v1(),
        (None, Protocol::V2) => serde_json::value::RawValue::NULL.to_owned(),
        (None, Protocol::V1) => return None,
    };
    Some(entry::crdt_state(&id.key, &state, position, compress_above))
}

/// The least that a CRDT remembers.
const RETENTION: Duration = Duration::from_secs(10 * 60);

/// The CRDT without what is older than the retention allows, if there is anything so old. Every page that was ever open
/// is a replica: of a crowd, one that is half full remembers less.
pub(crate) fn collected(crdt: &Crdt, now: u64, mut retention: Duration, limits: &CrdtLimits) -> Option<Box<Crdt>> {
    let is_crowded = |crdt: &Crdt| crdt.size() > limits.max_bytes / 2 || crdt.replicas() > limits.max_replicas / 2;
    let mut collected = Box::new(crdt.clone());
    loop {
        let age = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        collected.forget(now.saturating_sub(age), age);
        if !is_crowded(&collected) || retention <= RETENTION {
            break;
        }
        retention = (retention / 2).max(RETENTION);
    }
    let forgot = collected.replicas() < crdt.replicas() || collected.size() < crdt.size();
    forgot.then_some(collected)
}
