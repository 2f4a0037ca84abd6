//! The awareness states of a document (y-protocols), each owned by a connection, none stored.

use std::collections::BTreeMap;

use datasole_core::wire::push_varuint;

use super::error::DocError;
use super::{
    lib0::{Reader, push_bytes},
    update,
};

/// States of one connection: a tab has one per document.
const MAX_STATES: usize = 16;
/// JSON text of one state, bytes: a name, a colour, a selection.
const MAX_STATE: usize = 4 * 1024;
/// All states of a document, bytes.
const MAX_BYTES: usize = 256 * 1024;

/// The states of one document.
#[derive(Debug, Default)]
pub(crate) struct Awareness {
    states: BTreeMap<u64, Known>,
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    clock: u32,
    text: Box<str>,
    /// Serial of the connection that first used the client id.
    owner: u64,
}

impl Awareness {
    /// Takes a connection's awareness update; returns the update for the others, if any. States of other connections'
    /// clients, and stale states, are ignored.
    pub(crate) fn apply(&mut self, owner: u64, bytes: &[u8]) -> Result<Option<Vec<u8>>, DocError> {
        let said = parse(bytes)?;
        let (mut news, mut crowded) = (Vec::new(), false);
        // Counted once: an update may name many.
        let mut own = self.of(owner).count();
        for (client, clock, text) in said {
            let known = self.states.get(&client);
            if known.is_some_and(|known| known.owner != owner) {
                continue;
            }
            match text {
                None => {
                    if known.is_some_and(|known| known.clock <= clock) {
                        self.forget(client);
                        own -= 1;
                        news.push((client, clock, None));
                    }
                }
                Some(text) => {
                    if known.is_some_and(|known| known.clock >= clock) {
                        continue;
                    }
                    let before = known.map_or(0, |known| known.text.len());
                    let many = known.is_none() && own >= MAX_STATES;
                    if many || self.bytes - before + text.len() > MAX_BYTES {
                        crowded = true;
                        continue;
                    }
                    own += usize::from(known.is_none());
                    self.bytes = self.bytes - before + text.len();
                    self.states.insert(client, Known { clock, text: text.into(), owner });
                    news.push((client, clock, Some(text)));
                }
            }
        }
        match news.len() {
            0 if crowded => Err(DocError::Crowded),
            0 => Ok(None),
            count => Ok(Some(encode(count, news.into_iter()))),
        }
    }

    /// Forgets the clients of a connection that is gone; returns the update for the others.
    pub(crate) fn leave(&mut self, owner: u64) -> Option<Vec<u8>> {
        let gone: Vec<(u64, u32)> = self.of(owner).collect();
        for (client, _) in &gone {
            self.forget(*client);
        }
        // At the clock it had: the next clock brings the client back.
        let states = gone.iter().map(|(client, clock)| (*client, *clock, None));
        (!gone.is_empty()).then(|| encode(gone.len(), states))
    }

    /// All states, for a new follower.
    pub(crate) fn all(&self) -> Option<Vec<u8>> {
        let states = self.states.iter().map(|(client, state)| (*client, state.clock, Some(&*state.text)));
        (!self.states.is_empty()).then(|| encode(self.states.len(), states))
    }

    fn of(&self, owner: u64) -> impl Iterator<Item = (u64, u32)> {
        let own = self.states.iter().filter(move |(_, state)| state.owner == owner);
        own.map(|(client, state)| (*client, state.clock))
    }

    fn forget(&mut self, client: u64) {
        self.bytes -= self.states.remove(&client).map_or(0, |state| state.text.len());
    }
}

/// Client, clock, and JSON text unless it is gone.
type Said<'a> = (u64, u32, Option<&'a str>);

fn parse(bytes: &[u8]) -> Result<Vec<Said<'_>>, DocError> {
    const CUT: DocError = DocError::Malformed("an awareness update ends early");
    let reader = &mut Reader::new(bytes);
    let mut said = Vec::new();
    for _ in 0..reader.varuint().ok_or(CUT)? {
        let (client, clock) = (update::client(reader)?, update::clock(reader)?);
        let text = reader.string().ok_or(CUT)?;
        if text.len() > MAX_STATE {
            return Err(DocError::Crowded);
        }
        // Others parse it, together with everybody else's: as strictly, and no deeper, than any of them.
        if datasole_core::value::parse(text).is_err() {
            return Err(DocError::Malformed("an awareness state is no JSON, too deep or not Unicode"));
        }
        said.push((client, clock, (text.trim_ascii() != "null").then_some(text)));
    }
    if reader.is_empty() { Ok(said) } else { Err(DocError::Malformed("bytes follow the awareness update")) }
}

fn encode<'a>(count: usize, states: impl Iterator<Item = Said<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    push_varuint(&mut out, count as u64);
    for (client, clock, text) in states {
        push_varuint(&mut out, client);
        push_varuint(&mut out, u64::from(clock));
        push_bytes(&mut out, text.unwrap_or("null").as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: u64 = 1;
    const BOB: u64 = 2;

    fn said(states: &[Said<'_>]) -> Vec<u8> {
        encode(states.len(), states.iter().copied())
    }

    /// Applies a connection's update; returns the clients in the update for the others.
    fn check(awareness: &mut Awareness, owner: u64, states: &[Said<'_>], told: &[Said<'_>]) {
        let news = awareness.apply(owner, &said(states)).unwrap();
        assert_eq!(news, (!told.is_empty()).then(|| said(told)), "{states:?}");
        assert_eq!(awareness.bytes, awareness.states.values().map(|state| state.text.len()).sum::<usize>());
    }

    #[test]
    fn newer_clocks_win_and_clients_belong_to_their_connection() {
        let awareness = &mut Awareness::default();
        check(awareness, ANN, &[(7, 1, Some("{}"))], &[(7, 1, Some("{}"))]);
        check(awareness, ANN, &[(7, 1, Some("[]"))], &[]);
        check(awareness, ANN, &[(7, 3, Some("[1]"))], &[(7, 3, Some("[1]"))]);
        check(awareness, ANN, &[(7, 2, None), (7, 2, Some("2"))], &[]);
        // Bob repeats what he has heard, and lies about Ann.
        check(awareness, BOB, &[(7, 3, Some("[1]")), (7, 9, None), (8, 1, Some("0"))], &[(8, 1, Some("0"))]);
        assert_eq!(awareness.all(), Some(said(&[(7, 3, Some("[1]")), (8, 1, Some("0"))])));
        check(awareness, ANN, &[(7, 3, Some("[1]")), (7, 3, Some(" null "))], &[(7, 3, None)]);
        // Who is gone belongs to nobody.
        check(awareness, BOB, &[(7, 1, Some("1"))], &[(7, 1, Some("1"))]);
    }

    #[test]
    fn a_connection_takes_its_clients_with_it() {
        let awareness = &mut Awareness::default();
        check(awareness, ANN, &[(7, 4, Some("1")), (9, 5, Some("2"))], &[(7, 4, Some("1")), (9, 5, Some("2"))]);
        check(awareness, BOB, &[(8, 1, Some("3"))], &[(8, 1, Some("3"))]);
        assert_eq!(awareness.leave(ANN), Some(said(&[(7, 4, None), (9, 5, None)])));
        assert_eq!(awareness.leave(ANN), None);
        assert_eq!(awareness.all(), Some(said(&[(8, 1, Some("3"))])));
        assert!(awareness.leave(BOB).is_some() && awareness.all().is_none());
        assert_eq!(awareness.bytes, 0);
    }

    #[test]
    fn states_are_bounded_in_number_and_size() {
        let awareness = &mut Awareness::default();
        for client in 0..MAX_STATES as u64 {
            check(awareness, ANN, &[(client, 1, Some("1"))], &[(client, 1, Some("1"))]);
        }
        assert!(matches!(awareness.apply(ANN, &said(&[(99, 1, Some("1"))])), Err(DocError::Crowded)));
        check(awareness, ANN, &[(3, 2, None)], &[(3, 2, None)]);
        check(awareness, ANN, &[(99, 1, Some("1"))], &[(99, 1, Some("1"))]);

        let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        for (bytes, fits) in [(MAX_STATE - 1, true), (MAX_STATE, true), (MAX_STATE + 1, false)] {
            assert_eq!(awareness.apply(BOB, &said(&[(100, bytes as u32, Some(&long(bytes)))])).is_ok(), fits);
        }
        let mut owner = BOB;
        while awareness.bytes + MAX_STATE <= MAX_BYTES {
            owner += 1;
            let client = 1_000 + owner;
            assert!(awareness.apply(owner, &said(&[(client, 1, Some(&long(MAX_STATE)))])).is_ok());
        }
        let left = MAX_BYTES - awareness.bytes;
        assert!(awareness.apply(9_999, &said(&[(1, 1, Some("1")), (9_999, 1, Some(&long(left + 1)))])).is_err());
        assert!(awareness.apply(9_999, &said(&[(9_999, 1, Some(&long(left)))])).is_ok());
        assert_eq!(awareness.bytes, MAX_BYTES);
    }

    #[test]
    fn what_others_could_not_read_is_refused() {
        let whole = said(&[(7, 1, Some("{\"name\":\"Ann\"}")), (8, 300, None)]);
        for end in 0..whole.len() {
            assert!(Awareness::default().apply(ANN, &whole[..end]).is_err(), "cut to {end}");
        }
        let deep = "[".repeat(128) + &"]".repeat(128);
        for text in ["", "{", "undefined", "1 2", r#""\ud800""#, "1e999", &deep] {
            let awareness = &mut Awareness::default();
            assert!(awareness.apply(ANN, &said(&[(7, 1, Some(text))])).is_err(), "{text}");
            assert!(awareness.all().is_none());
        }
        let far = said(&[(1 << 53, 1, Some("1"))]);
        assert!(Awareness::default().apply(ANN, &far).is_err());
        assert!(Awareness::default().apply(ANN, &[&whole[..], &[0]].concat()).is_err());
    }
}
