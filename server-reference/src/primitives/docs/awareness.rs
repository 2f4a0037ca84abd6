//! The awareness states of a document (y-protocols), each owned by a connection, none stored.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use datasole_core::wire::push_varuint;

use super::error::DocError;
use super::{
    lib0::{Reader, push_bytes},
    update,
};

/// States of one connection: a tab has one per document.
const MAX_STATES: usize = 16;
/// States that one update may name: a client may repeat those of others.
const MAX_NAMED: u64 = 1_024;
/// JSON text of one state, bytes: a name, a colour, a selection.
const MAX_STATE: usize = 4 * 1024;
/// All states of a document, bytes.
const MAX_BYTES: usize = 256 * 1024;
/// How long the client id of a user who has gone is kept for the same user.
const RESERVED: Duration = Duration::from_secs(60);
/// Client ids that are kept so.
const MAX_RESERVED: usize = 1_024;

/// The states of one document.
#[derive(Debug, Default)]
pub(crate) struct Awareness {
    states: BTreeMap<u64, Known>,
    bytes: usize,
    /// Client ids of users who have gone, and until when they are kept for them.
    reserved: BTreeMap<u64, (Box<str>, Instant)>,
}

#[derive(Debug)]
struct Known {
    clock: u32,
    text: Box<str>,
    /// Serial of the connection that uses the client id.
    owner: u64,
    /// Its user, unless anonymous.
    user: Option<Box<str>>,
}

/// The author of an awareness update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Author<'a> {
    /// Of its connection.
    pub(crate) serial: u64,
    /// Its user, unless anonymous.
    pub(crate) user: Option<&'a str>,
}

impl Author<'_> {
    fn is(&self, user: Option<&str>) -> bool {
        user.is_some() && self.user == user
    }
}

impl Awareness {
    /// Takes a connection's awareness update; returns the update for the others, if any. What is known already, and stale
    /// states, are ignored.
    ///
    /// # Errors
    ///
    /// Fails if nothing in it has an effect, because there are too many states, or because a client id belongs to somebody
    /// else: to another connection, unless the same user's, or to a user who used it in the last minute.
    pub(crate) fn apply(
        &mut self,
        author: &Author<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DocError> {
        let said = parse(bytes)?;
        let (mut news, mut refused) = (Vec::new(), None);
        // Counted once: an update may name many.
        let mut own = self.of(author.serial).count();
        for (client, clock, text) in said {
            let known = self.states.get(&client);
            let is_new = match (known, text) {
                (None, text) => text.is_some(),
                (Some(known), None) => known.clock <= clock,
                (Some(known), Some(_)) => known.clock < clock,
            };
            if !is_new {
                continue;
            }
            let is_own = known.is_some_and(|known| known.owner == author.serial);
            let is_free = match (known, self.reserved.get(&client)) {
                (Some(known), _) => is_own || author.is(known.user.as_deref()),
                (None, Some((user, until))) => *until <= now || author.is(Some(user)),
                (None, None) => true,
            };
            if !is_free {
                refused = Some(DocError::Taken { client });
                continue;
            }
            let before = known.map_or(0, |known| known.text.len());
            let Some(text) = text else {
                self.forget(client);
                own -= usize::from(is_own);
                news.push((client, clock, None));
                continue;
            };
            if (!is_own && own >= MAX_STATES) || self.bytes - before + text.len() > MAX_BYTES {
                refused = Some(DocError::Crowded);
                continue;
            }
            own += usize::from(!is_own);
            self.bytes = self.bytes - before + text.len();
            let user = author.user.map(Into::into);
            self.states.insert(client, Known { clock, text: text.into(), owner: author.serial, user });
            self.reserved.remove(&client);
            news.push((client, clock, Some(text)));
        }
        match (news.len(), refused) {
            (0, Some(error)) => Err(error),
            (0, None) => Ok(None),
            (count, _) => Ok(Some(encode(count, news.into_iter()))),
        }
    }

    /// Forgets the clients of a connection that is gone; returns the update for the others. The ids of a user stay
    /// reserved for a minute.
    pub(crate) fn leave(&mut self, owner: u64, now: Instant) -> Option<Vec<u8>> {
        let gone: Vec<(u64, u32)> = self.of(owner).collect();
        self.reserved.retain(|_, (_, until)| *until > now);
        for (client, _) in &gone {
            if let Some(user) = self.forget(*client).and_then(|state| state.user)
                && self.reserved.len() < MAX_RESERVED
            {
                self.reserved.insert(*client, (user, now + RESERVED));
            }
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

    fn forget(&mut self, client: u64) -> Option<Known> {
        self.states.remove(&client).inspect(|state| self.bytes -= state.text.len())
    }
}

/// Client, clock, and JSON text unless it is gone.
type Said<'a> = (u64, u32, Option<&'a str>);

fn parse(bytes: &[u8]) -> Result<Vec<Said<'_>>, DocError> {
    const CUT: DocError = DocError::Malformed("an awareness update ends early");
    let reader = &mut Reader::new(bytes);
    let mut said = Vec::new();
    let count = reader.varuint().ok_or(CUT)?;
    if count > MAX_NAMED {
        return Err(DocError::Crowded);
    }
    for _ in 0..count {
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

    const ANN: Author<'_> = Author { serial: 1, user: Some("ann") };
    const BOB: Author<'_> = Author { serial: 2, user: Some("bob") };

    fn anonymous(serial: u64) -> Author<'static> {
        Author { serial, user: None }
    }

    fn said(states: &[Said<'_>]) -> Vec<u8> {
        encode(states.len(), states.iter().copied())
    }

    /// Applies a connection's update; returns the clients in the update for the others.
    fn check(awareness: &mut Awareness, author: Author<'_>, states: &[Said<'_>], told: &[Said<'_>]) {
        let news = awareness.apply(&author, &said(states), Instant::now()).unwrap();
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
        // Content that has been taken away belongs to nobody.
        check(awareness, BOB, &[(7, 1, Some("1"))], &[(7, 1, Some("1"))]);
    }

    #[test]
    fn who_speaks_for_others_alone_is_told() {
        let awareness = &mut Awareness::default();
        check(awareness, ANN, &[(7, 3, Some("1"))], &[(7, 3, Some("1"))]);
        for lie in [(7, 4, Some("2")), (7, 3, None)] {
            let told = awareness.apply(&BOB, &said(&[lie]), Instant::now());
            assert!(matches!(told, Err(DocError::Taken { client: 7 })), "{lie:?}");
        }
        // To repeat what is known is no lie.
        check(awareness, BOB, &[(7, 3, Some("1")), (7, 2, None)], &[]);
        // Another connection of the same user takes over, also while the first one is thought to be there.
        let again = Author { serial: 3, ..ANN };
        check(awareness, again, &[(7, 4, Some("2"))], &[(7, 4, Some("2"))]);
        assert_eq!(awareness.leave(ANN.serial, Instant::now()), None);
        check(awareness, again, &[(7, 4, None)], &[(7, 4, None)]);
    }

    #[test]
    fn an_id_is_reserved_for_its_user_for_a_minute() {
        let now = Instant::now();
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        let update = said(&[(7, 5, Some("1"))]);
        for (author, after, fits) in
            [(BOB, 59, false), (BOB, 60, true), (anonymous(3), 59, false), (Author { serial: 9, ..ANN }, 1, true)]
        {
            let awareness = &mut Awareness::default();
            awareness.apply(&ANN, &said(&[(7, 1, Some("1"))]), now).unwrap();
            awareness.leave(ANN.serial, now);
            let outcome = awareness.apply(&author, &update, later(after));
            assert_eq!(outcome.is_ok(), fits, "{author:?} after {after} s");
            assert_eq!(awareness.reserved.is_empty(), fits);
        }
        // Nobody knows whether an anonymous one who comes is the same.
        let awareness = &mut Awareness::default();
        awareness.apply(&anonymous(1), &said(&[(7, 1, Some("1"))]), now).unwrap();
        awareness.leave(1, now);
        assert!(awareness.apply(&anonymous(2), &update, now).is_ok());
        // Their number is bounded, and they are forgotten.
        let awareness = &mut Awareness::default();
        for client in 0..=MAX_RESERVED as u64 {
            awareness.apply(&ANN, &said(&[(client, 1, Some("1"))]), now).unwrap();
            awareness.leave(ANN.serial, now);
        }
        assert_eq!(awareness.reserved.len(), MAX_RESERVED);
        awareness.leave(ANN.serial, later(60));
        assert!(awareness.reserved.is_empty());
    }

    #[test]
    fn the_states_of_one_update_are_bounded() {
        for (count, fits) in [(MAX_NAMED - 1, true), (MAX_NAMED, true), (MAX_NAMED + 1, false)] {
            let states: Vec<Said<'_>> = (0..count).map(|client| (client, 1, None)).collect();
            let outcome = Awareness::default().apply(&ANN, &said(&states), Instant::now());
            assert_eq!(outcome.is_ok(), fits, "{count}");
        }
    }

    #[test]
    fn a_connection_takes_its_clients_with_it() {
        let awareness = &mut Awareness::default();
        check(awareness, ANN, &[(7, 4, Some("1")), (9, 5, Some("2"))], &[(7, 4, Some("1")), (9, 5, Some("2"))]);
        check(awareness, BOB, &[(8, 1, Some("3"))], &[(8, 1, Some("3"))]);
        assert_eq!(awareness.leave(ANN.serial, Instant::now()), Some(said(&[(7, 4, None), (9, 5, None)])));
        assert_eq!(awareness.leave(ANN.serial, Instant::now()), None);
        assert_eq!(awareness.all(), Some(said(&[(8, 1, Some("3"))])));
        assert!(awareness.leave(BOB.serial, Instant::now()).is_some() && awareness.all().is_none());
        assert_eq!(awareness.bytes, 0);
    }

    #[test]
    fn states_are_bounded_in_number_and_size() {
        let awareness = &mut Awareness::default();
        for client in 0..MAX_STATES as u64 {
            check(awareness, ANN, &[(client, 1, Some("1"))], &[(client, 1, Some("1"))]);
        }
        assert!(matches!(awareness.apply(&ANN, &said(&[(99, 1, Some("1"))]), Instant::now()), Err(DocError::Crowded)));
        check(awareness, ANN, &[(3, 2, None)], &[(3, 2, None)]);
        check(awareness, ANN, &[(99, 1, Some("1"))], &[(99, 1, Some("1"))]);

        let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        for (bytes, fits) in [(MAX_STATE - 1, true), (MAX_STATE, true), (MAX_STATE + 1, false)] {
            assert_eq!(
                awareness.apply(&BOB, &said(&[(100, bytes as u32, Some(&long(bytes)))]), Instant::now()).is_ok(),
                fits
            );
        }
        let mut apply =
            |serial: u64, states: &[Said<'_>]| awareness.apply(&anonymous(serial), &said(states), Instant::now());
        let mut serial = BOB.serial;
        while apply(serial + 1, &[(1_001 + serial, 1, Some(&long(MAX_STATE)))]).is_ok() {
            serial += 1;
        }
        let left = MAX_BYTES - awareness.bytes;
        assert!(left < MAX_STATE);
        let mut apply = |states: &[Said<'_>]| awareness.apply(&anonymous(9_999), &said(states), Instant::now());
        assert!(apply(&[(1, 1, Some("1")), (9_999, 1, Some(&long(left + 1)))]).is_err());
        assert!(apply(&[(9_999, 1, Some(&long(left)))]).is_ok());
        assert_eq!(awareness.bytes, MAX_BYTES);
    }

    #[test]
    fn what_others_could_not_read_is_refused() {
        let whole = said(&[(7, 1, Some("{\"name\":\"Ann\"}")), (8, 300, None)]);
        for end in 0..whole.len() {
            assert!(Awareness::default().apply(&ANN, &whole[..end], Instant::now()).is_err(), "cut to {end}");
        }
        let deep = "[".repeat(128) + &"]".repeat(128);
        for text in ["", "{", "undefined", "1 2", r#""\ud800""#, "1e999", &deep] {
            let awareness = &mut Awareness::default();
            assert!(awareness.apply(&ANN, &said(&[(7, 1, Some(text))]), Instant::now()).is_err(), "{text}");
            assert!(awareness.all().is_none());
        }
        let far = said(&[(1 << 53, 1, Some("1"))]);
        assert!(Awareness::default().apply(&ANN, &far, Instant::now()).is_err());
        assert!(Awareness::default().apply(&ANN, &[&whole[..], &[0]].concat(), Instant::now()).is_err());
    }
}
