//! Event subscriptions: an [`Events`] stream empties its subscriber's inbox. Data is decoded where it is read, not in
//! the driver.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use datasole_core::{Payload, SubscriptionId};
use futures_util::Stream;
use serde::de::DeserializeOwned;

use crate::{
    error::{DecodeError, EventError},
    inbox::{Inbox, Item, Message},
    router::Shared,
};

/// A received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<T> {
    /// Its data.
    pub data: T,
    /// The server's clock when it was sent; Unix milliseconds.
    pub timestamp: u64,
}

/// The events of one name, from [`Client::events`](crate::Client::events); following ends when it is dropped.
///
/// Lost events are reported as items, too: see [`EventError`]. The stream ends when the client is closed, or after
/// [`EventError::Refused`].
pub struct Events<T> {
    shared: Arc<Shared>,
    name: String,
    subscription: SubscriptionId,
    inbox: Arc<Inbox>,
    decode: fn(Payload) -> Result<T, DecodeError>,
}

impl<T> Events<T> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        name: String,
        (subscription, inbox): (SubscriptionId, Arc<Inbox>),
        decode: fn(Payload) -> Result<T, DecodeError>,
    ) -> Self {
        Self { shared, name, subscription, inbox, decode }
    }

    /// The name that is followed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next item; `None` after the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Event<T>, EventError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Event<T>, EventError>>> {
        self.inbox.poll_take(cx).map(|item| item.map(|item| self.read(item)))
    }

    fn read(&self, item: Item) -> Result<Event<T>, EventError> {
        match item {
            Item::Message(Message { payload, timestamp }) => {
                (self.decode)(payload).map(|data| Event { data, timestamp }).map_err(EventError::Data)
            }
            Item::Missed => Err(EventError::Missed),
            Item::Lagged(count) => Err(EventError::Lagged(count)),
            Item::Disconnected(reason) => Err(EventError::Disconnected(*reason)),
            Item::Refused { code, message } => Err(EventError::Refused { code, message }),
        }
    }
}

impl<T> Stream for Events<T> {
    type Item = Result<Event<T>, EventError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<T> Drop for Events<T> {
    fn drop(&mut self) {
        self.shared.command(|router, now| router.leave_topic(now, &self.name, self.subscription, &self.inbox));
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn decode_json<T: DeserializeOwned + 'static>(payload: Payload) -> Result<T, DecodeError> {
    match payload.as_raw() {
        Some(json) => datasole_core::value::from_raw(json)
            .map_err(|source| DecodeError::Json { wanted: std::any::type_name::<T>(), source }),
        None => Err(DecodeError::Binary { bytes: payload.len() }),
    }
}
