//! Serving the DOC frames of a follower.

use std::sync::Arc;

use bytes::Bytes;

use super::{Admission, Count, change, document::Document, error::DocError, message::Message, shared, shared::message};
use crate::{
    answer::Request,
    hub::{Hub, Stream},
};

/// The message of a DOC frame.
pub(crate) enum Posted {
    Ask(Bytes),
    Update(Bytes),
    Awareness(Bytes),
}

impl Posted {
    /// Reads a message of y-protocols.
    pub(crate) fn read(message: &[u8]) -> Result<Self, DocError> {
        Ok(match Message::parse(message)? {
            Message::Ask(state_vector) => Self::Ask(Bytes::copy_from_slice(state_vector)),
            Message::Answer(update) | Message::Change(update) => Self::Update(Bytes::copy_from_slice(update)),
            Message::Awareness(update) => Self::Awareness(Bytes::copy_from_slice(update)),
        })
    }
}

/// Serves a DOC frame of a follower. Frames of one document are served in the order in which they came: those that must
/// wait have taken their place in the queue of its writers when this is first polled.
pub(crate) async fn serve(
    hub: &Arc<Hub>,
    count: &Count,
    request: &Request,
    stream: &Arc<Stream>,
    posted: Posted,
    may_write: bool,
) {
    let served = match posted {
        Posted::Awareness(update) => announce(request, stream, &update),
        Posted::Ask(state_vector) => answer(request, stream, &state_vector).await,
        Posted::Update(update) => take(hub, count, request, stream, &update, may_write).await,
    };
    match served {
        // Published and acknowledged in one step.
        Ok(true) if request.correlation != 0 => {}
        Ok(_) => request.acknowledge(0),
        Err(error) => request.refuse(&error.into()),
    }
}

/// Publishes a client's awareness to the other followers.
fn announce(request: &Request, stream: &Stream, update: &[u8]) -> Result<bool, DocError> {
    let serial = request.connection.serial();
    stream.tell(serial, |content, at| shared(content)?.announce(serial, update, at))?;
    Ok(false)
}

/// Answers a state vector with the changes that the client lacks.
async fn answer(request: &Request, stream: &Stream, state_vector: &[u8]) -> Result<bool, DocError> {
    let _writer = stream.writer().await;
    stream.at_present(|content, at| {
        let update = shared(content)?.document.diff(state_vector)?;
        request.connection.mailbox().push_answer(message(0, &Message::Answer(&update), at));
        Ok(false)
    })
}

/// Applies, stores and publishes an update; returns whether anything in it was new.
async fn take(
    hub: &Arc<Hub>,
    count: &Count,
    request: &Request,
    stream: &Arc<Stream>,
    update: &Bytes,
    may_write: bool,
) -> Result<bool, DocError> {
    let writer = stream.writer().await;
    if !may_write {
        // A client that may only read answers the question of the server, too.
        let lacks = stream.with_content(|content| shared(content)?.document.lacks(update))?;
        return if lacks { Err(DocError::Forbidden) } else { Ok(false) };
    }
    let client = Some(&*request.connection);
    let admission = Admission { total: count.get(hub).await?, limits: hub.limits(), client };
    let apply = |document: &mut Document| Ok(((), document.apply(update)?));
    let ((), position) = change(hub, stream, writer, request.author(), &admission, apply).await?;
    Ok(position.is_some())
}
