//! Which states are in memory.

use std::sync::{Arc, atomic::Ordering};

use datasole_core::{StreamKind, frame::Opcode};
use serde_json::json;

use super::value::{Room, StateValue};
use crate::{
    Limits, Protocol, Server,
    entry::Entry,
    hub::Kind,
    tests::{Gated, Peer, builder, plain},
};

fn in_memory(server: &Server) -> usize {
    server.node().hub.in_memory(StreamKind::State)
}

#[tokio::test]
async fn states_in_memory_that_nobody_follows_are_bounded() {
    let server = builder().limits(Limits { max_idle_states: 3, ..plain() }).build();
    let state = server.state();
    let mut positions = Vec::new();
    for (n, held) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3)] {
        positions.push(state.set(&format!("n{n}"), &n).await.unwrap());
        assert_eq!(in_memory(&server), held, "after {n}");
    }
    for n in 1..=5 {
        assert_eq!(state.get_as(&format!("n{n}")).await.unwrap(), Some(n));
        assert_eq!(in_memory(&server), 3, "read only");
    }
    // Those that were away go on: the next entry, and clients resume.
    let next = state.update("n1", |draft| draft.add("", 10)).await.unwrap();
    assert_eq!((next.epoch, next.seq), (positions[0].epoch, positions[0].seq + 1));
    state.set("n2", &2).await.unwrap();
    state.set("n3", &3).await.unwrap();
    state.set("n4", &4).await.unwrap();
    assert!(server.node().hub.known(StreamKind::State, "n1").is_none());
    let mut peer = Peer::new(&server);
    if let Some(task) = peer.subscribe(1, "state", "n1", Some(positions[0])) {
        task.await;
    }
    let frames: Vec<_> = peer.received().into_iter().map(|(opcode, _, body)| (opcode, body)).collect();
    assert_eq!((frames[0].0, &frames[0].1["recovered"]), (Opcode::Subscribed, &true.into()));
    assert_eq!((frames.len(), &frames[1].1["seq"]), (2, &next.seq.into()));
    // Those that are followed stay beyond the bound, all of them where a client of version 1 is there.
    for n in 2..=5 {
        state.set(&format!("n{n}"), &(10 + n)).await.unwrap();
    }
    assert!(server.node().hub.known(StreamKind::State, "n1").is_some());
    let mut old = Peer::of(&server, Protocol::V1);
    let shown: Vec<_> = old.opcodes().into_iter().map(|frame| frame.0).collect();
    assert_eq!(shown, [Opcode::StateSnapshot; 5]);
    assert_eq!(in_memory(&server), 5);
    old.end().await;
    state.remove("n5").await.unwrap();
    assert!(in_memory(&server) <= 4, "{}", in_memory(&server));
}

/// Those that are followed are not counted, though they have been unfollowed before.
#[tokio::test]
async fn states_that_are_followed_take_no_place_of_others() {
    let server = builder().limits(Limits { max_idle_states: 3, ..plain() }).build();
    let (state, hub) = (server.state(), &server.node().hub);
    let is_known = |n: usize| hub.known(StreamKind::State, &format!("n{n}")).is_some();
    let known = || (1..=9).filter(|&n| is_known(n)).collect::<Vec<_>>();
    let set = async |n: usize| state.set(&format!("n{n}"), &n).await.unwrap();
    let mut peer = Peer::new(&server);
    for n in 1..=5 {
        set(n).await;
        let key = format!("n{n}");
        if let Some(task) = peer.subscribe(u32::try_from(n).unwrap(), "state", &key, None) {
            task.await;
        }
    }
    assert_eq!((known(), hub.idle(StreamKind::State)), (vec![1, 2, 3, 4, 5], 0));
    for (n, first, idle) in [(6, 6, 1), (7, 6, 2), (8, 6, 3), (9, 7, 3)] {
        set(n).await;
        assert_eq!(
            (known(), hub.idle(StreamKind::State)),
            ([1, 2, 3, 4, 5].into_iter().chain(first..=n).collect(), idle)
        );
    }
    // One in the queue is followed, not the first: there is a place for another.
    assert!(peer.subscribe(8, "state", "n8", None).is_none());
    set(6).await;
    assert_eq!((known(), hub.idle(StreamKind::State)), ((1..=9).collect(), 3));
    set(7).await;
    assert_eq!((known(), hub.idle(StreamKind::State)), ((1..=9).collect(), 3), "it is in memory");
    // It is met in the queue, and comes back to it.
    for n in [10, 11, 12] {
        set(n).await;
    }
    assert_eq!((known(), hub.idle(StreamKind::State)), (vec![1, 2, 3, 4, 5, 8], 3));
    peer.end().await;
    assert_eq!((hub.in_memory(StreamKind::State), hub.idle(StreamKind::State)), (3, 3));
    for n in [13, 14, 15] {
        set(n).await;
    }
    assert_eq!(known(), [0_usize; 0], "those that were followed leave in turn");
    assert_eq!(hub.idle(StreamKind::State), 3);
}

/// A state that has left memory is read from the backend once.
#[tokio::test]
async fn a_state_that_was_evicted_is_loaded_once() {
    let backend = Gated::new(true);
    let server = builder().limits(Limits { max_idle_states: 0, ..plain() }).backend(backend.clone()).build();
    let state = server.state();
    state.set("a", &1).await.unwrap();
    assert_eq!(in_memory(&server), 0);
    backend.loads.store(0, Ordering::Relaxed);
    assert_eq!(state.get_as("a").await.unwrap(), Some(1));
    assert_eq!(state.get_as::<u8>("none").await.unwrap(), None);
    assert_eq!(backend.loads.load(Ordering::Relaxed), 1);
}

/// Differences that no patch may have are stored as wholes: every node, and a server that starts again, can read them.
#[tokio::test]
async fn a_value_that_no_patch_leads_to_can_be_loaded() {
    let limits = || Limits { max_idle_states: 0, max_payload: 32 * 1024 * 1024, ..plain() };
    let server = builder().limits(limits()).build();
    let state = server.state();
    let rows = |count: usize, n: u32| json!(vec![json!({"n": n, "text": "-".repeat(60)}); count]);
    let numbers = |count: usize| json!((0..count).map(|n| format!("{n:08}")).collect::<Vec<_>>());
    let deep = |levels: usize| (0..levels).fold(json!("-"), |inner, _| json!([inner]));
    for (name, before, after) in [
        ("many operations", rows(110_000, 0), rows(110_000, 1)),
        ("an array that ends earlier", numbers(110_000), numbers(80_000)),
        ("deep values", json!({"keep": "-".repeat(900), "a": 0}), json!({"keep": "-".repeat(900), "a": deep(124)})),
    ] {
        state.set(name, &before).await.unwrap();
        state.set(name, &after).await.unwrap();
        assert_eq!(in_memory(&server), 0);
        assert!(state.get(name).await.unwrap() == Some(after), "{name}");
    }
}

/// Both have changed as often, and one takes the place of the other.
#[test]
fn a_comparison_with_a_value_before_is_none_with_this_one() {
    let limits = Arc::new(plain());
    let value = |text: &str| {
        let mut value = StateValue::new(limits.clone());
        value.apply(&Entry::new(b'v', text.as_bytes()), None).unwrap();
        value
    };
    let (mut before, mut after) = (value("[1,1]"), value("[2,2]"));
    let compared = before.base().compare("[1,3]").unwrap();
    assert!(before.is_at(&compared));
    after.inherit(&mut before);
    assert!(!after.is_at(&compared));
    let entry = after.plan_set("[1,3]", Some(compared)).unwrap().unwrap();
    after.apply(&entry, None).unwrap();
    assert_eq!(after.stored().unwrap(), json!([1, 3]));
}

/// Parts that go with a change, or come and go with one that is given up.
#[test]
fn what_takes_long_to_drop_is_given_back() {
    let room = Room { key: "k", max_payload: usize::MAX };
    let large = json!((0..5_000).collect::<Vec<_>>());
    let whole = |n: u32| json!({ "large": large, "n": n });
    let mut value = StateValue::new(Arc::new(plain()));
    let set = |value: &mut StateValue, n: u32| value.plan_set(&whole(n).to_string(), None).unwrap().unwrap();
    set(&mut value, 0);
    assert!(value.retract().is_some(), "a value that does not come");
    let entry = set(&mut value, 1);
    assert!(value.apply(&entry, None).unwrap().is_none(), "in place of nothing");
    let small = value.plan_update(room, |draft| draft.set("/n", 2)).unwrap().unwrap();
    assert!(value.retract().is_none());
    assert!(value.apply(&small, None).unwrap().is_none(), "of others");
    let removal = value.plan_update(room, |draft| draft.remove("/large")).unwrap().unwrap();
    assert!(value.retract().is_none(), "nothing has gone");
    assert_eq!(value.stored().unwrap(), whole(2));
    assert_eq!(value.plan_update(room, |draft| draft.remove("/large")).unwrap().unwrap(), removal);
    assert!(value.apply(&removal, None).unwrap().is_some());
    let addition = value.plan_update(room, |draft| draft.set("/large", &large)).unwrap().unwrap();
    assert!(value.retract().is_some(), "a part that does not come");
    assert_eq!(value.stored().unwrap(), json!({"n": 2}));
    value.apply(&addition, None).unwrap();
    value.plan_update(room, |draft| draft.set("/n", 3)).unwrap().unwrap();
    assert!(value.apply(&removal, None).unwrap().is_some(), "of others, in place of ours");
    assert_eq!(value.stored().unwrap(), json!({"n": 2}));
}
