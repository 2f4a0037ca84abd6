//! [`Followed`]: the subscriptions of one connection.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use datasole_core::{Position, StreamId, StreamKind, codes};
use futures_util::{FutureExt, future::join_all};

use crate::{
    account::Kept,
    answer::Refusal,
    backend::BackendError,
    clock::unix_millis,
    connection::Connection,
    hub::{Hub, Stream},
    mailbox::AT_ONCE,
    sync::lock,
};

/// The subscriptions of one connection.
#[derive(Default)]
pub(super) struct Followed(Mutex<Option<Box<Book>>>);

/// Made with the first subscription.
#[derive(Default)]
struct Book {
    /// The subscriptions by the correlation id of their SUBSCRIBE.
    by_id: HashMap<u32, Subscription>,
    streams: HashSet<StreamId>,
    /// The streams that a number names in frames.
    by_channel: HashMap<u32, Arc<Stream>>,
}

enum Subscription {
    /// The backend is asked.
    Opening(StreamId),
    /// The backend is asked, but the client has unsubscribed. The slot counts until the answer comes, so that a peer's
    /// requests to the backend are bounded.
    Abandoned,
    Open {
        stream: Arc<Stream>,
        _kept: Kept,
    },
}

/// A SUBSCRIBE frame that has been admitted.
pub(super) struct Wanted {
    pub(super) correlation: u32,
    pub(super) stream: StreamId,
    pub(super) since: Option<Position>,
}

impl Followed {
    /// Admits a subscription or refuses it; `admit` receives the number of other subscriptions.
    pub(super) fn want(
        &self,
        wanted: &Wanted,
        admit: impl FnOnce(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut book = lock(&self.0);
        let book = book.get_or_insert_default();
        let Wanted { correlation, stream, .. } = wanted;
        if *correlation == 0 || book.by_id.contains_key(correlation) || book.streams.contains(stream) {
            return Err(Refusal::new(codes::INVALID_REQUEST, "the id or the stream is subscribed already"));
        }
        admit(book.by_id.len())?;
        book.streams.insert(stream.clone());
        book.by_id.insert(*correlation, Subscription::Opening(stream.clone()));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).as_ref().is_none_or(|book| book.by_id.is_empty())
    }

    /// Opens the streams that have been admitted, together. Streams in memory are answered at once, so that an answer to a
    /// later request does not overtake them; the others are answered in one go when the backend has returned them all.
    pub(super) async fn open(&self, hub: &Hub, connection: &Arc<Connection>, wanted: &[Wanted]) {
        // Of what is written out before it is shown; the rest is owed.
        let room = AtomicUsize::new(AT_ONCE);
        let room = &room;
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let mut opening = Box::pin(async {
                let lane = connection.standing().lane;
                let stream = hub.open_since(&wanted.stream, wanted.since, lane).await?;
                let protocol = connection.protocol();
                let cost = stream.dear(protocol, wanted.since);
                let spent = |left: usize| Some(left.saturating_sub(cost)).filter(|_| left > 0);
                if cost > 0 && room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok() {
                    let own = stream.clone();
                    hub.desk().run(lane, move || own.prepare(protocol)).await;
                }
                Ok(stream)
            });
            match (&mut opening).now_or_never() {
                Some(opened) => ready.push((wanted, opened)),
                None => waiting.push(async move { (wanted, opening.await) }),
            }
        }
        let max_memory = hub.limits().max_docs_memory_followed;
        self.answer(connection, &ready, max_memory, room);
        if !waiting.is_empty() {
            let opened = join_all(waiting).await;
            self.answer(connection, &opened, max_memory, room);
            ready.extend(opened);
        }
        for (_, opened) in ready {
            if let Ok(stream) = opened {
                hub.release(stream).await;
            }
        }
    }

    /// Answers subscriptions whose streams are open, or could not be opened, with as few messages as possible. `room` is for
    /// what has to be written out for it.
    fn answer(
        &self,
        connection: &Arc<Connection>,
        opened: &[(&Wanted, Result<Arc<Stream>, BackendError>)],
        max_memory: usize,
        room: &AtomicUsize,
    ) {
        // Under the lock: an UNSUBSCRIBE or the end of the session comes before or after, never between.
        let mut book = lock(&self.0);
        let book = book.get_or_insert_default();
        let _gathered = connection.mailbox().gather();
        let mut left = room.load(Ordering::Relaxed);
        for (Wanted { correlation, since, .. }, opened) in opened {
            let Some(Subscription::Opening(id)) = book.by_id.remove(correlation) else { continue };
            match opened {
                Ok(stream) => {
                    let Some(kept) = connection.standing().keep(stream.memory(), max_memory) else {
                        book.streams.remove(&id);
                        connection.refuse(*correlation, &Refusal::busy("what you follow takes too much memory"));
                        continue;
                    };
                    stream.subscribe(connection, *correlation, *since, unix_millis(), &mut left);
                    book.by_id.insert(*correlation, Subscription::Open { stream: stream.clone(), _kept: kept });
                    if stream.id().kind == StreamKind::Doc {
                        book.by_channel.insert(stream.channel(), stream.clone());
                    }
                }
                Err(error) => {
                    book.streams.remove(&id);
                    tracing::error!(%error, key = id.key, "a stream could not be opened");
                    let why = "the stream could not be opened";
                    connection.refuse(*correlation, &Refusal { message: why.into(), ..Refusal::failed(error) });
                }
            }
        }
        room.store(left, Ordering::Relaxed);
    }

    /// Ends a subscription; the stream, to be released.
    pub(super) fn leave(&self, hub: &Hub, connection: &Connection, correlation: u32) -> Option<Arc<Stream>> {
        let mut book = lock(&self.0);
        let own = book.as_mut()?;
        match own.by_id.remove(&correlation)? {
            Subscription::Open { stream, .. } => {
                own.streams.remove(stream.id());
                own.by_channel.remove(&stream.channel());
                drop(book);
                hub.unsubscribe(&stream, connection);
                Some(stream)
            }
            Subscription::Opening(id) => {
                own.streams.remove(&id);
                own.by_id.insert(correlation, Subscription::Abandoned);
                None
            }
            Subscription::Abandoned => {
                own.by_id.insert(correlation, Subscription::Abandoned);
                None
            }
        }
    }

    /// Ends the subscriptions that are not allowed any more, each with an ERROR under its id; the streams, to be released.
    pub(super) fn review(
        &self,
        hub: &Hub,
        connection: &Connection,
        may_read: impl Fn(&StreamId) -> bool,
    ) -> Vec<Arc<Stream>> {
        let held: Vec<(u32, StreamId)> = {
            let book = lock(&self.0);
            let all = book.iter().flat_map(|book| &book.by_id);
            all.filter_map(|(correlation, subscription)| match subscription {
                Subscription::Open { stream, .. } => Some((*correlation, stream.id().clone())),
                Subscription::Opening(id) => Some((*correlation, id.clone())),
                Subscription::Abandoned => None,
            })
            .collect()
        };
        // The policies are the application's: they are asked without a lock.
        let mut left = Vec::new();
        for (correlation, _) in held.into_iter().filter(|(_, id)| !may_read(id)) {
            left.extend(self.leave(hub, connection, correlation));
            connection.refuse(correlation, &Refusal::new(codes::FORBIDDEN, "not allowed to read this stream any more"));
        }
        left
    }

    /// Ends all of them; the streams, to be released.
    pub(super) fn end(&self, hub: &Hub, connection: &Connection) -> Vec<Arc<Stream>> {
        let book = lock(&self.0).take();
        let open =
            book.into_iter().flat_map(|book| book.by_id.into_values()).filter_map(|subscription| match subscription {
                Subscription::Open { stream, .. } => Some(stream),
                Subscription::Opening(_) | Subscription::Abandoned => None,
            });
        open.inspect(|stream| hub.unsubscribe(stream, connection)).collect()
    }

    /// The stream that a number names in frames of this connection.
    #[cfg(feature = "docs")]
    pub(super) fn by_channel(&self, channel: u64) -> Option<Arc<Stream>> {
        lock(&self.0).as_ref()?.by_channel.get(&u32::try_from(channel).ok()?).cloned()
    }
}
