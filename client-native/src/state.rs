//! Live states: [`State`], a view of the core's mirror, and the signal that tells it of changes.
//!
//! The value lives in the core and is patched in place; nothing is cloned or parsed per change. A handle decodes it
//! when asked, under the client's lock, so that what it reads is one version of the state, never half of a change.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use datasole_core::{DisconnectReason, SubscriptionId};
use futures_util::{Stream, task::AtomicWaker};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{error::StateError, router::Shared};

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

    /// Whether the server has told the value (or that there is none); [`changed`](Self::changed) waits for it.
    pub fn is_loaded(&self) -> bool {
        self.signal.news().loaded
    }

    /// Waits until there is a value or change that this handle has not reported yet; for a new handle, the first
    /// value. Several changes may be reported as one. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`StateError::Disconnected`] once when the client gives up reconnecting; [`StateError::Refused`] and
    /// [`StateError::Closed`] for good.
    pub async fn changed(&mut self) -> Result<(), StateError> {
        poll_fn(|cx| self.signal.poll_changed(cx)).await
    }

    /// Looks at the value without copying or decoding it; `None` as for [`get`](Self::get).
    ///
    /// `look` runs under the client's lock: keep it short, and call nothing of this client in it.
    pub fn with_value<R>(&self, look: impl FnOnce(Option<&Value>) -> R) -> R {
        look(self.shared.router().core().state(&self.key))
    }

    /// A copy of the value, not decoded; `None` as for [`get`](Self::get).
    pub fn value(&self) -> Option<Value> {
        self.with_value(|value| value.cloned())
    }
}

impl<T: DeserializeOwned> State<T> {
    /// The value as it is; `None` when the key does not exist, or [nothing came yet](Self::is_loaded).
    ///
    /// # Errors
    ///
    /// [`StateError::Value`] when it is not a `T`.
    pub fn get(&self) -> Result<Option<T>, StateError> {
        self.with_value(|value| value.map(T::deserialize).transpose()).map_err(StateError::Value)
    }
}

impl<T: DeserializeOwned> Stream for State<T> {
    type Item = Result<Option<T>, StateError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.signal.news().end_told {
            return Poll::Ready(None);
        }
        self.signal.poll_changed(cx).map(|changed| match changed {
            Ok(()) => Some(self.get()),
            Err(StateError::Closed) => None,
            Err(refused @ StateError::Refused { .. }) => {
                self.signal.news().end_told = true;
                Some(Err(refused))
            }
            Err(error) => Some(Err(error)),
        })
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

/// What one handle has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    news: Mutex<News>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct News {
    changed: bool,
    loaded: bool,
    disconnected: Option<DisconnectReason>,
    end: Option<End>,
    end_told: bool,
}

/// Why nothing more will come.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Refused { code: i32, message: String },
    Closed,
}

impl Signal {
    pub(crate) fn change(&self) {
        let mut news = self.news();
        news.changed = true;
        news.loaded = true;
        drop(news);
        self.waker.wake();
    }

    pub(crate) fn disconnect(&self, reason: DisconnectReason) {
        self.news().disconnected = Some(reason);
        self.waker.wake();
    }

    pub(crate) fn end(&self, end: End) {
        self.news().end.get_or_insert(end);
        self.waker.wake();
    }

    fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<Result<(), StateError>> {
        // Before looking, so that a change after looking is not overlooked.
        self.waker.register(cx.waker());
        let mut news = self.news();
        if std::mem::take(&mut news.changed) {
            return Poll::Ready(Ok(()));
        }
        match news.end.clone() {
            Some(End::Refused { code, message }) => return Poll::Ready(Err(StateError::Refused { code, message })),
            Some(End::Closed) => return Poll::Ready(Err(StateError::Closed)),
            None => {}
        }
        match news.disconnected.take() {
            Some(reason) => Poll::Ready(Err(StateError::Disconnected(reason))),
            None => Poll::Pending,
        }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn poll(signal: &Signal) -> Poll<Result<(), StateError>> {
        signal.poll_changed(&mut Context::from_waker(&noop_waker()))
    }

    #[test]
    fn changes_coalesce() {
        let signal = Signal::default();
        assert!(poll(&signal).is_pending());
        signal.change();
        signal.change();
        assert!(matches!(poll(&signal), Poll::Ready(Ok(()))));
        assert!(poll(&signal).is_pending());
    }

    #[test]
    fn giving_up_is_told_once_and_the_end_for_good() {
        let signal = Signal::default();
        signal.disconnect(DisconnectReason::HalfOpen);
        signal.disconnect(DisconnectReason::ConnectTimeout);
        assert!(matches!(poll(&signal), Poll::Ready(Err(StateError::Disconnected(DisconnectReason::ConnectTimeout)))));
        assert!(poll(&signal).is_pending());
        signal.change();
        signal.end(End::Refused { code: -32002, message: "no".into() });
        signal.end(End::Closed);
        assert!(matches!(poll(&signal), Poll::Ready(Ok(()))), "what came before the end is told before it");
        for _ in 0..2 {
            assert!(matches!(poll(&signal), Poll::Ready(Err(StateError::Refused { code: -32002, .. }))));
        }
    }
}
