//! Documents over the wire, edited by yrs: what their followers see of each other, what is stored, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod backend;
mod client;
mod limits;
mod nodes;

use std::time::Duration;

use datasole_core::frame::Opcode;
use datasole_server::{
    Builder, DocError, Limits, Position, Server, codes,
    yrs::{self, Doc, ReadTxn, Text, Transact, TransactionMut, WriteTxn},
};

use self::{
    backend::{Faulty, REFUSED, STORED_BUT_FAILED, WAITING, WELL},
    client::{Client, awareness, change, message_of, state, text},
};

fn server() -> Server {
    Server::builder().build()
}

fn over(backend: &Faulty) -> Builder {
    Server::builder().backend(backend.clone())
}

#[tokio::test]
async fn editors_see_each_other_and_every_seq_once() {
    let server = server();
    let (mut ann, mut bob) = (Client::following(&server, "ann", "d"), Client::following(&server, "bob", "d"));
    for turn in 1..=20 {
        let (writer, reader) = if turn % 3 == 0 { (&mut ann, &mut bob) } else { (&mut bob, &mut ann) };
        let middle = writer.text(0).len() as u32 / 2;
        assert_eq!(writer.write(0, middle, &format!("<{turn}>")), Ok(turn));
        reader.hear();
        assert_eq!(ann.text(0), bob.text(0));
        assert_eq!(ann.open[0].position, bob.open[0].position);
    }
    // At once: neither has heard the other.
    let (left, right) = (
        ann.draft(0, |t| t.get_or_insert_text("text").insert(t, 0, "ann")),
        bob.draft(0, |t| t.get_or_insert_text("text").remove_range(t, 0, 5)),
    );
    assert_eq!(ann.ask(0, &change(&left)), Ok(21));
    assert_eq!(bob.ask(0, &change(&right)), Ok(22));
    ann.hear();
    assert_eq!(ann.text(0), bob.text(0));
    assert_eq!(ann.ask(0, &change(&left)), Ok(0), "sent again, it changes nothing");
    bob.hear();
    assert_eq!(bob.open[0].position.seq, 22);
    assert_eq!(server.docs().text("d", "text").await.unwrap(), ann.text(0));
    assert_eq!(server.docs().keys().await.unwrap(), ["d"]);
}

#[tokio::test]
async fn what_was_written_without_an_answer_comes_back_as_an_entry() {
    let server = server();
    let (mut ann, mut bob) = (Client::following(&server, "ann", "d"), Client::following(&server, "bob", "d"));
    let update = ann.draft(0, |t| t.get_or_insert_text("text").insert(t, 0, "quiet"));
    let mut payload = vec![ann.open[0].channel as u8];
    payload.extend(change(&update));
    let message = ann.codec.encode(Opcode::Doc, 0, &payload, 256);
    ann.peer.receive(&message);
    let answers = ann.answers.len();
    ann.hear();
    bob.hear();
    assert_eq!((ann.open[0].position.seq, bob.open[0].position.seq, ann.answers.len()), (1, 1, answers));
    assert_eq!(bob.text(0), "quiet");
}

#[tokio::test]
async fn offline_edits_merge_on_reconnect() {
    let server = server();
    let (mut ann, mut bob) = (Client::following(&server, "ann", "d"), Client::following(&server, "bob", "d"));
    ann.write(0, 0, "shared ").unwrap();
    bob.hear();
    for round in 0..5 {
        let doc = ann.unfollow(0);
        drop(ann);
        bob.write(0, 0, &format!("b{round} ")).unwrap();
        let length = text(&doc).len() as u32;
        {
            let mut t = doc.transact_mut();
            let text = t.get_or_insert_text("text");
            text.insert(&mut t, length, &format!("a{round} "));
            text.remove_range(&mut t, 0, 1);
        }
        ann = Client::new(&server, "ann");
        ann.follow("d", doc);
        bob.hear();
        assert_eq!(ann.text(0), bob.text(0), "round {round}");
        assert_eq!(ann.open[0].position, bob.open[0].position);
    }
    let all = ann.text(0);
    for round in 0..5 {
        assert!(all.contains(&format!("a{round} ")) || all.contains(&format!("{round} ")), "{all}");
    }
}

#[tokio::test]
async fn one_connection_follows_three_documents() {
    let server = server();
    let (mut ann, mut bob) = (Client::new(&server, "ann"), Client::new(&server, "bob"));
    for key in ["x", "y", "z"] {
        ann.follow(key, Doc::new());
        bob.follow(key, Doc::new());
    }
    for round in 0..3 {
        for at in 0..3 {
            // Acknowledgements do not name the document; here they are distinct.
            (0..3).for_each(|other| ann.open[other].deaf = other != at);
            assert!(ann.write(at, 0, &format!("{at}{round} ")).is_ok());
            bob.hear();
        }
    }
    for at in 0..3 {
        assert_eq!(bob.text(at), format!("{at}2 {at}1 {at}0 "));
        assert_eq!(server.docs().text(&bob.open[at].key, "text").await.unwrap(), bob.text(at));
    }
    bob.unfollow(1);
    (0..3).for_each(|other| ann.open[other].deaf = other != 1);
    ann.write(1, 0, "alone").unwrap();
    bob.hear();
    assert_eq!(server.docs().keys().await.unwrap(), ["x", "y", "z"]);
}

#[tokio::test]
async fn readers_may_look_but_not_write() {
    let server = Server::builder().authorize_write(|user, _| user.user_id == "ann").build();
    let (mut ann, mut bob) = (Client::following(&server, "ann", "d"), Client::following(&server, "bob", "d"));
    ann.write(0, 0, "mine").unwrap();
    bob.hear();
    assert_eq!(bob.text(0), "mine");
    // All that the reader has is known; nothing is refused.
    let all = bob.open[0].doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
    assert_eq!(bob.ask(0, &message_of(&[0, 1], &all)), Ok(0));
    assert_eq!(bob.ask(0, &state(7, 1, "{}")), Ok(0), "cursors are shown");
    ann.hear();
    assert_eq!(ann.awareness, [awareness(7, 1, "{}")]);

    let delete = bob.draft(0, |t| t.get_or_insert_text("text").remove_range(t, 1, 1));
    assert_eq!(bob.ask(0, &change(&delete)), Err(i64::from(codes::FORBIDDEN)));
    assert_eq!(bob.write(0, 0, "not "), Err(i64::from(codes::FORBIDDEN)));
    ann.hear();
    assert_eq!((ann.text(0), ann.open[0].position.seq), ("mine".into(), 1));
    assert_eq!(server.docs().text("d", "text").await.unwrap(), "mine");
}

#[tokio::test]
async fn nonsense_is_refused_and_harms_nobody() {
    let server = server();
    let (mut ann, mut eve) = (Client::following(&server, "ann", "d"), Client::following(&server, "eve", "d"));
    ann.write(0, 0, "whole").unwrap();
    eve.hear();
    let invalid = Err(i64::from(codes::INVALID_PARAMS));
    let good = change(&eve.draft(0, |t| t.get_or_insert_text("text").insert(t, 2, "!?")));
    for end in 0..good.len() {
        assert_eq!(eve.ask(0, &good[..end]), invalid, "cut to {end}");
    }
    assert_eq!(eve.ask(0, &[&good[..], &[0]].concat()), invalid);
    assert_eq!(eve.ask(0, &message_of(&[0, 3], &[])), invalid);
    assert_eq!(eve.ask(0, &message_of(&[2], &[])), invalid);
    assert_eq!(eve.ask(0, &message_of(&[0, 0], &[0xff, 0xff, 0xff, 0xff, 0x0f])), invalid);
    assert_eq!(eve.ask(0, &message_of(&[1], &[9])), invalid);
    assert_eq!(eve.ask(0, &state(1, 1, "{")), invalid, "others would have to parse it");
    assert_eq!(eve.ask(0, &state(1, 1, &format!("\"{}\"", "x".repeat(5_000)))), Err(i64::from(codes::LIMIT)));
    // What depends on what was never sent.
    let later = eve.draft(0, |t| t.get_or_insert_text("text").insert(t, 0, "later"));
    assert_eq!(eve.ask(0, &change(&later)), invalid);
    // A channel that is not hers.
    let id = eve.frame(Opcode::Doc, &[0x7f, 0, 0, 1, 0]);
    eve.hear();
    assert_eq!(eve.answer(id), Err(i64::from(codes::INVALID_REQUEST)));
    let id = eve.frame(Opcode::Doc, &[]);
    eve.hear();
    assert_eq!(eve.answer(id), Err(i64::from(codes::INVALID_REQUEST)));

    ann.hear();
    assert_eq!((ann.text(0), ann.open[0].position.seq), ("whole".into(), 1));
    assert!(ann.awareness.is_empty() && eve.peer.closing().is_none());
    assert_eq!(eve.ask(0, &good), Ok(2));
    assert_eq!(eve.ask(0, &change(&later)), Ok(3));
    ann.hear();
    assert_eq!(ann.text(0), eve.text(0));
}

#[tokio::test]
async fn positions_and_texts_survive_the_server() {
    let backend = Faulty::default();
    let (epoch, doc) = {
        let server = over(&backend).build();
        let mut ann = Client::following(&server, "ann", "d");
        for n in 0..5 {
            ann.write(0, 0, &format!("{n}")).unwrap();
        }
        let epoch = ann.open[0].position.epoch;
        (epoch, ann.unfollow(0))
    };
    {
        let mut t = doc.transact_mut();
        let text = t.get_or_insert_text("text");
        text.insert(&mut t, 0, "offline ");
    }
    let server = over(&backend).build();
    let mut late = Client::following(&server, "late", "d");
    assert_eq!((late.text(0).as_str(), late.open[0].position), ("43210", Position { epoch, seq: 5 }));
    let mut ann = Client::new(&server, "ann");
    ann.follow("d", doc);
    late.hear();
    assert_eq!((late.text(0).as_str(), late.open[0].position), ("offline 43210", Position { epoch, seq: 6 }));
    assert_eq!(ann.open[0].position, late.open[0].position);
}

#[tokio::test]
async fn idle_documents_leave_memory_and_come_back() {
    let backend = Faulty::default();
    let server = over(&backend)
        .limits(Limits::default().with(|limits| {
            limits.max_idle_docs = 2;
            limits.doc_stay = Duration::ZERO;
        }))
        .build();
    let mut ann = Client::new(&server, "ann");
    for n in 0..6 {
        ann.follow(&format!("d{n}"), Doc::new());
        ann.write(0, 0, &format!("text {n}")).unwrap();
        ann.unfollow(0);
    }
    for n in 0..6 {
        assert_eq!(server.docs().text(&format!("d{n}"), "text").await.unwrap(), format!("text {n}"));
        ann.follow(&format!("d{n}"), Doc::new());
        assert_eq!((ann.text(0), ann.open[0].position.seq), (format!("text {n}"), 1));
        ann.unfollow(0);
    }
    assert_eq!(server.docs().text("other", "text").await.unwrap(), "");
    assert_eq!(server.docs().keys().await.unwrap().len(), 6, "looking makes no document");
}

/// How many entries and bytes the backend holds behind the snapshot after each of so many changes.
async fn check_compaction(limits: Limits, changes: u64, snapshots_at: &[u64]) {
    let backend = Faulty::default();
    let server = over(&backend).limits(limits).build();
    let mut ann = Client::following(&server, "ann", "d");
    let mut taken = Vec::new();
    for seq in 1..=changes {
        ann.write(0, 0, "x").unwrap();
        let stored = backend.stored("d").await;
        assert_eq!(stored.mark.position.seq, seq);
        if stored.snapshot.as_ref().is_some_and(|(at, _)| *at == seq) {
            assert!(stored.entries.is_empty(), "nobody needs what is in the snapshot");
            taken.push(seq);
        }
        let again = over(&backend).build();
        assert_eq!(again.docs().text("d", "text").await.unwrap(), ann.text(0));
    }
    assert_eq!(taken, snapshots_at);
}

#[tokio::test]
async fn updates_become_snapshots_by_number_and_bytes() {
    let by_entries =
        |doc_compact_entries| Limits::default().with(|limits| limits.doc_compact_entries = doc_compact_entries);
    check_compaction(by_entries(3), 3, &[]).await;
    check_compaction(by_entries(3), 9, &[4, 8]).await;
    let by_bytes = |doc_compact_bytes| Limits::default().with(|limits| limits.doc_compact_bytes = doc_compact_bytes);
    check_compaction(by_bytes(1), 3, &[1, 2, 3]).await;
    check_compaction(by_bytes(1_000), 3, &[]).await;
}

#[tokio::test]
async fn awareness_comes_and_goes_with_connections() {
    let server = server();
    let (mut ann, mut bob) = (Client::following(&server, "ann", "d"), Client::following(&server, "bob", "d"));
    assert_eq!(ann.ask(0, &state(1, 5, r#"{"name":"Ann"}"#)), Ok(0));
    assert_eq!(bob.ask(0, &state(2, 1, r#"{"name":"Bob"}"#)), Ok(0));
    ann.hear();
    assert_eq!(ann.awareness, [awareness(2, 1, r#"{"name":"Bob"}"#)], "not one's own");
    assert_eq!(bob.awareness, [awareness(1, 5, r#"{"name":"Ann"}"#)]);
    // Nobody speaks for others.
    assert_eq!(bob.ask(0, &state(1, 9, "null")), Err(codes::FORBIDDEN.into()));
    assert_eq!(bob.ask(0, &state(1, 9, r#"{"name":"Eve"}"#)), Err(codes::FORBIDDEN.into()));
    assert_eq!(bob.ask(0, &state(1, 5, r#"{"name":"Ann"}"#)), Ok(0), "what is known may be repeated");
    ann.hear();
    assert_eq!(ann.awareness.len(), 1);
    let late = Client::following(&server, "late", "d");
    let mut both = vec![2];
    both.extend(&awareness(1, 5, r#"{"name":"Ann"}"#)[1..]);
    both.extend(&awareness(2, 1, r#"{"name":"Bob"}"#)[1..]);
    assert_eq!(late.awareness, [both]);

    ann.unfollow(0);
    bob.hear();
    assert_eq!(bob.awareness.pop(), Some(awareness(1, 5, "null")), "gone with the subscription");
    assert_eq!(bob.ask(0, &state(1, 9, "1")), Err(codes::FORBIDDEN.into()), "reserved for Ann");
    drop(bob);
    let mut late = late;
    late.hear();
    assert_eq!(late.awareness[1..], [awareness(1, 5, "null"), awareness(2, 1, "null")], "and with the connection");
    assert!(Client::following(&server, "later", "d").awareness.is_empty());
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_seen() {
    for mode in [REFUSED, STORED_BUT_FAILED] {
        let backend = Faulty::default();
        let server = over(&backend).build();
        let (mut ann, mut bob) = (Client::following(&server, "ann", "d"), Client::following(&server, "bob", "d"));
        ann.write(0, 0, "stored").unwrap();
        backend.set(mode);
        assert_eq!(ann.write(0, 0, "not "), Err(i64::from(codes::INTERNAL)));
        bob.hear();
        assert_eq!((bob.text(0).as_str(), bob.open[0].position.seq), ("stored", 1));
        assert_eq!(Client::following(&server, "late", "d").text(0), "stored");
        assert!(server.docs().edit("d", |t| t.get_or_insert_text("text").insert(t, 0, "nor ")).await.is_err());
        assert_eq!(server.docs().text("d", "text").await.unwrap(), "stored");
        backend.set(WELL);
        // The author sends again what the server lacks, as after a reconnect. What was stored after all is found, too.
        let doc = ann.unfollow(0);
        ann.follow("d", doc);
        let late = Client::following(&server, "late", "d");
        assert!(late.text(0).ends_with("stored") && late.text(0).contains("not "), "{}", late.text(0));
        let restarted = over(&backend).build();
        assert_eq!(restarted.docs().text("d", "text").await.unwrap(), late.text(0));
    }
}

#[tokio::test]
async fn changes_that_wait_are_kept_in_order_and_not_told() {
    let backend = Faulty::default();
    let server = over(&backend).build();
    let mut ann = Client::following(&server, "ann", "d");
    backend.set(WAITING);
    let mut ids = Vec::new();
    for n in 0..5 {
        // Each depends on the one before it.
        let update = ann.draft(0, |t| t.get_or_insert_text("text").insert(t, n, &n.to_string()));
        ids.push(ann.send(0, &change(&update)));
    }
    // One who comes meanwhile is not told of what is not stored; the answer waits until it is.
    let mut bob = Client::following(&server, "bob", "d");
    ids.push(ann.send(0, &message_of(&[0, 0], &[0])));
    ann.hear();
    assert!(ann.answers.iter().all(|(id, _)| !ids.contains(id)));
    assert_eq!((bob.text(0).as_str(), bob.open[0].position.seq), ("", 0));
    backend.set(WELL);
    while !ann.answers.iter().any(|(id, _)| Some(id) == ids.last()) {
        tokio::task::yield_now().await;
        ann.hear();
        bob.hear();
    }
    let answered: Vec<_> = ann.answers.iter().filter(|(id, _)| ids.contains(id)).copied().collect();
    let expected: Vec<_> = ids.into_iter().zip([Ok(1), Ok(2), Ok(3), Ok(4), Ok(5), Ok(0)]).collect();
    assert_eq!(answered, expected);
    bob.hear();
    assert_eq!((bob.text(0).as_str(), bob.open[0].position.seq), ("01234", 5));
}

#[tokio::test]
async fn two_servers_over_one_backend_lose_nothing() {
    let backend = Faulty::default();
    let (one, two) = (over(&backend).build(), over(&backend).build());
    let mut ann = Client::following(&one, "ann", "d");
    ann.write(0, 0, "first ").unwrap();
    for n in 0..3 {
        for server in [&two, &one] {
            let insert = |t: &mut TransactionMut<'_>| t.get_or_insert_text("text").insert(t, 0, &n.to_string());
            server.docs().edit("d", insert).await.unwrap();
        }
    }
    let third = over(&backend).build();
    let text = third.docs().text("d", "text").await.unwrap();
    assert_eq!(text.len(), "first ".len() + 6, "{text}");
    assert_eq!(one.docs().text("d", "text").await.unwrap(), text);
}

#[tokio::test]
async fn the_application_reads_edits_and_removes() {
    let server = Server::builder().limits(Limits::default().with(|limits| limits.max_key = 8)).build();
    let docs = server.docs();
    let mut ann = Client::following(&server, "ann", "d");
    let length = docs
        .edit("d", |t| {
            let text = t.get_or_insert_text("text");
            text.insert(t, 0, "from the server");
            text.len(t)
        })
        .await
        .unwrap();
    ann.hear();
    assert_eq!((length, ann.text(0).as_str(), ann.open[0].position.seq), (15, "from the server", 1));
    docs.edit("d", |_| ()).await.unwrap();
    let panicked = docs.edit("d", |t| {
        t.get_or_insert_text("text").insert(t, 0, "half");
        panic!("on purpose");
    });
    assert!(matches!(panicked.await, Err::<(), _>(DocError::Panicked)));
    let clients = docs.read("d", |t| t.state_vector().len()).await.unwrap();
    assert_eq!(clients, 1);
    ann.hear();
    assert_eq!(ann.open[0].position.seq, 1);
    for key in ["", "123456789"] {
        assert!(matches!(docs.edit(key, |_| ()).await, Err(DocError::Key { limit: 8, .. })));
    }
    let doc = ann.unfollow(0);
    docs.remove("d").await.unwrap();
    docs.remove("d").await.unwrap();
    assert_eq!((docs.keys().await.unwrap(), docs.text("d", "text").await.unwrap()), (vec![], String::new()));
    // Who has it brings it back.
    ann.follow("d", doc);
    assert_eq!(docs.text("d", "text").await.unwrap(), "from the server");
}
