//! Events: handlers for what clients send, and the ways to send to clients.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc};

use datasole_core::Payload;
use futures_util::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;

use super::rpc::{Context, Incoming};
use crate::{
    error::{EventError, RpcError},
    hub::{Entry, Hub, entry, unix_millis},
    limits::Limits,
};

type EventHandler = Box<dyn Fn(Context, Incoming<'_>) -> Result<BoxFuture<'static, ()>, RpcError> + Send + Sync>;

/// Handlers by event.
#[derive(Default)]
pub(crate) struct Handlers(HashMap<String, EventHandler>);

impl Handlers {
    pub(crate) fn typed<T, F, Fut>(&mut self, name: String, f: F)
    where
        T: DeserializeOwned,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.0.insert(name, Box::new(move |context, data| Ok(f(context, data.parse()?).boxed())));
    }

    pub(crate) fn raw<F, Fut>(&mut self, name: String, f: F)
    where
        F: Fn(Context, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.0.insert(name, Box::new(move |context, data| Ok(f(context, data.to_payload()).boxed())));
    }

    /// Starts a handler; `None` when nobody listens to that event.
    pub(crate) fn start(
        &self,
        name: &str,
        context: Context,
        data: Incoming<'_>,
    ) -> Option<Result<BoxFuture<'static, ()>, RpcError>> {
        let handler = self.0.get(name)?;
        let started = std::panic::catch_unwind(AssertUnwindSafe(|| handler(context, data)));
        Some(started.unwrap_or_else(|_| Err(super::rpc::panicked())))
    }
}

/// Whom an event is for; from [`Server::to_room`](crate::Server::to_room) and its like. Such an event belongs to no
/// stream: it needs no subscription and is delivered at most once.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    hub: &'a Arc<Hub>,
    limits: &'a Limits,
    who: Who<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    Room(&'a str),
    User(&'a str),
    Connection(&'a str),
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.who).finish()
    }
}

impl<'a> Target<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>, limits: &'a Limits, who: Who<'a>) -> Self {
        Self { hub, limits, who }
    }

    /// Sends an event; how many connections it went to.
    ///
    /// # Errors
    ///
    /// When it does not fit in a frame or cannot be written as JSON; nobody got it then.
    pub fn emit(&self, event: &str, data: &impl Serialize) -> Result<usize, EventError> {
        self.emit_payload(event, &Payload::Json(to_raw_value(data)?))
    }

    /// The same with JSON text or raw bytes. Version 1 clients do not get bytes.
    ///
    /// # Errors
    ///
    /// When it does not fit in a frame.
    pub fn emit_payload(&self, event: &str, data: &Payload) -> Result<usize, EventError> {
        check(self.limits, event, data)?;
        let message = entry::event(event, data, unix_millis(), None, self.limits.compress_above);
        let v2_only = matches!(data, Payload::Binary(_));
        Ok(match self.who {
            Who::Room(room) => self.hub.send_to_room(room, &message, v2_only),
            Who::User(user) => self.hub.send_to_user(user, &message, v2_only),
            Who::Connection(id) => self.hub.send_to_connection(id, &message, v2_only),
        })
    }
}

/// Publishes on a topic: to every subscriber, and to every version 1 client, unless it is bytes.
pub(crate) async fn broadcast(hub: &Arc<Hub>, limits: &Limits, event: &str, data: Payload) -> Result<(), EventError> {
    check(limits, event, &data)?;
    let Some(topic) = hub.topic_worth_having(event).await? else {
        if matches!(data, Payload::Binary(_)) {
            return Ok(());
        }
        let message = entry::event(event, &data, unix_millis(), None, limits.compress_above);
        hub.with_v1(&datasole_core::StreamId::event(event), |v1| {
            v1.iter().for_each(|connection| connection.mailbox().push(message.clone()));
        });
        return Ok(());
    };
    let resumable = hub.history(event).is_some();
    let writer = if resumable { Some(topic.writer().await) } else { None };
    let entry = Entry::Event { data, timestamp: unix_millis() };
    match writer {
        Some(writer) => hub.commit(&topic, writer, entry, None, |_| {}).await.map(drop)?,
        None => drop(hub.publish(&topic, &entry, None, |_| {})),
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
