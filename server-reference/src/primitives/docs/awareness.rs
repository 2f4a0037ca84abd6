//! The awareness states of a document (y-protocols), each owned by a connection, none stored. What a connection shares
//! with other servers is its states.

use std::{collections::BTreeMap, time::Duration};

use datasole_core::wire::push_varuint;
use tokio::time::Instant;

use super::error::DocError;
use super::{
    lib0::{Reader, push_bytes},
    update,
};
use crate::hub::Seat;

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
    /// Connections of this server that have lost a state to another since that was last asked.
    robbed: Vec<u64>,
}

#[derive(Debug)]
struct Known {
    clock: u32,
    text: Box<str>,
    /// The connection that uses the client id.
    owner: Seat,
    /// Its user, unless anonymous.
    user: Option<Box<str>>,
}

/// The author of an awareness update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Author<'a> {
    /// Its connection.
    pub(crate) seat: Seat,
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
        let mut own = self.of(author.seat).count();
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
            let is_own = known.is_some_and(|known| known.owner == author.seat);
            if !self.is_free(client, author, now) {
                refused = Some(DocError::Taken { client });
                continue;
            }
            let Some(text) = text else {
                // Another server's connection is that server's to take away.
                if known.is_some_and(|known| known.owner.serial_here().is_some()) {
                    self.take_over(client, author.seat);
                    self.forget(client);
                    own -= usize::from(is_own);
                    news.push((client, clock, None));
                }
                continue;
            };
            if (!is_own && own >= MAX_STATES) || !self.set(client, clock, text, author) {
                refused = Some(DocError::Crowded);
                continue;
            }
            own += usize::from(!is_own);
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
    pub(crate) fn leave(&mut self, owner: Seat, now: Instant) -> Option<Vec<u8>> {
        let gone: Vec<(u64, u32)> = self.of(owner).collect();
        self.retire(&gone, now);
        let states = gone.iter().map(|(client, clock)| (*client, *clock, None));
        (!gone.is_empty()).then(|| encode(gone.len(), states))
    }

    /// Forgets clients, at the clocks they had: the next clock brings a client back.
    fn retire(&mut self, gone: &[(u64, u32)], now: Instant) {
        self.reserved.retain(|_, (_, until)| *until > now);
        for (client, _) in gone {
            if let Some(user) = self.forget(*client).and_then(|state| state.user)
                && self.reserved.len() < MAX_RESERVED
            {
                self.reserved.insert(*client, (user, now + RESERVED));
            }
        }
    }

    /// The user and the states of a connection of this server, for other servers: 1, or 0 for an anonymous user, the
    /// length and bytes of the user's id, then an awareness update.
    pub(crate) fn share(&self, serial: u64) -> Option<Vec<u8>> {
        let seat = Seat::here(serial);
        let own = || self.states.iter().filter(move |(_, state)| state.owner == seat);
        let user = own().next()?.1.user.as_deref();
        let mut out = Vec::new();
        out.push(u8::from(user.is_some()));
        push_bytes(&mut out, user.unwrap_or_default().as_bytes());
        let states = own().map(|(client, state)| (*client, state.clock, Some(&*state.text)));
        out.append(&mut encode(own().count(), states));
        Some(out)
    }

    /// The connections of this server that have states.
    pub(crate) fn sharers(&self) -> Vec<u64> {
        let mut sharers: Vec<u64> = self.states.values().filter_map(|state| state.owner.serial_here()).collect();
        sharers.sort_unstable();
        sharers.dedup();
        sharers
    }

    /// The connections of this server that have lost a state to another of their user since this was last asked.
    pub(crate) fn robbed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.robbed)
    }

    /// Takes what a connection of another server shares, in place of what it has shared; returns the update for
    /// followers, if any. The bounds are those of connections here: what exceeds them, and ids that belong to
    /// another user, is left out, until the shares are read again.
    pub(crate) fn take(&mut self, seat: Seat, share: Option<&[u8]>, now: Instant) -> Option<Vec<u8>> {
        let (user, mut said) = match share.map(read_share) {
            Some(read) => read.ok()?,
            None => (None, Vec::new()),
        };
        let author = Author { seat, user };
        said.truncate(MAX_STATES);
        let mut gone: Vec<(u64, u32)> = self.of(seat).collect();
        gone.retain(|(client, _)| said.iter().all(|(named, ..)| named != client));
        self.retire(&gone, now);
        let mut news: Vec<Said<'_>> = gone.into_iter().map(|(client, clock)| (client, clock, None)).collect();
        for (client, clock, text) in said {
            let is_new = self.states.get(&client).is_none_or(|known| known.clock < clock);
            if let Some(text) = text
                && is_new
                && self.is_free(client, &author, now)
                && self.set(client, clock, text, &author)
            {
                news.push((client, clock, Some(text)));
            }
        }
        (!news.is_empty()).then(|| encode(news.len(), news.into_iter()))
    }

    /// Whether a client id may be the author's.
    fn is_free(&self, client: u64, author: &Author<'_>, now: Instant) -> bool {
        match (self.states.get(&client), self.reserved.get(&client)) {
            (Some(known), _) => known.owner == author.seat || author.is(known.user.as_deref()),
            (None, Some((user, until))) => *until <= now || author.is(Some(user)),
            (None, None) => true,
        }
    }

    /// Sets a state, unless there would be too many bytes.
    fn set(&mut self, client: u64, clock: u32, text: &str, author: &Author<'_>) -> bool {
        let before = self.states.get(&client).map_or(0, |known| known.text.len());
        if self.bytes - before + text.len() > MAX_BYTES {
            return false;
        }
        self.take_over(client, author.seat);
        self.bytes = self.bytes - before + text.len();
        let user = author.user.map(Into::into);
        self.states.insert(client, Known { clock, text: text.into(), owner: author.seat, user });
        self.reserved.remove(&client);
        true
    }

    /// Takes note of a connection whose state becomes another's.
    fn take_over(&mut self, client: u64, by: Seat) {
        let owner = self.states.get(&client).map(|known| known.owner).filter(|owner| *owner != by);
        self.robbed.extend(owner.and_then(Seat::serial_here));
    }

    /// All states, for a new follower.
    pub(crate) fn all(&self) -> Option<Vec<u8>> {
        let states = self.states.iter().map(|(client, state)| (*client, state.clock, Some(&*state.text)));
        (!self.states.is_empty()).then(|| encode(self.states.len(), states))
    }

    fn of(&self, owner: Seat) -> impl Iterator<Item = (u64, u32)> {
        let own = self.states.iter().filter(move |(_, state)| state.owner == owner);
        own.map(|(client, state)| (*client, state.clock))
    }

    fn forget(&mut self, client: u64) -> Option<Known> {
        self.states.remove(&client).inspect(|state| self.bytes -= state.text.len())
    }
}

/// Client, clock, and JSON text unless it is gone.
type Said<'a> = (u64, u32, Option<&'a str>);

const CUT: DocError = DocError::Malformed("an awareness update ends early");

/// Reads what [`Awareness::share`] has written.
fn read_share(bytes: &[u8]) -> Result<(Option<&str>, Vec<Said<'_>>), DocError> {
    let reader = &mut Reader::new(bytes);
    let is_named = reader.byte().ok_or(CUT)? == 1;
    let user = reader.string().ok_or(CUT)?;
    Ok((is_named.then_some(user), read(reader)?))
}

fn parse(bytes: &[u8]) -> Result<Vec<Said<'_>>, DocError> {
    read(&mut Reader::new(bytes))
}

fn read<'a>(reader: &mut Reader<'a>) -> Result<Vec<Said<'a>>, DocError> {
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

    const ANN: Author<'_> = of(1, Some("ann"));
    const BOB: Author<'_> = of(2, Some("bob"));

    const fn of(serial: u64, user: Option<&str>) -> Author<'_> {
        Author { seat: Seat::here(serial), user }
    }

    fn anonymous(serial: u64) -> Author<'static> {
        of(serial, None)
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
        let again = of(3, ANN.user);
        check(awareness, again, &[(7, 4, Some("2"))], &[(7, 4, Some("2"))]);
        assert_eq!(awareness.leave(ANN.seat, Instant::now()), None);
        check(awareness, again, &[(7, 4, None)], &[(7, 4, None)]);
    }

    #[test]
    fn an_id_is_reserved_for_its_user_for_a_minute() {
        let now = Instant::now();
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        let update = said(&[(7, 5, Some("1"))]);
        for (author, after, fits) in
            [(BOB, 59, false), (BOB, 60, true), (anonymous(3), 59, false), (of(9, ANN.user), 1, true)]
        {
            let awareness = &mut Awareness::default();
            awareness.apply(&ANN, &said(&[(7, 1, Some("1"))]), now).unwrap();
            awareness.leave(ANN.seat, now);
            let outcome = awareness.apply(&author, &update, later(after));
            assert_eq!(outcome.is_ok(), fits, "{author:?} after {after} s");
            assert_eq!(awareness.reserved.is_empty(), fits);
        }
        // Nobody knows whether an anonymous one who comes is the same.
        let awareness = &mut Awareness::default();
        awareness.apply(&anonymous(1), &said(&[(7, 1, Some("1"))]), now).unwrap();
        awareness.leave(Seat::here(1), now);
        assert!(awareness.apply(&anonymous(2), &update, now).is_ok());
        // Their number is bounded, and they are forgotten.
        let awareness = &mut Awareness::default();
        for client in 0..=MAX_RESERVED as u64 {
            awareness.apply(&ANN, &said(&[(client, 1, Some("1"))]), now).unwrap();
            awareness.leave(ANN.seat, now);
        }
        assert_eq!(awareness.reserved.len(), MAX_RESERVED);
        awareness.leave(ANN.seat, later(60));
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
        assert_eq!(awareness.leave(ANN.seat, Instant::now()), Some(said(&[(7, 4, None), (9, 5, None)])));
        assert_eq!(awareness.leave(ANN.seat, Instant::now()), None);
        assert_eq!(awareness.all(), Some(said(&[(8, 1, Some("3"))])));
        assert!(awareness.leave(BOB.seat, Instant::now()).is_some() && awareness.all().is_none());
        assert_eq!(awareness.bytes, 0);
    }

    /// What a connection of `from` shares with `to`, where it is connection 9 of another server; the clients told.
    fn hand_over(from: &Awareness, serial: u64, to: &mut Awareness, told: &[Said<'_>]) {
        let share = from.share(serial);
        let news = to.take(Seat::elsewhere(serial), share.as_deref(), Instant::now());
        assert_eq!(news, (!told.is_empty()).then(|| said(told)), "{share:?}");
        assert_eq!(to.bytes, to.states.values().map(|state| state.text.len()).sum::<usize>());
    }

    #[test]
    fn states_of_other_servers_are_as_those_of_this_one() {
        let (here, there) = (&mut Awareness::default(), &mut Awareness::default());
        check(there, ANN, &[(7, 1, Some("{}")), (8, 1, Some("1"))], &[(7, 1, Some("{}")), (8, 1, Some("1"))]);
        hand_over(there, 1, here, &[(7, 1, Some("{}")), (8, 1, Some("1"))]);
        hand_over(there, 1, here, &[]);
        assert_eq!(here.all(), there.all());
        assert_eq!((here.sharers(), there.sharers()), (vec![], vec![1]));
        // Another user is refused, and the same one takes over; not to remove it, while its connection is there.
        let lie = here.apply(&BOB, &said(&[(7, 2, Some("2"))]), Instant::now());
        assert!(matches!(lie, Err(DocError::Taken { client: 7 })));
        check(here, of(3, ANN.user), &[(7, 2, None)], &[]);
        check(here, of(3, ANN.user), &[(7, 2, Some("2"))], &[(7, 2, Some("2"))]);
        hand_over(here, 3, there, &[(7, 2, Some("2"))]);
        assert_eq!((there.robbed(), there.robbed(), here.robbed()), (vec![1], vec![], vec![]));
        hand_over(there, 1, here, &[]);
        // One is taken away, then all are gone: their ids stay their user's.
        check(there, ANN, &[(8, 2, None)], &[(8, 2, None)]);
        assert!(there.share(1).is_none());
        hand_over(there, 1, here, &[(8, 1, None)]);
        hand_over(&Awareness::default(), 3, there, &[(7, 2, None)]);
        assert!(there.all().is_none() && there.bytes == 0);
        assert!(there.apply(&BOB, &said(&[(7, 3, Some("3"))]), Instant::now()).is_err());
        check(there, ANN, &[(7, 3, Some("3"))], &[(7, 3, Some("3"))]);
    }

    #[test]
    fn two_users_with_one_id_on_two_servers_keep_their_own() {
        let (here, there) = (&mut Awareness::default(), &mut Awareness::default());
        check(here, ANN, &[(7, 1, Some("1"))], &[(7, 1, Some("1"))]);
        check(there, BOB, &[(7, 5, Some("5")), (8, 1, Some("8"))], &[(7, 5, Some("5")), (8, 1, Some("8"))]);
        hand_over(there, 2, here, &[(8, 1, Some("8"))]);
        // Also in the minute after the first has gone; then the other is shown.
        here.leave(ANN.seat, Instant::now());
        hand_over(there, 2, here, &[]);
        let share = there.share(2).unwrap();
        let news = here.take(Seat::elsewhere(2), Some(&share), Instant::now() + RESERVED);
        assert_eq!(news, Some(said(&[(7, 5, Some("5"))])));
    }

    #[test]
    fn what_other_servers_share_is_bounded_and_read_strictly() {
        let share = |user: &[u8], states: &[Said<'_>]| [user, &said(states)].concat();
        let now = Instant::now();
        for count in [MAX_STATES - 1, MAX_STATES, MAX_STATES + 1] {
            let states: Vec<Said<'_>> = (0..count as u64).map(|client| (client, 1, Some("1"))).collect();
            let awareness = &mut Awareness::default();
            awareness.take(Seat::elsewhere(1), Some(&share(&[0, 0], &states)), now);
            assert_eq!(awareness.states.len(), count.min(MAX_STATES));
        }
        let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        let awareness = &mut Awareness::default();
        for serial in 0..=(MAX_BYTES / MAX_STATE) as u64 {
            let shown = awareness.take(
                Seat::elsewhere(serial),
                Some(&share(&[0, 0], &[(serial, 1, Some(&long(MAX_STATE)))])),
                now,
            );
            assert_eq!(shown.is_some(), serial < (MAX_BYTES / MAX_STATE) as u64, "{serial}");
        }
        assert_eq!(awareness.bytes, MAX_BYTES);
        let whole = share(b"\x01\x03ann", &[(7, 1, Some("1"))]);
        for (bytes, fits) in [
            (whole.clone(), true),
            (share(b"\x01\x03\xff\xff\xff", &[(7, 1, Some("1"))]), false),
            (share(&[0, 0], &[(7, 1, Some(&long(MAX_STATE + 1)))]), false),
            (share(&[0, 0], &[(7, 1, Some("{"))]), false),
            ([&whole[..], &[0]].concat(), false),
        ] {
            assert_eq!(Awareness::default().take(Seat::elsewhere(1), Some(&bytes), now).is_some(), fits, "{bytes:?}");
        }
        for end in 0..whole.len() {
            assert!(Awareness::default().take(Seat::elsewhere(1), Some(&whole[..end]), now).is_none(), "cut to {end}");
        }
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
        let mut serial = 2;
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
