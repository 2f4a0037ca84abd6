//! The suite every backend passes: its own tests call [`check`] on an empty one.

use std::time::Duration;

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};

use super::{Appended, Backend, BackendError, Stored};

/// Panics with the clause that `backend` breaks. It must be empty.
pub async fn check(backend: &impl Backend) {
    let outcome = run(backend).await;
    assert!(outcome.is_ok(), "a conforming backend does not fail here: {outcome:?}");
}

async fn run(backend: &impl Backend) -> Result<(), BackendError> {
    let (a, b) = (StreamId::state("a"), StreamId::event("a"));
    let entry = |text: &'static str| Bytes::from_static(text.as_bytes());
    let at = |seq| Position { epoch: 7, seq };

    assert_eq!(backend.load(&a).await?, None, "nothing is there before the first append");
    assert_eq!(backend.append(&a, at(1), entry("x")).await?, Appended::Conflict(Position::default()));
    let mut wakes = backend.wakes();
    assert_eq!(backend.append(&a, at(0), entry("1")).await?, Appended::At(at(1)));
    assert_eq!(backend.append(&a, at(0), entry("x")).await?, Appended::Conflict(at(1)), "append compares seq");
    let other = Position { epoch: 9, seq: 1 };
    assert_eq!(backend.append(&a, other, entry("x")).await?, Appended::Conflict(at(1)), "append compares epochs");
    assert_eq!(backend.append(&a, at(1), entry("2")).await?, Appended::At(at(2)));
    assert_eq!(backend.append(&a, at(2), entry("3")).await?, Appended::At(at(3)));
    let woken = wakes.recv().await;
    assert!(woken.is_ok_and(|wake| wake.stream == a), "an append wakes");

    assert_eq!(backend.read(&a, at(1)).await?, Some(vec![entry("2"), entry("3")]));
    assert_eq!(backend.read(&a, at(3)).await?, Some(vec![]), "nothing is missed at the end");
    assert_eq!(backend.read(&a, at(4)).await?, None, "the future was not missed");
    assert_eq!(backend.read(&a, Position { epoch: 9, seq: 1 }).await?, None, "another epoch cannot be resumed");
    assert_eq!(backend.load(&b).await?, None, "kinds do not share keys");
    let whole = Stored { position: at(3), snapshot: None, entries: vec![entry("1"), entry("2"), entry("3")] };
    assert_eq!(whole.since_snapshot(), whole.entries);
    assert_eq!(backend.load(&a).await?, Some(whole));

    backend.snapshot(&a, at(2), entry("s2"), 1).await?;
    backend.snapshot(&a, at(1), entry("s1"), 0).await?;
    backend.snapshot(&a, at(2), entry("s?"), 0).await?;
    backend.snapshot(&a, at(9), entry("s9"), 0).await?;
    backend.snapshot(&a, Position { epoch: 9, seq: 3 }, entry("s?"), 0).await?;
    let stored = held(backend, &a, 2, "s2").await?;
    assert_eq!(stored.since_snapshot(), [entry("3")], "the newest snapshot of the past, and what follows it");
    assert!(stored.entries.ends_with(&[entry("2"), entry("3")]), "the newest to be kept before it stay");
    assert_eq!(backend.read(&a, at(1)).await?, Some(vec![entry("2"), entry("3")]), "and can be read");
    backend.snapshot(&a, at(3), entry("s3"), 0).await?;
    assert!(held(backend, &a, 3, "s3").await?.since_snapshot().is_empty(), "a snapshot of the present");
    assert_eq!(backend.append(&a, at(3), entry("4")).await?, Appended::At(at(4)));
    assert_eq!(held(backend, &a, 3, "s3").await?.since_snapshot(), [entry("4")]);

    assert_eq!(backend.keys(StreamKind::State).await?, ["a"]);
    backend.remove(&a, at(3)).await?;
    assert!(backend.load(&a).await?.is_some(), "removal compares the position");
    backend.remove(&a, at(4)).await?;
    assert_eq!(backend.append(&a, at(4), entry("5")).await?, Appended::Conflict(Position::default()));
    assert_eq!(backend.append(&a, other_life(), entry("5")).await?, Appended::At(Position { epoch: 8, seq: 1 }));

    backend.put("k", entry("v"), None).await?;
    assert_eq!(backend.get("k").await?, Some(entry("v")));
    backend.put("k", entry("w"), Some(Duration::ZERO)).await?;
    assert_eq!(backend.get("k").await?, None, "values expire");
    backend.put("k", entry("w"), Some(Duration::from_secs(3_600))).await?;
    assert_eq!(backend.get("k").await?, Some(entry("w")));
    backend.delete("k").await?;
    backend.delete("k").await?;
    assert_eq!(backend.get("k").await?, None);
    Ok(())
}

/// A stream that must be there, with this snapshot, and its entries without a gap.
async fn held(
    backend: &impl Backend,
    stream: &StreamId,
    at: u64,
    snapshot: &'static str,
) -> Result<Stored, BackendError> {
    let stored = backend.load(stream).await?.unwrap_or_default();
    assert_eq!(stored.snapshot, Some((at, Bytes::from_static(snapshot.as_bytes()))));
    assert!(stored.position.seq - stored.entries.len() as u64 <= at, "no entry since the snapshot is missing");
    Ok(stored)
}

fn other_life() -> Position {
    Position { epoch: 8, seq: 0 }
}
