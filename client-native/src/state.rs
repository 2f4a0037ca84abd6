//! Live states: [`State`], a view of the core's mirror.
//!
//! The value lives in the core and is patched in place; nothing is cloned or parsed per change. A handle decodes it
//! when asked, under the client's lock, so that it reads one version of the state, never half of a change.

use std::{
    any::type_name,
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use datasole_core::{SubscriptionId, tree::Tree};
use futures_util::{Stream, ready};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    error::{FollowError, StateError},
    router::Shared,
    signal::Signal,
};

/// A live state, from [`Client::state`](crate::Client::state); following ends when the key's last handle is dropped.
///
/// While the connection is lost the last known value stays readable. As a [`Stream`] it yields the value once it is
/// known and then after changes, the newest only: changes that come faster than they are read are not queued. The
/// stream ends when the client is closed, or after [`StateError::Refused`].
pub struct State<T> {
    shared: Arc<Shared>,
    key: String,
    subscription: SubscriptionId,
    signal: Arc<Signal>,
    value: PhantomData<fn() -> T>,
}

impl<T> State<T> {
    pub(crate) fn new(shared: Arc<Shared>, key: String, (subscription, signal): (SubscriptionId, Arc<Signal>)) -> Self {
        Self { shared, key, subscription, signal, value: PhantomData }
    }

    /// The key that is followed.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// True once the server has sent the value (or that there is none); [`changed`](Self::changed) waits for it.
    pub fn is_loaded(&self) -> bool {
        self.signal.is_loaded()
    }

    /// Waits until there is a value or change that this handle has not reported yet; for a new handle, the first
    /// value. Several changes may be reported as one. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`StateError::Disconnected`] once when the client gives up reconnecting; [`StateError::Refused`] and
    /// [`StateError::Closed`] for good.
    pub async fn changed(&mut self) -> Result<(), StateError> {
        Ok(poll_fn(|cx| self.signal.poll_changed(cx)).await?)
    }

    /// Looks at the value without copying or decoding it; `None` as for [`get`](Self::get).
    ///
    /// `look` runs under the client's lock: keep it short, call nothing of this client and edit none of its documents
    /// in it.
    pub fn with_value<R>(&self, look: impl FnOnce(Option<&Tree>) -> R) -> R {
        look(self.shared.router().core().state(&self.key))
    }

    /// A copy of the value, not decoded; `None` as for [`get`](Self::get).
    pub fn value(&self) -> Option<Value> {
        self.with_value(|tree| tree.map(Value::from))
    }
}

impl<T: DeserializeOwned + 'static> State<T> {
    /// The value as it is; `None` when the key does not exist, or [nothing came yet](Self::is_loaded).
    ///
    /// # Errors
    ///
    /// [`StateError::Value`] when it is not a `T`.
    pub fn get(&self) -> Result<Option<T>, StateError> {
        let value = self.with_value(|tree| tree.map(Tree::read).transpose());
        value.map_err(|source| StateError::Value { key: self.key.clone(), wanted: type_name::<T>(), source })
    }
}

impl<T: DeserializeOwned + 'static> Stream for State<T> {
    type Item = Result<Option<T>, StateError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.signal.poll_item(cx)).map(|changed: Result<(), FollowError>| {
            changed?;
            self.get()
        }))
    }
}

impl<T> Drop for State<T> {
    fn drop(&mut self) {
        self.shared.command(|router, now| router.leave_state(now, &self.key, self.subscription, &self.signal));
    }
}

impl<T> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("key", &self.key).finish_non_exhaustive()
    }
}
