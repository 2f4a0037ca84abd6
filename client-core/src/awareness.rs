//! [`States`]: the awareness states of a document's clients (y-protocols), cursors mostly, for hosts without a library for them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::wire::{push_varuint, split_varuint};

/// Clients that are kept; more are not shown.
const MAX_CLIENTS: usize = 10_000;

/// The awareness states of a document's clients, as one of them knows them.
#[derive(Debug)]
pub struct States {
    /// This client.
    own: u64,
    clock: u64,
    json: Option<String>,
    /// The clock and the JSON of each other client.
    others: BTreeMap<u64, (u64, String)>,
    last: &'static AtomicU64,
}

impl States {
    /// The states that the Yjs client `own` knows: none. `last` is the last clock that any client of this program was
    /// announced with, because a document may be opened again with the Yjs client that others have heard of.
    pub fn new(own: u64, last: &'static AtomicU64) -> Self {
        Self { own, clock: last.load(Ordering::Relaxed), json: None, others: BTreeMap::new(), last }
    }

    /// Sets this client's state; returns the awareness update that announces it.
    pub fn show(&mut self, json: Option<String>) -> Vec<u8> {
        self.json = json;
        self.announce(1)
    }

    /// Repeats the announcement with a later clock, because others may consider this client stale or gone; `None`
    /// without a state.
    pub fn renew(&mut self) -> Option<Vec<u8>> {
        self.json.is_some().then(|| self.announce(2))
    }

    fn announce(&mut self, later: u64) -> Vec<u8> {
        self.clock = self.clock.saturating_add(later);
        self.last.fetch_max(self.clock, Ordering::Relaxed);
        encode(self.own, self.clock, self.json.as_deref().unwrap_or("null"))
    }

    /// Takes an awareness update, as far as it can be read. Returns whether states of others changed, and an
    /// announcement of this client if the update contradicts it.
    pub fn apply(&mut self, update: &[u8]) -> (bool, Option<Vec<u8>>) {
        let (mut changed, mut contradicted) = (false, false);
        let Some((count, mut rest)) = split_varuint(update) else { return (false, None) };
        for _ in 0..count {
            let Some((id, clock, json, after)) = read_entry(rest) else { break };
            rest = after;
            let json = Some(json).filter(|json| *json != "null");
            if id == self.own {
                // Somebody took us for gone, or this client's state of an earlier connection is about.
                contradicted |= clock >= self.clock && json != self.json.as_deref();
                self.clock = self.clock.max(clock);
            } else {
                changed |= self.apply_other(id, clock, json);
            }
        }
        (changed, contradicted.then(|| self.announce(1)))
    }

    fn apply_other(&mut self, id: u64, clock: u64, json: Option<&str>) -> bool {
        let known = self.others.get(&id).map(|(known, _)| *known);
        let change = match json {
            None => known.is_some_and(|known| clock >= known),
            Some(_) => known.map_or(self.others.len() < MAX_CLIENTS, |known| clock > known),
        };
        match json.filter(|_| change) {
            Some(json) => drop(self.others.insert(id, (clock, json.to_owned()))),
            None if change => drop(self.others.remove(&id)),
            None => {}
        }
        change
    }

    /// Removes all other clients, because the connection was lost; `true` if there were any.
    pub fn forget_others(&mut self) -> bool {
        !std::mem::take(&mut self.others).is_empty()
    }

    /// The states of all clients, this one included, as JSON texts.
    pub fn all(&self) -> impl Iterator<Item = (u64, &str)> {
        let others = self.others.iter().map(|(id, (_, json))| (*id, json.as_str()));
        others.chain(self.json.as_deref().map(|json| (self.own, json)))
    }
}

/// The number of entries, then of each the client, its clock and its JSON.
fn encode(id: u64, clock: u64, json: &str) -> Vec<u8> {
    let mut update = Vec::with_capacity(json.len() + 24);
    for number in [1, id, clock, json.len() as u64] {
        push_varuint(&mut update, number);
    }
    update.extend_from_slice(json.as_bytes());
    update
}

fn read_entry(bytes: &[u8]) -> Option<(u64, u64, &str, &[u8])> {
    let (id, rest) = split_varuint(bytes)?;
    let (clock, rest) = split_varuint(rest)?;
    let (len, rest) = split_varuint(rest)?;
    let (json, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((id, clock, std::str::from_utf8(json).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = 1;

    fn table() -> States {
        static NONE: AtomicU64 = AtomicU64::new(0);
        States { clock: 0, ..States::new(OWN, &NONE) }
    }

    /// Applies updates of client 2; what is shown of it.
    fn check(updates: &[(u64, &str)], shown: Option<&str>) {
        let mut table = table();
        for &(clock, json) in updates {
            table.apply(&encode(2, clock, json));
        }
        assert_eq!(table.all().next().map(|(_, json)| json), shown, "{updates:?}");
    }

    #[test]
    fn later_clocks_win_and_null_removes() {
        check(&[(1, "1"), (2, "2")], Some("2"));
        check(&[(2, "2"), (1, "1"), (2, "3")], Some("2"));
        check(&[(2, "2"), (1, "null")], Some("2"));
        check(&[(2, "2"), (2, "null")], None);
        check(&[(2, "2"), (3, "null"), (1, "1")], Some("1"));
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let mut table = table();
        for id in 0..=MAX_CLIENTS as u64 {
            assert_eq!(table.apply(&encode(10 + id, 1, "0")), (id < MAX_CLIENTS as u64, None));
        }
        assert_eq!(table.apply(&encode(10, 2, "1")), (true, None), "who is known can change");
    }

    #[test]
    fn nobody_else_removes_our_own() {
        let mut table = table();
        assert_eq!(table.renew(), None);
        let sent = table.show(Some("1".into()));
        assert_eq!(table.apply(&sent), (false, None), "an echo");
        assert_eq!(table.apply(&encode(OWN, 0, "null")), (false, None), "older");
        assert_eq!(table.apply(&encode(OWN, 2, "null")), (false, Some(encode(OWN, 3, "1"))));
        assert_eq!(table.renew(), Some(encode(OWN, 5, "1")));
        assert_eq!(table.show(None), encode(OWN, 6, "null"));
        assert_eq!(table.renew(), None);
    }

    #[test]
    fn what_cannot_be_read_is_left() {
        let whole = encode(2, 1, "[1]");
        for len in 0..whole.len() {
            assert_eq!(table().apply(&whole[..len]), (false, None), "{len}");
        }
        assert_eq!(table().apply(&whole), (true, None));
        let mut many = whole.clone();
        many[0] = 0x7f;
        assert_eq!(table().apply(&many), (true, None), "fewer than announced");
    }

    #[test]
    fn the_next_states_of_a_client_go_on_with_its_clock() {
        static LAST: AtomicU64 = AtomicU64::new(7);
        let mut first = States::new(OWN, &LAST);
        assert_eq!(first.show(Some("1".into())), encode(OWN, 8, "1"));
        assert_eq!(States::new(OWN, &LAST).show(Some("2".into())), encode(OWN, 9, "2"));
    }
}
