//! [`OpenRoom`]: what this client shows in a presence room, and which members it has been told of.
//!
//! A member under the id of any of this client's [`Connections`] is this client. The host is told of one such member,
//! that of the latest connection, marked `"own":true`.

use serde_json::value::RawValue;

use super::{
    Context,
    answer::{Answer, Refused},
};
use crate::{
    error::CommandError,
    event::{Event, Payload, SyncPhase},
    json::{Object, elements, members, string, whole as one_value},
    session::Version,
    stream::Position,
    table::Table,
    time::Millis,
};

/// Connections of this client whose ids are known.
const MAX_CONNECTIONS: usize = 8;

/// The ids of this client's connections, the present one last.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<String>);

impl Connections {
    pub(super) fn push(&mut self, id: &str) {
        if self.0.len() == MAX_CONNECTIONS {
            self.0.remove(0);
        }
        self.0.push(id.to_owned());
    }

    /// How many connections ago the id was this client's; 0 for the present one.
    fn age(&self, id: &str) -> Option<usize> {
        self.0.iter().rev().position(|own| own == id)
    }
}

/// Members of a room that are told of; more are not shown.
pub(crate) const MAX_MEMBERS: usize = 10_000;

/// Announcements that may be without an answer: the next waits, and the newest is sent.
pub(crate) const MAX_UNANSWERED: usize = 16;

/// One room that is open.
#[derive(Debug)]
pub(crate) struct OpenRoom {
    /// Milliseconds between two announcements.
    throttle: u64,
    members: Table<String, ()>,
    /// The member that is this client.
    own: Option<String>,
    loaded: bool,
    unreadable: Option<Refused>,
    refused: Option<Refused>,
    /// The host shows something, and the newest was not refused.
    joined: bool,
    /// The value that this client shows, and its number.
    value: Option<Payload>,
    version: u64,
    /// The server has been told something on this connection, and so has something to forget.
    announced: bool,
    unsent: bool,
    /// Nothing is sent before, but what enters or leaves the room.
    not_before: Millis,
    /// The server has asked to wait until then: nothing is sent before.
    wait: Millis,
    /// Announcements without an answer, by number: the value's number, and the value.
    unanswered: Table<u64, (u64, Option<Payload>)>,
    /// The number of the latest announcement.
    sent: u64,
}

impl OpenRoom {
    pub(crate) fn new(throttle: u64) -> Self {
        Self {
            throttle,
            members: Table::default(),
            own: None,
            loaded: false,
            unreadable: None,
            refused: None,
            joined: false,
            value: None,
            version: 0,
            announced: false,
            unsent: false,
            not_before: Millis(0),
            wait: Millis(0),
            unanswered: Table::default(),
            sent: 0,
        }
    }

    pub(crate) fn phase(&self) -> SyncPhase {
        match (&self.refused, &self.unreadable) {
            (Some(refused), _) => SyncPhase::Refused { code: refused.code, message: refused.message.clone() },
            (None, Some(refused)) => SyncPhase::Unreadable { code: refused.code, message: refused.message.clone() },
            (None, None) if self.loaded => SyncPhase::Synced,
            (None, None) => SyncPhase::Loading,
        }
    }

    pub(crate) fn deadline(&self, version: Option<Version>) -> Option<Millis> {
        let due = self.unsent && version == Some(Version::V2) && self.unanswered.len() < MAX_UNANSWERED;
        due.then_some(self.not_before.max(self.wait))
    }

    /// Shows a value: the first at once, as leaving is, the others throttled.
    pub(crate) fn show(&mut self, cx: &mut Context<'_>, value: Option<Payload>) {
        self.unsent = value.is_some() || self.announced;
        if value.is_none() || !self.joined {
            self.not_before = cx.now;
        }
        self.joined = value.is_some();
        self.value = value;
        self.version += 1;
        self.flush(cx);
    }

    /// Sends the newest value, if it is time.
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) {
        if self.deadline(cx.version).is_none_or(|due| cx.now < due) {
            return;
        }
        self.unsent = false;
        self.announced = self.value.is_some();
        self.not_before = cx.now + self.throttle;
        self.sent += 1;
        self.unanswered.insert(self.sent, (self.version, self.value.clone()));
        cx.submit(self.sent, self.value.clone().unwrap_or_default());
    }

    /// Withdraws the value that is shown, whatever waits.
    pub(crate) fn withdraw(&mut self, cx: &mut Context<'_>) {
        self.value = None;
        self.unsent = false;
        if std::mem::take(&mut self.announced) && cx.version == Some(Version::V2) {
            // Nobody is left to be told of the answer.
            cx.submit(0, Payload::Empty);
        }
    }

    pub(crate) fn connected(&mut self, cx: &mut Context<'_>) {
        self.unsent = self.value.is_some();
        (self.not_before, self.wait) = (cx.now, cx.now);
        self.flush(cx);
    }

    pub(crate) fn subscribed(&mut self, cx: &mut Context<'_>, recovered: bool) {
        self.unreadable = None;
        self.refused = None;
        self.loaded = recovered;
        if cx.version == Some(Version::V1) {
            self.refused = Some(CommandError::NeedsV2 { what: "presence" }.into());
        }
    }

    /// The room may be entered all the same.
    pub(crate) fn unreadable(&mut self, refused: Refused) {
        self.unreadable = Some(refused);
        self.loaded = false;
    }

    /// Members came.
    pub(crate) fn entry(&mut self, cx: &mut Context<'_>, payload: Payload, position: Position, whole: bool) {
        let Some(payload) = self.told(cx.connections, payload, whole) else { return };
        self.loaded |= whole;
        cx.tell(Event::Entry { stream: cx.stream.clone(), payload, position, whole });
    }

    /// The members as the host is told of them; nothing when it is no array.
    fn told(&mut self, connections: &Connections, payload: Payload, whole: bool) -> Option<Payload> {
        let Payload::Json(list) = &payload else { return None };
        if whole && list.get().starts_with('[') {
            self.members.clear();
            self.own = None;
        }
        let (mut told, mut same) = (String::from("["), true);
        elements(list, &mut |member| {
            same &= self.member(connections, member, &mut told);
            Some(())
        })?;
        if same {
            return Some(payload);
        }
        // Without the last comma.
        told.truncate(told.len().max(2) - 1);
        told.push(']');
        one_value(&told).map(|list| Payload::Json(list.to_owned()))
    }

    /// Counts a member that came or went, and adds it to those `told`, each with a comma; `false` unless it is told as it
    /// is. One without an id, or one too many, is not told.
    fn member(&mut self, connections: &Connections, member: &RawValue, told: &mut String) -> bool {
        let (mut id, mut here, mut same) = (None, false, true);
        let read = members(member.get().as_bytes(), &mut |name, value| {
            match name {
                "id" => id = Some(string(value)?.into_owned()),
                "value" => here = true,
                "own" => same = false,
                _ => {}
            }
            Some(())
        });
        let Some(id) = id.filter(|_| read.is_some()) else { return false };
        let age = connections.age(&id).filter(|_| here);
        if let Some(age) = age {
            let shown = self.own.replace(id.clone()).filter(|own| *own != id && self.members.contains_key(own));
            if let Some(shown) = shown {
                if connections.age(&shown).is_some_and(|of_shown| of_shown < age) {
                    self.own = Some(shown);
                    return false;
                }
                self.members.remove(&shown);
                let mut gone = Object::new();
                gone.string("id", &shown);
                told.push_str(&gone.finish());
                told.push(',');
            }
        }
        if !here {
            self.members.remove(&id);
        } else if !self.members.contains_key(&id) {
            if self.members.len() >= MAX_MEMBERS {
                return false;
            }
            self.members.insert(id, ());
        }
        same &= age.is_none();
        if same {
            told.push_str(member.get());
        } else {
            let mut text = Object::new();
            if age.is_some() {
                text.raw("own", "true");
            }
            members(member.get().as_bytes(), &mut |name, value| {
                if matches!(name, "id" | "userId" | "value") {
                    text.raw(name, value.get());
                }
                Some(())
            });
            told.push_str(&text.finish());
        }
        told.push(',');
        same
    }

    pub(crate) fn answered(&mut self, cx: &mut Context<'_>, number: u64, answer: Answer) {
        let Some((version, value)) = self.unanswered.remove(&number) else { return };
        match answer {
            Answer::Taken | Answer::Unknown => {}
            Answer::Again(wait) => {
                self.unsent = true;
                self.wait = self.wait.max(cx.now + wait);
            }
            Answer::Never(Refused { code, message }) => {
                if version == self.version && value.is_some() {
                    // An earlier value may be there still.
                    (self.value, self.joined, self.unsent) = (None, false, true);
                }
                let payload = value.unwrap_or_default();
                cx.tell(Event::Rejected { stream: cx.stream.clone(), code, message, payload });
            }
        }
        self.flush(cx);
    }

    pub(crate) fn refuse(&mut self, refused: Refused) {
        self.refused = Some(refused);
        self.loaded = false;
    }

    pub(crate) fn start_over(&mut self) {
        (self.unreadable, self.refused) = (None, None);
        self.loaded = false;
    }

    /// The value that is shown stays: it is announced on the next connection.
    pub(crate) fn lost(&mut self) {
        self.start_over();
        self.announced = false;
        self.unanswered.clear();
    }
}
