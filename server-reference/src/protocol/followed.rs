//! [`Followed`]: the subscriptions of one connection.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use datasole_core::{Position, StreamId, codes};
use futures_util::future::join_all;

use super::Node;
use crate::{answer::Refusal, clock::unix_millis, connection::Connection, hub::Stream, sync::lock};

/// The subscriptions of one connection. Shared with those that wait for the backend.
#[derive(Clone, Default)]
pub(super) struct Followed(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// By the SUBSCRIBE's correlation id.
    by_id: HashMap<u32, Subscription>,
    streams: HashSet<StreamId>,
    /// The streams that a number names in frames.
    by_channel: HashMap<u32, Arc<Stream>>,
}

enum Subscription {
    /// The backend is asked.
    Opening(StreamId),
    /// The backend is asked, but the client no longer wants it. It counts until the answer comes: what a peer can make
    /// the backend do is bounded.
    Abandoned,
    Open(Arc<Stream>),
}

/// A SUBSCRIBE frame that has been admitted.
pub(super) struct Wanted {
    pub(super) correlation: u32,
    pub(super) stream: StreamId,
    pub(super) since: Option<Position>,
}

impl Followed {
    /// Admits a subscription, or tells why not; `admit` is told how many others there are.
    pub(super) fn want(
        &self,
        wanted: &Wanted,
        admit: impl FnOnce(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut book = lock(&self.0);
        let Wanted { correlation, stream, .. } = wanted;
        if *correlation == 0 || book.by_id.contains_key(correlation) || book.streams.contains(stream) {
            return Err(Refusal::new(codes::INVALID_REQUEST, "the id or the stream is subscribed already"));
        }
        admit(book.by_id.len())?;
        book.streams.insert(stream.clone());
        book.by_id.insert(*correlation, Subscription::Opening(stream.clone()));
        Ok(())
    }

    /// Opens the streams that have been admitted, together, and answers in one go.
    pub(super) async fn open(self, node: Arc<Node>, connection: Arc<Connection>, wanted: Vec<Wanted>) {
        let hub = &node.hub;
        let opened = join_all(wanted.iter().map(|Wanted { stream, .. }| hub.open(stream.kind, &stream.key))).await;
        {
            // Under the lock: an UNSUBSCRIBE or the end of the session comes before or after, never between.
            let mut book = lock(&self.0);
            let _gathered = connection.mailbox().gather();
            for (Wanted { correlation, since, .. }, opened) in wanted.iter().zip(&opened) {
                let Some(Subscription::Opening(id)) = book.by_id.remove(correlation) else { continue };
                match opened {
                    Ok(stream) => {
                        stream.subscribe(&connection, *correlation, *since, unix_millis());
                        book.by_id.insert(*correlation, Subscription::Open(stream.clone()));
                        if stream.channel() != 0 {
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
        }
        for stream in opened.into_iter().flatten() {
            hub.release(stream).await;
        }
    }

    /// Ends a subscription; the stream, to be released.
    pub(super) fn leave(&self, connection: &Connection, correlation: u32) -> Option<Arc<Stream>> {
        let mut book = lock(&self.0);
        match book.by_id.remove(&correlation)? {
            Subscription::Open(stream) => {
                book.streams.remove(stream.id());
                book.by_channel.remove(&stream.channel());
                drop(book);
                stream.unsubscribe(connection);
                Some(stream)
            }
            Subscription::Opening(id) => {
                book.streams.remove(&id);
                book.by_id.insert(correlation, Subscription::Abandoned);
                None
            }
            Subscription::Abandoned => {
                book.by_id.insert(correlation, Subscription::Abandoned);
                None
            }
        }
    }

    /// Ends all of them; the streams, to be released.
    pub(super) fn end(&self, connection: &Connection) -> Vec<Arc<Stream>> {
        let Book { by_id, .. } = std::mem::take(&mut *lock(&self.0));
        let open = by_id.into_values().filter_map(|subscription| match subscription {
            Subscription::Open(stream) => Some(stream),
            Subscription::Opening(_) | Subscription::Abandoned => None,
        });
        open.inspect(|stream| stream.unsubscribe(connection)).collect()
    }

    /// The stream that a number names in frames of this connection.
    #[cfg(feature = "docs")]
    pub(super) fn by_channel(&self, channel: u64) -> Option<Arc<Stream>> {
        lock(&self.0).by_channel.get(&u32::try_from(channel).ok()?).cloned()
    }
}
