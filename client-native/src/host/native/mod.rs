//! tokio's sockets, clock and tasks.

mod options;
mod proxy;
mod socket;
#[cfg(feature = "__tls")]
mod tls;

use std::{
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use datasole_core::Hint;
use tokio::{runtime::Handle, task::JoinHandle};

pub(crate) use options::Options;
pub(crate) use proxy::Proxying;
pub(crate) use socket::{Dialer, Socket};

/// A future that may run as a task: it can be sent to another thread.
pub trait MaybeSend: Send {}
impl<T: Send> MaybeSend for T {}

/// A function that may be called in a task.
pub trait MaybeSync: Send + Sync {}
impl<T: Send + Sync> MaybeSync for T {}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A function of the program that is called in tasks.
pub(crate) type Function<T> = Arc<dyn Fn() -> BoxFuture<T> + Send + Sync>;

pub(crate) fn function<T>(function: impl Fn() -> BoxFuture<T> + MaybeSync + 'static) -> Function<T> {
    Arc::new(function)
}

/// Where tasks run.
pub(crate) struct Runtime(Handle);

impl Runtime {
    /// The runtime that this code runs in; `None` outside of any.
    pub(crate) fn current() -> Option<Self> {
        Handle::try_current().ok().map(Self)
    }

    /// Runs a future to its end.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(future);
    }
}

/// A task that is stopped when this is dropped; its output is `None` if it panicked.
pub(crate) struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    /// Runs a future, within a runtime.
    pub(crate) fn spawn(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// News of the network: the host tells none here, the program may.
pub(crate) struct Hints;

impl Hints {
    pub(crate) fn listen() -> Self {
        Self
    }

    pub(crate) async fn next(&mut self) -> Hint {
        pending().await
    }
}
