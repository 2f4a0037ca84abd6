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
    /// True for this client.
    pub own: bool,
    /// The value that the member announced.
    pub value: T,
}

#[derive(Default)]
pub(super) struct Room {
    feed: Arc<Feed>,
    members: Mutex<BTreeMap<String, Wire>>,
}

/// A member as the server writes it; gone without `value`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: String,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

/// `null` is a value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    datasole_core::value::deserialize(deserializer).map(Some)
}

impl Room {
    /// The members whose value is a `T`; `connection` is this client's id.
    pub(super) fn members<T: DeserializeOwned + 'static>(&self, connection: Option<&str>) -> Vec<Member<T>> {
        let read = |Wire { id, user_id, value }: &Wire| {
            let (value, own) =
                (datasole_core::value::from_value(value.as_ref()?).ok()?, connection == Some(id.as_str()));
            Some(Member { id: id.clone(), user_id: user_id.clone(), own, value })
        };
        self.shown().values().filter_map(read).collect()
    }

    /// A panic under the lock is a panic in a caller's `Deserialize`, which only reads.
    fn shown(&self) -> MutexGuard<'_, BTreeMap<String, Wire>> {
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
        for member in told {
            match member.value {
                None => drop(shown.remove(&member.id)),
                Some(_) => drop(shown.insert(member.id.clone(), member)),
            }
        }
        Ok(())
    }
}
