//! [`Room`]: the members of a room, and the changes that followers are told of together.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use datasole_core::{StreamKind, frame::Opcode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Member;
use crate::{
    backend::{BackendError, log::Stored},
    connection::Protocol,
    entry::Entry,
    hub::{
        At, Bounds, Delivery, Displaced, Form, Inapplicable, Job, Kind, Read, Rules, Seat, Showing, Spec, Taken, V1,
    },
    limits::{Limits, Replay},
    message::{OBJECT, Object, framed},
};

/// An entry: the members that changed, a JSON array.
const MEMBERS: u8 = b'm';
/// Bytes that the frame of a whole room needs beside key and members.
const ENVELOPE: usize = 128;

/// The line of presence rooms in the table of kinds. An empty room without followers is evicted at once.
pub(crate) fn kind(limits: &Limits) -> Spec {
    let (max_payload, interval) = (limits.max_payload, limits.presence_interval);
    let make = move |key: &str| {
        Box::new(Room { limit: room_for(key, max_payload), interval, ..Room::default() }) as Box<dyn Kind>
    };
    Spec { kind: StreamKind::Presence, spare: 0, bounds: Bounds::default(), v1_follows: false, make: Box::new(make) }
}

/// The bytes that all members of a room may have, so that they fit in a frame. Every byte of the key may be escaped.
fn room_for(key: &str, max_payload: usize) -> usize {
    max_payload.saturating_sub(ENVELOPE + 6 * key.len())
}

/// Members of a room, each as it is shown to followers.
#[derive(Debug, Default)]
pub(super) struct Room {
    members: BTreeMap<Seat, Box<RawValue>>,
    /// Bytes of all members, with a comma each; and how many there may be.
    bytes: usize,
    limit: usize,
    /// Those that have changed since followers were told: as they were shown then, if they were.
    changed: BTreeMap<Seat, Option<Box<RawValue>>>,
    /// When followers were told last, and how often they are.
    told: Option<Instant>,
    interval: Duration,
}

/// A member in a frame: without a value, it is gone.
#[derive(Deserialize, Serialize)]
pub(super) struct Shown<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow, rename = "userId")]
    pub(super) user_id: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a RawValue>,
}

/// The reason why nothing changes.
#[derive(Debug, PartialEq)]
pub(super) enum NoEntry {
    /// The room would be the same as before.
    Unchanged,
    /// The room would no longer fit in a frame.
    Full,
}

impl Room {
    /// The members: first those of this server, the longest connected first.
    pub(super) fn members(&self) -> impl Iterator<Item = (Seat, &RawValue)> {
        self.members.iter().map(|(seat, member)| (*seat, &**member))
    }

    /// Sets the value of `member`.
    pub(super) fn enter(&mut self, seat: Seat, member: &RawValue) -> Result<(), NoEntry> {
        let before = self.members.get(&seat);
        if before.is_some_and(|before| before.get() == member.get()) {
            return Err(NoEntry::Unchanged);
        }
        let bytes = self.bytes - before.map_or(0, |before| weight(before)) + weight(member);
        if bytes > self.limit {
            return Err(NoEntry::Full);
        }
        let before = self.members.insert(seat, member.to_owned());
        self.bytes = bytes;
        self.changed.entry(seat).or_insert(before);
        Ok(())
    }

    /// Removes a member.
    pub(super) fn leave(&mut self, seat: Seat) -> Result<(), NoEntry> {
        let before = self.members.remove(&seat).ok_or(NoEntry::Unchanged)?;
        self.bytes -= weight(&before);
        self.changed.entry(seat).or_insert(Some(before));
        Ok(())
    }

    /// Sets a member of another server, or removes it.
    fn take(&mut self, seat: Seat, share: Option<&[u8]>) -> Option<()> {
        let Some(share) = share else { return self.leave(seat).ok() };
        let member: Box<RawValue> = serde_json::from_slice(share).ok()?;
        // A member that is shown must be one that can leave.
        serde_json::from_str::<Member>(member.get()).ok()?;
        self.enter(seat, &member).ok()
    }
}

/// The bytes of a member within the list of all, with a comma.
fn weight(member: &RawValue) -> usize {
    member.get().len() + 1
}

/// The same member, who is gone.
fn gone(before: &RawValue) -> Option<String> {
    let shown: Shown<'_> = serde_json::from_str(before.get()).ok()?;
    serde_json::to_string(&Shown { value: None, ..shown }).ok()
}

/// Begins a list of JSON, or goes on with it.
fn list(out: &mut Vec<u8>, element: &str) {
    out.push(if out.is_empty() { b'[' } else { b',' });
    out.extend_from_slice(element.as_bytes());
}

impl Kind for Room {
    fn rules(&self) -> Rules {
        Rules {
            stored: false,
            relayed: false,
            replay: Replay::NONE,
            compaction: Replay::NONE,
            delivery: Delivery::Conflated,
            v1: V1::Nothing,
            evictable: false,
            numbered: false,
        }
    }

    fn form(&self) -> &'static dyn Form {
        &Members
    }

    fn restore(&mut self, _: &Stored) -> Result<(), BackendError> {
        Ok(())
    }

    fn apply(&mut self, _: &Entry, _: Option<Read>) -> Result<Option<Displaced>, Inapplicable> {
        // Nobody but `news` makes entries of it.
        Err(Inapplicable)
    }

    fn snapshot(&mut self) -> Option<Job<Bytes>> {
        Some(Box::new(Bytes::new))
    }

    fn is_gone(&self) -> bool {
        self.members.is_empty()
    }

    fn show(&mut self, _: Protocol) -> Option<Showing> {
        // As followers have been told.
        let mut shown: BTreeMap<Seat, &RawValue> = self.members().collect();
        for (seat, before) in &self.changed {
            match before {
                Some(before) => shown.insert(*seat, before),
                None => shown.remove(seat),
            };
        }
        let mut members = Vec::with_capacity(self.bytes + 2);
        shown.values().for_each(|member| list(&mut members, member.get()));
        members.extend_from_slice(if members.is_empty() { b"[]" } else { b"]" });
        Some(Box::new(move |at| (message(&members, true, at), members.len())))
    }

    fn rest(&self) -> Option<Duration> {
        let since = self.told.map_or(self.interval, |told| told.elapsed());
        (!self.changed.is_empty()).then(|| self.interval.saturating_sub(since))
    }

    fn news(&mut self) -> Option<Entry> {
        let mut members = Vec::new();
        while let Some(changed) = self.changed.first_entry() {
            let member = match (self.members.get(changed.key()), changed.get()) {
                (Some(now), before) if before.as_ref().is_none_or(|before| before.get() != now.get()) => {
                    Some(Cow::Borrowed(now.get()))
                }
                (None, Some(before)) => gone(before).map(Cow::Owned),
                _ => None,
            };
            if let Some(member) = member {
                if !members.is_empty() && members.len() + member.len() + 1 > self.limit {
                    break;
                }
                list(&mut members, &member);
            }
            changed.remove();
        }
        if members.is_empty() {
            return None;
        }
        self.told = Some(Instant::now());
        Some(Entry::of(MEMBERS, &[&members, b"]"]))
    }

    fn share(&self, serial: u64) -> Option<Bytes> {
        self.members.get(&Seat::here(serial)).map(|member| Bytes::copy_from_slice(member.get().as_bytes()))
    }

    fn sharers(&self) -> Vec<u64> {
        self.members.keys().map_while(|seat| seat.serial_here()).collect()
    }

    fn take_share(&mut self, of: Seat, share: Option<&[u8]>, _: &At<'_>) -> Taken {
        // Followers are told with the other changes.
        let _ = self.take(of, share);
        Taken::Nothing
    }

    fn weight(&self) -> usize {
        self.bytes
    }
}

/// The entries of rooms: members that have changed.
#[derive(Debug)]
struct Members;

impl Form for Members {
    fn reads(&self, entry: &Entry) -> bool {
        entry.tag() == MEMBERS
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        message(entry.content(), false, at)
    }
}

/// The message with the changed members, or with all members.
fn message(members: &[u8], whole: bool, at: &At<'_>) -> Bytes {
    framed(Opcode::Presence, 0, OBJECT + at.key.len() + members.len(), at.compress_above, |out| {
        let mut object = Object::new(out).text("key", at.key).raw("members", members);
        if whole {
            object = object.raw("whole", b"true");
        }
        object.position(at.position).end();
    })
}
