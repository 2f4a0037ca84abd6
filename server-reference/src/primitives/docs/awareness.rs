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
mod tests;
