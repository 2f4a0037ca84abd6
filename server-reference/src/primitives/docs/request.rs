//! Serving the DOC frames of a follower.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Admission, Count, awareness,
    document::Document,
    error::DocError,
    message::Message,
    publish, shared,
    shared::message,
    work::{Done, Size, heal, work},
};
use crate::{
    answer::Request,
    desk::thread_time,
    hub::{Hub, Seat, Stream},
};

/// Updates of an owner that take too long, within a few minutes, before its connection is closed.
const MAX_SLOW: u32 = 3;

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
        Posted::Awareness(update) => announce(hub, request, stream, &update),
        Posted::Ask(state_vector) => answer(hub, request, stream, state_vector).await,
        Posted::Update(update) => take(hub, count, request, stream, update, may_write).await,
    };
    match heal(hub, stream, served).await {
        // Published and acknowledged in one step.
        Ok(true) if request.correlation != 0 => {}
        Ok(_) => request.acknowledge(0),
        Err(error) => request.refuse(&error.into()),
    }
}

/// Publishes a client's awareness to the other followers, here and on other servers: that of a client that may only read,
/// too, whose cursor they see.
fn announce(hub: &Hub, request: &Request, stream: &Arc<Stream>, update: &[u8]) -> Result<bool, DocError> {
    let (serial, user) = (request.connection.serial(), request.connection.user());
    let author = awareness::Author { seat: Seat::here(serial), user: user.as_deref() };
    let mut changed = None;
    stream.tell(serial, |content, at| {
        let shared = shared(content)?;
        let told = shared.announce(&author, update, at)?;
        changed = told.is_some().then(|| shared.awareness.robbed());
        Ok::<_, DocError>(told)
    })?;
    if let Some(robbed) = changed {
        hub.share(stream, robbed.into_iter().chain([serial]));
    }
    Ok(false)
}

/// Answers a state vector with the changes that the client lacks.
async fn answer(hub: &Hub, request: &Request, stream: &Arc<Stream>, state_vector: Bytes) -> Result<bool, DocError> {
    let owner = request.connection.standing();
    let writer = owner.queue(stream.writer()).await;
    let length = state_vector.len();
    let diff = move |document: &mut Document| document.diff(&state_vector);
    let Done { writer: _writer, result, .. } =
        work(hub, stream, writer, Some(owner), Size::Other(length), diff).await?;
    let update = result?;
    stream.at_present(|_, at| {
        request.connection.mailbox().push_answer(message(0, &Message::Answer(&update), at));
    });
    Ok(false)
}

/// Applies, stores and publishes an update; returns whether anything in it was new. A refused one costs its owner time.
async fn take(
    hub: &Arc<Hub>,
    count: &Count,
    request: &Request,
    stream: &Arc<Stream>,
    update: Bytes,
    may_write: bool,
) -> Result<bool, DocError> {
    let owner = request.connection.standing();
    let writer = owner.queue(stream.writer()).await;
    if !may_write {
        // A client that may only read answers the question of the server, too.
        let length = update.len();
        let lacks = move |document: &mut Document| document.lacks(&update);
        let done = work(hub, stream, writer, Some(owner), Size::Other(length), lacks).await?;
        return match done.result {
            Ok(false) => Ok(false),
            outcome => {
                owner.charge(done.took);
                outcome.and(Err(DocError::Forbidden))
            }
        };
    }
    let client = Some(&*request.connection);
    let admission = Admission { total: super::count(hub, count, stream).await?, limits: hub.limits(), client };
    let room = stream.with_content(|content| {
        let shared = shared(content)?;
        // Refused before it costs anything.
        if !shared.exists() {
            drop(admission.reserve()?);
        }
        Ok::<_, DocError>(shared.left(owner))
    })?;
    let size = Size::Update(update.clone());
    let apply = move |document: &mut Document| {
        let error = match document.apply(&update, room) {
            Err(error) => error,
            new => return (new, Duration::ZERO),
        };
        // However light the update was, this takes as long as the document.
        let begun = thread_time();
        let mended = document.mend();
        (mended.and(Err(error)), thread_time().saturating_sub(begun))
    };
    let Done { writer, result: (result, mending), took } = work(hub, stream, writer, Some(owner), size, apply).await?;
    let new = result.inspect_err(|error| {
        owner.charge(took.max(mending));
        if matches!(error, DocError::TooSlow) && owner.was_slow() >= MAX_SLOW {
            request.connection.mailbox().close(1008, "updates that take too long");
        }
    })?;
    let Some(new) = new else { return Ok(false) };
    Ok(publish(hub, stream, writer, request.author(), &admission, new).await?.is_some())
}
