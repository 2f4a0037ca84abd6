//! Serving the DOC frames of a follower.

use std::sync::Arc;

use bytes::Bytes;
use datasole_core::codes;
use futures_util::FutureExt;

use super::{admit, commit, document::Document, message::Message};
use crate::{
    error::DocError,
    hub::{Content, Members, Stream, entry},
    session::{Request, Task, at_once},
};

/// Serves a DOC frame of a follower. Frames of one document are served in the order in which they came: those that must
/// wait have taken their place in the queue of its writers when this returns.
pub(crate) fn receive(request: Request, stream: Arc<Stream>, message: &[u8]) -> Option<Task> {
    match Message::parse(message) {
        Ok(Message::Awareness(update)) => {
            match announce(&request, &stream, update) {
                Ok(()) => request.acknowledge(0),
                Err(error) => refuse(&request, &error),
            }
            None
        }
        Ok(Message::Ask(state_vector)) => {
            let state_vector = Bytes::copy_from_slice(state_vector);
            at_once(async move { answer(&request, &stream, &state_vector).await }.boxed())
        }
        Ok(Message::Answer(update) | Message::Change(update)) => {
            let update = Bytes::copy_from_slice(update);
            at_once(async move { change(&request, &stream, &update).await }.boxed())
        }
        Err(error) => {
            refuse(&request, &error);
            None
        }
    }
}

fn refuse(request: &Request, error: &DocError) {
    let code = match error {
        DocError::Malformed(_) | DocError::Unsupported(_) | DocError::Missing => codes::INVALID_PARAMS,
        DocError::TooLarge { .. } | DocError::TooSlow | DocError::TooMany { .. } | DocError::Crowded => codes::LIMIT,
        DocError::Forbidden => codes::FORBIDDEN,
        DocError::Backend(error) => return request.fail(error),
        DocError::Key { .. } | DocError::Panicked | DocError::Damaged => codes::INTERNAL,
    };
    request.refuse(code, &error.to_string(), None);
}

/// Tells the others what somebody says of itself.
fn announce(request: &Request, stream: &Stream, update: &[u8]) -> Result<(), DocError> {
    let serial = request.connection.serial();
    stream.with_followers(|content, followers: &Members| {
        let Content::Doc(shared) = content else { return Ok(()) };
        if let Some(news) = shared.awareness.apply(serial, update)? {
            let above = request.server.limits().compress_above;
            let message = entry::doc(stream.channel(), 0, &Message::Awareness(&news).bytes(), above);
            for follower in followers.iter().filter(|follower| follower.serial() != serial) {
                follower.mailbox().push(message.clone());
            }
        }
        Ok(())
    })
}

/// Answers a question for what somebody has not got.
async fn answer(request: &Request, stream: &Stream, state_vector: &[u8]) {
    let _writer = stream.writer().await;
    let above = request.server.limits().compress_above;
    let outcome = stream.with_content(|content| {
        let Content::Doc(shared) = content else { return Ok(()) };
        let update = shared.document.diff(state_vector)?;
        let message = entry::doc(stream.channel(), 0, &Message::Answer(&update).bytes(), above);
        request.connection.mailbox().push_answer(message);
        Ok(())
    });
    match outcome {
        Ok(()) => request.acknowledge(0),
        Err(error) => refuse(request, &error),
    }
}

async fn change(request: &Request, stream: &Arc<Stream>, update: &Bytes) {
    let writer = stream.writer().await;
    let hub = request.server.hub();
    let may_write = hub.may_write(&request.identity, stream.id());
    let apply = |document: &mut Document| {
        if may_write {
            return Ok(((), document.apply(update)?));
        }
        // Who may only read answers what it is asked, too.
        if document.lacks(update)? { Err(DocError::Forbidden) } else { Ok(((), None)) }
    };
    let place = match may_write {
        true => admit(hub, stream, request.server.limits(), Some(&request.connection)).await,
        false => Ok(None),
    };
    let place = match place {
        Ok(place) => place,
        Err(error) => return refuse(request, &error),
    };
    match commit(hub, stream, writer, request.author(), place, apply).await {
        // Published and acknowledged in one step.
        Ok(((), Some(_))) if request.correlation != 0 => {}
        Ok(_) => request.acknowledge(0),
        Err(error) => refuse(request, &error),
    }
}
