//! The log: what is taken, and how long it is kept.

use std::time::Duration;

use super::*;
use crate::{
    backend::log::{self, Tag},
    hub::{
        ready::Next,
        testing::{Numbers, number},
    },
    limits::Replay,
};

/// A topic of one entry at each of these times, seen at `now`: how many of the newest can be had again.
fn check(replay: Replay, times: &[u64], now: u64, kept: usize) {
    let topic = Numbers::stream("t", Position { epoch: 9, seq: 100 }, replay);
    for &at in times {
        Numbers::publish(&topic, 1, at);
    }
    let mut inner = lock(&topic.inner);
    inner.window.expire(now, &replay);
    let newest = 100 + times.len() as u64;
    for missed in 0..=times.len() + 1 {
        let since = Position { epoch: 9, seq: newest - missed as u64 };
        assert_eq!(inner.missed(since), (missed <= kept).then_some(missed), "{replay:?}, {missed} missed");
    }
    assert_eq!(inner.missed(Position { epoch: 9, seq: newest + 1 }), None, "the future");
    assert_eq!(inner.missed(Position { epoch: 8, seq: newest }), None, "another life");
    assert_eq!(inner.window.len(), kept);
    inner.window.check();
}

/// Entries at `seq` after an entry of this tag: whether they are taken.
fn offer(stream: &Arc<Stream>, epoch: u64, seq: u64, prev: Tag) -> bool {
    let tag = Tag { node: 1, count: seq };
    let entry = log::Entry { tag, prev: prev.hash(), bytes: number(seq).bytes().clone() };
    let before = stream.mark();
    let next = std::iter::once(Next::from(&entry));
    let taken = stream.accept((Position { epoch, seq: seq - 1 }, next), (0, &[]), &mut Rest::default()).is_ok();
    let moved = stream.mark() != before;
    assert!(taken || !moved, "what is refused has no effect");
    moved
}

#[test]
fn only_the_next_entry_of_the_same_history_is_taken() {
    let stream = Numbers::stream("t", Position { epoch: 9, seq: 0 }, Replay::default());
    let tag = |count| Tag { node: 1, count };
    assert!(!offer(&stream, 9, 2, tag(1)), "a gap");
    assert!(!offer(&stream, 8, 1, Tag::default()), "another life");
    assert!(offer(&stream, 9, 1, Tag::default()));
    assert!(!offer(&stream, 9, 2, Tag { node: 2, count: 1 }), "another history");
    assert!(!offer(&stream, 9, 1, Tag::default()), "again");
    assert!(offer(&stream, 9, 2, tag(1)));
    assert_eq!(stream.mark(), Mark { position: Position { epoch: 9, seq: 2 }, tag: tag(2) });
}

#[test]
fn the_replay_window_is_bounded_by_entries() {
    let replay = |entries| Replay { entries, ..Replay::default() };
    check(Replay::NONE, &[0; 3], 0, 0);
    check(replay(4), &[0; 3], 0, 3);
    check(replay(3), &[0; 3], 0, 3);
    check(replay(2), &[0; 3], 0, 2);
}

#[test]
fn the_replay_window_is_bounded_by_bytes() {
    let at = At { key: "t", channel: 0, position: Position { epoch: 9, seq: 101 }, compress_above: usize::MAX };
    let one = Numbers::default().form().message(&number(1), &at).len();
    let replay = |bytes| Replay { bytes, ..Replay::default() };
    check(replay(3 * one + 1), &[0; 3], 0, 3);
    check(replay(3 * one), &[0; 3], 0, 3);
    check(replay(3 * one - 1), &[0; 3], 0, 2);
    check(replay(one - 1), &[0; 3], 0, 0);
}

#[test]
fn the_replay_window_is_bounded_by_age() {
    let replay = Replay { age: Some(Duration::from_millis(10)), ..Replay::default() };
    check(replay, &[100, 101, 102], 109, 3);
    check(replay, &[100, 101, 102], 110, 3);
    check(replay, &[100, 101, 102], 111, 2);
    check(replay, &[100, 101, 102], 113, 0);
    check(replay, &[100, 111], 111, 1);
    check(Replay::default(), &[100, 101], u64::MAX, 2);
}

#[test]
fn what_shows_the_content_stays_for_who_claims_to_be_past_it() {
    let stream = Numbers::stream("t", Position { epoch: 9, seq: 100 }, Replay::NONE);
    let mut inner = lock(&stream.inner);
    assert!(stream.shown(&mut inner, Protocol::V2).is_some());
    for (epoch, seq) in [(9, 99), (9, 100), (9, 101), (9, u64::MAX), (8, 101)] {
        stream.outdate(&mut inner, Protocol::V2, Some(Position { epoch, seq }));
        assert!(inner.followers_mut().are_shown(), "{epoch} {seq}");
    }
}

#[test]
fn a_content_that_loses_what_it_has_lent_is_noticed() {
    assert_eq!(Numbers::stream("t", Position::default(), Replay::NONE).apart(|| 1), Some(1));
    assert_eq!(Numbers::lossy("t").apart(|| 1), None);
}
