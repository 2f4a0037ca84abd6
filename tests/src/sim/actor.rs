//! A client and its host: the clock, the one timer, the sockets it thinks it has, and what its user does.

use std::collections::BTreeMap;

use datasole_core::{
    CallId, Client, CommandError, Config, Event, Hint, Input, Limits, Millis, Output, Payload, Reconnect, Request,
    Seed, SocketId, Status, StreamId, StreamKind, SubscriptionId,
};
use serde_json::{json, value::to_raw_value};

use super::{
    Stats,
    open::{From, Open},
    site::{COUNTER, KEYS, TOPICS},
    trace::Trace,
    values,
    watch::{Call, Watch},
};
use crate::random::Random;

/// The host's clock begins here: room to jump back.
const ORIGIN: i64 = 1 << 50;
/// Times the timer may fire without time passing, and outputs of one input. Far above what is ever needed.
const HOT: u32 = 16;
const OUTPUTS: usize = 2_000;
/// Attempts to connect within [`WINDOW`] milliseconds.
const ATTEMPTS: usize = 60;
const WINDOW: u64 = 10_000;

/// What the network of the host is to do.
pub(super) enum Order {
    Open(SocketId, bool),
    Send(SocketId, Vec<u8>),
    Close(SocketId),
    Token,
    /// A question about a document is to be answered.
    Answer,
}

pub(super) struct Actor {
    pub(super) client: Client,
    pub(super) watch: Watch,
    pub(super) open: Open,
    pub(super) name: String,
    /// The link of the latest socket.
    pub(super) link: Option<usize>,
    /// How long the core waits for an answer.
    pub(super) patience: u64,
    /// Always allowed, always on version 2, and never away.
    pub(super) keeper: bool,
    /// When the timer fires, on the world's clock.
    pub(super) alarm: Option<u64>,
    follows: BTreeMap<StreamId, SubscriptionId>,
    socket: Option<SocketId>,
    offset: i64,
    /// The clock jumped: deadlines mean little.
    pub(super) jumped: bool,
    max_pending: usize,
    last_fired: u64,
    fired: u32,
    attempts: std::collections::VecDeque<u64>,
}

impl Actor {
    pub(super) fn new(index: usize, random: &mut Random) -> Self {
        let mut seed = [0; 32];
        seed.iter_mut().for_each(|byte| *byte = random.u64() as u8);
        let max_pending = [4, 1_024][random.below(2) as usize];
        let (name, keeper, patience) = (format!("user{index}"), index == 0, 5_000 + random.below(10_000));
        let config = Config {
            ask_token: random.below(3) == 0,
            offer_v2: random.below(4) > 0 || keeper,
            mirror: true,
            connect_timeout: 2_000 + random.below(8_000),
            token_timeout: 3_000,
            call_timeout: patience,
            heartbeat: 1_000 + random.below(10_000),
            reconnect: Reconnect {
                base: 100 + random.below(1_000),
                cap: 2_000 + random.below(6_000),
                ..Reconnect::default()
            },
            limits: Limits { max_pending_calls: max_pending, max_queued: 8, ..Limits::default() },
            ..Config::new("ws://localhost/__ds")
        };
        let mut actor = Self {
            client: Client::new(config, Seed(seed)),
            watch: Watch::default(),
            open: Open::new(&name, 1_000 + index as u64, max_pending > 4, random),
            name,
            link: None,
            patience,
            keeper,
            alarm: None,
            follows: BTreeMap::new(),
            socket: None,
            offset: ORIGIN + random.below(1_000_000) as i64,
            jumped: false,
            max_pending,
            last_fired: u64::MAX,
            fired: 0,
            attempts: std::collections::VecDeque::new(),
        };
        for stream in KEYS.map(StreamId::state).into_iter().chain(TOPICS.map(StreamId::event)) {
            if random.below(4) > 0 {
                actor.follow(0, stream);
            }
        }
        actor.follow(0, StreamId::state(COUNTER));
        let host = actor.host(0);
        actor.open.begin(&mut actor.client, host, keeper, random);
        actor
    }

    pub(super) fn host(&self, now: u64) -> Millis {
        Millis(u64::try_from(now as i64 + self.offset).unwrap())
    }

    // --- the world ---

    pub(super) fn input(&mut self, now: u64, input: Input<'_>) {
        let host = self.host(now);
        if let Input::Timeout = input {
            self.fired = if self.last_fired == now { self.fired + 1 } else { 0 };
            self.last_fired = now;
            assert!(self.fired < HOT, "the timer fires and fires: {:?}", self.client.timeout_reason());
        }
        if let Input::SocketClosed { socket, .. } = input
            && self.socket == Some(socket)
        {
            self.socket = None;
        }
        self.client.handle_input(host, input);
    }

    /// Whether the host thinks that this is the socket it has.
    pub(super) fn has(&self, socket: SocketId) -> bool {
        self.socket == Some(socket)
    }

    /// Performs what the core wants done; what needs the network is handed out. `memory`: that of the server.
    pub(super) fn pump(&mut self, now: u64, memory: usize, stats: &mut Stats, trace: &mut Trace) -> Vec<Order> {
        let host = self.host(now);
        let (mut orders, mut outputs) = (Vec::new(), 0);
        while let Some(output) = self.client.poll_output() {
            outputs += 1;
            trace.output(now, &self.name, &output);
            assert!(outputs < OUTPUTS, "no end of outputs");
            match output {
                Output::OpenSocket { socket, protocols, .. } => {
                    assert_eq!(self.socket, None, "a second socket");
                    self.socket = Some(socket);
                    self.attempts.push_back(now);
                    while self.attempts.front().is_some_and(|&at| at + WINDOW < now) {
                        self.attempts.pop_front();
                    }
                    stats.highest("highest attempts", self.attempts.len() as u64);
                    assert!(self.attempts.len() < ATTEMPTS, "it connects and connects");
                    orders.push(Order::Open(socket, protocols.contains(&"datasole.v2")));
                }
                Output::Send { socket, message } => {
                    assert_eq!(self.socket, Some(socket), "sent on a socket that is gone");
                    orders.push(Order::Send(socket, message));
                }
                Output::CloseSocket { socket, code, .. } => {
                    assert_eq!(self.socket.take(), Some(socket), "closed a socket that is gone");
                    assert!(code == 1000 || (3_000..5_000).contains(&code), "a code that browsers refuse");
                    orders.push(Order::Close(socket));
                }
                Output::NeedToken => orders.push(Order::Token),
                Output::Event(event) => {
                    match event {
                        // What version 1 has sent unasked.
                        Event::Status(Status::Connected { protocol: 2, .. }) => {
                            self.watch
                                .states
                                .retain(|key, _| self.follows.contains_key(&StreamId::state(key.as_str())));
                        }
                        Event::Status(_) => self.open.lost(),
                        _ => {}
                    }
                    let from = From { protocol: self.watch.protocol, memory };
                    match self.open.event(&mut self.client, host, event, from, stats) {
                        Ok(true) => orders.push(Order::Answer),
                        Ok(false) => {}
                        Err(event) => self.watch.event(now, event, stats),
                    }
                }
            }
        }
        stats.highest("highest outputs", outputs as u64);
        assert!(self.watch.calls.len() <= self.max_pending);
        for (key, state) in &self.watch.states {
            if self.follows.contains_key(&StreamId::state(key.as_str())) {
                assert_eq!(self.client.state(key), state.value.as_ref(), "the mirror of {key}");
            }
        }
        self.open.check(matches!(self.client.status(), Status::Connected { .. }));
        self.alarm = self.client.poll_timeout().map(|deadline| now + (deadline - host));
        orders
    }

    /// The host's clock is set, forwards or back.
    pub(super) fn jump(&mut self, by: i64) {
        self.offset += by;
        self.jumped = true;
        self.watch.calls.values_mut().for_each(|call| call.until = None);
    }

    // --- the user ---

    pub(super) fn act(&mut self, now: u64, nonce: u64, random: &mut Random) {
        let host = self.host(now);
        match random.below(28) {
            0..=11 => self.call(now, nonce, random),
            12..=14 => {
                let _ = self.client.emit(host, "note", json_payload(&nonce), random.coin());
            }
            15 | 16 => {
                if let Some(&call) = self.pick(random) {
                    assert!(self.client.cancel(host, call), "a call that is pending can be cancelled");
                }
            }
            17..=19 => {
                let which = random.below((KEYS.len() + TOPICS.len()) as u64) as usize;
                let stream = match KEYS.get(which) {
                    Some(&key) => StreamId::state(key),
                    None => StreamId::event(TOPICS[which - KEYS.len()]),
                };
                if let Some(id) = self.follows.remove(&stream) {
                    assert!(self.client.unsubscribe(host, id));
                    self.watch.forget(stream.kind, &stream.key);
                } else {
                    self.follow(now, stream);
                }
            }
            20 => {
                if let Some(stream) = self.follows.keys().next().cloned()
                    && self.client.resync(host, &stream, false)
                {
                    self.watch.resynced(stream.kind, &stream.key);
                }
            }
            21 => self.client.refresh_token(host, Some("fresh".into())),
            22 => self.input(now, Input::Hint(Hint::Offline)),
            23 => self.input(now, Input::Hint(Hint::Online)),
            24 => self.input(now, Input::Hint(Hint::Visible)),
            25 => self.input(now, Input::Hint(Hint::Hidden)),
            26 => self.client.connect(host),
            _ if random.below(3) == 0 => {
                self.client.close(host);
            }
            _ => self.client.connect(host),
        }
    }

    pub(super) fn act_on_streams(&mut self, now: u64, nonce: u64, random: &mut Random) {
        let host = self.host(now);
        self.open.act(&mut self.client, host, now, nonce, self.keeper, random);
    }

    fn pick(&self, random: &mut Random) -> Option<&CallId> {
        let pending = self.watch.calls.len() as u64;
        if pending == 0 { None } else { self.watch.calls.keys().nth(random.below(pending) as usize) }
    }

    fn call(&mut self, now: u64, nonce: u64, random: &mut Random) {
        let method =
            ["echo", "echo", "bump", "bump", "later", "fail", "never", "missing", "bytes"][random.below(9) as usize];
        let params = match method {
            "bytes" => Payload::Binary([&nonce.to_be_bytes()[..], &[0; 300]].concat()),
            _ => json_payload(&json!({ "nonce": nonce, "x": values::value(random, 2) })),
        };
        let timeout = 1 + random.below(20_000);
        let request =
            Request { method: method.into(), params: params.clone(), timeout: Some(timeout), queue: random.coin() };
        match self.client.call(self.host(now), request) {
            Ok(id) => {
                let until = (!self.jumped).then_some(now + timeout);
                let known = self.watch.calls.insert(id, Call { method, nonce, params, until });
                assert!(known.is_none(), "an id given twice");
            }
            Err(
                CommandError::NotConnected
                | CommandError::Closed
                | CommandError::Limit { .. }
                | CommandError::NeedsV2 { .. },
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn follow(&mut self, now: u64, stream: StreamId) {
        let id = self.client.subscribe(self.host(now), stream.clone()).unwrap();
        self.follows.insert(stream, id);
    }

    /// The user wants it to work now.
    pub(super) fn heal(&mut self, now: u64) {
        self.input(now, Input::Hint(Hint::Online));
        if let Status::Disconnected(_) = self.client.status() {
            self.client.connect(self.host(now));
        }
    }

    pub(super) fn follows(&self, kind: StreamKind, key: &str) -> bool {
        self.follows.contains_key(&StreamId { kind, key: key.into() })
    }
}

fn json_payload(value: &impl serde::Serialize) -> Payload {
    Payload::Json(to_raw_value(value).unwrap())
}
