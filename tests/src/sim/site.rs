//! The server and the application on it: handlers that keep a ledger, changes of state, events, restarts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use datasole_core::{
    Payload, StreamId, StreamKind,
    crdt::CrdtKind,
    patch::{Patch, PatchLimits, apply},
    tree::Tree,
};
use datasole_server::{
    Context, Identity, Limits, Member, Replay, RpcError, Server,
    backend::{Backend, Memory},
    clock::{Clock, Manual, System},
    yrs::{GetString, ReadTxn, StateVector, Transaction},
};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    rules::{Rules, Verb},
    store::{Archive, Store},
    values,
};
use crate::random::Random;

/// The states that come and go.
pub(super) const KEYS: [&str; 4] = ["a", "b", "c", "d"];
/// The state that only calls of `bump` change.
pub(super) const COUNTER: &str = "counter";
/// A topic with a history, and one without.
pub(super) const TOPICS: [&str; 2] = ["feed", "tick"];

/// The CRDTs, the room and the document.
pub(super) const CRDTS: [(&str, CrdtKind); 3] =
    [("votes", CrdtKind::PnCounter), ("board", CrdtKind::LwwMap), ("tags", CrdtKind::OrSet)];
pub(super) const ROOM: &str = "lobby";
pub(super) const DOC: &str = "notes";

/// Every stream that is open at somebody's.
pub(super) fn streams() -> Vec<StreamId> {
    let crdts = CRDTS.iter().map(|(key, _)| StreamId::crdt(*key));
    crdts.chain([StreamId::presence(ROOM), StreamId::doc(DOC)]).collect()
}

/// What a run decides about its server.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The world's time.
    pub(super) clock: Arc<Manual>,
    pub(super) limits: Limits,
    pub(super) history: Replay,
    pub(super) window: Option<u64>,
}

/// What the handlers saw, over all lives of the server.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// How often each call was executed, by nonce.
    pub(super) executed: BTreeMap<u64, u32>,
    /// The last event of each connection, by nonce.
    events: BTreeMap<String, u64>,
    /// Every event, by nonce.
    heard: BTreeMap<u64, u32>,
    /// Calls of `later` that wait for their answer.
    waiting: Vec<(u64, oneshot::Sender<u64>)>,
    /// Successful calls of `bump` in this life.
    bumps: u64,
    /// What must not have happened; handlers cannot panic to a test.
    wrong: Vec<String>,
}

impl Ledger {
    /// Notes a call; its nonce.
    fn call(&mut self, params: &Value) -> u64 {
        let nonce = params["nonce"].as_u64().unwrap_or_default();
        *self.executed.entry(nonce).or_default() += 1;
        nonce
    }

    fn event(&mut self, connection: String, nonce: u64) {
        let last = self.events.insert(connection, nonce);
        if last.is_some_and(|last| last >= nonce) {
            self.wrong.push(format!("event {nonce} came after {last:?} on one connection"));
        }
        *self.heard.entry(nonce).or_default() += 1;
    }
}

pub(super) struct Site {
    pub(super) server: Server,
    /// Counts the lives, from 1.
    pub(super) life: u64,
    /// Whether new connections reach it.
    pub(super) up: bool,
    pub(super) rules: Rules,
    /// What the server's lives have stored: the last one is the present's.
    pub(super) archives: Vec<Arc<Archive>>,
    terms: Terms,
    ledger: Arc<Mutex<Ledger>>,
    /// The last event of each topic in this life.
    published: BTreeMap<&'static str, u64>,
}

/// Everything here is done at once: memory does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory backend does not wait")
}

impl Site {
    pub(super) fn new(terms: Terms) -> Self {
        let (ledger, rules, archive) = (Arc::default(), Rules::default(), Arc::<Archive>::default());
        let mut site = Self {
            server: serve(&terms, 1, &ledger, &rules, &archive),
            life: 1,
            up: true,
            rules,
            archives: vec![archive],
            terms,
            ledger,
            published: BTreeMap::new(),
        };
        site.begin();
        site
    }

    /// Lets time pass until it is `now`, in milliseconds of the world.
    pub(super) fn pass(&self, now: u64) {
        let clock = &self.terms.clock;
        clock.advance(Duration::from_millis(now).saturating_sub(clock.monotonic()));
    }

    /// The process dies and another one begins with an empty memory, or one that `keeps` CRDTs and documents.
    pub(super) fn restart(&mut self, keeps: bool, random: &mut Random) {
        if !keeps {
            self.archives.push(Arc::default());
        }
        self.life += 1;
        self.published.clear();
        {
            let mut ledger = self.ledger();
            ledger.waiting.clear();
            ledger.bumps = 0;
        }
        self.server = serve(&self.terms, self.life, &self.ledger, &self.rules, self.archive());
        self.begin();
        for key in KEYS {
            if random.below(4) > 0 {
                self.set(key, &values::value(random, 2));
            }
        }
    }

    fn begin(&mut self) {
        self.set(COUNTER, &json!({ "life": self.life, "n": 0 }));
    }

    /// What the present server stores into.
    pub(super) fn archive(&self) -> &Arc<Archive> {
        &self.archives[self.archives.len() - 1]
    }

    /// The number of the present memory.
    pub(super) fn memory(&self) -> usize {
        self.archives.len() - 1
    }

    /// A CRDT's value.
    pub(super) fn crdt(&self, key: &str, kind: CrdtKind) -> Value {
        let crdts = self.server.crdt();
        match kind {
            CrdtKind::PnCounter => json!(now(crdts.counter(key).value()).unwrap()),
            CrdtKind::LwwMap => Value::Object(now(crdts.map(key).entries()).unwrap().into_iter().collect()),
            _ => now(crdts.set(key).values::<Value>()).unwrap().into(),
        }
    }

    /// The document's text, and how much of it there is.
    pub(super) fn doc(&self) -> (String, StateVector) {
        let look = |read: &Transaction<'_>| {
            let text = read.get_text("body").map_or_else(String::new, |text| text.get_string(read));
            (text, read.state_vector())
        };
        now(self.server.docs().read(DOC, look)).unwrap()
    }

    pub(super) fn may(&self, verb: Verb, user: &str, stream: &StreamId) -> bool {
        self.rules.may(verb, user, stream)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub(super) fn presence(&self, room: &str) -> Vec<Member> {
        now(self.server.presence(room).list())
    }

    pub(super) fn get(&self, key: &str) -> Option<Value> {
        now(self.server.state().get(key)).unwrap()
    }

    pub(super) fn set(&self, key: &str, value: &Value) {
        now(self.server.state().set(key, value)).unwrap();
        assert_eq!(self.get(key).as_ref(), Some(value), "set");
    }

    pub(super) fn remove(&self, key: &str) {
        now(self.server.state().remove(key)).unwrap();
        assert_eq!(self.get(key), None, "removed");
    }

    /// Some change of some state, by one of the ways there are.
    pub(super) fn change(&self, random: &mut Random) {
        let key = KEYS[random.below(KEYS.len() as u64) as usize];
        let before = self.get(key);
        let base = before.clone().unwrap_or(Value::Null);
        let long = base.to_string().len() > 4_000;
        match random.below(8) {
            0..=2 => self.set(key, &values::value(random, 3)),
            _ if long => self.set(key, &values::value(random, 1)),
            3 => self.remove(key),
            4 => {
                // A table of rows in which something moves: what diffs are for.
                let rows: Value = (0..random.below(12)).map(|id| json!({ "id": id, "n": random.below(3) })).collect();
                self.set(key, &json!({ "rows": rows, "visitors": random.below(9) }));
            }
            way => {
                let operations: Vec<_> = (0..=random.below(3)).map(|_| values::operation(random, &base)).collect();
                let patch = Patch::from_operations(operations.clone());
                let mut expected = Tree::from(base);
                let applies = apply(&mut expected, &patch, &PatchLimits::default()).is_ok();
                let changed = if way < 7 {
                    now(self.server.state().patch(key, &patch))
                } else {
                    now(self.server.state().update(key, |draft| {
                        operations.iter().cloned().try_for_each(|operation| draft.apply(operation))
                    }))
                };
                assert_eq!(changed.is_ok(), applies, "{patch:?}");
                assert_eq!(
                    self.get(key),
                    if applies { Some(Value::from(&expected)) } else { before },
                    "all or nothing"
                );
            }
        }
    }

    /// Counts one on, as a call would.
    pub(super) fn bump(&self) {
        now(self.server.state().update(COUNTER, |draft| draft.add("/n", 1))).unwrap();
        self.ledger().bumps += 1;
    }

    /// Publishes the next event of a topic.
    pub(super) fn publish(&mut self, topic: &'static str, filling: usize) {
        let n = self.published.entry(topic).or_default();
        *n += 1;
        let data = json!({ "life": self.life, "n": *n, "filling": "x".repeat(filling) });
        now(self.server.broadcast(topic, &data)).unwrap();
    }

    /// Lets one of the waiting calls go on.
    pub(super) fn answer_one(&self, random: &mut Random) {
        let mut ledger = self.ledger();
        if !ledger.waiting.is_empty() {
            let which = random.below(ledger.waiting.len() as u64) as usize;
            let (nonce, sender) = ledger.waiting.swap_remove(which);
            // Nobody is there any more when it was cancelled.
            let _ = sender.send(nonce);
        }
    }

    /// The last event of a topic: the life and its number.
    pub(super) fn last(&self, topic: &str) -> Option<(u64, u64)> {
        self.published.get(topic).map(|&n| (self.life, n))
    }

    pub(super) fn check(&self) {
        let ledger = self.ledger();
        assert!(ledger.wrong.is_empty(), "{:?}", ledger.wrong);
        for (nonce, &times) in ledger.executed.iter().chain(&ledger.heard) {
            assert_eq!(times, 1, "call or event {nonce} was carried out {times} times");
        }
        let counter = self.get(COUNTER).unwrap();
        assert_eq!(counter["n"].as_u64(), Some(ledger.bumps), "no update of the counter is lost");
    }
}

/// The backend of one life of the server, whose node is named after the life: connection ids repeat.
fn backend(life: u64, archive: &Arc<Archive>) -> Backend {
    let memory = Memory::new(Arc::new(System), Arc::new(move || life * 1_000_000));
    Backend { log: Arc::new(Store::new(archive.clone())), ..memory.node() }
}

fn serve(terms: &Terms, life: u64, ledger: &Arc<Mutex<Ledger>>, rules: &Rules, archive: &Arc<Archive>) -> Server {
    let policy = |verb: Verb| {
        let rules = rules.clone();
        move |identity: &Identity, stream: &StreamId| {
            matches!(stream.kind, StreamKind::State | StreamKind::Event) || rules.may(verb, &identity.user_id, stream)
        }
    };
    let book = |ledger: &Arc<Mutex<Ledger>>| {
        let ledger = ledger.clone();
        move |params: &Value| ledger.lock().unwrap().call(params)
    };
    let (echo, fail, never, raw, later, bump, event) =
        (book(ledger), book(ledger), book(ledger), ledger.clone(), ledger.clone(), ledger.clone(), ledger.clone());
    let mut builder = Server::builder()
        .limits(terms.limits.clone())
        .clock(terms.clock.clone())
        .epoch(life * 1_000_000)
        .backend(backend(life, archive))
        .authorize_read(policy(Verb::Read))
        .authorize_write(policy(Verb::Write))
        .topic(TOPICS[0], terms.history)
        .rpc("echo", move |_: Context, params: Value| {
            echo(&params);
            async move { Ok(params) }
        })
        .rpc("fail", move |_: Context, params: Value| {
            fail(&params);
            async move { Err::<(), _>(RpcError::new("boom").data(&params["nonce"])) }
        })
        .rpc("never", move |_: Context, params: Value| {
            never(&params);
            std::future::pending::<Result<(), RpcError>>()
        })
        .rpc("later", move |_: Context, params: Value| {
            let (sender, receiver) = oneshot::channel();
            let mut ledger = later.lock().unwrap();
            let nonce = ledger.call(&params);
            ledger.waiting.push((nonce, sender));
            async move { receiver.await.map_err(|_| RpcError::new("forgotten")) }
        })
        .rpc("bump", move |context: Context, params: Value| {
            let ledger = bump.clone();
            async move {
                context.server().state().update(COUNTER, |draft| draft.add("/n", 1)).await?;
                let mut ledger = ledger.lock().unwrap();
                ledger.call(&params);
                ledger.bumps += 1;
                Ok(ledger.bumps)
            }
        })
        .rpc_raw("bytes", move |_: Context, payload: Payload| {
            if let Payload::Binary(bytes) = &payload
                && let Some(nonce) = bytes.first_chunk()
            {
                raw.lock().unwrap().call(&json!({ "nonce": u64::from_be_bytes(*nonce) }));
            }
            async move { Ok(payload) }
        })
        .on("note", move |context: Context, nonce: u64| {
            event.lock().unwrap().event(context.connection_id(), nonce);
            async {}
        });
    for (key, kind) in CRDTS {
        builder = builder.crdt(key, kind);
    }
    if let Some(window) = terms.window {
        builder = builder.reconnect_window(Duration::from_millis(window));
    }
    builder.build()
}
