//! Those who are present: members of a room, and cursors in the document.

use std::collections::BTreeMap;

use super::record::Record;
use crate::history::{Function, Id, Kind};

/// The names of the two in a history.
pub(super) const ROOMS: [&str; 2] = [LOBBY, "cursors"];
/// The key of the presence room.
pub(super) const LOBBY: &str = "lobby";

/// One of them, as a client takes part in it.
#[derive(Default)]
pub(super) struct Room {
    /// The members that are shown, by connection or Yjs client; `None` until the whole has come.
    pub(super) shown: Option<BTreeMap<String, u64>>,
    /// The member that the client has announced, unless it has left.
    own: Option<u64>,
    /// By request: the member it announces, and the one that is gone with it.
    asked: BTreeMap<u32, (Option<u64>, Option<u64>)>,
}

/// The client that takes part: its process and its node.
pub(super) type Who = (u32, usize);

impl Room {
    pub(super) fn is_in(&self) -> bool {
        self.own.is_some()
    }

    /// Takes note of a request to be there as `member`, or to be there no more.
    pub(super) fn ask(&mut self, name: &str, who: Who, (request, member): (u32, Option<u64>), record: &Record) {
        let before = std::mem::replace(&mut self.own, member);
        tell(name, who, Kind::Invoke, (member, before), record);
        self.asked.insert(request, (member, before));
    }

    /// Takes note that a request was carried out; `false` if it is not one of this room.
    pub(super) fn done(&mut self, name: &str, who: Who, request: u32, record: &Record) -> bool {
        let Some(asked) = self.asked.remove(&request) else { return false };
        tell(name, who, Kind::Ok, asked, record);
        if name != LOBBY
            && let Some(shown) = &mut self.shown
        {
            // One's own cursor does not come back.
            let own = who.0.to_string();
            match asked.0 {
                Some(member) => _ = shown.insert(own, member),
                None => _ = shown.remove(&own),
            }
        }
        record.count(if name == LOBBY { "steps of members" } else { "steps of cursors" });
        true
    }

    pub(super) fn has_asked(&self, request: u32) -> bool {
        self.asked.contains_key(&request)
    }

    /// Takes note of the end of the connection.
    pub(super) fn end(&mut self, name: &str, who: Who, record: &Record) {
        let Self { own, asked, .. } = std::mem::take(self);
        for member in asked.into_values().filter_map(|(_, before)| before).chain(own) {
            tell(name, who, Kind::Ok, (None, Some(member)), record);
        }
    }

    /// Tells who is shown.
    pub(super) fn look(&self, name: &str, (process, node): Who, record: &Record) {
        if let Some(shown) = &self.shown {
            let ids = shown.values().copied().map(Id).collect();
            record.tell(process, node, Kind::Ok, name, Function::Members { ids });
        }
    }
}

fn tell(name: &str, (process, node): Who, kind: Kind, (joins, leaves): (Option<u64>, Option<u64>), record: &Record) {
    if let Some(id) = leaves.map(Id) {
        record.tell(process, node, kind, name, Function::Leave { id });
    }
    if let Some(id) = joins.map(Id) {
        record.tell(process, node, kind, name, Function::Join { id });
    }
}
