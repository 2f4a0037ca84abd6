//! How a node follows the log: news are applied where they fit, and a stream that has fallen behind reads the log.
//!
//! No entry reaches a mailbox but as the one after what is here, or by a reset. No piece of news changes a position by
//! itself, and no node waits for news of its own appends.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use datasole_core::{Position, StreamId};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Hub,
    following::{LINGER, Listening, TICK},
    ready::{By, Next, bytes},
    relaying::stream_topics,
    stream::Stream,
};
use crate::backend::{
    BackendError,
    log::{self, Mark, News},
};

/// Ticks by which checks are spread.
const JITTER: u64 = 3;
/// Streams whose heads are asked for in one call, and how many such calls there are at once.
const HEADS: usize = 512;
const CALLS: usize = 4;
/// The pause before a call that has failed is repeated, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Hub {
    /// Makes the news of a stream come.
    pub(super) async fn follow(&self, id: &StreamId) -> Result<(), BackendError> {
        self.listen();
        self.backend.log.follow(std::slice::from_ref(id)).await
    }

    /// Makes the entries come that other nodes publish on a stream that no backend keeps.
    pub(super) async fn follow_relayed(&self, id: &StreamId) -> Result<(), BackendError> {
        self.listen();
        self.listen_to_nodes();
        self.backend.bus.subscribe(&stream_topics(std::slice::from_ref(id))).await
    }

    /// Begins to listen to the backend's news, if there is a runtime to do so.
    pub(super) fn listen(&self) {
        if self.following.listening.get().is_some() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        self.following.listening.get_or_init(|| match self.backend.log.news() {
            Ok(news) => {
                let task = runtime.spawn(listen(self.me.clone(), news)).abort_handle();
                Some(Listening { runtime, task })
            }
            Err(error) => {
                tracing::error!(%error, "changes of other servers are noticed late: give each a backend of its own");
                None
            }
        });
    }

    /// Runs a task that news have made necessary.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(task);
        } else if let Some(Some(listening)) = self.following.listening.get() {
            listening.runtime.spawn(task);
        }
    }

    fn hear(&self, news: News) {
        match news {
            News::Entries { stream, first, entries } => {
                let Some(stream) = self.heard(&stream) else { return };
                let after = Position { seq: first.seq.saturating_sub(1), ..first };
                if stream.is_long(bytes(&entries)) {
                    self.fall_behind_of(&stream, Some((after, entries)));
                } else if self.accept(&stream, after, entries.iter().map(Next::from)).is_err() {
                    self.fall_behind(&stream);
                }
            }
            News::Advanced { stream, position } => {
                let Some(stream) = self.heard(&stream) else { return };
                let here = stream.position();
                if here.epoch != position.epoch || here.seq < position.seq {
                    self.fall_behind(&stream);
                }
            }
            News::Turn(stream) => {
                if !self.turns.came(&stream) {
                    // The caller is gone; the turn passes by itself after a while.
                    tracing::debug!(key = stream.key, "a turn comes too late");
                }
            }
            News::Lost => {
                if self.following.lost.begin() {
                    self.spawn(look_around(self.me.clone()));
                }
            }
            News::Generation(generation) => {
                tracing::warn!(generation, "acknowledged entries may be lost: every stream begins a new life");
                self.followed().iter().for_each(|stream| self.fall_behind(stream));
            }
        }
    }

    /// The stream that news are of. One that is being opened learns that there were some.
    fn heard(&self, id: &StreamId) -> Option<Arc<Stream>> {
        let stream = self.known_or_opening(id)?;
        stream.heard.store(self.following.ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(stream)
    }

    /// Lets a stream read the log.
    pub(super) fn fall_behind(&self, stream: &Arc<Stream>) {
        self.fall_behind_of(stream, None);
    }

    /// The same, with the entries behind a position that come next, which take long. Where too many wait, or others are being
    /// taken, they are read from the log with the rest.
    fn fall_behind_of(&self, stream: &Arc<Stream>, news: Option<(Position, Vec<log::Entry>)>) {
        if stream.lag.begin() {
            let permit = self.following.catching_up.clone().try_acquire_owned().ok();
            let news = permit.and_then(|permit| news.map(|news| (permit, news)));
            self.spawn(catch_up(self.me.clone(), stream.clone(), news));
        }
    }

    /// Reads the log of a stream, of which few are read at once.
    async fn catch_up_in_turn(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        let permit = self.following.catching_up.acquire().await;
        if self.try_catch_up(stream, By::Reader(None)).await? {
            return Ok(());
        }
        // Nobody keeps a turn from others while waiting for the right to append.
        drop(permit);
        let writer = stream.writer().await;
        let _permit = self.following.catching_up.acquire().await;
        self.try_catch_up(stream, By::Reader(Some(writer))).await.map(drop)
    }

    /// The streams in memory that are stored, always in the same order.
    fn stored_in_memory(&self) -> Vec<Arc<Stream>> {
        let mut streams = self.all_in_memory();
        streams.retain(|stream| stream.rules().stored);
        streams.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        streams
    }

    /// Those whose news come.
    fn followed(&self) -> Vec<Arc<Stream>> {
        let mut streams = self.stored_in_memory();
        streams.retain(|stream| stream.followed.load(Ordering::SeqCst));
        streams
    }

    /// Lets those catch up that are not where the log is.
    async fn compare(&self, streams: &[Arc<Stream>]) -> Result<(), BackendError> {
        let calls: Vec<_> = streams.chunks(HEADS).map(|streams| self.compare_heads(streams)).collect();
        stream::iter(calls).buffer_unordered(CALLS).try_collect().await
    }

    async fn compare_heads(&self, streams: &[Arc<Stream>]) -> Result<(), BackendError> {
        let before: Vec<Mark> = streams.iter().map(|stream| stream.mark()).collect();
        let ids: Vec<StreamId> = streams.iter().map(|stream| stream.id().clone()).collect();
        let heads = self.backend.log.heads(&ids).await?;
        for ((stream, before), head) in streams.iter().zip(before).zip(heads) {
            let is_here = |mark: Mark| head.map_or(mark.position.seq == 0, |head| mark == head);
            if !is_here(before) && !is_here(stream.mark()) {
                self.fall_behind(stream);
            }
        }
        Ok(())
    }

    /// Lets go of what nobody has needed for a while, and checks what has had no news for a while.
    fn tick(&self) {
        let now = self.following.ticks.fetch_add(1, Ordering::SeqCst) + 1;
        let mut silent = Vec::new();
        for stream in self.stored_in_memory() {
            let is_unfollowed = stream.is_unfollowed();
            if !stream.followed.load(Ordering::SeqCst) {
                if !is_unfollowed {
                    self.follow_again(&stream);
                }
            } else if is_unfollowed && stream.used.load(Ordering::SeqCst) + LINGER <= now {
                self.unfollow_idle(&stream, now);
            } else {
                let spread = stream.mark().tag.hash() % JITTER;
                if stream.heard.load(Ordering::Relaxed) + LINGER + spread <= now {
                    stream.heard.store(now, Ordering::Relaxed);
                    silent.push(stream);
                }
            }
        }
        self.unfollow_left(now);
        self.evict();
        if now.is_multiple_of(LINGER) {
            self.look_for_births();
        }
        if !silent.is_empty() {
            let hub = self.me.clone();
            self.spawn(async move {
                if let Some(hub) = hub.upgrade()
                    && let Err(error) = hub.compare(&silent).await
                {
                    tracing::warn!(%error, "streams could not be checked");
                }
            });
        }
    }

    /// Makes the news come of a stream that has got a follower who had found it before its news were ended, and comes only
    /// now: this node may have stood still in between.
    fn follow_again(&self, stream: &Stream) {
        let (hub, id) = (self.me.clone(), stream.id().clone());
        self.spawn(async move {
            // What fails is tried again by the next tick.
            if let Some(hub) = hub.upgrade()
                && let Err(error) = hub.open(id.kind, &id.key).await
            {
                tracing::warn!(%error, key = id.key, "a stream that is followed gets no news");
            }
        });
    }
}

/// Hears the backend's news as long as the server lives.
async fn listen(hub: Weak<Hub>, mut news: mpsc::Receiver<News>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        tokio::select! {
            biased;
            news = news.recv() => {
                let (Some(news), Some(hub)) = (news, hub.upgrade()) else { return };
                hub.hear(news);
            }
            _ = ticks.tick() => {
                let Some(hub) = hub.upgrade() else { return };
                hub.tick();
            }
        }
    }
}

/// News of a stream that take long, and the permit to take them.
type Large = (OwnedSemaphorePermit, (Position, Vec<log::Entry>));

/// Brings a stream that is in memory to where the log is, which may be where these news lead.
async fn catch_up(hub: Weak<Hub>, stream: Arc<Stream>, mut news: Option<Large>) {
    let mut pause = PAUSE;
    while let Some(hub) = hub.upgrade()
        && hub.known(stream.id().kind, &stream.id().key).is_some_and(|known| Arc::ptr_eq(&known, &stream))
    {
        let is_taken = match news.take() {
            Some((_permit, (after, entries))) => match stream.try_writer() {
                Some(writer) => hub.take(&stream, after, entries, By::Reader(Some(writer))).await.is_ok(),
                // While somebody appends here, the log tells more.
                None => false,
            },
            None => false,
        };
        let caught_up = if is_taken { Ok(()) } else { hub.catch_up_in_turn(&stream).await };
        match caught_up {
            Ok(()) => {
                pause = PAUSE;
                if stream.lag.end() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, key = stream.id().key, "a stream is behind");
                drop(hub);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Orders streams by when they last had news, the latest first.
fn hottest_first(streams: &mut [Arc<Stream>]) {
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.heard.load(Ordering::Relaxed)));
}

/// Compares all that is followed with the log, first what had news of late.
async fn look_around(hub: Weak<Hub>) {
    let mut pause = PAUSE;
    while let Some(hub) = hub.upgrade() {
        let mut streams = hub.followed();
        hottest_first(&mut streams);
        match hub.compare(&streams).await {
            Ok(()) => {
                pause = PAUSE;
                if hub.following.lost.end() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "news were lost, and streams cannot be checked");
                drop(hub);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::testing::Numbers, limits::Replay};

    #[test]
    fn what_had_news_of_late_is_compared_first() {
        let mut streams: Vec<Arc<Stream>> = [("a", 1), ("b", 3), ("c", 2), ("d", 3)]
            .map(|(key, heard)| {
                let stream = Numbers::stream(key, Position::default(), Replay::NONE);
                stream.heard.store(heard, Ordering::Relaxed);
                stream
            })
            .into();
        hottest_first(&mut streams);
        assert_eq!(streams.iter().map(|stream| stream.id().key.as_str()).collect::<String>(), "bdca");
    }
}
