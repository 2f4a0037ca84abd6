//! [`Roster`]: which connections of other nodes share something on a stream, and how far the letters of each node are
//! known.
//!
//! A node counts what its connections share, over all streams: each change has a number, in the field that holds the share
//! and in the letter that tells it. A letter names the change of its stream before it, or 0 where the node shared nothing.
//! Whoever knows that one takes the letter as it is; anything else is a gap, and the fields are read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes};

use super::seat::{Name, Seat};

/// Letters that wait while fields are read; more are read instead.
const WAITING: usize = 1_024;
/// The length of what is no share.
const GONE: u32 = u32::MAX;

/// The value that a connection of another node shares now; `None`: nothing any more.
pub(super) type Change = (Seat, Option<Bytes>);

/// Changes of one node's shares on one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) incarnation: u32,
    /// The number of the node's change of this stream before these; 0 where it shared nothing.
    pub(super) after: u64,
    /// The number of each change, the connection, and what it shares.
    pub(super) changes: Vec<(u64, u64, Option<Bytes>)>,
}

/// The content of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) name: Name,
    pub(super) serial: u64,
    pub(super) number: u64,
    pub(super) share: Bytes,
}

/// A gap before a letter: the fields must be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behind;

/// The connections of other nodes that share something on one stream.
#[derive(Clone, Debug)]
pub(super) struct Roster {
    /// The incarnation of each node, and its latest change that is known.
    nodes: BTreeMap<u64, (u32, u64)>,
    seats: BTreeSet<Seat>,
    /// The letters that came since the fields had to be read; `None` while they need not.
    waiting: Option<Vec<(u64, Shares)>>,
    /// How many of them came before the fields are read: those tell no less.
    covered: usize,
    /// Whether they have to be read again.
    again: bool,
}

impl Default for Roster {
    /// One whose fields have to be read.
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), seats: BTreeSet::new(), waiting: Some(Vec::new()), covered: 0, again: false }
    }
}

impl Roster {
    /// Whether the fields have to be read.
    pub(super) fn is_behind(&self) -> bool {
        self.waiting.is_some()
    }

    /// Makes the fields be read, also where that is under way.
    pub(super) fn fall_behind(&mut self) {
        self.again |= self.waiting.is_some();
        self.waiting.get_or_insert_default();
    }

    /// Takes note that the fields are read from now on; `false` if they need not be.
    pub(super) fn begin(&mut self) -> bool {
        self.again = false;
        self.covered = self.waiting.as_ref().map_or(0, Vec::len);
        self.is_behind()
    }

    /// Takes a letter.
    pub(super) fn hear(&mut self, node: u64, shares: Shares) -> Result<Vec<Change>, Behind> {
        let Some(waiting) = &mut self.waiting else { return self.follow(node, shares) };
        if waiting.len() < WAITING {
            waiting.push((node, shares));
        } else {
            waiting.clear();
            (self.covered, self.again) = (0, true);
        }
        Err(Behind)
    }

    fn follow(&mut self, node: u64, shares: Shares) -> Result<Vec<Change>, Behind> {
        let Some((latest, ..)) = shares.changes.last() else { return Ok(Vec::new()) };
        let known = self.nodes.get(&node).copied();
        let (incarnation, number) = known.unwrap_or((shares.incarnation, 0));
        if (shares.incarnation, *latest) <= (incarnation, number) {
            return Ok(Vec::new());
        }
        let begins = shares.after == 0 && !self.seats.iter().any(|seat| seat.node() == Some(node));
        let follows = shares.incarnation == incarnation && shares.after != 0 && shares.after <= number;
        if !begins && !follows {
            self.waiting = Some(vec![(node, shares)]);
            return Err(Behind);
        }
        self.nodes.insert(node, (shares.incarnation, *latest));
        let fresh = shares.changes.into_iter().filter(|(of, ..)| begins || *of > number);
        let mut changes = Vec::new();
        for (_, serial, share) in fresh {
            let seat = Seat::of(node, serial);
            let was_there = if share.is_some() { !self.seats.insert(seat) } else { self.seats.remove(&seat) };
            if share.is_some() || was_there {
                changes.push((seat, share));
            }
        }
        Ok(changes)
    }

    /// Takes what the fields hold, of incarnations that live, and then the letters that came meanwhile. Behind again
    /// where those show a gap.
    pub(super) fn read(&mut self, fields: Vec<Held>) -> Vec<Change> {
        let mut newest: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        for Held { name, number, .. } in &fields {
            let latest = newest.entry(name.node).or_default();
            *latest = (*latest).max((name.incarnation, *number));
        }
        let current = fields
            .into_iter()
            .filter(|held| newest.get(&held.name.node).map(|latest| latest.0) == Some(held.name.incarnation));
        let there: BTreeMap<Seat, Bytes> =
            current.map(|held| (Seat::of(held.name.node, held.serial), held.share)).collect();
        for (node, latest) in newest {
            let known = self.nodes.entry(node).or_default();
            *known = (*known).max(latest);
        }
        let gone = self.seats.iter().filter(|seat| !there.contains_key(seat));
        let mut changes: Vec<Change> = gone.map(|seat| (*seat, None)).collect();
        self.seats = there.keys().copied().collect();
        changes.extend(there.into_iter().map(|(seat, share)| (seat, Some(share))));
        for (at, (node, shares)) in self.waiting.take().unwrap_or_default().into_iter().enumerate() {
            if at < self.covered {
                let latest = shares.changes.last().map_or(0, |(number, ..)| *number);
                let known = self.nodes.entry(node).or_default();
                *known = (*known).max((shares.incarnation, latest));
            } else {
                changes.extend(self.hear(node, shares).unwrap_or_default());
            }
        }
        if self.again {
            self.waiting.get_or_insert_default();
        }
        changes
    }

    /// The incarnations that are known.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.nodes.iter().map(|(&node, &(incarnation, _))| Name { node, incarnation })
    }

    /// Forgets incarnations that have ended.
    pub(super) fn bury(&mut self, dead: &BTreeSet<Name>) -> Vec<Change> {
        let ended: BTreeSet<u64> = self.names().filter(|name| dead.contains(name)).map(|name| name.node).collect();
        self.nodes.retain(|node, _| !ended.contains(node));
        let is_dead = |seat: &Seat| seat.node().is_some_and(|node| ended.contains(&node));
        let (gone, left) = std::mem::take(&mut self.seats).into_iter().partition::<BTreeSet<_>, _>(is_dead);
        self.seats = left;
        gone.into_iter().map(|seat| (seat, None)).collect()
    }

    /// Those that are there, when nobody needs to know any more.
    pub(super) fn end(&mut self) -> Vec<Change> {
        let seats = std::mem::take(self).seats;
        seats.into_iter().map(|seat| (seat, None)).collect()
    }
}

impl Shares {
    /// The content of a letter: the numbers, then each change: number, connection, length and share.
    pub(super) fn encode(&self) -> Bytes {
        let size = self.changes.iter().map(|(.., share)| 20 + share.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        let mut out = Vec::with_capacity(12 + size);
        out.put_u32(self.incarnation);
        out.put_u64(self.after);
        for (number, serial, share) in &self.changes {
            out.put_u64(*number);
            out.put_u64(*serial);
            out.put_u32(share.as_ref().map_or(GONE, |share| u32::try_from(share.len()).unwrap_or(GONE)));
            out.extend_from_slice(share.as_deref().unwrap_or_default());
        }
        out.into()
    }

    /// Reads the content of a letter; `None` if it is malformed.
    pub(super) fn decode(mut rest: Bytes) -> Option<Self> {
        let (incarnation, after) = (rest.try_get_u32().ok()?, rest.try_get_u64().ok()?);
        let mut changes = Vec::new();
        while !rest.is_empty() {
            let (number, serial) = (rest.try_get_u64().ok()?, rest.try_get_u64().ok()?);
            let share = match rest.try_get_u32().ok()? {
                GONE => None,
                length => {
                    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len())?;
                    Some(rest.split_to(length))
                }
            };
            changes.push((number, serial, share));
        }
        Some(Self { incarnation, after, changes })
    }
}

impl Held {
    /// The value of a field: the number of the change, then the share.
    pub(super) fn encode(number: u64, share: &[u8]) -> Bytes {
        [&number.to_be_bytes(), share].concat().into()
    }

    /// Reads a field; `None` if it is malformed.
    pub(super) fn decode(field: &str, mut value: Bytes) -> Option<Self> {
        let (name, serial) = Name::of_field(field)?;
        let number = value.try_get_u64().ok()?;
        Some(Self { name, serial, number, share: value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 10;

    fn letter(incarnation: u32, after: u64, changes: &[(u64, u64, Option<&'static str>)]) -> Shares {
        let changes = changes.iter().map(|&(number, serial, share)| (number, serial, share.map(Bytes::from))).collect();
        Shares { incarnation, after, changes }
    }

    fn held(incarnation: u32, number: u64, serial: u64, share: &'static str) -> Held {
        Held { name: Name { node: A, incarnation }, serial, number, share: share.into() }
    }

    fn change(serial: u64, share: Option<&'static str>) -> Change {
        (Seat::of(A, serial), share.map(Bytes::from))
    }

    /// A roster whose fields have been read: what they hold.
    fn current(fields: Vec<Held>) -> Roster {
        let mut roster = Roster::default();
        assert!(roster.begin());
        roster.read(fields);
        assert!(!roster.is_behind() && !roster.begin());
        roster
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_malformed() {
        let shares = letter(7, u64::MAX, &[(3, 1, Some("one")), (4, 2, None), (5, 3, Some(""))]);
        let bytes = shares.encode();
        assert_eq!(Shares::decode(bytes.clone()), Some(shares));
        let ends = [12, 12 + 23, 12 + 23 + 20, bytes.len()];
        for length in 0..bytes.len() {
            assert_eq!(Shares::decode(bytes.slice(..length)).is_some(), ends.contains(&length), "{length} bytes");
        }
        let one = held(1, 5, 255, "share");
        assert_eq!(Held::decode("a.1-ff", Held::encode(5, b"share")), Some(one));
        assert_eq!(Held::decode("a.1-ff", Bytes::from_static(&[0; 7])), None);
        assert_eq!(Held::decode("?", Held::encode(5, b"share")), None);
    }

    #[test]
    fn letters_that_follow_are_taken_and_a_gap_makes_it_read() {
        let mut roster = current(vec![]);
        assert_eq!(roster.hear(A, letter(0, 0, &[(3, 1, Some("x"))])), Ok(vec![change(1, Some("x"))]));
        assert_eq!(roster.hear(A, letter(0, 0, &[(3, 1, Some("x"))])), Ok(vec![]), "known");
        let next = letter(0, 3, &[(5, 1, None), (6, 2, Some("y")), (7, 9, None)]);
        assert_eq!(roster.hear(A, next), Ok(vec![change(1, None), change(2, Some("y"))]));
        assert_eq!(roster.hear(A, letter(0, 8, &[(9, 3, Some("z"))])), Err(Behind));
        assert!(roster.begin());
        assert_eq!(roster.hear(A, letter(0, 9, &[(11, 4, None), (12, 5, Some("w"))])), Err(Behind));
        // Read between the two letters, or behind both.
        for fields in [vec![held(0, 9, 3, "z"), held(0, 8, 4, "v")], vec![held(0, 9, 3, "z"), held(0, 12, 5, "w")]] {
            let mut roster = roster.clone();
            let changes = roster.read(fields);
            assert_eq!(changes.first(), Some(&change(2, None)));
            assert_eq!(changes.last(), Some(&change(5, Some("w"))));
            assert_eq!(roster.seats, [3, 5].map(|serial| Seat::of(A, serial)).into());
            assert!(!roster.is_behind());
            assert_eq!(roster.hear(A, letter(0, 12, &[(13, 3, None)])), Ok(vec![change(3, None)]));
        }
    }

    #[test]
    fn fields_tell_as_far_as_the_latest_of_them() {
        let mut roster = current(vec![held(0, 4, 1, "x"), held(0, 6, 2, "y")]);
        // The letter of what was read comes late, and that of what had been half written.
        assert_eq!(roster.hear(A, letter(0, 3, &[(4, 1, Some("x"))])), Ok(vec![]));
        let half = letter(0, 5, &[(6, 2, Some("y")), (7, 3, Some("z"))]);
        assert_eq!(roster.hear(A, half), Ok(vec![change(3, Some("z"))]));
    }

    #[test]
    fn fields_tell_no_less_than_the_letters_before_them() {
        // Somebody came and went unheard, and so the fields tell an older change than the letter.
        let mut roster = current(vec![held(0, 3, 1, "x")]);
        assert_eq!(roster.hear(A, letter(0, 4, &[(5, 2, None)])), Err(Behind));
        assert!(roster.begin());
        assert_eq!(roster.read(vec![held(0, 3, 1, "x")]), [change(1, Some("x"))]);
        assert!(!roster.is_behind());
        assert_eq!(roster.hear(A, letter(0, 5, &[(6, 1, None)])), Ok(vec![change(1, None)]));
        // The letter of an incarnation that has ended.
        assert_eq!(roster.bury(&[Name { node: A, incarnation: 0 }].into()), []);
        assert_eq!(roster.hear(A, letter(0, 6, &[(7, 1, Some("x"))])), Err(Behind));
        assert!(roster.begin());
        assert_eq!(roster.read(vec![]), []);
        assert!(!roster.is_behind());
        assert_eq!(roster.names().collect::<Vec<_>>(), [Name { node: A, incarnation: 0 }], "to be buried again");
    }

    #[test]
    fn what_comes_while_it_is_read_is_bounded_and_read_again() {
        for (letters, is_behind) in [(WAITING - 1, false), (WAITING, false), (WAITING + 1, true)] {
            let mut roster = Roster::default();
            assert!(roster.begin());
            for number in 1..=letters as u64 {
                let one = letter(0, number - 1, &[(number, 1, Some("x"))]);
                assert_eq!(roster.hear(A, one), Err(Behind));
            }
            assert_eq!(roster.read(vec![]).is_empty(), is_behind, "{letters}");
            assert_eq!(roster.is_behind(), is_behind, "{letters}");
        }
        let mut roster = Roster::default();
        assert!(roster.begin());
        roster.fall_behind();
        roster.read(vec![]);
        assert!(roster.is_behind(), "asked for again meanwhile");
    }

    #[test]
    fn a_new_incarnation_replaces_the_old_one() {
        let mut roster = current(vec![held(0, 4, 1, "x"), held(0, 5, 2, "y")]);
        assert_eq!(roster.hear(A, letter(1, 0, &[(6, 1, Some("x"))])), Err(Behind), "what has the old one shared?");
        assert!(roster.begin());
        let changes = roster.read(vec![held(0, 4, 1, "x"), held(0, 5, 2, "y"), held(1, 6, 1, "x")]);
        assert_eq!(changes, [change(2, None), change(1, Some("x"))]);
        assert_eq!(roster.hear(A, letter(0, 5, &[(7, 2, Some("late"))])), Ok(vec![]));
        // Its lease has ended.
        assert_eq!(roster.bury(&[Name { node: A, incarnation: 0 }].into()), []);
        assert_eq!(roster.bury(&[Name { node: A, incarnation: 1 }].into()), [change(1, None)]);
        assert_eq!(roster.names().count(), 0);
        assert_eq!(roster.hear(A, letter(2, 0, &[(8, 1, Some("x"))])), Ok(vec![change(1, Some("x"))]));
        assert_eq!(roster.end(), [change(1, None)]);
        assert!(roster.is_behind());
    }
}
