//! [`Rooms`]: the members of the rooms this client follows, and its own entries in them.

use std::collections::{BTreeMap, HashMap};

use datasole_core::{CallError, CallId, Client as Core, CommandError, Millis, Payload, StreamId, SubscriptionId};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::Member;
use crate::{
    refusal::{Answer, Complaints, Refusal},
    signal::Followers,
};

/// Members of a room that are kept; more are not shown.
const MAX_MEMBERS: usize = 10_000;

/// Announcements of a room that may be without an answer. The next waits, and the newest is sent.
const MAX_UNANSWERED: usize = 16;

#[derive(Debug)]
pub(crate) struct Rooms {
    rooms: HashMap<String, Room>,
    submitted: HashMap<CallId, Announced>,
    /// Between two announcements in a room; milliseconds.
    throttle: u64,
    /// This connection's id, while there is one.
    connection: Option<String>,
}

#[derive(Debug)]
struct Room {
    subscription: SubscriptionId,
    handles: usize,
    followers: Followers,
    members: BTreeMap<String, Entry>,
    own: Own,
}

#[derive(Debug)]
struct Entry {
    user_id: Option<String>,
    value: Value,
}

/// This client's entry.
#[derive(Debug, Default)]
struct Own {
    value: Option<Payload>,
    /// The server has been told something on this connection, and so has something to be told to forget.
    announced: bool,
    unsent: bool,
    /// Not to be sent before.
    not_before: Millis,
    unanswered: usize,
}

#[derive(Debug)]
struct Announced {
    room: String,
    value: Option<Payload>,
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
    Value::deserialize(deserializer).map(Some)
}

impl Rooms {
    pub(crate) fn new(throttle: u64) -> Self {
        Self { rooms: HashMap::new(), submitted: HashMap::new(), throttle, connection: None }
    }

    // --- the program ---

    pub(crate) fn follow(&mut self, core: &mut Core, now: Millis, key: &str) -> Result<(), CommandError> {
        if let Some(room) = self.rooms.get_mut(key) {
            room.handles += 1;
            return Ok(());
        }
        let subscription = core.subscribe(now, StreamId::presence(key))?;
        let room = Room {
            subscription,
            handles: 1,
            followers: Followers::default(),
            members: BTreeMap::new(),
            own: Own::default(),
        };
        self.rooms.insert(key.to_owned(), room);
        Ok(())
    }

    pub(crate) fn unfollow(&mut self, core: &mut Core, now: Millis, key: &str) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        room.handles -= 1;
        if room.handles > 0 {
            return;
        }
        if room.own.announced {
            // Without a connection there is nothing to leave.
            let _ = core.submit(now, &StreamId::presence(key), Payload::Empty);
        }
        core.unsubscribe(now, room.subscription);
        self.rooms.remove(key);
    }

    pub(crate) fn followers(&mut self, key: &str) -> Option<&mut Followers> {
        self.rooms.get_mut(key).map(|room| &mut room.followers)
    }

    pub(crate) fn is_loaded(&self, key: &str) -> bool {
        self.rooms.get(key).is_some_and(|room| room.followers.is_loaded())
    }

    pub(crate) fn members<T: DeserializeOwned>(&self, key: &str) -> Vec<Member<T>> {
        let Some(room) = self.rooms.get(key) else { return Vec::new() };
        let read = room.members.iter().filter_map(|(id, entry)| {
            let value = T::deserialize(&entry.value).ok()?;
            let own = self.connection.as_ref() == Some(id);
            Some(Member { id: id.clone(), user_id: entry.user_id.clone(), own, value })
        });
        read.collect()
    }

    /// Shows this value from now on; `None` leaves.
    pub(crate) fn announce(
        &mut self,
        core: &mut Core,
        now: Millis,
        key: &str,
        value: Option<Payload>,
        at_once: bool,
    ) -> Result<(), CommandError> {
        let Some(room) = self.rooms.get_mut(key) else { return Err(CommandError::Closed) };
        room.own.unsent = value.is_some() || room.own.announced;
        room.own.value = value;
        if at_once {
            room.own.not_before = now;
        }
        self.send(core, now, key)
    }

    /// Sends what waits in a room, if it is time.
    fn send(&mut self, core: &mut Core, now: Millis, key: &str) -> Result<(), CommandError> {
        let Some(Room { own, .. }) = self.rooms.get_mut(key) else { return Ok(()) };
        if !own.unsent || now < own.not_before || own.unanswered >= MAX_UNANSWERED || self.connection.is_none() {
            return Ok(());
        }
        match core.submit(now, &StreamId::presence(key), own.value.clone().unwrap_or_default()) {
            Ok(call) => {
                own.unsent = false;
                own.announced = own.value.is_some();
                own.unanswered += 1;
                own.not_before = now + self.throttle;
                self.submitted.insert(call, Announced { room: key.to_owned(), value: own.value.clone() });
                Ok(())
            }
            Err(refused) => match Answer::from(refused.clone()) {
                Answer::Again(wait) => {
                    own.not_before = now + wait;
                    Ok(())
                }
                Answer::Never { .. } => {
                    own.unsent = false;
                    Err(refused)
                }
                Answer::Taken | Answer::Unknown => Ok(()),
            },
        }
    }

    // --- time ---

    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.connection.as_ref()?;
        let waiting = |own: &&Own| own.unsent && own.unanswered < MAX_UNANSWERED;
        self.rooms.values().map(|room| &room.own).filter(waiting).map(|own| own.not_before).min()
    }

    pub(crate) fn run(&mut self, core: &mut Core, now: Millis, complaints: &Complaints) {
        let due = |(key, room): (&String, &Room)| (room.own.unsent && room.own.not_before <= now).then(|| key.clone());
        for key in self.rooms.iter().filter_map(due).collect::<Vec<_>>() {
            self.try_send(core, now, &key, complaints);
        }
    }

    fn try_send(&mut self, core: &mut Core, now: Millis, key: &str, complaints: &Complaints) {
        if let Err(refused) = self.send(core, now, key) {
            let payload = self.rooms.get(key).and_then(|room| room.own.value.clone()).unwrap_or_default();
            let (code, message) = (refused.code(), refused.to_string());
            complaints.tell(Refusal { stream: StreamId::presence(key), code, message, payload });
        }
    }

    // --- the server ---

    pub(crate) fn connected(&mut self, core: &mut Core, now: Millis, connection: &str, complaints: &Complaints) {
        self.connection = Some(connection.to_owned());
        for room in self.rooms.values_mut() {
            room.own.unsent = room.own.value.is_some();
            room.own.not_before = now;
        }
        self.run(core, now, complaints);
    }

    /// Without a connection. `own` stays: it is announced on the next.
    pub(crate) fn lost(&mut self) {
        self.connection = None;
        self.submitted.clear();
        for room in self.rooms.values_mut() {
            room.own.announced = false;
            room.own.unanswered = 0;
        }
    }

    pub(crate) fn subscribed(&mut self, key: &str, recovered: bool) {
        if recovered && let Some(room) = self.rooms.get_mut(key) {
            room.followers.load();
        }
    }

    pub(crate) fn entry(&mut self, key: &str, payload: &Payload, whole: bool) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        let Some(Ok(members)) = payload.as_json().map(serde_json::from_str::<Vec<Wire>>) else {
            tracing::warn!(key, "members cannot be read");
            return;
        };
        if whole {
            room.members.clear();
        }
        for Wire { id, user_id, value } in members {
            match value {
                None => drop(room.members.remove(&id)),
                Some(value) if room.members.len() < MAX_MEMBERS || room.members.contains_key(&id) => {
                    room.members.insert(id, Entry { user_id, value });
                }
                Some(_) => {}
            }
        }
        room.followers.change();
    }

    /// The answer to an announcement; given back when the call was none.
    pub(crate) fn answered(
        &mut self,
        core: &mut Core,
        now: Millis,
        call: CallId,
        outcome: Result<Payload, CallError>,
        complaints: &Complaints,
    ) -> Option<Result<Payload, CallError>> {
        let Some(Announced { room: key, value }) = self.submitted.remove(&call) else { return Some(outcome) };
        let Room { own, .. } = self.rooms.get_mut(&key)?;
        own.unanswered = own.unanswered.saturating_sub(1);
        match outcome.into() {
            Answer::Taken | Answer::Unknown => {}
            Answer::Again(wait) => {
                own.unsent = true;
                own.not_before = now + wait;
            }
            Answer::Never { code, message } => {
                let same = own.value.as_ref().and_then(Payload::as_json) == value.as_ref().and_then(Payload::as_json);
                if same {
                    own.value = None;
                }
                let payload = value.unwrap_or_default();
                complaints.tell(Refusal { stream: StreamId::presence(&key), code, message, payload });
            }
        }
        self.try_send(core, now, &key, complaints);
        None
    }

    /// Everything that is followed, for those who tell the readers of the connection.
    pub(crate) fn all_followers(&mut self) -> impl Iterator<Item = &mut Followers> {
        self.rooms.values_mut().map(|room| &mut room.followers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasole_core::{Config, Seed};

    #[test]
    fn the_number_of_members_is_bounded() {
        let mut core = Core::new(Config::new("ws://localhost/__ds"), Seed([1; 32]));
        let mut rooms = Rooms::new(50);
        rooms.follow(&mut core, Millis(0), "r").unwrap();
        let mut check = |count: usize, kept: usize, whole| {
            let members: Vec<_> = (0..count).map(|n| serde_json::json!({"id": n.to_string(), "value": n})).collect();
            let payload = Payload::from_json(&Value::from(members).to_string()).unwrap();
            rooms.entry("r", &payload, whole);
            assert_eq!(rooms.members::<u32>("r").len(), kept);
        };
        check(MAX_MEMBERS - 1, MAX_MEMBERS - 1, true);
        check(MAX_MEMBERS, MAX_MEMBERS, true);
        check(MAX_MEMBERS + 1, MAX_MEMBERS, true);
        check(MAX_MEMBERS + 5, MAX_MEMBERS, false);
        check(1, 1, true);
    }
}
