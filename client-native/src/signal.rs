//! What tells a handle that there is news: [`Signal`], one per reader, and [`Followers`], the readers of one stream.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use datasole_core::DisconnectReason;
use futures_util::task::AtomicWaker;

use crate::error::FollowError;

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
    pub(crate) fn is_loaded(&self) -> bool {
        self.news().loaded
    }

    pub(crate) fn change(&self) {
        let mut news = self.news();
        news.changed = true;
        news.loaded = true;
        drop(news);
        self.waker.wake();
    }

    fn tell(&self) {
        self.news().changed = true;
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

    pub(crate) fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<Result<(), FollowError>> {
        // Before looking, so that a change after looking is not overlooked.
        self.waker.register(cx.waker());
        let mut news = self.news();
        if std::mem::take(&mut news.changed) {
            return Poll::Ready(Ok(()));
        }
        match news.end.clone() {
            Some(End::Refused { code, message }) => return Poll::Ready(Err(FollowError::Refused { code, message })),
            Some(End::Closed) => return Poll::Ready(Err(FollowError::Closed)),
            None => {}
        }
        match news.disconnected.take() {
            Some(reason) => Poll::Ready(Err(FollowError::Disconnected(reason))),
            None => Poll::Pending,
        }
    }

    /// [`poll_changed`](Self::poll_changed) as the item of a stream, which ends once the end was told.
    pub(crate) fn poll_item(&self, cx: &mut Context<'_>) -> Poll<Option<Result<(), FollowError>>> {
        if self.news().end_told {
            return Poll::Ready(None);
        }
        let changed = ready!(self.poll_changed(cx));
        Poll::Ready(match changed {
            Err(FollowError::Closed) => None,
            changed => {
                self.news().end_told = matches!(changed, Err(FollowError::Refused { .. }));
                Some(changed)
            }
        })
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The readers of one stream.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    loaded: bool,
    signals: Vec<Arc<Signal>>,
}

impl Followers {
    /// Another reader, who is told at once when there is something to read.
    pub(crate) fn join(&mut self) -> Arc<Signal> {
        let signal = Arc::new(Signal::default());
        if self.loaded {
            signal.change();
        }
        self.signals.push(signal.clone());
        signal
    }

    pub(crate) fn leave(&mut self, signal: &Arc<Signal>) {
        self.signals.retain(|other| !Arc::ptr_eq(other, signal));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// There is something to read, without news of it.
    pub(crate) fn load(&mut self) {
        self.loaded = true;
    }

    pub(crate) fn change(&mut self) {
        self.loaded = true;
        self.signals.iter().for_each(|signal| signal.change());
    }

    /// Something changed here, whatever the server has told.
    pub(crate) fn news(&self) {
        self.signals.iter().for_each(|signal| signal.tell());
    }

    pub(crate) fn disconnect(&self, reason: &DisconnectReason) {
        self.signals.iter().for_each(|signal| signal.disconnect(reason.clone()));
    }

    pub(crate) fn end(&self, end: &End) {
        self.signals.iter().for_each(|signal| signal.end(end.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn poll(signal: &Signal) -> Poll<Result<(), FollowError>> {
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
        assert!(matches!(poll(&signal), Poll::Ready(Err(FollowError::Disconnected(DisconnectReason::ConnectTimeout)))));
        assert!(poll(&signal).is_pending());
        signal.change();
        signal.end(End::Refused { code: -32002, message: "no".into() });
        signal.end(End::Closed);
        assert!(matches!(poll(&signal), Poll::Ready(Ok(()))), "what came before the end is told before it");
        for _ in 0..2 {
            assert!(matches!(poll(&signal), Poll::Ready(Err(FollowError::Refused { code: -32002, .. }))));
        }
    }
}
