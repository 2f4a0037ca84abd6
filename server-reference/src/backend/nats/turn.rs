//! Turns: a record per stream of who has it and who waits, beside the log.

use datasole_core::StreamId;

use super::{
    api::{Terms, corrupt, unavailable},
    log::Handle,
    reader::{Source, write_turn},
    record::{join, split, take_u64},
    session::Session,
};
use crate::{
    backend::{error::BackendError, log::TURN},
    clock::millis,
};

/// Who has a stream's turn, until when, and who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    holder: u64,
    until: u64,
    queue: Vec<u64>,
}

impl Handle {
    async fn turn(&self, session: &Session, stream: &StreamId) -> Result<(u64, Option<Held>), BackendError> {
        let subject = self.link.options.names.beside('t', stream);
        let Some(message) = session.api.last(&session.values, &subject).await? else { return Ok((0, None)) };
        let ([holder, until], mut rest) = split(message.payload).ok_or_else(|| corrupt("a turn"))?;
        let queue = std::iter::from_fn(|| take_u64(&mut rest)).collect();
        Ok((message.number, Some(Held { holder, until, queue })))
    }

    /// Stores who has the turn if nobody else did meanwhile.
    async fn set_turn(
        &self,
        session: &Session,
        stream: &StreamId,
        after: u64,
        held: &Held,
    ) -> Result<bool, BackendError> {
        let queue: Vec<u8> = held.queue.iter().flat_map(|node| node.to_be_bytes()).collect();
        let subject = self.link.options.names.beside('t', stream);
        let terms = Terms::after(after).ttl(Some(TURN * 60));
        Ok(session.api.put(subject, join([held.holder, held.until], &queue), terms).await?.is_some())
    }

    pub(super) async fn ask_turn(&self, session: &Session, stream: &StreamId) -> Result<bool, BackendError> {
        let own = self.link.origin;
        loop {
            let (number, held) = self.turn(session, stream).await?;
            let now = session.now();
            let next = match held {
                Some(held) if held.until > now && (held.holder == own || held.queue.contains(&own)) => {
                    return Ok(held.holder == own);
                }
                Some(mut held) if held.until > now => {
                    // Whoever waits must hear, whether it follows the stream or not.
                    let subject = self.link.options.names.news(stream);
                    let source = Source::Stream { id: stream.clone(), is_followed: false.into() };
                    self.link.subscribe(vec![(subject, source)]).await?;
                    held.queue.push(own);
                    held
                }
                // The holder is gone. Whoever asks is not.
                held => {
                    let mut queue = held.map(|held| held.queue).unwrap_or_default();
                    queue.retain(|node| *node != own);
                    Held { holder: own, until: now + millis(TURN), queue }
                }
            };
            if self.set_turn(session, stream, number, &next).await? {
                return Ok(next.holder == own);
            }
        }
    }

    /// Hands on the turn, or leaves the queue for it.
    pub(super) async fn hand_on(&self, session: &Session, stream: &StreamId) -> Result<(), BackendError> {
        let own = self.link.origin;
        loop {
            let (number, Some(mut held)) = self.turn(session, stream).await? else { return Ok(()) };
            let before = held.clone();
            held.queue.retain(|node| *node != own);
            let mut told = None;
            if held.holder == own {
                if held.queue.is_empty() {
                    held.until = 0;
                } else {
                    (held.holder, held.until) = (held.queue.remove(0), session.now() + millis(TURN));
                    told = Some(held.holder);
                }
            }
            if held == before {
                return Ok(());
            }
            if self.set_turn(session, stream, number, &held).await? {
                if let Some(next) = told {
                    let subject = self.link.options.names.news(stream);
                    session.api.client.publish(subject, write_turn(next)).await.map_err(unavailable)?;
                }
                return Ok(());
            }
        }
    }
}
