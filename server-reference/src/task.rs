//! Work that outlives the call that began it.

use std::task::{Context, Waker};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::task::unconstrained;

/// Work that outlives the message that began it; the host runs it to its end.
pub(crate) type Task = BoxFuture<'static, ()>;

/// Runs a task up to its first wait; the host runs the rest. Tokio's budget, which would put off a lock that
/// is free, does not count here: tasks queue for their locks in the order of the messages that began them.
pub(crate) fn at_once(mut task: Task) -> Option<Task> {
    let mut context = Context::from_waker(Waker::noop());
    unconstrained(&mut task).poll_unpin(&mut context).is_pending().then_some(task)
}

/// Runs a future to its end even if the caller is dropped meanwhile. A future that is ready at once costs no task.
pub(crate) fn to_the_end<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    // The caller's future has room for a pointer alone.
    let mut future = Box::pin(future);
    async move {
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
        match tokio::spawn(future).await {
            Ok(output) => output,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and drops the caller, too.
            Err(_) => std::future::pending().await,
        }
    }
}
