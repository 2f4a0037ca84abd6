//! Documents against a scripted server that is a `yrs::Doc` itself.

use datasole_client::{
    Client, DocError, Document, EditError, SyncStatus, codes,
    yrs::{
        Doc, GetString, ReadTxn, StateVector, Text, Transact, Update,
        sync::{Message, SyncMessage},
        undo::UndoManager,
        updates::{decoder::Decode, encoder::Encode},
    },
};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::fake::*;

const CHANNEL: u8 = 3;

/// The server's side of one document on one connection.
struct Side {
    doc: Doc,
    peer: Peer,
    seq: u8,
}

impl Side {
    /// Answers the SUBSCRIBE, and compares.
    async fn accept(doc: Doc, peer: Peer) -> Self {
        let mut side = Self { doc, peer, seq: 0 };
        side.accept_again().await;
        side
    }

    async fn accept_again(&mut self) {
        let answer = json!({"epoch": 1, "seq": self.seq, "recovered": false, "channel": CHANNEL});
        self.peer.accept_subscription("doc", "notes", answer).await;
        let theirs = self.doc.transact().state_vector();
        self.send(0, SyncMessage::SyncStep1(theirs)).await;
        let (correlation, asked) = self.expect().await;
        let SyncMessage::SyncStep1(asked) = asked else { panic!("{asked:?}") };
        assert_eq!(correlation, 0);
        let missing = self.doc.transact().encode_diff_v1(&asked);
        self.send(0, SyncMessage::SyncStep2(missing)).await;
        let (correlation, told) = self.expect().await;
        let SyncMessage::SyncStep2(told) = told else { panic!("{told:?}") };
        self.apply(&told);
        self.acknowledge(correlation).await;
    }

    async fn send(&mut self, seq: u8, message: SyncMessage) {
        let payload = [vec![seq], Message::Sync(message).encode_v1()].concat();
        self.peer.send_raw(DOC, CHANNEL.into(), &payload).await;
    }

    /// The next sync message; awareness is passed over.
    async fn expect(&mut self) -> (u32, SyncMessage) {
        loop {
            let (correlation, payload) = self.peer.expect_raw(DOC).await;
            assert_eq!(payload[0], CHANNEL);
            if let Message::Sync(message) = Message::decode_v1(&payload[1..]).unwrap() {
                return (correlation, message);
            }
        }
    }

    async fn expect_update(&mut self) -> u32 {
        let (correlation, message) = self.expect().await;
        let SyncMessage::Update(update) = message else { panic!("{message:?}") };
        self.apply(&update);
        correlation
    }

    fn apply(&self, update: &[u8]) {
        self.doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    }

    async fn acknowledge(&mut self, correlation: u32) {
        self.seq += 1;
        self.peer.send_raw(ACK, correlation, &[self.seq]).await;
    }

    /// Types at the end, as another client.
    async fn push(&mut self, text: &str) {
        let update = {
            let field = self.doc.get_or_insert_text("text");
            let mut transaction = self.doc.transact_mut();
            field.push(&mut transaction, text);
            transaction.encode_update_v1()
        };
        self.seq += 1;
        self.send(self.seq, SyncMessage::Update(update)).await;
    }
}

fn push(doc: &Doc, text: &str) {
    let field = doc.get_or_insert_text("text");
    field.push(&mut doc.transact_mut(), text);
}

fn text(doc: &Doc) -> String {
    let field = doc.get_or_insert_text("text");
    field.get_string(&doc.transact())
}

/// Waits until the document's text is this.
async fn reads(document: &Document, expected: &str) {
    let mut statuses = document.statuses();
    while text(document.yrs_doc()) != expected {
        statuses.next().await.unwrap();
    }
}

/// A client with the document `notes`, of which the server has this text.
async fn open(server: &Fake, text: &str) -> (Client, Document, Side) {
    let (client, peer) = server.pair().await;
    let document = client.doc("notes").unwrap();
    assert_eq!(document.status(), SyncStatus::Loading);
    let doc = Doc::new();
    push(&doc, text);
    let side = Side::accept(doc, peer).await;
    document.synced().await.unwrap();
    (client, document, side)
}

#[tokio::test]
async fn edits_go_both_ways() {
    let server = Fake::listen().await;
    let (_client, document, mut side) = open(&server, "one").await;
    assert_eq!(text(document.yrs_doc()), "one");
    push(document.yrs_doc(), " two");
    assert_eq!(document.status(), SyncStatus::Pending(1));
    let correlation = side.expect_update().await;
    assert_eq!(text(&side.doc), "one two");
    side.acknowledge(correlation).await;
    document.synced().await.unwrap();
    side.push(" three").await;
    reads(&document, "one two three").await;
    assert_eq!(document.status(), SyncStatus::Synced, "what came is not sent back");
}

#[tokio::test]
async fn no_more_than_32_are_unanswered_and_the_rest_is_merged() {
    let server = Fake::listen().await;
    let (client, document, mut side) = open(&server, "").await;
    for _ in 0..200 {
        push(document.yrs_doc(), "x");
        tokio::task::yield_now().await;
    }
    let mut answers = Vec::new();
    for _ in 0..32 {
        answers.push(side.expect_update().await);
    }
    client.emit("mark", &()).await.unwrap();
    side.peer.expect(EVENT_C2S).await;
    assert!(text(&side.doc).len() < 200);
    let mut frames = 32;
    while text(&side.doc).len() < 200 {
        side.acknowledge(answers.remove(0)).await;
        answers.push(side.expect_update().await);
        frames += 1;
    }
    assert!(frames < 100, "{frames}");
    for correlation in answers {
        side.acknowledge(correlation).await;
    }
    document.synced().await.unwrap();
    assert_eq!(text(&side.doc), text(document.yrs_doc()));
}

#[tokio::test]
async fn what_was_made_without_a_connection_is_merged() {
    let server = Fake::listen().await;
    let (_client, document, side) = open(&server, "").await;
    let Side { doc, peer, .. } = side;
    drop(peer);
    push(document.yrs_doc(), "here");
    push(&doc, "there");
    let mut side = Side::accept(doc, server.accept_v2().await).await;
    document.synced().await.unwrap();
    assert_eq!(text(&side.doc).len(), 9);
    assert_eq!(text(&side.doc), text(document.yrs_doc()));
    side.push("!").await;
    reads(&document, &text(&side.doc)).await;
}

#[tokio::test]
async fn more_than_is_kept_is_compared_instead() {
    let server = Fake::listen().await;
    let (_client, document, mut side) = open(&server, "").await;
    // Without letting the task run.
    for _ in 0..5_000 {
        push(document.yrs_doc(), "x");
    }
    assert_eq!(document.pending(), 5_000);
    // As many as may be without an answer were sent before there were too many.
    for _ in 0..32 {
        side.expect_update().await;
    }
    side.peer.expect(UNSUBSCRIBE).await;
    side.accept_again().await;
    document.synced().await.unwrap();
    assert_eq!(text(&side.doc).len(), 5_000);
}

#[tokio::test]
async fn a_refused_edit_is_told_and_the_document_stays() {
    let server = Fake::listen().await;
    let (client, document, mut side) = open(&server, "fixed").await;
    let mut refusals = client.refusals();
    push(document.yrs_doc(), "!");
    let (correlation, _) = side.expect().await;
    side.peer.send(ERROR, correlation, &json!({"message": "read-only", "code": codes::FORBIDDEN})).await;
    let refusal = refusals.next().await.unwrap();
    assert_eq!((refusal.code, refusal.stream.key.as_str()), (codes::FORBIDDEN, "notes"));
    assert!(matches!(document.synced().await, Err(DocError::Refused { code: codes::FORBIDDEN, .. })));
    assert!(matches!(document.status(), SyncStatus::Refused { .. }));
    side.push("?").await;
    while !text(document.yrs_doc()).contains('?') {
        tokio::task::yield_now().await;
    }
}

/// Does something too large for a frame, undoes it, and types on: all but that is stored, without a reconnect.
async fn check_paste(undo: impl FnOnce(&Doc, &mut UndoManager<()>)) {
    let server = Fake::listen().await;
    let (client, document, mut side) = open(&server, "a").await;
    let (mut refusals, doc) = (client.refusals(), document.yrs_doc());
    let mut manager = UndoManager::<()>::new();
    manager.expand_scope(doc, &doc.get_or_insert_text("text"));
    push(doc, &"x".repeat(2 << 20));
    assert_eq!(refusals.next().await.unwrap().code, codes::TOO_LARGE);
    assert!(matches!(document.status(), SyncStatus::Refused { .. }));
    undo(doc, &mut manager);
    push(doc, "b");
    let mut statuses = document.statuses();
    while statuses.next().await != Some(SyncStatus::Pending(3)) {}
    side.peer.expect(UNSUBSCRIBE).await;
    side.accept_again().await;
    document.synced().await.unwrap();
    assert_eq!((text(&side.doc), text(doc)), ("ab".into(), "ab".into()));
    assert!(refusals.next().now_or_never().is_none(), "told once");
}

#[tokio::test]
async fn what_is_typed_after_a_refusal_is_stored() {
    check_paste(|doc, _| doc.get_or_insert_text("text").remove_range(&mut doc.transact_mut(), 1, 2 << 20)).await;
    check_paste(|_, manager| assert!(manager.undo_blocking())).await;
}

#[tokio::test]
async fn own_edits_are_stored_beside_what_misses_its_predecessor() {
    let author = Doc::new();
    push(&author, "first");
    let first = author.transact().encode_diff_v1(&StateVector::default());
    let known = author.transact().state_vector();
    push(&author, " second");
    let second = author.transact().encode_diff_v1(&known);

    let (server, doc) = (Fake::listen().await, Doc::new());
    doc.transact_mut().apply_update(Update::decode_v1(&second).unwrap()).unwrap();
    push(&doc, "own");
    let (client, peer) = server.pair().await;
    let document = client.open_doc("notes", doc.clone()).unwrap();
    let mut side = Side::accept(Doc::new(), peer).await;
    assert!(!side.doc.transact().has_missing_updates());
    assert_eq!(text(&side.doc), "own");
    // The missing part comes from the server, which lacks the rest.
    side.apply(&first);
    side.seq += 1;
    side.send(side.seq, SyncMessage::Update(first)).await;
    let correlation = side.expect_update().await;
    side.acknowledge(correlation).await;
    document.synced().await.unwrap();
    assert_eq!(text(&side.doc), text(document.yrs_doc()));
    assert!(text(&side.doc).contains("first second"));
}

#[tokio::test]
async fn the_cursor_of_a_document_that_is_opened_again_is_new_to_all() {
    let server = Fake::listen().await;
    let (client, document, mut side) = open(&server, "").await;
    let doc = document.yrs_doc().clone();
    let clock = async |side: &mut Side| {
        let (_, payload) = side.peer.expect_raw(DOC).await;
        let Message::Awareness(update) = Message::decode_v1(&payload[1..]).unwrap() else { panic!() };
        update.clients[&doc.client_id()].clock
    };
    document.set_awareness(&1).unwrap();
    let last = clock(&mut side).await;
    drop(document);
    side.peer.expect(UNSUBSCRIBE).await;
    let again = client.open_doc("notes", doc.clone()).unwrap();
    side.accept_again().await;
    again.set_awareness(&2).unwrap();
    assert!(clock(&mut side).await > last, "the server has told the others that it is gone");
}

#[tokio::test]
async fn what_the_server_does_not_know_is_compared_again() {
    let server = Fake::listen().await;
    let (_client, document, mut side) = open(&server, "").await;
    push(document.yrs_doc(), "x");
    let (correlation, _) = side.expect().await;
    side.peer.send(ERROR, correlation, &json!({"message": "missing", "code": codes::INVALID_PARAMS})).await;
    side.peer.expect(UNSUBSCRIBE).await;
    side.accept_again().await;
    document.synced().await.unwrap();
    assert_eq!(text(&side.doc), "x");
}

#[tokio::test]
async fn awareness_is_shown_and_forgotten_with_the_connection() {
    let server = Fake::listen().await;
    let (_client, document, mut side) = open(&server, "").await;
    document.set_awareness(&json!({"name": "Ann"})).unwrap();
    let (correlation, payload) = side.peer.expect_raw(DOC).await;
    let Message::Awareness(update) = Message::decode_v1(&payload[1..]).unwrap() else { panic!() };
    assert_eq!(correlation, 0);
    let own = document.yrs_doc().client_id();
    assert_eq!(&*update.clients[&own].json, r#"{"name":"Ann"}"#);

    // Client 7, with clock 1 and a JSON text of two bytes.
    let other = [0, 1, 6, 1, 7, 1, 2, b'4', b'2'];
    side.peer.send_raw(DOC, CHANNEL.into(), &other).await;
    let mut changes = document.awareness_changes();
    while document.awareness::<Value>().len() < 2 {
        changes.next().await.unwrap();
    }
    let shown = document.awareness::<u32>();
    assert_eq!(
        shown.iter().map(|shown| (shown.client_id, shown.own, shown.value)).collect::<Vec<_>>(),
        [(7, false, 42)]
    );
    drop(side);
    while document.awareness::<Value>().len() > 1 {
        changes.next().await.unwrap();
    }
    assert!(document.awareness::<Value>()[0].own);
}

#[tokio::test]
async fn an_update_that_cannot_be_read_is_compared_again() {
    let server = Fake::listen().await;
    let (_client, document, mut side) = open(&server, "one").await;
    side.seq += 1;
    side.peer.send_raw(DOC, CHANNEL.into(), &[side.seq, 0, 2, 1, 0xff]).await;
    side.peer.expect(UNSUBSCRIBE).await;
    side.accept_again().await;
    document.synced().await.unwrap();
    side.push(" two").await;
    reads(&document, "one two").await;
}

#[tokio::test]
async fn giving_up_is_told_and_reconnecting_goes_on() {
    let server = Fake::listen().await;
    let (client, document, side) = open(&server, "").await;
    let Side { doc, mut peer, .. } = side;
    push(document.yrs_doc(), "x");
    let close = CloseFrame { code: 4004.into(), reason: "".into() };
    peer.stream.close(Some(close)).await.unwrap();
    assert!(matches!(document.synced().await, Err(DocError::Disconnected(_))));
    assert!(matches!(document.synced().await, Err(DocError::Disconnected(_))), "it still holds");
    assert!(matches!(client.crdt().counter("n").unwrap().synced().await, Err(EditError::Disconnected(_))));
    assert_eq!(document.status(), SyncStatus::Pending(1));
    client.reconnect();
    let again = async { Side::accept(doc, server.accept_v2().await).await };
    let (synced, side) = tokio::join!(document.synced(), again);
    synced.unwrap();
    assert_eq!(text(&side.doc), "x");
}

#[tokio::test]
async fn a_document_that_is_left_ends_its_streams() {
    let server = Fake::listen().await;
    let (client, document, mut side) = open(&server, "").await;
    let (mut statuses, mut changes) = (document.statuses(), document.awareness_changes());
    assert_eq!(statuses.next().await, Some(SyncStatus::Synced));
    assert_eq!(changes.next().await, Some(()));
    let doc = document.yrs_doc().clone();
    drop(document);
    side.peer.expect(UNSUBSCRIBE).await;
    assert_eq!(statuses.next().await, None);
    assert_eq!(changes.next().await, None);
    // Another link of the same document, which the first no longer observes.
    let document = client.open_doc("notes", doc).unwrap();
    let mut side = Side::accept(side.doc, side.peer).await;
    push(document.yrs_doc(), "x");
    assert_eq!(document.pending(), 1);
    side.expect_update().await;
    assert_eq!(text(&side.doc), "x");
}

#[tokio::test]
async fn undo_undoes_own_edits_only() {
    let server = Fake::listen().await;
    let (_client, document, mut side) = open(&server, "base ").await;
    let field = document.yrs_doc().get_or_insert_text("text");
    let mut undo = UndoManager::<()>::new();
    undo.expand_scope(document.yrs_doc(), &field);
    push(document.yrs_doc(), "mine ");
    side.expect_update().await;
    side.push("theirs").await;
    reads(&document, "base mine theirs").await;
    assert!(undo.undo_blocking());
    assert_eq!(text(document.yrs_doc()), "base theirs");
    side.expect_update().await;
    assert_eq!(text(&side.doc), "base theirs");
}

#[tokio::test]
async fn handles_share_a_document_and_the_last_leaves_once_all_is_stored() {
    let server = Fake::listen().await;
    let (client, document, mut side) = open(&server, "").await;
    let second = client.doc("notes").unwrap();
    assert!(matches!(client.open_doc("notes", Doc::new()), Err(DocError::Open)));
    push(second.yrs_doc(), "x");
    let correlation = side.expect_update().await;
    drop((document, second));
    client.emit("mark", &()).await.unwrap();
    side.peer.expect(EVENT_C2S).await;
    side.acknowledge(correlation).await;
    side.peer.expect(UNSUBSCRIBE).await;
}

#[tokio::test]
async fn a_document_of_the_program_is_merged_with_the_servers() {
    let server = Fake::listen().await;
    let (client, peer) = server.pair().await;
    let own = Doc::new();
    push(&own, "mine");
    {
        let _busy = own.transact_mut();
        assert!(matches!(client.open_doc("notes", own.clone()), Err(DocError::Busy)));
    }
    let document = client.open_doc("notes", own.clone()).unwrap();
    let theirs = Doc::new();
    push(&theirs, "theirs");
    let side = Side::accept(theirs, peer).await;
    document.synced().await.unwrap();
    assert_eq!(text(&own).len(), 10);
    assert_eq!(text(&own), text(&side.doc));
    assert!(own.transact().state_vector() != StateVector::default());
    drop(side);
    client.close().await;
    assert!(matches!(document.synced().await, Err(DocError::Closed)));
    assert!(matches!(client.doc("other"), Err(DocError::Command(_))));
}
