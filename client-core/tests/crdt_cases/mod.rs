//! Generated cases for CRDTs in other languages. Shared by the example that prints them and the test that holds the
//! committed ones (`tests/vectors/crdt.json`) to it. States are given as text: theirs must be the same, to the byte.
//!
//! - `{case: "canonical", value, text}`: the text of any value.
//! - `{case: "operations", kind, ops, value, state}`: operations in the order of arrival, some of them twice.
//! - `{case: "merge", kind, a, b, state}`: states of two peers, and of both together.
//! - `{case: "adopt", kind, state, v1, adopted}`: a state, a version 1 server's, and what is left of the former.
//! - `{case: "refused", kind, state, op}`: an operation that changes nothing, and is no replay.
//! - `{case: "replica", kind, node, steps}`: the values of a client's replica, around it an outbox and a server. A step has
//!   one of `edit` (with `now`, and the `op` that it makes, if any, or `error: true`), `send` (the window, with the `ops`
//!   that are to be sent: what the replica handed over, `done` written anew, `none` for what was refused), `acked` and
//!   `refused` (a number, and `none: true` where that was a `none`, of which the replica is told nothing), `detached`,
//!   `restart` (saved and restored), `remote` (an operation) and `snapshot` (a state or null); then `state` is the current
//!   one, and `pending` the number of edits without an outcome.

use datasole_core::{
    EditOutcome,
    crdt::{Applied, Change, Crdt, CrdtKind, CrdtLimits, Edit, Json, MAX_INTEGER, Op, Replica},
    value::parse,
};
use serde_json::{Value, json};

/// SplitMix64: any seed will do.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Names that ordinary data has, that JavaScript puts in another order, that its objects have from birth, and those by
/// which `serde_json` tells its own types.
const NAMES: &[&str] = &[
    "a",
    "b",
    "",
    "10",
    "9",
    "__proto__",
    "toString",
    "\u{fb33}",
    "😀",
    "é\"\n",
    "$serde_json::private::RawValue",
    "$serde_json::private::Number",
];

/// The next case; there are as many kinds of case as numbers to begin with.
pub(crate) fn case(rng: &mut Rng, number: u64) -> Value {
    let kind = CrdtKind::ALL[(number / 6 % 6) as usize];
    match number % 6 {
        0 => {
            let value = value(rng, 3);
            json!({"case": "canonical", "value": value, "text": text(&value).get()})
        }
        1 => operations(rng, kind),
        2 => merge(rng, kind),
        3 => adopt(rng, kind),
        4 => refused(rng, kind),
        _ => replica(rng, kind),
    }
}

fn text(value: &Value) -> Json {
    Json::new(value, &CrdtLimits::default()).unwrap()
}

fn state_text(state: &Crdt) -> Value {
    state.to_json().get().into()
}

fn op_json(op: &Op) -> Value {
    parse(op.to_json().get()).unwrap()
}

/// An operation as it is sent: with `done`, and maybe as `none`.
fn rewritten(op: &Op, done: u64, none: bool) -> Op {
    let mut json = op_json(op);
    json["done"] = done.into();
    if none {
        json["op"] = "none".into();
        let members = json.as_object_mut().unwrap();
        members.retain(|name, _| !["key", "value", "dots"].contains(&name.as_str()));
    }
    Op::parse(&json.to_string(), &CrdtLimits::default()).unwrap()
}

fn refusal() -> EditOutcome {
    EditOutcome::Refused { code: -32602, message: String::new() }
}

fn value(rng: &mut Rng, depth: usize) -> Value {
    match rng.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => rng.chance(50).into(),
        2 => (rng.below(20) as i64 - 10).into(),
        3 => number(rng),
        4 | 5 => rng.pick(NAMES).into(),
        6 => (0..rng.below(4)).map(|_| value(rng, depth - 1)).collect(),
        _ => (0..rng.below(4)).map(|_| (rng.pick(NAMES).to_owned(), value(rng, depth - 1))).collect(),
    }
}

/// Any double but NaN and the infinities, often one near where its text changes form.
fn number(rng: &mut Rng) -> Value {
    let near = [1.0, 1e-6, 1e-7, 1e20, 1e21, 0.1, 9_007_199_254_740_991.0, 123.456];
    let number = match rng.below(3) {
        0 => f64::from_bits(rng.next()),
        1 => rng.pick(&near) * (rng.below(2000) as f64 - 1000.0),
        _ => (rng.next() >> rng.below(64)) as f64 / 8.0,
    };
    json!(if number.is_finite() { number } else { 0.0 })
}

/// An edit, and how it is told: `{op, key?, value?}`.
fn edit(rng: &mut Rng, kind: CrdtKind) -> (Edit, Value) {
    let few = [json!(1), json!("a"), json!({"b": 1, "a": [1.5]}), Value::Null];
    let value = if rng.chance(70) { rng.pick(&few) } else { value(rng, 2) };
    let (key, removes) = (rng.pick(NAMES).to_owned(), rng.chance(30));
    let by = match rng.below(10) {
        // Sums leave the range of exact doubles on the way.
        0 => MAX_INTEGER - rng.below(9) as u64,
        1 => 1 << rng.below(53),
        _ => 1 + rng.below(9) as u64,
    };
    match kind {
        CrdtKind::PnCounter if removes => (Edit::Decrement(by), json!({"op": "decrement", "value": by})),
        CrdtKind::GCounter | CrdtKind::PnCounter => (Edit::Increment(by), json!({"op": "increment", "value": by})),
        CrdtKind::LwwRegister => (Edit::Set(value.clone()), json!({"op": "set", "value": value})),
        CrdtKind::LwwMap if removes => (Edit::Delete(key.clone()), json!({"op": "remove", "key": key})),
        CrdtKind::LwwMap => (Edit::Put(key.clone(), value.clone()), json!({"op": "set", "key": key, "value": value})),
        CrdtKind::OrSet if removes => (Edit::Remove(value.clone()), json!({"op": "remove", "value": value})),
        CrdtKind::GSet | CrdtKind::OrSet => (Edit::Add(value.clone()), json!({"op": "add", "value": value})),
    }
}

/// What three replicas do that now and then hear of each other.
fn history(rng: &mut Rng, kind: CrdtKind) -> Vec<Op> {
    let nodes = ["a", "\u{fb33}b", "😀"];
    let (limits, mut replicas) = (CrdtLimits::default(), nodes.map(|_| Crdt::new(kind)));
    let (mut ops, mut heard): (Vec<Op>, [usize; 3]) = (Vec::new(), [0; 3]);
    let mut now = 1_000;
    for _ in 0..4 + rng.below(16) {
        let who = rng.below(3);
        let replica = &mut replicas[who];
        if rng.chance(50) {
            for op in &ops[heard[who]..] {
                // Two amounts that fit on their own may not fit together.
                let _ = replica.apply(op, &limits);
            }
            heard[who] = ops.len();
        }
        now += rng.below(3) as u64;
        if let Ok(Some(op)) = replica.compose(nodes[who], now, edit(rng, kind).0, &limits) {
            replica.apply(&op, &limits).unwrap();
            ops.push(op);
        }
    }
    ops
}

fn state<'a>(kind: CrdtKind, ops: impl IntoIterator<Item = &'a Op>) -> Crdt {
    let mut state = Crdt::new(kind);
    for op in ops {
        // Two amounts that fit on their own may not fit together.
        let _ = state.apply(op, &CrdtLimits::default());
    }
    state
}

fn some(rng: &mut Rng, ops: &[Op]) -> Vec<Op> {
    let mut some: Vec<_> = ops.iter().filter(|_| rng.chance(60)).cloned().collect();
    rng.shuffle(&mut some);
    some
}

fn operations(rng: &mut Rng, kind: CrdtKind) -> Value {
    let mut ops = history(rng, kind);
    ops.extend(some(rng, &ops));
    rng.shuffle(&mut ops);
    let state = state(kind, &ops);
    let ops: Vec<_> = ops.iter().map(op_json).collect();
    json!({"case": "operations", "kind": kind, "ops": ops, "value": state.value(), "state": state_text(&state)})
}

fn merge(rng: &mut Rng, kind: CrdtKind) -> Value {
    loop {
        let ops = history(rng, kind);
        let (a, b) = (state(kind, &some(rng, &ops)), state(kind, &some(rng, &ops)));
        let mut merged = a.clone();
        if merged.merge(&b).is_ok() {
            let (a, b) = (state_text(&a), state_text(&b));
            return json!({"case": "merge", "kind": kind, "a": a, "b": b, "state": state_text(&merged)});
        }
    }
}

/// States as version 1 has them: no `seen`, no clock per entry.
fn adopt(rng: &mut Rng, kind: CrdtKind) -> Value {
    let ops = history(rng, kind);
    let mut ours = state(kind, &some(rng, &ops));
    let theirs = state(kind, &some(rng, &ops));
    let before = state_text(&ours);
    let mut plain: Value = parse(theirs.to_json_v1().get()).unwrap();
    let metadata = plain["metadata"].as_object_mut().unwrap();
    metadata.retain(|name, _| ["type", "nodeId", "timestamp", "version", "vector"].contains(&name.as_str()));
    // Totals that version 1 sees as one may not fit together.
    let Ok(Some(read)) = Crdt::from_json(&plain.to_string(), &CrdtLimits::default()) else { return adopt(rng, kind) };
    let _ = ours.adopt_v1(&read);
    json!({"case": "adopt", "kind": kind, "state": before, "v1": plain, "adopted": state_text(&ours)})
}

/// Makes one operation of a history hostile.
fn refused(rng: &mut Rng, kind: CrdtKind) -> Value {
    let limits = CrdtLimits::default();
    loop {
        let ops = history(rng, kind);
        let state = state(kind, &ops);
        let mut op = match ops.last() {
            Some(op) => op_json(op),
            None => continue,
        };
        op["counter"] = json!(op["counter"].as_u64().unwrap() + 1);
        let (member, value) = rng.pick(&[
            ("counter", json!(0)),
            ("counter", json!(-1)),
            ("counter", json!(1.5)),
            ("counter", json!("1")),
            ("counter", Value::Null),
            ("counter", json!(5_000_000)),
            ("counter", json!(9_007_199_254_740_992_u64)),
            ("nodeId", json!("")),
            ("nodeId", json!("retired")),
            ("nodeId", json!(7)),
            ("nodeId", json!("n".repeat(129))),
            ("timestamp", json!(-1)),
            ("timestamp", json!(0.5)),
            ("timestamp", json!("now")),
            ("timestamp", json!(9_007_199_254_740_992_u64)),
            ("logical", json!(-1)),
            ("type", json!("g-map")),
            ("type", json!("or-map")),
            ("op", json!("multiply")),
            ("op", json!(null)),
            ("done", json!(5_000_000)),
            ("value", json!("NaN")),
            ("value", json!(0)),
            ("value", json!(-1)),
            ("value", json!(0.5)),
            ("value", json!(9_007_199_254_740_992_u64)),
            ("value", json!([1])),
            ("key", json!(1)),
            ("key", json!("k".repeat(1025))),
            ("dots", json!([["a", 0]])),
            ("dots", json!([["a"]])),
            ("dots", json!("a")),
        ]);
        op[member] = value;
        let parsed = Op::parse(&op.to_string(), &limits).and_then(|op| state.plan(&op, &limits));
        if parsed.is_err() {
            return json!({"case": "refused", "kind": kind, "state": state_text(&state), "op": op});
        }
    }
}

/// A replica and a server that refuses, forgets and loses the connection.
struct Scene<'a> {
    rng: &'a mut Rng,
    kind: CrdtKind,
    now: u64,
    me: Replica,
    other: Replica,
    server: Crdt,
    /// Every entry of the stream, and how many of them have come.
    log: Vec<Op>,
    heard: usize,
    connected: bool,
    /// Not acknowledged, each with whether it is under way; and acknowledged, but not seen to arrive.
    outbox: Vec<(Op, bool)>,
    arriving: Vec<Op>,
    steps: Vec<Value>,
}

fn replica(rng: &mut Rng, kind: CrdtKind) -> Value {
    let limits = CrdtLimits::default();
    let node = "me";
    let mut scene = Scene {
        kind,
        now: 1_711_234_567_890,
        me: Replica::new(kind, node, limits).unwrap(),
        other: Replica::new(kind, "other", limits).unwrap(),
        server: Crdt::new(kind),
        log: Vec::new(),
        heard: 0,
        connected: false,
        outbox: Vec::new(),
        arriving: Vec::new(),
        steps: Vec::new(),
        rng,
    };
    for _ in 0..24 {
        scene.step();
    }
    // Whatever happened, it ends well.
    scene.connect();
    scene.listen();
    while !scene.outbox.is_empty() {
        scene.send();
        while scene.outbox.iter().any(|(_, sent)| *sent) {
            scene.answer(false);
        }
        scene.listen();
    }
    let (mine, theirs) = (scene.me.current(), &scene.server);
    assert!(mine.value() == theirs.value(), "{} {}", mine.to_json(), theirs.to_json());
    json!({"case": "replica", "kind": kind, "node": node, "steps": scene.steps})
}

impl Scene<'_> {
    fn step(&mut self) {
        self.now += self.rng.below(4) as u64;
        match self.rng.below(12) {
            0..=3 => self.edit(),
            4 => self.edit_elsewhere(),
            5 | 6 if self.connected => self.send(),
            5..=8 if self.connected => self.answer(true),
            9 if self.connected => self.hear(),
            10 if self.connected && self.rng.chance(50) => self.disconnect(),
            11 if self.rng.chance(30) => self.restart(),
            _ if !self.connected => self.connect(),
            _ => {}
        }
    }

    /// Tells a step, and how things are after it.
    fn tell(&mut self, mut step: Value) {
        step["state"] = state_text(self.me.current());
        step["pending"] = self.me.pending().into();
        self.steps.push(step);
    }

    fn edit(&mut self) {
        let (edit, told) = edit(self.rng, self.kind);
        let mut step = json!({"edit": told, "now": self.now});
        match self.me.edit(self.now, edit) {
            Ok(Some(op)) => {
                step["op"] = op_json(&op);
                self.outbox.push((op, false));
            }
            Ok(None) => {}
            Err(_) => step["error"] = true.into(),
        }
        self.tell(step);
    }

    fn edit_elsewhere(&mut self) {
        let (edit, _) = edit(self.rng, self.kind);
        if let Ok(Some(op)) = self.other.edit(self.now, edit) {
            match self.publish(op) {
                Ok(op) => _ = self.other.remote(&op).unwrap(),
                Err(counter) => self.other.settled(counter, &refusal()),
            }
        }
    }

    fn publish(&mut self, op: Op) -> Result<Op, u64> {
        let (counter, limits) = (op.counter(), CrdtLimits::default());
        let (op, applied) = self.server.admit(op, self.now, &limits).map_err(|_| counter)?;
        if applied == Applied::New {
            self.server.apply(&op, &limits).unwrap();
            self.log.push(op.clone());
        }
        Ok(op)
    }

    fn send(&mut self) {
        let window = 1 + self.rng.below(3);
        let done = self.outbox.first().map_or(0, |(op, _)| op.counter() - 1);
        let mut ops = Vec::new();
        for (op, sent) in self.outbox.iter_mut().take(window).filter(|(_, sent)| !sent) {
            *op = rewritten(op, done, op.change() == &Change::None);
            *sent = true;
            ops.push(op_json(op));
        }
        self.tell(json!({"send": window, "ops": ops}));
    }

    /// The server answers the oldest that is under way.
    fn answer(&mut self, badly: bool) {
        let Some(index) = self.outbox.iter().position(|(_, sent)| *sent) else { return };
        let op = self.outbox[index].0.clone();
        let (counter, none) = (op.counter(), *op.change() == Change::None);
        if badly && self.rng.chance(10) {
            // Later, and all that follow.
            self.outbox.iter_mut().for_each(|(_, sent)| *sent = false);
            return;
        }
        let refused = badly && !none && self.rng.chance(15) || self.publish(op.clone()).is_err();
        if !refused && self.rng.chance(50) {
            self.listen();
        }
        let index = self.outbox.iter().position(|(other, _)| other.counter() == counter);
        let mut step = if refused { json!({"refused": counter}) } else { json!({"acked": counter}) };
        match index {
            Some(index) if refused && !none => self.outbox[index] = (rewritten(&op, op.done(), true), false),
            Some(index) => _ = self.outbox.remove(index),
            None => {}
        }
        if none {
            step["none"] = true.into();
        } else if refused {
            self.me.settled(counter, &refusal());
        } else {
            self.me.settled(counter, &EditOutcome::Stored { returns: true });
            if index.is_some() {
                self.arriving.push(op);
            }
        }
        self.tell(step);
    }

    fn hear(&mut self) {
        if let Some(op) = self.log.get(self.heard).cloned() {
            self.heard += 1;
            self.me.remote(&op).unwrap();
            self.forget();
            self.tell(json!({"remote": op_json(&op)}));
        }
    }

    /// Drops the operations that the server is known to have.
    fn forget(&mut self) {
        let (confirmed, node) = (self.me.confirmed(), self.me.node());
        self.outbox.retain(|(op, _)| !confirmed.has_seen(node, op.counter()));
        self.arriving.retain(|op| !confirmed.has_seen(node, op.counter()));
    }

    fn listen(&mut self) {
        while self.heard < self.log.len() {
            self.hear();
        }
    }

    /// Loses the connection: a random prefix of the sent operations has arrived; all that have not returned are resent.
    fn disconnect(&mut self) {
        let sent: Vec<_> = self.outbox.iter().filter(|(_, sent)| *sent).map(|(op, _)| op.clone()).collect();
        let arrived = self.rng.below(sent.len() + 1);
        for op in sent.into_iter().take(arrived) {
            let _ = self.publish(op);
        }
        self.connected = false;
        self.outbox.extend(self.arriving.drain(..).map(|op| (op, false)));
        self.outbox.iter_mut().for_each(|(_, sent)| *sent = false);
        self.outbox.sort_by_key(|(op, _)| op.counter());
        self.tell(json!({"detached": true}));
    }

    /// Without what is not saved: that something was refused.
    fn restart(&mut self) {
        if self.connected {
            self.disconnect();
        }
        self.me = Replica::restore(self.me.save().get(), CrdtLimits::default()).unwrap();
        self.outbox = self.me.own().map(|op| (op.clone(), false)).collect();
        self.outbox.sort_by_key(|(op, _)| op.counter());
        self.heard = usize::MAX;
        self.tell(json!({"restart": true}));
    }

    fn connect(&mut self) {
        if self.connected {
            return;
        }
        self.connected = true;
        if self.rng.chance(20) {
            self.now += if self.rng.chance(50) { 24 * 3_600_000 } else { 0 };
            self.server.collect(self.now - 20);
        }
        if self.heard == usize::MAX || self.rng.chance(50) {
            self.heard = self.log.len();
            let state = (!self.log.is_empty()).then(|| self.server.clone());
            let told: Value = state.as_ref().map_or(Value::Null, |state| parse(state.to_json().get()).unwrap());
            self.me.snapshot(state).unwrap();
            self.forget();
            self.tell(json!({"snapshot": told}));
        }
    }
}
