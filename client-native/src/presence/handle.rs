//! [`Presence`], the handle of a room.

use std::{fmt, marker::PhantomData, sync::Arc};

use datasole_core::{Payload, StreamId};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::to_raw_value};

use super::room::{Member, Room};
use crate::{
    error::PresenceError,
    follow::{Changes, Follow},
    router::Shared,
};

/// A room, from [`Client::presence`](crate::Client::presence). Clones are the same room; when the last one is dropped
/// the client leaves it.
///
/// ```no_run
/// # async fn example(client: &datasole_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use serde_json::{Value, json};
///
/// let room = client.presence::<Value>("lobby")?;
/// room.join(&json!({"name": "Ann"}))?;
/// let mut changes = room.changes();
/// while changes.next().await.is_some() {
///     for member in room.members() {
///         println!("{}: {}", member.id, member.value);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Presence<T = Value> {
    follow: Arc<Follow<Room>>,
    value: PhantomData<fn() -> T>,
}

impl<T> Presence<T> {
    pub(crate) fn open(shared: &Arc<Shared>, room: &str) -> Result<Self, PresenceError> {
        let follow = Follow::open::<PresenceError>(shared, StreamId::presence(room), || Ok(Arc::default()))?;
        Ok(Self { follow, value: PhantomData })
    }

    /// The room's key.
    pub fn key(&self) -> &str {
        self.follow.key()
    }

    /// Leaves the room; its members stay visible.
    pub fn leave(&self) {
        // Leaving is not refused: where it cannot be sent, the connection's end has the same effect.
        let _ = self.announce(None);
    }

    /// A stream of changes: a member joined, left or changed its value.
    pub fn changes(&self) -> Changes {
        self.follow.changes()
    }

    /// True once the server has sent the members of the room.
    pub fn is_loaded(&self) -> bool {
        self.follow.is_loaded()
    }

    fn announce(&self, value: Option<Payload>) -> Result<(), PresenceError> {
        Ok(self.follow.shared().command(|router, now| router.open_core()?.show(now, self.key(), value))?)
    }
}

impl<T: Serialize> Presence<T> {
    /// Enters the room with this value, as soon as there is a connection.
    ///
    /// # Errors
    ///
    /// [`PresenceError`]. A later refusal by the server comes as a [`Refusal`](crate::Refusal).
    pub fn join(&self, value: &T) -> Result<(), PresenceError> {
        self.update(value)
    }

    /// Replaces this client's value, at most once per [`presence_throttle`](crate::Builder::presence_throttle): of
    /// faster updates the last is sent. The first value enters the room, at once.
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    pub fn update(&self, value: &T) -> Result<(), PresenceError> {
        self.announce(Some(Payload::Json(to_raw_value(value).map_err(PresenceError::Value)?)))
    }
}

impl<T: DeserializeOwned + 'static> Presence<T> {
    /// The members of the room known so far, this client included, in the order of their ids. Members whose value is
    /// not a `T` are left out.
    pub fn members(&self) -> Vec<Member<T>> {
        self.follow.members()
    }
}

impl<T> Clone for Presence<T> {
    fn clone(&self) -> Self {
        Self { follow: self.follow.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Presence<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("key", &self.key()).finish_non_exhaustive()
    }
}
