//! [`HeldRoom`]: a presence room at a client.

use std::collections::BTreeMap;

use datasole_core::{Client, Millis, Payload, Progress, StreamId};
use serde::Deserialize;
use serde_json::{Value, json, value::to_raw_value};

use crate::random::Random;

pub(in crate::sim) struct HeldRoom {
    pub(in crate::sim) stream: StreamId,
    pub(in crate::sim) handles: usize,
    pub(in crate::sim) progress: Progress,
    /// What is shown, unless it was refused.
    pub(in crate::sim) shown: Option<Value>,
    /// How often something was.
    shows: u32,
    /// Values by connection.
    pub(in crate::sim) members: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Member {
    id: String,
    value: Option<Value>,
}

impl HeldRoom {
    pub(super) fn new(key: &str) -> Self {
        Self {
            stream: StreamId::presence(key),
            handles: 0,
            progress: Progress::default(),
            shown: None,
            shows: 0,
            members: BTreeMap::new(),
        }
    }

    pub(super) fn open(&mut self, client: &mut Client, host: Millis, random: &mut Random) {
        self.handles += 1;
        client.open(host, self.stream.clone(), random.coin().then(|| random.below(2_000))).unwrap();
    }

    pub(super) fn leave(&mut self, client: &mut Client, host: Millis) {
        self.handles -= 1;
        if self.handles == 0 {
            self.shown = None;
            self.members.clear();
        }
        client.leave(host, &self.stream);
    }

    pub(in crate::sim) fn show(&mut self, client: &mut Client, host: Millis, nonce: u64, random: &mut Random) {
        // No two are the same: a refusal names the value, and a later one may be stored.
        self.shows += 1;
        self.shown = (random.below(6) > 0).then(|| json!({ "n": nonce, "time": self.shows }));
        let value = self.shown.as_ref().map(|value| Payload::Json(to_raw_value(value).unwrap()));
        client.show(host, &self.stream.key, value).unwrap();
    }

    pub(super) fn entry(&mut self, payload: &Payload, whole: bool) {
        if whole {
            self.members.clear();
        }
        for Member { id, value } in serde_json::from_str::<Vec<Member>>(payload.as_json().unwrap()).unwrap() {
            match value {
                Some(value) => self.members.insert(id, value),
                None => self.members.remove(&id),
            };
        }
    }

    pub(super) fn rejected(&mut self, payload: &Payload) {
        let value: Value = serde_json::from_str(payload.as_json().unwrap()).unwrap();
        if self.shown.as_ref() == Some(&value) {
            self.shown = None;
        }
    }
}
