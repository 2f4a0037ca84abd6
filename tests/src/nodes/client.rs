//! A client that follows streams through one server after another, and tells what it is given.

use std::collections::{BTreeMap, BTreeSet};

use datasole_core::{
    Limits,
    crdt::{Crdt, CrdtLimits, Op},
    frame::{Codec, Opcode},
    wire::{push_varuint, split_varuint},
};
use datasole_server::{
    Identity, Position, Protocol, Server,
    clock::{Clock, System},
};
use serde_json::{Value, json};

use super::{
    mail::{MAIL, To},
    notes::{Notes, cursor, cursors, draft, message, parse},
    record::{Record, mark},
    rooms::{LOBBY, ROOMS, Room},
};
use crate::history::{Digest, Function, How, Id, Kind};

/// The streams of a run: kind, key, and what a write does.
pub(super) const STREAMS: [(&str, &str, How); 6] = [
    ("state", "list", How::Append),
    ("state", "other", How::Append),
    ("event", "talk", How::Append),
    ("event", "news", How::Append),
    ("crdt", "set", How::Merge),
    ("doc", "notes", How::Merge),
];
/// The document among them.
const NOTES: usize = 5;

/// What a client has of a stream.
#[derive(Default)]
pub(super) struct Replica {
    at: Option<Position>,
    /// The request that is not answered yet.
    asked: Option<u32>,
    list: Vec<u64>,
    set: Option<Crdt>,
    pub(super) notes: Notes,
    /// Names a document in frames.
    channel: Option<u32>,
}

pub(super) struct Client {
    pub(super) process: u32,
    pub(super) node: usize,
    peer: Option<datasole_server::Peer>,
    replicas: BTreeMap<usize, Replica>,
    requests: u32,
    /// Operations that are not answered yet: the stream and the write of each.
    writes: BTreeMap<u32, (usize, u64)>,
    /// The updates of those that change the document.
    drafts: BTreeMap<u32, Vec<u8>>,
    rooms: [Room; 2],
    /// The request for the presence room.
    room_asked: Option<u32>,
    /// Of its cursor.
    clock: u64,
    /// How many operations it has made.
    operations: u64,
    /// How many connections it has made.
    connections: u32,
}

impl Client {
    pub(super) fn new(process: u32) -> Self {
        let replicas = (0..STREAMS.len()).map(|stream| (stream, Replica::default())).collect();
        Self {
            process,
            node: 0,
            peer: None,
            replicas,
            requests: 0,
            writes: BTreeMap::new(),
            drafts: BTreeMap::new(),
            rooms: Default::default(),
            room_asked: None,
            clock: 0,
            operations: 0,
            connections: 0,
        }
    }

    pub(super) fn disconnect(&mut self, record: &Record) {
        self.peer = None;
        self.drafts.clear();
        for (room, name) in self.rooms.iter_mut().zip(ROOMS) {
            room.end(name, (self.process, self.node), record);
        }
        for (stream, id) in std::mem::take(&mut self.writes).into_values() {
            self.end(stream, id, Kind::Info, record);
        }
    }

    fn end(&self, stream: usize, id: u64, kind: Kind, record: &Record) {
        let (_, key, how) = STREAMS[stream];
        record.tell(self.process, self.node, kind, key, Function::Write { how, id: Id(id), mark: None });
    }

    /// Sends an operation that adds to a set, or an update of the document.
    pub(super) fn add(&mut self, stream: usize, record: &Record) {
        if stream == NOTES {
            return self.draft(record);
        }
        let Some(peer) = &mut self.peer else { return };
        let (_, key, how) = STREAMS[stream];
        let id = record.begin(self.process, self.node, key, how);
        self.requests += 1;
        self.operations += 1;
        self.writes.insert(self.requests, (stream, id));
        let op = json!({
            "type": "or-set",
            "op": "add",
            "value": id,
            "nodeId": format!("client {}", self.process),
            "counter": self.operations,
            "timestamp": System.unix_millis(),
        });
        let payload = json!({ "key": key, "op": op }).to_string();
        peer.receive(&Codec::default().encode(Opcode::CrdtOp, self.requests, payload.as_bytes(), usize::MAX));
    }

    fn draft(&mut self, record: &Record) {
        let Some(channel) = self.replicas[&NOTES].channel.filter(|_| self.is_connected()) else { return };
        let (_, key, how) = STREAMS[NOTES];
        let id = record.begin(self.process, self.node, key, how);
        let update = draft(id);
        let request = self.send_notes(channel, &message(&[0, 2], &update));
        self.writes.insert(request, (NOTES, id));
        self.drafts.insert(request, update);
    }

    /// Sends a message about the document; the number of the request.
    fn send_notes(&mut self, channel: u32, message: &[u8]) -> u32 {
        let mut payload = Vec::new();
        push_varuint(&mut payload, u64::from(channel));
        payload.extend_from_slice(message);
        self.send(Opcode::Doc, &payload)
    }

    fn send(&mut self, opcode: Opcode, payload: &[u8]) -> u32 {
        self.requests += 1;
        if let Some(peer) = &mut self.peer {
            peer.receive(&Codec::default().encode(opcode, self.requests, payload, usize::MAX));
        }
        self.requests
    }

    /// Enters a room as a new member, or leaves it.
    pub(super) fn mingle(&mut self, room: usize, leaves: bool, record: &Record) {
        if !self.is_connected() || self.rooms[room].shown.is_none() || (leaves && !self.rooms[room].is_in()) {
            return;
        }
        let member = (!leaves).then(|| record.next());
        let request = if let (1, Some(channel)) = (room, self.replicas[&NOTES].channel) {
            self.clock += 2;
            let (process, clock) = (self.process, self.clock);
            self.send_notes(channel, &cursor(process, clock, member))
        } else {
            let mut payload = json!({ "key": LOBBY });
            if let Some(member) = member {
                payload["value"] = json!(member);
            }
            self.send(Opcode::Presence, payload.to_string().as_bytes())
        };
        self.rooms[room].ask(ROOMS[room], (self.process, self.node), (request, member), record);
    }

    /// Tells who is shown to it.
    pub(super) fn look(&self, record: &Record) {
        for (room, name) in self.rooms.iter().zip(ROOMS).filter(|_| self.is_connected()) {
            room.look(name, (self.process, self.node), record);
        }
    }

    /// The writes in the document, as it has it.
    pub(super) fn notes(&self) -> BTreeSet<u64> {
        self.replicas[&NOTES].notes.writes()
    }

    /// The address of its user, or of the connection that it has or had.
    pub(super) fn address(&self, of_user: bool) -> To {
        match &self.peer {
            Some(peer) if !of_user => To::Connection(peer.connection_id()),
            _ => To::User(self.user()),
        }
    }

    fn user(&self) -> String {
        format!("user {}", self.process)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.peer.is_some()
    }

    /// Connects to a server, and follows every stream from where it was.
    pub(super) fn connect(&mut self, node: usize, server: &Server) {
        self.node = node;
        self.connections += 1;
        self.peer = Some(server.peer(Protocol::V2, Identity::user(self.user())));
        for stream in 0..STREAMS.len() {
            self.subscribe(stream);
        }
        let request = self.send(Opcode::Subscribe, json!({ "kind": "presence", "key": LOBBY }).to_string().as_bytes());
        self.room_asked = Some(request);
    }

    fn subscribe(&mut self, stream: usize) {
        self.requests += 1;
        let (Some(replica), Some(peer)) = (self.replicas.get_mut(&stream), &mut self.peer) else { return };
        replica.asked = Some(self.requests);
        replica.channel = None;
        let (kind, key, _) = STREAMS[stream];
        let mut request = json!({ "kind": kind, "key": key });
        if kind != "doc"
            && let Some(Position { epoch, seq }) = replica.at
        {
            request["since"] = json!({ "epoch": epoch, "seq": seq });
        }
        let payload = request.to_string();
        peer.receive(&Codec::default().encode(Opcode::Subscribe, self.requests, payload.as_bytes(), usize::MAX));
    }

    /// Takes what the server has for it.
    pub(super) fn poll(&mut self, record: &Record) {
        let mut codec = Codec::default();
        while let Some(message) = self.peer.as_mut().and_then(datasole_server::Peer::poll_message) {
            let frame = codec.decode(&message, &Limits::default()).unwrap();
            let body: Value = serde_json::from_slice(frame.payload).unwrap_or_default();
            let taken = if frame.opcode == Opcode::Doc {
                self.notes_frame(frame.correlation, frame.payload)
            } else if frame.opcode == Opcode::Ack && self.drafts.contains_key(&frame.correlation) {
                self.stored(frame.correlation, split_varuint(frame.payload).unwrap().0, record)
            } else {
                self.frame(frame.opcode, frame.correlation, &body, record)
            };
            if !taken {
                // What it has missed comes when it asks again.
                record.count("gaps seen");
                self.disconnect(record);
            }
        }
        if self.peer.as_ref().is_some_and(|peer| peer.closing().is_some()) {
            self.disconnect(record);
        }
    }

    /// Takes a message about the document.
    fn notes_frame(&mut self, channel: u32, payload: &[u8]) -> bool {
        let replica = self.replicas.get_mut(&NOTES).unwrap();
        assert_eq!(replica.channel, Some(channel), "a document that it follows");
        let (seq, message) = split_varuint(payload).unwrap();
        match parse(message) {
            ([0, 0], _) => {}
            ([0, 2], update) => {
                let at = replica.at.as_mut().unwrap();
                if seq != at.seq + 1 {
                    return false;
                }
                at.seq = seq;
                replica.notes.apply(update);
            }
            ([0, _], update) => replica.notes.apply(update),
            (_, update) => {
                let shown = self.rooms[1].shown.get_or_insert_default();
                for (client, member) in cursors(update) {
                    match member {
                        Some(member) => _ = shown.insert(client.to_string(), member),
                        None => _ = shown.remove(&client.to_string()),
                    }
                }
            }
        }
        true
    }

    /// Takes an acknowledgement of a change of the document, in the place of its entry.
    fn stored(&mut self, request: u32, seq: u64, record: &Record) -> bool {
        let (update, (stream, id)) = (self.drafts.remove(&request).unwrap(), self.writes.remove(&request).unwrap());
        self.end(stream, id, Kind::Ok, record);
        record.count("acknowledged to clients");
        let replica = self.replicas.get_mut(&NOTES).unwrap();
        replica.notes.apply(&update);
        let at = replica.at.as_mut().unwrap();
        let is_next = seq == at.seq + 1;
        at.seq = seq.max(at.seq);
        is_next || seq == 0
    }

    fn frame(&mut self, opcode: Opcode, correlation: u32, body: &Value, record: &Record) -> bool {
        if let Some(room) = self.rooms.iter().position(|room| room.has_asked(correlation))
            && matches!(opcode, Opcode::Ack | Opcode::Error)
        {
            record.count(if opcode == Opcode::Ack { "steps answered" } else { "steps refused" });
            let who = (self.process, self.node);
            return opcode == Opcode::Ack && self.rooms[room].done(ROOMS[room], who, correlation, record);
        }
        if opcode == Opcode::Presence {
            self.members(body);
            return true;
        }
        if self.room_asked == Some(correlation) && matches!(opcode, Opcode::Subscribed | Opcode::Error) {
            self.room_asked = None;
            return opcode == Opcode::Subscribed;
        }
        if matches!(opcode, Opcode::Ack | Opcode::Error)
            && let Some((stream, id)) = self.writes.remove(&correlation)
        {
            // What is refused may be stored.
            let kind = if opcode == Opcode::Ack { Kind::Ok } else { Kind::Info };
            self.end(stream, id, kind, record);
            record.count(if kind == Kind::Ok { "acknowledged to clients" } else { "refused to clients" });
            return true;
        }
        if opcode == Opcode::ServerEvent && body["event"] == MAIL {
            let (address, id) = (body["data"][0].as_str().unwrap(), Id(body["data"][1].as_u64().unwrap()));
            // A client that moves may be given a message for its user again: each connection is a receiver of its own.
            let receiver = 1_000_000 * self.process + self.connections;
            record.tell(receiver, self.node, Kind::Ok, address, Function::Receive { id });
            let (to_user, own) = (address == self.user(), self.peer.as_ref().map(|peer| peer.connection_id()));
            assert!(to_user || own.as_deref() == Some(address), "a message for {address}");
            record.count(if to_user { "messages for users" } else { "messages for connections" });
            return true;
        }
        let (kind, name) = match opcode {
            Opcode::Subscribed | Opcode::Error => {
                let asked = self.replicas.iter().find(|(_, replica)| replica.asked == Some(correlation));
                let Some(stream) = asked.map(|(stream, _)| *stream) else { return true };
                if opcode == Opcode::Error {
                    record.count("subscriptions refused");
                    return false;
                }
                self.subscribed(stream, body, record);
                return true;
            }
            Opcode::StateSnapshot | Opcode::StatePatch => ("state", &body["key"]),
            Opcode::ServerEvent => ("event", &body["event"]),
            Opcode::CrdtOp | Opcode::CrdtState => ("crdt", &body["key"]),
            _ => return true,
        };
        let stream = STREAMS.iter().position(|stream| stream.0 == kind && stream.1 == *name).unwrap();
        let position = Position { epoch: body["epoch"].as_u64().unwrap(), seq: body["seq"].as_u64().unwrap() };
        let (process, node) = (self.process, self.node);
        let replica = self.replicas.get_mut(&stream).unwrap();
        let is_next = replica.at.is_some_and(|at| at.epoch == position.epoch && at.seq + 1 == position.seq);
        if matches!(opcode, Opcode::StateSnapshot | Opcode::CrdtState) {
            replica.whole(body);
            replica.at = Some(position);
            let snapshot = Function::Snapshot { mark: mark(position), hash: replica.hash() };
            record.tell(process, node, Kind::Ok, STREAMS[stream].1, snapshot);
            return true;
        }
        if !is_next {
            return false;
        }
        let id = Id(replica.entry(kind, body));
        replica.at = Some(position);
        let hash = (kind != "event").then(|| replica.hash());
        let observed = Function::Observe { id, mark: mark(position), hash };
        record.tell(process, node, Kind::Ok, STREAMS[stream].1, observed);
        true
    }

    fn members(&mut self, body: &Value) {
        let room = &mut self.rooms[0].shown;
        if body["whole"] == true {
            *room = Some(BTreeMap::new());
        }
        let Some(shown) = room else { return };
        for member in body["members"].as_array().unwrap() {
            let id = member["id"].as_str().unwrap().to_owned();
            match member["value"].as_u64() {
                Some(value) => _ = shown.insert(id, value),
                None => _ = shown.remove(&id),
            }
        }
    }

    fn subscribed(&mut self, stream: usize, body: &Value, record: &Record) {
        let replica = self.replicas.get_mut(&stream).unwrap();
        replica.asked = None;
        let position = Position { epoch: body["epoch"].as_u64().unwrap(), seq: body["seq"].as_u64().unwrap() };
        if stream == NOTES {
            // By its state vector, not by its position, a document tells what it has.
            let (channel, question) =
                (u32::try_from(body["channel"].as_u64().unwrap()).unwrap(), replica.notes.question());
            (replica.at, replica.channel) = (Some(position), Some(channel));
            self.rooms[1].shown = Some(BTreeMap::new());
            self.send_notes(channel, &question);
            return;
        }
        let recovered = body["recovered"] == true;
        let subscribe =
            Function::Subscribe { since: replica.at.map(mark), recovered, mark: mark(position), hash: None };
        record.tell(self.process, self.node, Kind::Ok, STREAMS[stream].1, subscribe);
        replica.at = Some(position);
    }

    /// Where the client is in a stream.
    pub(super) fn standing(&self, stream: usize) -> Option<Position> {
        self.replicas[&stream].at
    }
}

impl Replica {
    fn whole(&mut self, body: &Value) {
        if let Some(list) = body["data"].as_array() {
            self.list = list.iter().map(id_of).collect();
        } else if body["state"].is_object() {
            self.set = Crdt::from_json(&body["state"].to_string(), &CrdtLimits::default()).unwrap();
        }
    }

    /// Takes an entry; the write it comes from.
    pub(super) fn entry(&mut self, kind: &str, body: &Value) -> u64 {
        match kind {
            "state" => {
                let patches = body["patches"].as_array().unwrap();
                assert_eq!(patches.len(), 1, "{body}");
                let id = id_of(&patches[0]["value"]);
                self.list.push(id);
                id
            }
            "crdt" => {
                let limits = CrdtLimits::default();
                let op = Op::parse(&body["op"].to_string(), &limits).unwrap();
                let set = self.set.get_or_insert_with(|| Crdt::new(op.kind()));
                let before = elements(set);
                set.apply(&op, &limits).unwrap();
                let new: Vec<u64> = elements(set).into_iter().filter(|id| !before.contains(id)).collect();
                assert_eq!(new.len(), 1, "{body}");
                new[0]
            }
            _ => id_of(&body["data"]),
        }
    }

    fn hash(&self) -> u64 {
        let appended = self.list.iter().fold(Digest::default(), |digest, &id| digest.after(How::Append, Id(id)));
        let ids = self.set.iter().flat_map(elements);
        ids.fold(appended, |digest, id| digest.after(How::Merge, Id(id))).hash()
    }
}

/// The write that a value names: the number itself, or the first of a list that is long for its padding.
pub(super) fn id_of(value: &Value) -> u64 {
    value.as_u64().or_else(|| value[0].as_u64()).unwrap()
}

fn elements(set: &Crdt) -> Vec<u64> {
    set.value().as_array().into_iter().flatten().map(id_of).collect()
}
