//! [`Document`] with updates as editors make them, and as nobody should.

mod hostile;

use bytes::Bytes;
use datasole_core::wire::push_varuint;
use yrs::{
    Any, Array, ArrayPrelim, Doc, GetString, Map, MapPrelim, ReadTxn, StateVector, Text, TextPrelim, Transact,
    TransactionMut, Update, WriteTxn, Xml, XmlElementPrelim, XmlFragment, XmlTextPrelim,
    updates::{decoder::Decode, encoder::Encode},
};

use super::document::{Bounds, Document};
use super::error::DocError;
use super::update::effort;
use crate::limits::Limits;

const ROOM: Bounds = Bounds { size: 1 << 20, memory: 1 << 26 };

fn empty() -> Document {
    Document::load(None, Vec::new(), ROOM).unwrap()
}

/// Applies an update, and stores it.
fn take(document: &mut Document, update: &[u8]) -> Result<Option<Bytes>, DocError> {
    let new = document.apply(update, usize::MAX);
    document.settle();
    if new.is_err() {
        document.mend().unwrap();
    }
    new
}

/// Somebody who edits.
struct Editor(Doc);

impl Editor {
    fn new(client: u64) -> Self {
        let options = yrs::Options {
            offset_kind: yrs::OffsetKind::Utf16,
            ..yrs::Options::with_client_id(yrs::block::ClientID::new(client))
        };
        Self(Doc::with_options(options))
    }

    fn edit(&self, edit: impl FnOnce(&mut TransactionMut<'_>)) -> Vec<u8> {
        let mut transaction = self.0.transact_mut();
        edit(&mut transaction);
        transaction.encode_update_v1()
    }

    fn hear(&self, update: &[u8]) {
        self.0.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    }

    fn all(&self) -> Vec<u8> {
        self.0.transact().encode_state_as_update_v1(&StateVector::default())
    }
}

/// What a document says, whoever tells it.
fn content(transaction: &impl ReadTxn) -> String {
    let text = transaction.get_text("text").map(|text| text.get_string(transaction));
    let list = transaction.get_array("list").map(|list| json(&yrs::types::ToJson::to_json(&list, transaction)));
    let map = transaction.get_map("map").map(|map| json(&yrs::types::ToJson::to_json(&map, transaction)));
    let xml = transaction.get_xml_fragment("xml").map(|xml| xml.get_string(transaction));
    format!("{text:?} {list:?} {map:?} {xml:?}")
}

/// With sorted members.
fn json(any: &Any) -> serde_json::Value {
    let mut text = String::new();
    any.to_json(&mut text);
    serde_json::from_str(&text).unwrap()
}

fn said_by(document: &mut Document) -> String {
    document.mend().unwrap();
    document.read(|transaction| content(transaction)).unwrap()
}

/// Updates of two editors who hear each other: text with characters outside the basic plane, lists, maps, nesting, XML,
/// formatting, deletions.
fn corpus() -> Vec<Vec<u8>> {
    let (ann, bob) = (Editor::new(1), Editor::new(0x1f_ffff_ffff_ffff));
    let mut updates = Vec::new();
    let mut say = |who: &Editor, other: &Editor, edit: &dyn Fn(&mut TransactionMut<'_>)| {
        let update = who.edit(|transaction| edit(transaction));
        other.hear(&update);
        updates.push(update);
    };
    say(&ann, &bob, &|t| t.get_or_insert_text("text").insert(t, 0, "Hällo 🦀 world"));
    say(&bob, &ann, &|t| t.get_or_insert_text("text").insert(t, 8, "x"));
    say(&bob, &ann, &|t| t.get_or_insert_text("text").remove_range(t, 2, 9));
    say(&ann, &bob, &|t| {
        let list = t.get_or_insert_array("list");
        list.insert_range(t, 0, [Any::from(1), Any::Null, Any::from("two"), Any::from(3.5), Any::from(vec![1u8, 2])]);
        list.push_back(t, ArrayPrelim::from([Any::from(true), Any::Undefined]));
        list.push_back(t, TextPrelim::new("inner"));
    });
    say(&bob, &ann, &|t| t.get_or_insert_array("list").remove_range(t, 1, 3));
    say(&ann, &bob, &|t| {
        let map = t.get_or_insert_map("map");
        map.insert(t, "a", 1);
        map.insert(t, "b", MapPrelim::from([("deep", Any::from(vec![Any::from(1), Any::from("x")]))]));
    });
    say(&bob, &ann, &|t| {
        let map = t.get_or_insert_map("map");
        map.insert(t, "a", 2);
        let inner = map.get(t, "b").unwrap().cast::<yrs::MapRef>().unwrap();
        inner.insert(t, "more", ArrayPrelim::from(["y"]));
    });
    say(&ann, &bob, &|t| drop(t.get_or_insert_map("map").remove(t, "b")));
    say(&bob, &ann, &|t| {
        let xml = t.get_or_insert_xml_fragment("xml");
        let paragraph = xml.push_back(t, XmlElementPrelim::empty("p"));
        paragraph.insert_attribute(t, "class", "bold");
        let text = paragraph.push_back(t, XmlTextPrelim::new("some text"));
        text.format(t, 0, 4, [("b".into(), Any::from(true))].into());
    });
    say(&ann, &bob, &|t| t.get_or_insert_xml_fragment("xml").push_front(t, XmlElementPrelim::empty("hr")).into_unit());
    say(&ann, &bob, &|t| t.get_or_insert_text("text").insert_embed(t, 1, Any::from(true)).into_unit());
    updates.push(ann.all());
    assert_eq!(ann.0.transact().state_vector(), bob.0.transact().state_vector());
    updates
}

trait IntoUnit: Sized {
    fn into_unit(self) {}
}
impl<T> IntoUnit for T {}

/// An update by hand.
struct Raw(Vec<u8>);

impl Raw {
    /// One client with this many blocks, from this clock.
    fn client(blocks: u64, client: u64, clock: u64) -> Self {
        Self(vec![1]).number(blocks).number(client).number(clock)
    }

    fn number(mut self, number: u64) -> Self {
        push_varuint(&mut self.0, number);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

#[test]
fn updates_make_the_document_that_their_authors_have() {
    let updates = corpus();
    let reader = Editor::new(9);
    let mut document = empty();
    for update in &updates[..updates.len() - 1] {
        let new = take(&mut document, update).unwrap().expect("it is new");
        reader.hear(&new);
        assert_eq!(take(&mut document, update).unwrap(), None, "it is not new");
        assert_eq!(take(&mut document, &new).unwrap(), None, "what was told is not new");
    }
    assert_eq!(take(&mut document, updates.last().unwrap()).unwrap(), None, "all of it is not new");
    let author = Editor::new(8);
    author.hear(updates.last().unwrap());
    assert_eq!(said_by(&mut document), content(&author.0.transact()));
    assert_eq!(said_by(&mut document), content(&reader.0.transact()));
}

#[test]
fn a_document_survives_being_stored_and_compacted() {
    let updates = corpus();
    for at in 0..updates.len() {
        let (mut stored, mut snapshot) = (Vec::new(), None);
        let mut document = empty();
        for (index, update) in updates.iter().enumerate() {
            stored.extend(take(&mut document, update).unwrap());
            if index == at {
                snapshot = Some(document.compact().unwrap());
                stored.clear();
                assert_eq!(document.held().0, 0);
            }
        }
        let mut loaded = Document::load(snapshot, stored, ROOM).unwrap();
        assert_eq!(said_by(&mut loaded), said_by(&mut document));
        assert_eq!(loaded.state_vector(), document.state_vector());
    }
}

#[test]
fn a_difference_holds_what_is_missing() {
    let updates = corpus();
    let mut document = empty();
    for update in &updates {
        take(&mut document, update).unwrap();
    }
    for known in 0..updates.len() - 1 {
        let reader = Editor::new(9);
        updates[..known].iter().for_each(|update| reader.hear(update));
        let state_vector = reader.0.transact().state_vector().encode_v1();
        for end in 0..state_vector.len() {
            assert!(document.diff(&state_vector[..end]).is_err(), "cut to {end}");
        }
        reader.hear(&document.diff(&state_vector).unwrap());
        assert_eq!(content(&reader.0.transact()), said_by(&mut document));
    }
    // Who says it has more than there is gets nothing more than deletions.
    assert!(document.diff(&[1, 1, 0xff, 0xff, 0xff, 0x03]).is_ok());
    assert!(document.diff(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}

#[test]
fn what_depends_on_unknown_changes_is_refused() {
    let (ann, bob) = (Editor::new(1), Editor::new(2));
    let first = ann.edit(|t| t.get_or_insert_text("text").insert(t, 0, "abc"));
    let second = ann.edit(|t| t.get_or_insert_text("text").insert(t, 3, "def"));
    bob.hear(&ann.all());
    let foreign = bob.edit(|t| t.get_or_insert_text("text").insert(t, 2, "!"));
    let delete = bob.edit(|t| t.get_or_insert_text("text").remove_range(t, 0, 2));
    let mut document = empty();
    for update in [&second, &foreign, &delete] {
        assert!(matches!(take(&mut document, update), Err(DocError::Missing)));
        assert_eq!(document.state_vector(), [0]);
    }
    for update in [&first, &second, &foreign, &delete] {
        assert!(take(&mut document, update).unwrap().is_some());
    }
    assert_eq!(said_by(&mut document), content(&bob.0.transact()));
    // Several at once, of clients that wait for each other.
    assert!(take(&mut empty(), &bob.all()).unwrap().is_some());
}

#[test]
fn updates_of_many_blocks_and_clients_are_one_change() {
    let editors: Vec<Editor> = (1..=5).map(Editor::new).collect();
    for round in 0..40 {
        let writer = &editors[round % 5];
        let update = writer.edit(|t| {
            let text = t.get_or_insert_text("text");
            let length = text.len(t);
            text.insert(t, length / 2, &format!("<{round}>"));
            text.remove_range(t, length / 3, 1);
            t.get_or_insert_map("map").insert(t, (round % 7).to_string(), round as i64);
        });
        editors.iter().for_each(|editor| editor.hear(&update));
    }
    let mut document = empty();
    let all = editors[0].all();
    let new = take(&mut document, &all).unwrap().unwrap();
    assert_eq!(said_by(&mut document), content(&editors[3].0.transact()));
    assert_eq!(take(&mut document, &all).unwrap(), None);
    let reader = Editor::new(9);
    reader.hear(&new);
    assert_eq!(content(&reader.0.transact()), said_by(&mut document));
    assert_eq!(document.held().0, 1);
}

#[test]
fn documents_are_bounded() {
    let limit = 4_096;
    let mut document = Document::load(None, Vec::new(), Bounds { size: limit, ..ROOM }).unwrap();
    let editor = Editor::new(1);
    let write = |length: usize| editor.edit(|t| t.get_or_insert_text("text").insert(t, 0, &"x".repeat(length)));
    let first = write(4_000);
    assert!(take(&mut document, &first).unwrap().is_some());
    let exact = document.encode().unwrap().len();
    // At the bound and one above it: the rest of the room, less than what its own head takes.
    let over = Editor::new(2);
    over.hear(&first);
    let long = over.edit(|t| t.get_or_insert_text("text").insert(t, 0, &"y".repeat(limit - exact)));
    for _ in 0..3 {
        assert!(matches!(take(&mut document, &long), Err(DocError::TooLarge { limit: 4_096 })));
    }
    let fits = Editor::new(3);
    fits.hear(&first);
    let short = fits.edit(|t| t.get_or_insert_text("text").insert(t, 0, &"z".repeat(limit - exact - 20)));
    assert!(take(&mut document, &short).unwrap().is_some());
    assert!(document.encode().unwrap().len() <= limit);
    let full = fits.edit(|t| t.get_or_insert_text("text").insert(t, 0, "more than twenty bytes"));
    assert!(matches!(take(&mut document, &full), Err(DocError::TooLarge { .. })));
    // Deleting goes on, but not without end: every other character takes more than it frees.
    let sparse = editor.edit(|t| {
        let text = t.get_or_insert_text("text");
        (0..2_000).for_each(|at| text.remove_range(t, at, 1));
    });
    assert!(matches!(take(&mut document, &sparse), Err(DocError::TooLarge { .. })));
    assert!(document.encode().unwrap().len() <= limit);
    let all = over.edit(|t| {
        let text = t.get_or_insert_text("text");
        text.remove_range(t, text.len(t) - 4_000, 4_000);
    });
    assert!(take(&mut document, &all).unwrap().is_some());
    assert!(document.encode().unwrap().len() < 300, "the room is free again");
}

#[test]
fn the_memory_of_a_document_is_bounded_by_its_blocks() {
    // Letters, each inserted by itself at the beginning: a block of six bytes each.
    let blocks: usize = 50;
    let mut raw = Raw::client(blocks as u64, 1, 0);
    for _ in 0..blocks {
        raw = raw.bytes(&[4, 1, 1, b't', 1, b'x']);
    }
    let update = raw.bytes(&[0]).0;
    let (before, grows) = (empty().memory(), (3 * 6 + 600) * blocks);
    let of = |memory| Document::load(None, Vec::new(), Bounds { memory, ..ROOM }).unwrap();
    for (memory, fits) in [(before + grows - 1, false), (before + grows, true), (before + grows + 1, true)] {
        match of(memory).apply(&update, usize::MAX) {
            Ok(new) => assert!(fits && new.is_some(), "{memory}"),
            Err(error) => assert!(!fits && matches!(error, DocError::TooManyBlocks { limit } if limit == memory)),
        }
    }
    // The part of all memory that its author may take.
    for (room, fits) in [(grows - 1, false), (grows, true), (grows + 1, true)] {
        let mut document = empty();
        let outcome = document.apply(&update, room);
        assert!(if fits { outcome.is_ok() } else { matches!(outcome, Err(DocError::Full)) }, "{room}");
        assert_eq!(document.memory() > before, fits, "what is refused takes nothing");
    }
}

#[test]
fn server_code_edits_and_leaves_nothing_behind_when_it_fails() {
    let mut document = Document::load(None, Vec::new(), Bounds { size: 1_000, ..ROOM }).unwrap();
    let (length, update) = document
        .edit(|t| {
            let text = t.get_or_insert_text("text");
            text.insert(t, 0, "🦀!");
            text.len(t)
        })
        .unwrap();
    document.settle();
    assert_eq!(length, 3, "as JavaScript counts");
    let reader = Editor::new(1);
    reader.hear(&update.unwrap());
    assert_eq!(content(&reader.0.transact()), said_by(&mut document));
    assert!(document.edit(|_| ()).unwrap().1.is_none());

    let said = said_by(&mut document);
    let outcome = document.edit(|t| {
        t.get_or_insert_text("text").insert(t, 0, "half");
        panic!("on purpose");
    });
    assert!(matches!(outcome, Err::<((), _), _>(DocError::Panicked)));
    let long = document.edit(|t| t.get_or_insert_text("text").insert(t, 0, &"x".repeat(1_000)));
    assert!(matches!(long, Err(DocError::TooLarge { .. })));
    let subdocument = document.edit(|t| t.get_or_insert_map("map").insert(t, "doc", Doc::new()).into_unit());
    assert!(matches!(subdocument, Err(DocError::Unsupported(_))));
    assert_eq!(said_by(&mut document), said);
    assert!(document.edit(|t| t.get_or_insert_text("text").insert(t, 3, "?")).unwrap().1.is_some());
}

#[test]
fn what_could_not_be_stored_never_was() {
    let updates = corpus();
    let mut document = empty();
    for update in &updates[..updates.len() - 1] {
        let (before, said) = (document.state_vector(), said_by(&mut document));
        for _ in 0..2 {
            assert!(document.lacks(update).unwrap());
            assert!(document.apply(update, usize::MAX).unwrap().is_some());
            assert_eq!(document.state_vector(), before, "what is pending is not told");
            document.retract();
            assert_eq!(said_by(&mut document), said);
        }
        assert!(take(&mut document, update).unwrap().is_some());
        assert!(!document.lacks(update).unwrap());
        assert!(document.state_vector() != before || said_by(&mut document) != said);
        document.retract();
        assert!(!document.lacks(update).unwrap());
    }
}

#[test]
fn what_is_kept_of_the_structure_shrinks_with_the_document() {
    let mut document = empty();
    let editor = Editor::new(1);
    for _ in 0..50 {
        let insert = editor.edit(|t| {
            let map = t.get_or_insert_map("map").insert(t, "a", MapPrelim::default());
            (0..10).for_each(|key| map.insert(t, key.to_string(), key).into_unit());
        });
        assert!(take(&mut document, &insert).unwrap().is_some());
        assert!(
            take(&mut document, &editor.edit(|t| drop(t.get_or_insert_map("map").remove(t, "a")))).unwrap().is_some()
        );
    }
    let before = document.held().1;
    document.compact().unwrap();
    assert!(before > 1_000 && document.held().1 < 150, "{before} to {}", document.held().1);
}

#[test]
fn a_snapshot_waits_for_updates_that_pay_for_its_blocks() {
    // Each letter is put before the others: none can be joined.
    let editor = Editor::new(1);
    let prepend = || editor.edit(|t| t.get_or_insert_text("text").insert(t, 0, "x"));
    let mut document = empty();
    (0..40).for_each(|_| drop(take(&mut document, &prepend()).unwrap()));
    let snapshot = document.compact().unwrap();
    let updates: Vec<_> = (0..30).map(|_| prepend()).collect();
    for (doc_compact_entries, due_after) in [(3, 11), (9, 11), (10, 11), (11, 12), (20, 21)] {
        let limits = Limits { doc_compact_entries, ..Limits::default() };
        let mut document = Document::load(Some(snapshot.clone()), Vec::new(), ROOM).unwrap();
        let due = updates.iter().position(|update| {
            take(&mut document, update).unwrap();
            document.is_due(&limits)
        });
        assert_eq!(due, Some(due_after - 1), "{doc_compact_entries}");
    }
}

#[test]
fn the_effort_of_an_update_is_its_blocks_or_its_bytes() {
    let editor = Editor::new(0x1f_ffff_ffff_ffff);
    let write = |text: &str| editor.edit(|t| t.get_or_insert_text("text").insert(t, 0, text));
    let delete = |at, length| editor.edit(|t| t.get_or_insert_text("text").remove_range(t, at, length));
    assert_eq!(effort(&write("x")), 1);
    assert_eq!(effort(&write(&"long ".repeat(40))), 1, "one block");
    assert_eq!(effort(&delete(3, 90)), 1, "one range");
    assert_eq!(effort(&editor.all()), 5, "four blocks, one range");
    assert_eq!(effort(&editor.all()[1..]), editor.all().len() / 16 + 1, "broken");
    let long = write(&"long ".repeat(60));
    assert_eq!(effort(&long), long.len() / 16 + 1);
}

#[test]
fn bytes_that_are_no_document_do_not_load() {
    assert!(Document::load(Some(Bytes::from_static(b"nonsense")), Vec::new(), ROOM).is_err());
    assert!(Document::load(None, vec![Bytes::from_static(&[0, 0, 0])], ROOM).is_err());
}
