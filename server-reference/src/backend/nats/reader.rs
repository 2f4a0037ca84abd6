//! What comes over a node's connection: news and messages, read and handed on.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use datasole_core::{Position, StreamId};
use futures_util::{Stream, StreamExt, stream::AbortHandle};

use super::{
    api::number,
    record::{Record, split, take_u64},
    session::{Seen, Session, epoch_now},
};
use crate::backend::{
    bus::{Delivery, NodeId},
    log::{MAX_PUSH, News},
    outlet::Outlet,
    senders::Senders,
};

/// The messages that a subject brings.
#[derive(Debug)]
pub(super) enum Source {
    /// The news of a stream. A node that does not follow it hears only of its turn.
    Stream {
        id: StreamId,
        is_followed: AtomicBool,
    },
    Topic(Arc<str>),
    /// Generations that begin.
    Generations,
    /// Messages for this node or for everybody.
    Inbox,
    /// This node's own, which come back once the engine has seen all that it sent before.
    Echo,
}

/// A message that gives a turn to a link.
pub(super) fn write_turn(to: u64) -> Bytes {
    [&b"U"[..], &to.to_be_bytes()].concat().into()
}

/// The messages of one subject, each with where it came from.
pub(super) struct Tagged {
    pub(super) source: Arc<Source>,
    pub(super) messages: Subscriber,
}

impl Stream for Tagged {
    type Item = (Arc<Source>, Message);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = self.messages.poll_next_unpin(context);
        message.map(|message| message.map(|message| (Arc::clone(&self.source), message)))
    }
}

/// A subject that is subscribed to.
pub(super) struct Heard {
    pub(super) source: Arc<Source>,
    pub(super) handle: Option<AbortHandle>,
    /// The echo with which the subscription ends.
    pub(super) ends_at: Option<u64>,
}

/// Reads messages and hands them on.
pub(super) struct Reader {
    pub(super) origin: u64,
    pub(super) sources: HashMap<String, Heard>,
    pub(super) news: Outlet<News>,
    pub(super) inbox: Outlet<Delivery>,
    /// Messages that have come and are not handed on: each with its sender, the number of the sender's connection and
    /// the sender's count.
    came: Vec<(u64, u64, u64, Delivery)>,
    senders: Senders,
}

impl Reader {
    pub(super) fn new(origin: u64, news: Outlet<News>, inbox: Outlet<Delivery>) -> Self {
        let (sources, came, senders) = (HashMap::new(), Vec::new(), Senders::default());
        Self { origin, sources, news, inbox, came, senders }
    }

    /// Hands a message on; answers the number of an echo.
    pub(super) fn read(&mut self, session: &Session, source: &Source, message: Message) -> Option<u64> {
        match source {
            Source::Stream { id, is_followed } => {
                let stored = number(message.headers.as_ref(), "Nats-Sequence");
                let news = read_news(session, self.origin, id, stored, message.payload);
                if let Some(news) =
                    news.filter(|news| is_followed.load(Ordering::Relaxed) || matches!(news, News::Turn(_)))
                {
                    self.news.send(news);
                }
                None
            }
            Source::Generations => {
                if split(message.payload).is_some_and(|([generation], _)| generation > session.generation) {
                    session.api.broken.notify_one();
                }
                None
            }
            Source::Topic(topic) => {
                self.deliver(Some(topic), message.payload);
                None
            }
            Source::Inbox => {
                self.deliver(None, message.payload);
                None
            }
            Source::Echo => split(message.payload).map(|([number], _)| number),
        }
    }

    fn deliver(&mut self, topic: Option<&Arc<str>>, payload: Bytes) {
        let Some(([from, connection, count], bytes)) = split(payload) else { return };
        if from != self.origin {
            let delivery = Delivery::Message { topic: topic.cloned(), from: NodeId(from), bytes };
            self.came.push((from, connection, count, delivery));
        }
    }

    /// Hands on what has come, in the order in which each sender has sent it: subjects are read one by one. A message
    /// that was given up with its sender's connection and comes after later ones is dropped.
    pub(super) fn hand_on(&mut self) {
        self.came.sort_by_key(|(from, connection, count, _)| (*from, *connection, *count));
        for (from, connection, _, delivery) in self.came.drain(..) {
            if !self.senders.is_late(from, connection) {
                self.inbox.send(delivery);
            }
        }
    }

    pub(super) fn ends_at(&mut self, subjects: &[String], echo: u64) {
        for subject in subjects {
            if let Some(heard) = self.sources.get_mut(subject) {
                heard.ends_at = Some(echo);
            }
        }
    }

    /// Ends subscriptions that were to end with this echo or one before, and were not wanted again.
    pub(super) fn end(&mut self, subjects: &[String], echo: u64) {
        for subject in subjects {
            let is_over = |heard: &mut Heard| heard.ends_at.is_some_and(|at| at <= echo);
            if self.sources.get_mut(subject).is_some_and(is_over)
                && let Some(Heard { handle: Some(handle), .. }) = self.sources.remove(subject)
            {
                handle.abort();
            }
        }
    }

    pub(super) fn lose(&mut self) {
        self.news.send(News::Lost);
        self.inbox.send(Delivery::Lost);
    }
}

/// The news in a message that the engine publishes when it has stored an append; `None` for this node's own.
fn read_news(
    session: &Session,
    origin: u64,
    stream: &StreamId,
    stored: Option<u64>,
    mut payload: Bytes,
) -> Option<News> {
    if payload.first() == Some(&b'U') {
        let to = take_u64(&mut payload.slice(1..))?;
        return (to == origin).then(|| News::Turn(stream.clone()));
    }
    let Record::Append(mut batch) = Record::read(payload.split_off(0))? else { return None };
    if batch.generation > session.generation {
        // Begun by another node: this one looks before it goes on.
        session.api.broken.notify_one();
        return None;
    }
    if let Some(number) = stored {
        session.remember(stream, Seen::of(number, &batch));
    }
    if batch.origin == origin {
        return None;
    }
    let fresh = batch.entries.split_off(batch.entries.len() - usize::try_from(batch.fresh).ok()?);
    let seq = batch.first + batch.entries.len() as u64;
    let epoch = epoch_now(batch.epoch, batch.generation, session.generation);
    let stream = stream.clone();
    let size: usize = fresh.iter().map(|entry| entry.bytes.len()).sum();
    Some(if size > MAX_PUSH {
        News::Advanced { stream, position: Position { epoch, seq: seq + fresh.len() as u64 - 1 } }
    } else {
        News::Entries { stream, first: Position { epoch, seq }, entries: fresh }
    })
}
