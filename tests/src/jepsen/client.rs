//! Clients that write and follow, through one node after another. Most speak frame by frame, because only so positions
//! are seen; the others are native clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use datasole_client::{CallError, CallFailure, Client as Native, Reconnect};
use datasole_core::frame::Opcode;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{KEYS, key, record::Record};
use crate::{
    history::{Digest, Function, How, Id, Kind, Mark},
    peer::{Peer, Received, UPGRADE, V2},
    random::Random,
};

/// How long a client waits for an answer before it goes to another node.
const ANSWER: Duration = Duration::from_secs(6);
/// The event by which clients write to each other.
const MAIL: &str = "mail";

/// An open connection that speaks frame by frame.
pub(super) struct Connection {
    peer: Peer,
    requests: u32,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, user: &str) -> Option<Self> {
        let open = async {
            let (status, mut peer) = Peer::upgrade(address, &format!("?token={user}"), &format!("{UPGRADE}{V2}")).await;
            if status != 101 {
                return None;
            }
            match peer.receive().await {
                Received::Frame(Opcode::Hello, ..) => Some(Self { peer, requests: 0 }),
                _ => None,
            }
        };
        timeout(ANSWER, open).await.ok().flatten()
    }

    async fn begin(&mut self, method: &str, params: &Value) -> u32 {
        self.requests += 1;
        self.peer.begin(self.requests, method, &params.to_string()).await;
        self.requests
    }

    /// Calls, when nothing else is to come.
    pub(super) async fn call(&mut self, method: &str, params: &Value) -> Option<Value> {
        let call = async {
            let request = self.begin(method, params).await;
            loop {
                match self.peer.receive().await {
                    Received::Frame(Opcode::RpcResponse, id, payload) if id == request => {
                        let answer: Value = serde_json::from_slice(&payload).ok()?;
                        return answer.get("result").cloned();
                    }
                    Received::Frame(Opcode::Error, id, _) if id == request => return None,
                    Received::End | Received::Close(_) => return None,
                    _ => {}
                }
            }
        };
        timeout(ANSWER, call).await.ok().flatten()
    }
}

/// What a client has of a state.
#[derive(Clone, Debug, Default)]
struct Replica {
    at: Option<Mark>,
    ids: Vec<u64>,
    /// The request that is not answered yet.
    asked: Option<u32>,
}

impl Replica {
    fn hash(&self) -> u64 {
        self.ids.iter().fold(Digest::default(), |digest, &id| digest.after(How::Append, Id(id))).hash()
    }
}

/// Something that was asked for and is not answered.
struct Pending {
    request: u32,
    /// The state, of a write; none of a message.
    stream: Option<usize>,
    id: u64,
    until: Instant,
}

/// One client.
pub(super) struct Client {
    process: u32,
    addresses: Arc<[SocketAddr]>,
    random: Random,
    record: Record,
    node: usize,
    replicas: Vec<Replica>,
    pending: Option<Pending>,
    connections: u32,
}

fn user(process: u32) -> String {
    format!("user-{process}")
}

pub(super) fn mark_of(body: &Value) -> Option<Mark> {
    Some(Mark { epoch: body["epoch"].as_u64()?, seq: body["seq"].as_u64()? })
}

impl Client {
    pub(super) fn new(process: u32, addresses: Arc<[SocketAddr]>, random: Random, record: Record) -> Self {
        let replicas = vec![Replica::default(); KEYS];
        Self { process, addresses, random, record, node: 0, replicas, pending: None, connections: 0 }
    }

    fn below(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    /// Who sends and receives messages: each connection by itself. A client that moves may be given a message again, and
    /// what one node has not answered may come after what the next one sends.
    fn connection(&self) -> u32 {
        1_000_000 * self.process + self.connections
    }

    /// Between operations.
    fn think(&mut self) -> Duration {
        Duration::from_millis(100 + self.random.below(2_400))
    }

    pub(super) async fn run(mut self, stopping: watch::Receiver<bool>, clients: u32) {
        while !*stopping.borrow() {
            self.node = self.below(self.addresses.len());
            let address = self.addresses[self.node];
            match Connection::open(address, &user(self.process)).await {
                Some(connection) => {
                    self.record.count("connections");
                    self.stay(connection, &stopping, clients).await;
                    self.leave();
                }
                None => sleep(Duration::from_millis(100 + self.random.below(400))).await,
            }
        }
    }

    /// What is not answered may have been done.
    fn leave(&mut self) {
        if let Some(Pending { stream: Some(stream), id, .. }) = self.pending.take() {
            self.written(stream, id, Kind::Info, None);
        }
    }

    fn written(&self, stream: usize, id: u64, kind: Kind, mark: Option<Mark>) {
        let write = Function::Write { how: How::Append, id: Id(id), mark };
        self.record.tell(self.process, self.node, kind, &key(stream), write);
    }

    /// Until the connection ends, an answer does not come, or the client goes elsewhere.
    async fn stay(&mut self, mut connection: Connection, stopping: &watch::Receiver<bool>, clients: u32) {
        self.connections += 1;
        for stream in 0..KEYS {
            connection.requests += 1;
            let mut request = json!({ "kind": "state", "key": key(stream) });
            if let Some(Mark { epoch, seq }) = self.replicas[stream].at {
                request["since"] = json!({ "epoch": epoch, "seq": seq });
            }
            self.replicas[stream].asked = Some(connection.requests);
            connection.peer.send(Opcode::Subscribe, connection.requests, request.to_string()).await;
        }
        let leaves = Instant::now() + Duration::from_millis(1_000 + self.random.below(14_000));
        let subscribed_by = Instant::now() + ANSWER;
        let mut acts = Instant::now() + self.think();
        while !*stopping.borrow() && Instant::now() < leaves {
            let until = self.pending.as_ref().map_or(acts, |pending| pending.until);
            match timeout_at(until.min(leaves), connection.peer.hear()).await {
                Ok(Received::Frame(opcode, request, payload)) => {
                    if !self.take(opcode, request, &payload) {
                        return;
                    }
                }
                Ok(Received::Ping | Received::Pong(_)) => {}
                Ok(Received::Close(_) | Received::End) => return,
                Err(_) if self.pending.is_some() && Instant::now() < leaves => {
                    self.record.count("answers that did not come");
                    return;
                }
                Err(_) if Instant::now() >= acts => {
                    let is_subscribed = self.replicas.iter().all(|replica| replica.asked.is_none());
                    if !is_subscribed && Instant::now() > subscribed_by {
                        return;
                    }
                    self.act(&mut connection, clients).await;
                    acts = Instant::now() + self.think();
                }
                Err(_) => {}
            }
        }
    }

    async fn act(&mut self, connection: &mut Connection, clients: u32) {
        let id = self.record.next();
        let until = Instant::now() + ANSWER;
        if self.random.below(5) == 0 {
            // To few, so that order is at stake.
            let to = user(1 + (self.process + self.random.below(3) as u32) % clients);
            self.record.tell(self.connection(), self.node, Kind::Invoke, &to, Function::Send { id: Id(id) });
            let request = connection.begin("mail", &json!({ "to": to, "id": id })).await;
            self.pending = Some(Pending { request, stream: None, id, until });
            return;
        }
        let stream = self.below(KEYS);
        self.written(stream, id, Kind::Invoke, None);
        let request = connection.begin("write", &json!({ "key": key(stream), "id": id })).await;
        self.pending = Some(Pending { request, stream: Some(stream), id, until });
    }

    /// Takes a frame; `false` if the client goes elsewhere for it.
    fn take(&mut self, opcode: Opcode, request: u32, payload: &[u8]) -> bool {
        let body: Value = serde_json::from_slice(payload).unwrap_or_default();
        match opcode {
            Opcode::RpcResponse | Opcode::Error => {
                if let Some(Pending { stream, id, .. }) = self.pending.take_if(|pending| pending.request == request) {
                    let is_done = opcode == Opcode::RpcResponse && body.get("error").is_none();
                    self.record.count(if is_done { "answered" } else { "refused" });
                    self.count_conflicts(&body["result"]);
                    if let Some(stream) = stream {
                        // What is refused may be stored.
                        let kind = if is_done { Kind::Ok } else { Kind::Info };
                        self.written(stream, id, kind, mark_of(&body["result"]).filter(|_| is_done));
                    }
                    return true;
                }
                // A subscription that is refused.
                opcode == Opcode::RpcResponse
            }
            Opcode::Subscribed => self.subscribed(request, &body).is_some(),
            Opcode::ServerEvent if body["event"] == MAIL => {
                let Some(id) = body["data"].as_u64() else { return true };
                let address = user(self.process);
                self.record.tell(self.connection(), self.node, Kind::Ok, &address, Function::Receive { id: Id(id) });
                self.record.count("messages received");
                true
            }
            Opcode::StateSnapshot => self.whole(&body).is_some(),
            Opcode::StatePatch => self.entry(&body).is_some(),
            _ => true,
        }
    }

    fn subscribed(&mut self, request: u32, body: &Value) -> Option<()> {
        let stream = self.replicas.iter().position(|replica| replica.asked == Some(request))?;
        let replica = self.replicas.get_mut(stream)?;
        let (recovered, mark) = (body["recovered"] == true, mark_of(body)?);
        let subscribe = Function::Subscribe { since: replica.at, recovered, mark, hash: None };
        if replica.at.is_some() {
            self.record.count(if recovered { "resumes" } else { "resumes refused" });
        }
        self.record.tell(self.process, self.node, Kind::Ok, &key(stream), subscribe);
        if !recovered || replica.at.is_none_or(|at| at.seq == 0) {
            replica.at = Some(mark);
        }
        replica.asked = None;
        Some(())
    }

    fn stream_of(body: &Value) -> Option<usize> {
        (0..KEYS).find(|number| body["key"] == key(*number))
    }

    fn whole(&mut self, body: &Value) -> Option<()> {
        let stream = Self::stream_of(body)?;
        let replica = self.replicas.get_mut(stream)?;
        let mark = mark_of(body)?;
        replica.ids =
            body["data"].as_array().map(|ids| ids.iter().filter_map(Value::as_u64).collect()).unwrap_or_default();
        replica.at = Some(mark);
        let snapshot = Function::Snapshot { mark, hash: replica.hash() };
        self.record.count("snapshots");
        self.record.tell(self.process, self.node, Kind::Ok, &key(stream), snapshot);
        Some(())
    }

    /// Takes an entry, if it is the next; what a client has missed comes when it asks again.
    fn entry(&mut self, body: &Value) -> Option<()> {
        let stream = Self::stream_of(body)?;
        let mark = mark_of(body)?;
        let replica = self.replicas.get_mut(stream)?;
        if replica.at.map(Mark::next) != Some(mark) {
            self.record.count("gaps seen");
        }
        let patch = &body["patches"][0]["value"];
        let id = patch.as_u64().or_else(|| patch[0].as_u64())?;
        replica.ids.push(id);
        replica.at = Some(mark);
        let observed = Function::Observe { id: Id(id), mark, hash: Some(replica.hash()) };
        self.record.tell(self.process, self.node, Kind::Ok, &key(stream), observed);
        Some(())
    }

    /// As a native client, which goes from node to node by itself.
    pub(super) async fn run_native(mut self, stopping: watch::Receiver<bool>) {
        let urls: Vec<String> = self.addresses.iter().map(|address| format!("http://{address}")).collect();
        let reconnect = Reconnect { enabled: true, base: 100, cap: 1_000, max_attempts: None };
        let client = Native::builder(urls)
            .token(user(self.process))
            .reconnect(reconnect)
            .call_timeout(ANSWER)
            .start()
            .expect("a client starts");
        while !*stopping.borrow() {
            sleep(self.think()).await;
            let (id, stream) = (self.record.next(), self.below(KEYS));
            self.written(stream, id, Kind::Invoke, None);
            let answer = client.call::<_, Value>("write", &json!({ "key": key(stream), "id": id })).await;
            let kind = match &answer {
                Ok(_) => Kind::Ok,
                // Nothing was sent.
                Err(CallError::Failed(CallFailure::Refused(_))) => Kind::Fail,
                Err(_) => Kind::Info,
            };
            self.record.count(if kind == Kind::Ok {
                "answered to native clients"
            } else {
                "not answered to native clients"
            });
            let answer = answer.unwrap_or_default();
            self.count_conflicts(&answer);
            self.written(stream, id, kind, mark_of(&answer));
        }
        client.close().await;
    }

    /// A node planned a change more than once if another one's was in front.
    fn count_conflicts(&self, answer: &Value) {
        for _ in 1..answer["plans"].as_u64().unwrap_or(1) {
            self.record.count("conflicts of writes that were answered");
        }
    }
}
