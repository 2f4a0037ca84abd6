//! Which states are in memory.

use datasole_core::{StreamKind, frame::Opcode};

use crate::{
    Limits, Protocol, Server,
    tests::{Peer, builder, plain},
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
