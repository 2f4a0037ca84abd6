//! [`Client`], the handle: commands go to the core under its lock, the driver performs what follows from them.

use std::{fmt, sync::Arc, time::Duration};

use datasole_core::{CallError as CallFailure, CallId, CommandError, Hint, Payload, Request};
use futures_util::{Stream, StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;

use crate::{
    crdt::{Crdts, Replicas},
    error::{CallError, DecodeError, EmitError, PresenceError},
    events::{Events, decode_json},
    presence::Presence,
    refusal::Refusals,
    router::Shared,
    state::State,
    status::Status,
};
#[cfg(feature = "docs")]
use crate::{doc::Document, error::DocError};

/// A connection to a datasole server, kept up until the last clone is dropped or [`close`](Self::close) is called.
///
/// Dropping the last clone closes gracefully as long as the runtime lives: a struct that owns both names the client before
/// the runtime. Cloning is cheap. [`Events`] and [`State`] do not keep the connection: they end with the last `Client`.
#[derive(Clone)]
pub struct Client {
    owner: Arc<Owner>,
}

/// Options of a call.
///
/// ```
/// use std::time::Duration;
/// use datasole_client::CallOptions;
/// let options = CallOptions::new().timeout(Duration::from_secs(2)).queue();
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions {
    timeout: Option<Duration>,
    queue: bool,
}

impl CallOptions {
    /// The client's time-out, and an error when the connection is lost. Before the first connection every call waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long to wait for the answer.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Wait for a connection when there is none. The time-out runs meanwhile.
    pub fn queue(self) -> Self {
        Self { queue: true, ..self }
    }
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, replicas: Replicas) -> Self {
        Self { owner: Arc::new(Owner { shared, replicas: Arc::new(replicas) }) }
    }

    /// Calls `method` and waits for its result. Dropping the future cancels the call, on the server too.
    ///
    /// # Errors
    ///
    /// [`CallError`]; every call ends exactly once.
    pub async fn call<P, R>(&self, method: &str, params: &P) -> Result<R, CallError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned + 'static,
    {
        self.call_with(method, params, CallOptions::new()).await
    }

    /// [`call`](Self::call), with options.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_with<P, R>(&self, method: &str, params: &P, options: CallOptions) -> Result<R, CallError>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned + 'static,
    {
        let params = Payload::Json(to_raw_value(params).map_err(CallError::Params)?);
        decode_json(self.call_raw(method, params, options).await?).map_err(CallError::Result)
    }

    /// Calls `method` with raw bytes and expects raw bytes. Needs a server of version 2.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_bytes(&self, method: &str, params: Vec<u8>) -> Result<Vec<u8>, CallError> {
        match self.call_raw(method, Payload::Binary(params), CallOptions::new()).await? {
            Payload::Binary(bytes) => Ok(bytes),
            Payload::Empty | Payload::Json(_) => Err(CallError::Result(DecodeError::NotBinary)),
        }
    }

    /// Calls `method` with JSON text or raw bytes, and returns its answer undecoded.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, method: &str, params: Payload, options: CallOptions) -> Result<Payload, CallError> {
        let shared = &self.owner.shared;
        let bytes = params.len();
        let timeout = options.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let request = Request { method: method.to_owned(), params, timeout, queue: options.queue };
        let (call, outcome) = shared.send_command(bytes, |router, now| router.call(now, request)).await?;
        let mut cancel = CancelOnDrop { shared, call: Some(call) };
        let outcome = outcome.await;
        cancel.call = None;
        // The sender goes without a word only when the driver ends.
        Ok(outcome.unwrap_or(Err(CallFailure::Closed))?)
    }

    /// Sends an event, once the first connection is open. Waits while too much is waiting to be sent; there is no answer to
    /// wait for.
    ///
    /// # Errors
    ///
    /// [`EmitError`]; then nothing was sent.
    pub async fn emit<D: Serialize + ?Sized>(&self, event: &str, data: &D) -> Result<(), EmitError> {
        self.emit_raw(event, Payload::Json(to_raw_value(data).map_err(EmitError::Data)?), false).await
    }

    /// Sends an event, at the next connection when there is none.
    ///
    /// # Errors
    ///
    /// [`EmitError`]; then nothing was queued.
    pub async fn emit_queued<D: Serialize + ?Sized>(&self, event: &str, data: &D) -> Result<(), EmitError> {
        self.emit_raw(event, Payload::Json(to_raw_value(data).map_err(EmitError::Data)?), true).await
    }

    /// Sends an event with raw bytes. Needs a server of version 2.
    ///
    /// # Errors
    ///
    /// [`EmitError`]; then nothing was sent.
    pub async fn emit_bytes(&self, event: &str, data: Vec<u8>) -> Result<(), EmitError> {
        self.emit_raw(event, Payload::Binary(data), false).await
    }

    async fn emit_raw(&self, event: &str, data: Payload, queue: bool) -> Result<(), EmitError> {
        let bytes = data.len();
        Ok(self.owner.shared.send_command(bytes, |router, now| router.emit(now, event, data, queue)).await?)
    }

    /// Follows the events of one name, in order, also across reconnects: events published meanwhile are replayed if the
    /// server keeps them, else the stream yields [`EventError::Missed`](crate::EventError::Missed).
    ///
    /// # Errors
    ///
    /// [`CommandError`]: closed, too many subscriptions, or a bad name.
    pub fn events<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<Events<T>, CommandError> {
        self.follow_events(name, decode_json)
    }

    /// [`events`](Self::events) as they came: JSON text, raw bytes or nothing.
    ///
    /// # Errors
    ///
    /// As for [`events`](Self::events).
    pub fn events_raw(&self, name: &str) -> Result<Events<Payload>, CommandError> {
        self.follow_events(name, Ok)
    }

    fn follow_events<T>(
        &self,
        name: &str,
        decode: fn(Payload) -> Result<T, DecodeError>,
    ) -> Result<Events<T>, CommandError> {
        let shared = &self.owner.shared;
        let joined = shared.command(|router, now| router.join_topic(now, name))?;
        Ok(Events::new(shared.clone(), name.to_owned(), joined, decode))
    }

    /// Follows the live state `key`. The value is unknown until [`State::changed`] has returned.
    ///
    /// # Errors
    ///
    /// [`CommandError`]: closed, too many subscriptions, or a bad key.
    pub fn state<T: DeserializeOwned + 'static>(&self, key: &str) -> Result<State<T>, CommandError> {
        let shared = &self.owner.shared;
        let joined = shared.command(|router, now| router.join_state(now, key))?;
        Ok(State::new(shared.clone(), key.to_owned(), joined))
    }

    /// The CRDTs: counters, registers, maps and sets that several clients edit at once.
    pub fn crdt(&self) -> Crdts {
        Crdts::new(&self.owner.shared, &self.owner.replicas)
    }

    /// Follows the presence room `room`, without entering it: that is [`Presence::join`]. Needs a server of version 2.
    ///
    /// # Errors
    ///
    /// [`PresenceError::Command`]: closed, too many subscriptions, or a bad key.
    pub fn presence<T>(&self, room: &str) -> Result<Presence<T>, PresenceError> {
        Presence::open(&self.owner.shared, room)
    }

    /// Opens the document `key`: the one that this client has open, or an empty one that is filled from the server.
    /// Needs a server of version 2.
    ///
    /// # Errors
    ///
    /// [`DocError`]: closed, too many subscriptions, a bad key, or not inside a tokio runtime.
    #[cfg(feature = "docs")]
    pub fn doc(&self, key: &str) -> Result<Document, DocError> {
        Document::open(&self.owner.shared, key, None)
    }

    /// Opens `doc` as the document `key`, merged with the server's. No transaction of it may be under way.
    ///
    /// # Errors
    ///
    /// As for [`doc`](Self::doc), and [`DocError::Open`] and [`DocError::Busy`].
    #[cfg(feature = "docs")]
    pub fn open_doc(&self, key: &str, doc: yrs::Doc) -> Result<Document, DocError> {
        Document::open(&self.owner.shared, key, Some(&doc))
    }

    /// A stream of background edits that the server refuses from now on: operations on CRDTs, presence values, and
    /// updates of documents.
    pub fn refusals(&self) -> Refusals {
        self.owner.shared.router().complaints().listen()
    }

    /// The connection's status.
    pub fn status(&self) -> Status {
        self.owner.shared.router().status().borrow().clone()
    }

    /// The connection's status, at once and after each change; the newest only, when changes come faster than they
    /// are read.
    pub fn statuses(&self) -> impl Stream<Item = Status> + Send + Unpin + use<> {
        let mut status = self.owner.shared.router().status();
        status.mark_changed();
        stream::unfold(status, |mut status| async move {
            status.changed().await.ok()?;
            let now = status.borrow_and_update().clone();
            Some((now, status))
        })
        .boxed()
    }

    /// Calls `watcher` whenever something may have changed that handles of this client show: the status, a value, events
    /// that came, the state of an edit. Changes that come together are told once.
    ///
    /// Meant for user interfaces that draw anew: `client.on_change(move || context.request_repaint())`. Runs on the
    /// client's task until the client is gone: it must return soon, and may use the client's handles.
    pub fn on_change(&self, watcher: impl Fn() + Send + Sync + 'static) {
        self.owner.shared.watchers.add(watcher);
    }

    /// Tries to connect now: after the client has given up, or while it is waiting to try again.
    pub fn reconnect(&self) {
        self.owner.shared.command(|router, now| router.reconnect(now));
    }

    /// Passes a hint of the program, such as the network coming back.
    pub fn hint(&self, hint: Hint) {
        self.owner.shared.command(|router, now| router.hint(now, hint));
    }

    /// Replaces the token, on the open connection too where the server speaks version 2.
    pub fn refresh_token(&self, token: Option<String>) {
        self.owner.shared.command(|router, now| router.core_mut().refresh_token(now, token));
    }

    /// Sends queued messages, closes, and returns once the server has agreed, or after
    /// [`Builder::close_timeout`](crate::Builder::close_timeout). Pending calls and streams end.
    pub async fn close(&self) {
        drop(self.owner.shared.command(|router, now| router.close(now)));
        self.owner.shared.wait_finished().await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Shared by the clones; the driver, streams and states hold [`Shared`] alone.
struct Owner {
    shared: Arc<Shared>,
    replicas: Arc<Replicas>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.shared.command(|router, now| router.close(now)));
    }
}

struct CancelOnDrop<'a> {
    shared: &'a Shared,
    call: Option<CallId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.shared.command(|router, now| router.core_mut().cancel(now, call));
        }
    }
}
