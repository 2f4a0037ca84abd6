//! Reading a state with its position, as text.

use std::sync::Arc;

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
        let (own, limits) = (stream.clone(), hub.limits().codec());
        let look = move || own.whole(asked).map(|message| message.and_then(|message| text(&message, &limits)));
        let looked = if stream.weight() <= SMALL { look() } else { hub.desk().run(lane, look).await };
        match looked {
            Ok(text) => break text,
            Err(wait) => sleep(wait).await,
        }
    };
    hub.release(stream).await;
    Ok(text)
}

/// The text of what a snapshot's message says; `None` where it says that the state does not exist.
fn text(message: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    with_codec(|codec| {
        let frame = codec.decode(message, limits).ok()?;
        let state: StateSnapshot<'_> = serde_json::from_slice(frame.payload).ok()?;
        let value = state.data.filter(|_| !state.removed)?.get();
        let mut text = Vec::with_capacity(OBJECT + value.len());
        let position = Position { epoch: state.epoch?, seq: state.seq? };
        Object::new(&mut text).raw("value", value.as_bytes()).position(position).end();
        Some(text)
    })
}
