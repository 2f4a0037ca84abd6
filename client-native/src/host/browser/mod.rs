//! The browser's WebSocket, clock and tasks, in a page or in a worker.

mod hints;
mod socket;

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use datasole_core::Limits;
use futures_util::future::{AbortHandle, Abortable};
use tokio::sync::oneshot;

use crate::error::ConnectError;

pub(crate) use hints::Hints;
pub(crate) use socket::{Dialer, Socket};

/// A future that may run as a task: any, there is one thread.
pub trait MaybeSend {}
impl<T> MaybeSend for T {}

/// A function that may be called in a task: any.
pub trait MaybeSync {}
impl<T> MaybeSync for T {}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A function of the program that is called in tasks.
pub(crate) type Function<T> = Rc<dyn Fn() -> BoxFuture<T>>;

pub(crate) fn function<T>(function: impl Fn() -> BoxFuture<T> + MaybeSync + 'static) -> Function<T> {
    Rc::new(function)
}

/// Options of the opening handshake: a browser has none.
#[derive(Clone, Debug)]
pub(crate) struct Options;

impl Options {
    pub(crate) fn new() -> Self {
        Self
    }

    /// The dialer of sockets to these endpoints.
    pub(crate) fn dialer(self, _: Limits, _: &[String]) -> Result<Dialer, ConnectError> {
        Ok(Dialer)
    }
}

/// Where tasks run: the browser's queue of microtasks, which is always there.
pub(crate) struct Runtime;

impl Runtime {
    pub(crate) fn current() -> Option<Self> {
        Some(Self)
    }

    /// Runs a future to its end.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        wasm_bindgen_futures::spawn_local(future);
    }
}

/// A task that is stopped when this is dropped. Its output is always there: a panic ends the whole module.
pub(crate) struct Task<T> {
    output: oneshot::Receiver<T>,
    abort: AbortHandle,
}

impl<T: 'static> Task<T> {
    pub(crate) fn spawn(future: impl Future<Output = T> + 'static) -> Self {
        let (told, output) = oneshot::channel();
        let (abort, registration) = AbortHandle::new_pair();
        let task = Abortable::new(future, registration);
        wasm_bindgen_futures::spawn_local(async move {
            if let Ok(output) = task.await {
                // Nobody may want it any more.
                let _ = told.send(output);
            }
        });
        Self { output, abort }
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.output).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.abort.abort();
    }
}
