//! Events: handlers for those that clients send, topics, and the ways to send to clients.

use std::{collections::HashMap, fmt::Display, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use datasole_core::{Payload, Position, StreamId, StreamKind, codes, frame::Opcode, wire::push_varuint};
use futures_util::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use super::rpc::{Incoming, panicked};
use crate::{
    backend::{
        BackendError,
        log::{Rule, Stored},
    },
    clock::unix_millis,
    entry::Entry,
    error::RpcError,
    hub::{At, Audience, Bounds, Delivery, Displaced, Form, Hub, Inapplicable, Job, Kind, Read, Rules, Spec, V1},
    limits::{Limits, Replay},
    message::{NUMBERS, OBJECT, Object, framed},
};

/// An event with JSON or without data: the time, as eight bytes big-endian, then the JSON.
const EVENT: u8 = b'e';
/// An event with bytes: the time, then the bytes.
const BINARY: u8 = b'b';

/// The line of topics in the table of kinds.
pub(crate) fn kind(limits: &Arc<Limits>, histories: &Arc<HashMap<String, Replay>>) -> Spec {
    let histories = histories.clone();
    let make = move |key: &str| -> Box<dyn Kind> { Box::new(Topic { history: histories.get(key).copied() }) };
    Spec {
        kind: StreamKind::Event,
        spare: limits.max_idle_topics,
        bounds: Bounds::default(),
        v1_follows: false,
        make: Box::new(make),
    }
}

/// The rules of topics, which have no content: their entries are the events alone.
#[derive(Debug)]
struct Topic {
    /// The history that the application has declared.
    history: Option<Replay>,
}

impl Kind for Topic {
    fn rules(&self) -> Rules {
        let replay = self.history.unwrap_or(Replay::NONE);
        Rules {
            stored: self.history.is_some(),
            relayed: self.history.is_none(),
            replay,
            compaction: replay,
            delivery: Delivery::Each,
            v1: V1::Entries,
            evictable: self.history.is_none(),
            numbered: true,
        }
    }

    fn form(&self) -> &'static dyn Form {
        &Events
    }

    fn restore(&mut self, _: &Stored) -> Result<(), BackendError> {
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, _: Option<Read>) -> Result<Option<Displaced>, Inapplicable> {
        split(entry).map(|_| None).ok_or(Inapplicable)
    }

    fn rule(&self, _: &Entry) -> Rule {
        Rule::Behind
    }

    fn snapshot(&mut self) -> Option<Job<Bytes>> {
        Some(Box::new(Bytes::new))
    }

    fn is_gone(&self) -> bool {
        false
    }
}

/// The entries of topics: events.
#[derive(Debug)]
struct Events;

impl Form for Events {
    fn reads(&self, entry: &Entry) -> bool {
        let json = |data: &[u8]| data.is_empty() || serde_json::from_slice::<&RawValue>(data).is_ok();
        split(entry).is_some_and(|(_, data)| entry.tag() == BINARY || json(data))
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        let (time, data) = split(entry).unwrap_or_default();
        message(at.key, entry.tag() == BINARY, data, time, Some(at.position), at.compress_above)
    }

    fn short(&self, entry: &Entry, at: &At<'_>) -> Option<Bytes> {
        let (time, data) = split(entry).filter(|_| entry.tag() == EVENT)?;
        Some(framed(Opcode::Entry, at.channel, NUMBERS + data.len(), at.compress_above, |out| {
            push_varuint(out, at.position.seq);
            push_varuint(out, time);
            out.extend_from_slice(data);
        }))
    }

    fn is_v1(&self, entry: &Entry) -> bool {
        entry.tag() != BINARY
    }

    fn time(&self, entry: &Entry) -> Option<u64> {
        split(entry).map(|(time, _)| time)
    }
}

/// An event's time and data.
fn split(entry: &Entry) -> Option<(u64, &[u8])> {
    if !matches!(entry.tag(), EVENT | BINARY) {
        return None;
    }
    let (time, data) = entry.content().split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*time), data))
}

/// The bytes of an event's data, and whether they are no JSON.
fn bytes_of(data: &Payload) -> (bool, &[u8]) {
    match data {
        Payload::Empty => (false, &[]),
        Payload::Json(text) => (false, text.get().as_bytes()),
        Payload::Binary(bytes) => (true, bytes),
    }
}

/// The message of an event; without a position it belongs to no stream.
fn message(
    name: &str,
    binary: bool,
    data: &[u8],
    time: u64,
    position: Option<Position>,
    compress_above: usize,
) -> Bytes {
    let json = |out: &mut Vec<u8>, data: &[u8]| {
        let mut object = Object::new(out).text("event", name);
        if !data.is_empty() {
            object = object.raw("data", data);
        }
        object = object.number("timestamp", time);
        match position {
            Some(position) => object.position(position).end(),
            None => object.end(),
        }
    };
    let about = OBJECT + name.len() + data.len();
    if !binary {
        return framed(Opcode::ServerEvent, 0, about, compress_above, |out| json(out, data));
    }
    framed(Opcode::ServerEventBinary, 0, about, compress_above, |out| {
        let mut head = Vec::with_capacity(OBJECT + name.len());
        json(&mut head, &[]);
        out.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(data);
    })
}

/// A handler under way, or why its event is refused.
pub(crate) type Started = Result<BoxFuture<'static, Result<(), String>>, RpcError>;
type EventHandler<C> = Box<dyn Fn(C, Incoming<'_>) -> Started + Send + Sync>;

/// A value that an event handler or a hook may return: nothing, or a `Result` whose error is logged.
pub trait EventOutcome: Send {
    /// The error's text, if it is one.
    ///
    /// # Errors
    ///
    /// The error of the handler.
    fn report(self) -> Result<(), String>;
}

impl EventOutcome for () {
    fn report(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display + Send> EventOutcome for Result<(), E> {
    fn report(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Handlers by event name. Each receives the caller, a `C`.
pub(crate) struct Handlers<C>(HashMap<String, EventHandler<C>>);

impl<C> Default for Handlers<C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<C: 'static> Handlers<C> {
    pub(crate) fn typed<T, F, Fut>(&mut self, name: String, f: F)
    where
        T: DeserializeOwned + 'static,
        F: Fn(C, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.0
            .insert(name, Box::new(move |caller, data| Ok(f(caller, data.parse()?).map(EventOutcome::report).boxed())));
    }

    pub(crate) fn raw<F, Fut>(&mut self, name: String, f: F)
    where
        F: Fn(C, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.0.insert(
            name,
            Box::new(move |caller, data| Ok(f(caller, data.to_payload()).map(EventOutcome::report).boxed())),
        );
    }

    /// True if an event has a handler.
    #[cfg(feature = "contract")]
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The events with a handler.
    #[cfg(feature = "contract")]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Starts a handler; `None` if there is none for that event.
    pub(crate) fn start(&self, name: &str, caller: C, data: Incoming<'_>) -> Option<Started> {
        let handler = self.0.get(name)?;
        let started = std::panic::catch_unwind(AssertUnwindSafe(|| handler(caller, data)));
        Some(started.unwrap_or_else(|_| Err(panicked())))
    }
}

/// The receivers of an event; from [`Server::to_group`](crate::Server::to_group) and its like. Such an event belongs to
/// no stream: it needs no subscription and is delivered at most once.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    hub: &'a Hub,
    audience: Audience<'a>,
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.audience).finish()
    }
}

impl<'a> Target<'a> {
    pub(crate) fn new(hub: &'a Hub, audience: Audience<'a>) -> Self {
        Self { hub, audience }
    }

    /// Sends an event to the receivers that are connected: at once to those of this node, and over the bus to those of
    /// others.
    ///
    /// # Errors
    ///
    /// Fails if the event does not fit in a frame or cannot be written as JSON; then it was sent to no receiver.
    pub async fn emit(self, event: &str, data: &impl Serialize) -> Result<(), EventError> {
        self.emit_payload(event, &Payload::Json(to_raw_value(data)?)).await
    }

    /// Like [`emit`](Self::emit), with JSON text or raw bytes. Version 1 clients receive no bytes.
    ///
    /// # Errors
    ///
    /// Fails if the event does not fit in a frame.
    pub async fn emit_payload(self, event: &str, data: &Payload) -> Result<(), EventError> {
        let limits = self.hub.limits();
        check(limits, event, data)?;
        let (binary, bytes) = bytes_of(data);
        let message = message(event, binary, bytes, unix_millis(), None, limits.compress_above);
        self.hub.send(self.audience, &message, binary).await;
        Ok(())
    }
}

/// Publishes on a topic: to every subscriber, and to every version 1 client, unless it is bytes; of every node.
pub(crate) async fn broadcast(
    hub: &Arc<Hub>,
    histories: &HashMap<String, Replay>,
    event: &str,
    data: Payload,
) -> Result<(), EventError> {
    let limits = hub.limits();
    check(limits, event, &data)?;
    let stored = histories.contains_key(event);
    let known = hub.known(StreamKind::Event, event);
    let (binary, bytes) = bytes_of(&data);
    let time = unix_millis();
    let entry = |time: u64| Entry::of(if binary { BINARY } else { EVENT }, &[&time.to_be_bytes(), bytes]);
    // Without a position, for those who follow no stream.
    let alone = || (!binary).then(|| message(event, binary, bytes, time, None, limits.compress_above));
    if known.is_none() && !stored && hub.idle(StreamKind::Event) >= limits.max_idle_topics {
        // `None` if the topic has no subscribers and `max_idle_topics` positions are already remembered.
        if let Some(message) = alone() {
            hub.with_readers(&StreamId::event(event), |v1| {
                v1.iter().for_each(|connection| connection.mailbox().push(message.clone()));
            });
        }
        hub.relay(event, || entry(time), alone).await;
        return Ok(());
    }
    let topic = match known {
        Some(topic) => topic,
        None => hub.open(StreamKind::Event, event).await?,
    };
    if stored {
        let writer = topic.writer().await;
        let entry = entry(unix_millis());
        hub.transact::<BackendError>(&topic, writer, None, |_| Ok(Some(entry.clone()))).await?;
    } else {
        hub.publish::<EventError>(&topic, |_| Ok(entry(time)))?;
        hub.relay(event, || entry(time), alone).await;
    }
    Ok(())
}

fn check(limits: &Limits, event: &str, data: &Payload) -> Result<(), EventError> {
    if event.is_empty() || event.len() > limits.max_event_name {
        return Err(EventError::Name { bytes: event.len(), limit: limits.max_event_name });
    }
    // The envelope's members and numbers, and a name in which every byte may be escaped.
    let bytes = data.len().saturating_add(128 + 6 * event.len());
    if bytes > limits.max_payload {
        return Err(EventError::TooLarge { bytes, limit: limits.max_payload });
    }
    Ok(())
}

/// The reason why an event was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event does not fit in a frame.
    #[error("event of {bytes} bytes exceeds the frame limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A name must have 1 to [`Limits::max_event_name`](crate::Limits::max_event_name) bytes.
    #[error("an event name must have 1 to {limit} bytes, this has {bytes}")]
    Name {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The data cannot be written as JSON.
    #[error("data: {0}")]
    Json(#[from] serde_json::Error),
    /// The backend failed: the log of a topic with history, or the bus as one without is opened.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl From<EventError> for RpcError {
    fn from(error: EventError) -> Self {
        let code = match error {
            EventError::TooLarge { .. } => codes::TOO_LARGE,
            EventError::Name { .. } | EventError::Json(_) => codes::INVALID_PARAMS,
            EventError::Backend(_) => codes::INTERNAL,
        };
        Self::new(error.to_string()).code(code)
    }
}
