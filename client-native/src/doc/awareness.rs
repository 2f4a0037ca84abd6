//! [`Table`]: what each client of a document shows of itself (y-protocols' awareness), cursors mostly.

use std::collections::BTreeMap;

use datasole_core::wire::{push_varuint, split_varuint};

/// Clients that are kept; more are not shown.
const MAX_CLIENTS: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Table {
    clients: BTreeMap<u64, Shown>,
    own: Own,
}

#[derive(Debug)]
struct Shown {
    clock: u64,
    json: String,
}

#[derive(Debug, Default)]
struct Own {
    clock: u64,
    json: Option<String>,
    unsent: bool,
}

impl Table {
    /// What this client shows from now on.
    pub(crate) fn set_own(&mut self, json: Option<String>) {
        self.own =
            Own { clock: self.own.clock.saturating_add(1), unsent: json.is_some() || self.own.json.is_some(), json };
    }

    pub(crate) fn has_own(&self) -> bool {
        self.own.json.is_some()
    }

    pub(crate) fn is_unsent(&self) -> bool {
        self.own.unsent
    }

    /// To be sent again, so that others do not take it for outdated.
    pub(crate) fn renew(&mut self) {
        if let Some(json) = self.own.json.take() {
            self.set_own(Some(json));
        }
    }

    /// What is to be sent: an awareness update with this client's state.
    pub(crate) fn announce(&mut self, own: u64) -> Vec<u8> {
        self.own.unsent = false;
        encode(own, self.own.clock, self.own.json.as_deref().unwrap_or("null"))
    }

    /// Takes an awareness update, as far as it can be read; `true` when something changed.
    pub(crate) fn apply(&mut self, own: u64, update: &[u8]) -> bool {
        let mut changed = false;
        let Some((count, mut rest)) = split_varuint(update) else { return false };
        for _ in 0..count {
            let Some((id, clock, json, after)) = read_entry(rest) else { break };
            rest = after;
            changed |= self.apply_entry(own, id, clock, Some(json).filter(|json| *json != "null"));
        }
        changed
    }

    fn apply_entry(&mut self, own: u64, id: u64, clock: u64, json: Option<&str>) -> bool {
        if id == own {
            // Somebody took us for gone, or this client's state of an earlier connection is about.
            if clock >= self.own.clock && json != self.own.json.as_deref() {
                self.own.clock = clock.saturating_add(1);
                self.own.unsent = true;
            }
            return false;
        }
        let known = self.clients.get(&id).map(|shown| shown.clock);
        match json {
            None if known.is_some_and(|known| clock >= known) => {
                self.clients.remove(&id);
                true
            }
            Some(json) if known.map_or(self.clients.len() < MAX_CLIENTS, |known| clock > known) => {
                self.clients.insert(id, Shown { clock, json: json.to_owned() });
                true
            }
            _ => false,
        }
    }

    /// Without a connection nobody is known to be there; `true` when somebody was.
    pub(crate) fn forget_others(&mut self) -> bool {
        self.own.unsent = self.own.json.is_some();
        let changed = !self.clients.is_empty();
        self.clients.clear();
        changed
    }

    /// Everybody, this client included, as JSON texts.
    pub(crate) fn all(&self, own: u64) -> impl Iterator<Item = (u64, &str)> {
        let others = self.clients.iter().map(|(id, shown)| (*id, shown.json.as_str()));
        others.chain(self.own.json.as_deref().map(|json| (own, json)))
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

    /// Applies updates of client 2; what is shown of it.
    fn check(updates: &[(u64, &str)], shown: Option<&str>) {
        let mut table = Table::default();
        for &(clock, json) in updates {
            table.apply(OWN, &encode(2, clock, json));
        }
        assert_eq!(table.all(OWN).next().map(|(_, json)| json), shown, "{updates:?}");
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
        let mut table = Table::default();
        for id in 0..=MAX_CLIENTS as u64 {
            assert_eq!(table.apply(OWN, &encode(10 + id, 1, "0")), id < MAX_CLIENTS as u64);
        }
        assert!(table.apply(OWN, &encode(10, 2, "1")), "who is known can change");
    }

    #[test]
    fn nobody_else_removes_our_own() {
        let mut table = Table::default();
        table.set_own(Some("1".into()));
        let sent = table.announce(OWN);
        table.apply(OWN, &sent);
        assert!(!table.is_unsent(), "an echo");
        let clock = table.own.clock;
        table.apply(OWN, &encode(OWN, clock + 1, "null"));
        assert!(table.is_unsent());
        assert_eq!(table.announce(OWN), encode(OWN, clock + 2, "1"));
    }

    #[test]
    fn what_cannot_be_read_is_left() {
        let whole = encode(2, 1, "[1]");
        for len in 0..whole.len() {
            assert!(!Table::default().apply(OWN, &whole[..len]), "{len}");
        }
        assert!(Table::default().apply(OWN, &whole));
        let mut many = whole.clone();
        many[0] = 0x7f;
        assert!(Table::default().apply(OWN, &many), "fewer than announced");
    }
}
