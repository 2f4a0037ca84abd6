//! Bounds of documents: bytes, numbers and memory, per document, connection, user and server.

use std::time::Duration;

use datasole_server::{
    DocError, Limits, Server, codes,
    yrs::{self, Doc, ReadTxn, Text, Transact, WriteTxn},
};

use super::{
    backend::{Faulty, REFUSED, WELL},
    client::{Client, change},
    over,
};

#[tokio::test]
async fn documents_are_bounded() {
    let server = Server::builder().limits(Limits::default().with(|limits| limits.max_doc = 1_000)).build();
    let mut ann = Client::following(&server, "ann", "d");
    ann.write(0, 0, &"x".repeat(900)).unwrap();
    let mut eve = Client::following(&server, "eve", "d");
    assert_eq!(eve.write(0, 0, &"y".repeat(100)), Err(i64::from(codes::LIMIT)));
    let outcome = server.docs().edit("d", |t| t.get_or_insert_text("text").insert(t, 0, &"z".repeat(100))).await;
    assert!(matches!(outcome, Err(DocError::TooLarge { limit: 1_000 })));
    let delete = ann.draft(0, |t| t.get_or_insert_text("text").remove_range(t, 0, 500));
    assert_eq!(ann.ask(0, &change(&delete)), Ok(2));
    let mut bob = Client::following(&server, "bob", "d");
    assert!(bob.write(0, 0, &"z".repeat(100)).is_ok());
}

#[tokio::test]
async fn documents_below_at_and_above_the_limit() {
    let limits = Limits::default().with(|limits| {
        limits.max_docs = 3;
        limits.max_docs_per_connection = 2;
    });
    let server = Server::builder().limits(limits).build();
    let (mut ann, mut bob) = (Client::new(&server, "ann"), Client::new(&server, "bob"));
    for (at, key, outcome) in [(0, "1", Ok(1)), (1, "2", Ok(1)), (2, "3", Err(codes::LIMIT.into()))] {
        ann.follow(key, Doc::new());
        assert_eq!(ann.write(at, 0, "x"), outcome, "one client, {key}");
    }
    assert_eq!(ann.write(0, 0, "x"), Ok(2), "what there is can be edited");
    bob.follow("3", Doc::new());
    bob.follow("4", Doc::new());
    assert_eq!(bob.write(0, 0, "x"), Ok(1), "there is room for others");
    assert_eq!(bob.write(1, 0, "x"), Err(codes::LIMIT.into()), "but no more than the server has");
    server.docs().edit("5", |t| t.get_or_insert_text("text").insert(t, 0, "x")).await.unwrap();
    server.docs().remove("5").await.unwrap();
    server.docs().remove("none").await.unwrap();
    assert_eq!(
        bob.ask(1, &change(&bob.draft(1, |t| t.get_or_insert_text("text").insert(t, 0, "y")))),
        Err(codes::LIMIT.into())
    );
    server.docs().remove("1").await.unwrap();
    let all = bob.open[1].doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
    assert!(bob.ask(1, &change(&all)).is_ok(), "one that is gone makes room");
    assert_eq!(server.docs().keys().await.unwrap(), ["2", "3", "4"]);
}

/// A user's documents count together, whatever their connections.
#[tokio::test]
async fn documents_of_a_user_below_at_and_above_the_limit() {
    let limits = Limits::default().with(|limits| limits.max_docs_per_user = 2);
    let server = Server::builder().limits(limits).build();
    for (user, key, outcome) in
        [("ann", "1", Ok(1)), ("ann", "2", Ok(1)), ("ann", "3", Err(codes::LIMIT.into())), ("bob", "3", Ok(1))]
    {
        assert_eq!(Client::following(&server, user, key).write(0, 0, "x"), outcome, "{user} {key}");
    }
}

/// What could not be stored, or is one too many for a connection, takes nothing from a user's day.
#[tokio::test]
async fn what_creates_no_document_takes_nothing_from_the_quota() {
    let backend = Faulty::default();
    let limits = Limits::default().with(|limits| {
        limits.max_docs_per_user = 2;
        limits.max_docs_per_connection = 1;
    });
    let server = over(&backend).limits(limits).build();
    backend.set(REFUSED);
    for _ in 0..5 {
        let refused = Client::following(&server, "ann", "1").write(0, 0, "x").unwrap_err();
        assert_ne!(refused, i64::from(codes::LIMIT));
    }
    backend.set(WELL);
    let mut ann = Client::following(&server, "ann", "1");
    assert_eq!(ann.write(0, 0, "x"), Ok(1));
    for n in 1..=5 {
        ann.follow(&format!("more {n}"), Doc::new());
        assert_eq!(ann.write(n, 0, "x"), Err(codes::LIMIT.into()), "of one connection");
    }
    assert_eq!(Client::following(&server, "ann", "2").write(0, 0, "x"), Ok(1));
    assert_eq!(Client::following(&server, "ann", "3").write(0, 0, "x"), Err(codes::LIMIT.into()));
}

/// Memory by which a user has made documents grow is given back when they shrink or leave memory.
#[tokio::test]
async fn the_memory_of_a_user_is_bounded() {
    let limits = Limits::default().with(|limits| {
        limits.max_docs_memory_per_user = 2_000;
        limits.max_idle_docs = 0;
        limits.doc_stay = Duration::ZERO;
    });
    let server = Server::builder().limits(limits).build();
    let mut ann = Client::following(&server, "ann", "1");
    assert_eq!(ann.write(0, 0, "x"), Ok(1));
    assert_eq!(ann.write(0, 0, "x"), Ok(2));
    let third = ann.draft(0, |t| t.get_or_insert_text("text").insert(t, 0, "third"));
    assert_eq!(ann.ask(0, &change(&third)), Err(codes::LIMIT.into()));
    let mut bob = Client::following(&server, "bob", "1");
    assert_eq!(bob.write(0, 0, "x"), Ok(3), "each has a part");
    ann.hear();
    // Nobody follows it any more: it leaves memory.
    let doc = ann.unfollow(0);
    drop(bob);
    ann.follow("1", doc);
    assert_eq!(server.docs().text("1", "text").await.unwrap().len(), 8);
}

/// The memory of what a user follows is bounded, whoever has written it, over all connections; and given back.
#[tokio::test]
async fn the_memory_that_a_user_follows_is_bounded() {
    // Each takes 4 KiB and what is in it, three times.
    let limits = Limits::default().with(|limits| limits.max_docs_memory_followed = 30_000);
    let server = Server::builder().limits(limits).build();
    for key in ["1", "2", "3"] {
        server.docs().edit(key, |t| t.get_or_insert_text("text").insert(t, 0, &"x".repeat(2_000))).await.unwrap();
    }
    let refused = |client: &Client, at: usize| {
        let subscribe = client.open[at].id;
        client.answers.iter().find(|(id, _)| *id == subscribe).map(|(_, outcome)| *outcome)
    };
    let (mut first, mut second) = (Client::new(&server, "ann"), Client::new(&server, "ann"));
    first.follow("1", Doc::new());
    second.follow("2", Doc::new());
    assert_eq!((refused(&first, 0), refused(&second, 0)), (None, None));
    second.follow("3", Doc::new());
    assert_eq!(refused(&second, 1), Some(Err(codes::LIMIT.into())));
    let mut bob = Client::following(&server, "bob", "3");
    assert_eq!(refused(&bob, 0), None, "others have their own part");
    assert_eq!(bob.write(0, 0, "y"), Ok(2));
    second.unfollow(0);
    second.follow("3", Doc::new());
    assert_eq!(refused(&second, 1), None, "what is not followed any more makes room");
    drop(first);
    second.follow("1", Doc::new());
    assert_eq!(refused(&second, 2), None, "so does the end of a connection");
}

/// Where there is no memory, nothing more is loaded; what nobody follows leaves first.
#[tokio::test]
async fn the_memory_of_all_documents_is_bounded() {
    let server =
        over(&Faulty::default()).limits(Limits::default().with(|limits| limits.max_docs_memory = 100_000)).build();
    for n in 0..40 {
        let mut ann = Client::following(&server, "ann", &format!("d{n}"));
        assert_eq!(ann.write(0, 0, &"x".repeat(3_000)), Ok(1), "{n}: the idle ones leave");
        drop(ann);
        tokio::task::yield_now().await;
    }
    let mut ann = Client::new(&server, "ann");
    let mut followed = 0;
    let refused = loop {
        assert!(followed < 40, "all of them do not fit");
        let at = ann.follow(&format!("d{followed}"), Doc::new());
        let subscribe = ann.open[at].id;
        match ann.answers.iter().find(|(id, _)| *id == subscribe) {
            Some((_, outcome)) => break outcome.unwrap_err(),
            None => followed += 1,
        }
    };
    assert_eq!(refused, i64::from(codes::INTERNAL));
    assert!(followed > 4, "{followed}");
}

/// Whoever opens several large documents at once gets them all, and is not closed for falling behind.
#[tokio::test]
async fn several_large_documents_at_once() {
    let limits = Limits::default().with(|limits| limits.max_queue = 120_000);
    let server = Server::builder().limits(limits).build();
    let mut random = 1_u64;
    let text: String = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (random >> 58) as u8)
    })
    .take(100_000)
    .collect();
    server.docs().edit("large", |t| t.get_or_insert_text("text").insert(t, 0, &text)).await.unwrap();
    let mut ann = Client::following(&server, "ann", "large");
    // Asks again, twice, before it has read the first answer.
    ann.send(0, &[0, 0, 1, 0]);
    ann.send(0, &[0, 0, 1, 0]);
    ann.hear();
    assert_eq!(ann.peer.closing(), None);
    assert!(ann.text(0) == text);
}
