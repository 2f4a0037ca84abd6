//! The promise on messages without history: at most once, in order per sender.

use super::Counts;
use super::event::{At, Function, History, Id, Key, Kind};
use super::index::Map;
use super::violation::Violation;

struct Sent {
    key: Key,
    process: u32,
    at: At,
    failed: bool,
}

/// (10) A process receives a message at most once, only after it was sent to the address, and the messages of a sender
/// to an address in the order in which the sender began them.
pub(super) fn delivery(history: &History, counts: &mut Counts, violations: &mut Vec<Violation>) {
    let mut sent: Map<Id, Sent> = Map::default();
    for (at, event) in history.events.iter().enumerate() {
        let Function::Send { id } = event.function else { continue };
        match event.kind {
            Kind::Invoke => {
                let message = Sent { key: event.key, process: event.process, at, failed: false };
                if sent.insert(id, message).is_some() {
                    violations.push(Violation::Malformed { at, why: "a message is sent twice" });
                }
            }
            Kind::Fail => _ = sent.get_mut(&id).map(|message| message.failed = true),
            _ => {}
        }
    }
    let mut received: Map<(u32, Id), At> = Map::default();
    // By recipient, sender and address: the last message sent of those received, and the event that received it.
    let mut last: Map<(u32, u32, Key), (At, At)> = Map::default();
    for (at, event) in history.events.iter().enumerate() {
        let Function::Receive { id } = event.function else { continue };
        counts.messages += 1;
        let message = sent.get(&id).filter(|message| message.key == event.key && !message.failed);
        let Some(message) = message.filter(|message| history.events[message.at].time <= event.time) else {
            violations.push(Violation::Unsent { id, at });
            continue;
        };
        if let Some(&one) = received.get(&(event.process, id)) {
            violations.push(Violation::Redelivered { id, one, other: at });
            continue;
        }
        received.insert((event.process, id), at);
        let (latest, after) = last.entry((event.process, message.process, event.key)).or_insert((message.at, at));
        if message.at < *latest {
            violations.push(Violation::Disordered { after: *after, at });
        } else {
            (*latest, *after) = (message.at, at);
        }
    }
}
