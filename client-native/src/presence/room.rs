//! [`Room`], the members of a room that is open.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use datasole_core::Payload;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{router::Follower, signal::Feed};

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<T> {
    /// The connection's id.
    pub id: String,
    /// The user as the server knows it.
    pub user_id: Option<String>,
    /// True for this client, which is one member: until the value of a new connection is here, that of the last one.
    pub own: bool,
    /// The value that the member announced.
    pub value: T,
}

#[derive(Default)]
pub(super) struct Room {
    feed: Arc<Feed>,
    members: Mutex<BTreeMap<String, Shown>>,
}

struct Shown {
    user_id: Option<String>,
    own: bool,
    value: Value,
}

/// A member as the server writes it; gone without `value`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: String,
    #[serde(default)]
    user_id: Option<String>,
    /// Written by the core.
    #[serde(default)]
    own: bool,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

/// `null` is a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    datasole_core::value::deserialize(deserializer).map(Some)
}

impl Room {
    /// The members whose value is a `T`.
    pub(super) fn members<T: DeserializeOwned + 'static>(&self) -> Vec<Member<T>> {
        let read = |(id, Shown { user_id, own, value }): (&String, &Shown)| {
            let value = datasole_core::value::from_value(value).ok()?;
            Some(Member { id: id.clone(), user_id: user_id.clone(), own: *own, value })
        };
        self.shown().iter().filter_map(read).collect()
    }

    /// A panic under the lock is a panic in a caller's `Deserialize`, which only reads.
    fn shown(&self) -> MutexGuard<'_, BTreeMap<String, Shown>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower for Room {
    fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    fn apply(&self, payload: Payload, whole: bool) -> Result<(), String> {
        let told: Vec<Wire> =
            payload.as_json().map_or(Ok(Vec::new()), serde_json::from_str).map_err(|error| error.to_string())?;
        let mut shown = self.shown();
        if whole {
            shown.clear();
        }
        for Wire { id, user_id, own, value } in told {
            match value {
                None => drop(shown.remove(&id)),
                Some(value) => drop(shown.insert(id, Shown { user_id, own, value })),
            }
        }
        Ok(())
    }
}
