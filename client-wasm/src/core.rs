//! [`Core`]: a [`Driver`] for JavaScript, which has the clock and the world.

use datasole_core::Position;
use wasm_bindgen::prelude::*;

use crate::{
    driver::{Driver, payload},
    host::{Host, Options, now, seed},
};

/// One client, and what it has to say.
///
/// After every method the host is told through `CoreHost.soon` when there is something to [`take`](Self::take).
#[wasm_bindgen]
pub struct Core(pub(crate) Driver<Host>);

#[wasm_bindgen]
impl Core {
    /// A client that does nothing until `connect`.
    #[wasm_bindgen(constructor)]
    pub fn new(options: &Options, host: Host) -> Core {
        report_panics(&host);
        Self(Driver::new(options.settings().config(), seed(), host))
    }

    // --- commands; a refusal comes back as a message ---

    /// Starts connecting.
    pub fn connect(&mut self) {
        self.0.connect(now());
    }

    /// Closes for good.
    pub fn close(&mut self) {
        self.0.close(now());
    }

    /// Makes a call named `id` by the caller; its one `done` follows. Either `json` (a JSON text) or `bytes` or neither.
    pub fn call(
        &mut self,
        id: u32,
        method: String,
        json: Option<String>,
        bytes: Option<Vec<u8>>,
        timeout: Option<f64>,
        queue: bool,
    ) {
        self.0.call(now(), id, method, payload(json, bytes), timeout, queue);
    }

    /// Gives a call up.
    pub fn cancel(&mut self, id: u32) {
        self.0.cancel(now(), id);
    }

    /// Sends an event.
    pub fn emit(&mut self, event: &str, json: Option<String>, bytes: Option<Vec<u8>>, queue: bool) {
        self.0.emit(now(), event, payload(json, bytes), queue);
    }

    /// Follows a stream under the caller's `id`. Kinds are named as on the wire. `epoch` and `seq`: the position of the value that the
    /// caller has, if any.
    pub fn follow(&mut self, id: u32, kind: &str, key: String, epoch: Option<f64>, seq: Option<f64>) {
        let since = epoch.zip(seq).map(|(epoch, seq)| Position { epoch: epoch as u64, seq: seq as u64 });
        self.0.follow(now(), id, kind, key, since);
    }

    /// Stops following what `id` follows, in `linger` milliseconds.
    pub fn unfollow(&mut self, id: u32, linger: u32) {
        self.0.unfollow(now(), id, linger);
    }

    /// Asks for the state `key` anew: the caller's copy has lost step. `applied`: a patch was applied since the last time.
    pub fn resync(&mut self, key: String, applied: bool) {
        self.0.resync(now(), key, applied);
    }

    // --- open streams: CRDTs (`crdt`), rooms (`presence`) and documents (`doc`) ---

    /// A command on an open stream: `open`, `leave`, `edit`, `show`, `aware`, `answer` or `unfit` (`npm/src/protocol.ts` says
    /// what they do). `number`: the throttle of `open`, the id of `edit`, and not zero for the `applied` of
    /// `unfit`. One method for all: each has a price in bytes.
    pub fn stream(
        &mut self,
        command: &str,
        kind: &str,
        key: String,
        number: Option<f64>,
        json: Option<String>,
        bytes: Option<Vec<u8>>,
    ) {
        self.0.stream(now(), command, kind, key, number, payload(json, bytes));
    }

    // --- the world ---

    /// The socket is open; `protocol` is the subprotocol the server chose, empty for none.
    pub fn opened(&mut self, socket: f64, protocol: &str) {
        self.0.opened(now(), socket, protocol);
    }

    /// A binary message came.
    pub fn message(&mut self, socket: f64, bytes: &[u8]) {
        self.0.message(now(), socket, bytes);
    }

    /// The socket is closed or could not be opened. `code`: the close code or, below 1,000, the HTTP status of a refusal;
    /// `ours`: a datasole server's refusal; `retry_after` in milliseconds.
    pub fn closed(&mut self, socket: f64, code: u16, reason: String, ours: bool, retry_after: Option<f64>) {
        self.0.closed(now(), socket, code, reason, ours, retry_after);
    }

    /// The time asked for by `CoreHost.arm` has come.
    pub fn timeout(&mut self) {
        self.0.timeout(now());
    }

    /// The host noticed something: `online`, `offline`, `visible` or `hidden`.
    pub fn hint(&mut self, kind: &str) {
        self.0.hint(now(), kind);
    }

    /// Answers a `token` message: a token or none, or why there is none.
    pub fn token(&mut self, token: Option<String>, error: Option<String>) {
        self.0.token(now(), token, error);
    }

    // --- what came of it ---

    /// Hands over all messages since the last call: the JSON array of them through `CoreHost.text`, then the bytes they
    /// refer to through `CoreHost.bytes`. Nothing when there are none.
    pub fn take(&mut self) {
        self.0.take();
    }
}

/// Tells the host before the trap, which carries no message.
fn report_panics(host: &Host) {
    let host = host.clone();
    std::panic::set_hook(Box::new(move |info| host.panicked(&info.to_string())));
}
