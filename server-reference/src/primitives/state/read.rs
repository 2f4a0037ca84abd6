//! Reading a state with its position, as text.

use std::{fmt::Display, sync::Arc};

use datasole_core::{Limits, Position, StreamKind, wire::StateSnapshot};
use tokio::time::{Instant, sleep};

use crate::{
    backend::BackendError,
    hub::Hub,
    message::{OBJECT, Object, with_codec},
};

/// Bytes of a value that are written at once; more are written off the async workers.
const SMALL: usize = 16 * 1024;

/// The state of `key` as `{value, epoch, seq}`, as it was at the time of the call or later; `None` when it does not exist. A
/// large one that changes all the time is written once in a moment, for all who ask.
pub(crate) async fn read(hub: &Arc<Hub>, key: &str, lane: u64) -> Result<Option<Vec<u8>>, BackendError> {
    let Some(stream) = hub.find(StreamKind::State, key).await? else { return Ok(None) };
    let asked = Instant::now();
    let text = loop {
        let own = stream.clone();
        let look = move || own.whole(asked).map(|message| message.map_or(Ok(None), |message| text(&message)));
        let looked = if stream.weight() <= SMALL { look() } else { hub.desk().run(lane, look).await };
        match looked {
            Ok(text) => break text,
            Err(wait) => sleep(wait).await,
        }
    };
    hub.release(stream).await;
    text
}

/// The text of what a snapshot's message says; `None` where it says that the state does not exist.
fn text(message: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
    fn unreadable(error: impl Display) -> BackendError {
        BackendError::Corrupt(format!("a state could not be written out: {error}"))
    }
    // The message is this server's own, and bounded already.
    let any = usize::MAX;
    let limits = Limits { max_payload: any, max_compressed: any, max_inflated: any, ..Limits::default() };
    with_codec(|codec| {
        let frame = codec.decode(message, &limits).map_err(unreadable)?;
        let state: StateSnapshot<'_> = serde_json::from_slice(frame.payload).map_err(unreadable)?;
        let Some(value) = state.data.filter(|_| !state.removed) else { return Ok(None) };
        let (Some(epoch), Some(seq)) = (state.epoch, state.seq) else { return Err(unreadable("no position")) };
        let mut text = Vec::with_capacity(OBJECT + value.get().len());
        Object::new(&mut text).raw("value", value.get().as_bytes()).position(Position { epoch, seq }).end();
        Ok(Some(text))
    })
}
