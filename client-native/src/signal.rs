//! News of a stream: [`Signal`], the unread news of one reader; [`Followers`], the readers of a stream; [`Feed`] and
//! [`Reader`], the same for streams whose value has a lock of its own.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use datasole_core::{DisconnectReason, SyncPhase};
use futures_util::task::AtomicWaker;
#[cfg(feature = "docs")]
use futures_util::{Stream, stream};

use crate::error::FollowError;

/// The unread news of one handle.
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

/// The reason why a stream of news has ended.
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
    phase: SyncPhase,
    /// A refusal does not end the readers.
    lasting: bool,
    /// Told to readers that come from now on, too: that the client has given up reconnecting, and the end.
    gone: Option<DisconnectReason>,
    end: Option<End>,
    signals: Vec<Arc<Signal>>,
}

impl Followers {
    /// Another reader, who is told at once when there is something to read.
    pub(crate) fn join(&mut self) -> Arc<Signal> {
        let signal = Arc::new(Signal::default());
        if self.loaded {
            signal.change();
        }
        if let Some(reason) = &self.gone {
            signal.disconnect(reason.clone());
        }
        if let Some(end) = &self.end {
            signal.end(end.clone());
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

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.end, Some(End::Closed))
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
    pub(crate) fn tell(&self) {
        self.signals.iter().for_each(|signal| signal.tell());
    }

    pub(crate) fn phase(&self) -> &SyncPhase {
        &self.phase
    }

    /// The stream is in another phase: that is news, and a refusal the end of the readers.
    pub(crate) fn enter(&mut self, phase: SyncPhase) {
        if self.phase == phase {
            return;
        }
        self.end = None;
        match &phase {
            SyncPhase::Unreadable { code, message } | SyncPhase::Refused { code, message } if !self.lasting => {
                self.end(End::Refused { code: *code, message: message.clone() });
            }
            SyncPhase::Synced => self.change(),
            _ => self.tell(),
        }
        self.phase = phase;
    }

    pub(crate) fn disconnect(&self, reason: &DisconnectReason) {
        self.signals.iter().for_each(|signal| signal.disconnect(reason.clone()));
    }

    /// The client has given up reconnecting, or has not, or not any more.
    pub(crate) fn give_up(&mut self, reason: Option<DisconnectReason>) {
        self.gone = reason;
        if let Some(reason) = &self.gone {
            self.disconnect(reason);
        }
    }

    pub(crate) fn end(&mut self, end: End) {
        self.signals.iter().for_each(|signal| signal.end(end.clone()));
        self.end = Some(end);
    }
}

/// The readers of an open stream, shared by what takes its events and by its handles.
#[derive(Debug, Default)]
pub(crate) struct Feed(Mutex<Followers>);

impl Feed {
    /// A feed whose readers outlast a refusal.
    #[cfg(feature = "docs")]
    pub(crate) fn lasting() -> Self {
        Self(Mutex::new(Followers { lasting: true, ..Followers::default() }))
    }

    pub(crate) fn followers(&self) -> MutexGuard<'_, Followers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of a feed, registered for as long as this lives.
pub(crate) struct Reader {
    feed: Arc<Feed>,
    signal: Arc<Signal>,
}

impl Reader {
    /// A reader whose first item comes at once when there is something to read.
    pub(crate) fn new(feed: &Arc<Feed>) -> Self {
        Self { feed: feed.clone(), signal: feed.followers().join() }
    }

    /// A reader whose first item comes at once.
    #[cfg(feature = "docs")]
    pub(crate) fn told(feed: &Arc<Feed>) -> Self {
        let reader = Self::new(feed);
        reader.signal.tell();
        reader
    }

    /// The next item; `None` after the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<(), FollowError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    pub(crate) fn poll_item(&self, cx: &mut Context<'_>) -> Poll<Option<Result<(), FollowError>>> {
        self.signal.poll_item(cx)
    }

    /// The items whatever they say, until the end.
    #[cfg(feature = "docs")]
    pub(crate) fn into_stream(self) -> impl Stream<Item = ()> + Send + Unpin {
        stream::poll_fn(move |cx| self.poll_item(cx).map(|item| item.map(drop)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.followers().leave(&self.signal);
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
