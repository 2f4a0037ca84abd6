use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
    sync::atomic::Ordering,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{Position, StreamId};
use rusqlite::Connection;

use super::*;
use crate::{
    backend::{
        conformance::{Subject, verify},
        kv::Expected,
        log::{Append, Appended, Entry, Loaded, Log, Mark, Rule, Stored, Tag},
    },
    clock::Manual,
};

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("datasole-engine-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> Sqlite {
        Sqlite::open(&self.0).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.join("datasole.sqlite")
    }

    fn refusal(&self) -> String {
        Sqlite::open(&self.0).map(drop).unwrap_err().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mark(epoch: u64, seq: u64, count: u64) -> Mark {
    Mark { position: Position { epoch, seq }, tag: Tag { node: u64::from(count > 0), count } }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn append(log: &dyn Log, id: &StreamId, after: Mark, count: u64, entry: Bytes) -> Result<Appended, BackendError> {
    let entries = [entry];
    log.append(Append::new(id, after, Rule::Exactly, Tag { node: 1, count }, &entries)).await
}

fn at(mark: Mark) -> Appended {
    Appended::At { between: Vec::new(), mark }
}

/// Appends `0`, `1`, … in the life `epoch`.
async fn fill(log: &dyn Log, id: &StreamId, epoch: u64, entries: u64) -> Mark {
    let mut last = Mark::birth(epoch);
    for seq in 1..=entries {
        let appended = append(log, id, last, seq, bytes(&(seq - 1).to_string())).await.unwrap();
        last = mark(epoch, seq, seq);
        assert_eq!(appended, at(last));
    }
    last
}

async fn whole(log: &dyn Log, id: &StreamId) -> Stored {
    match log.load(id, None).await.unwrap() {
        Loaded::Whole(stored) => stored,
        other => panic!("{other:?}"),
    }
}

fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.bytes.to_vec()).unwrap()).collect()
}

/// A file and a clock of its own.
struct Fresh {
    sqlite: Sqlite,
    clock: Arc<Manual>,
    _folder: Folder,
}

static FILES: AtomicU64 = AtomicU64::new(0);

fn fresh(synced: bool) -> Fresh {
    let folder = Folder::new(&format!("conforms-{}", FILES.fetch_add(1, Ordering::Relaxed)));
    let (clock, count) = (Arc::new(Manual::default()), AtomicU64::new(100));
    let random = Arc::new(move || count.fetch_add(1, Ordering::Relaxed));
    let sqlite = Sqlite::open_at(&folder.0, synced, MAX_BYTES, Arc::clone(&clock) as _, random).unwrap();
    Fresh { sqlite, clock, _folder: folder }
}

#[async_trait]
impl Subject for Fresh {
    async fn node(&self) -> Result<Backend, BackendError> {
        Ok(self.sqlite.node())
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time + Duration::from_nanos(999_999));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    verify(async || fresh(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_synced() {
    verify(async || fresh(true)).await;
}

#[tokio::test]
async fn everything_survives_reopening() {
    let folder = Folder::new("reopen");
    let (state, topic) = (StreamId::state("a"), StreamId::event("a"));
    let sqlite = folder.open();
    let (log, kv) = (sqlite.node().log, sqlite.node().kv);
    let five = fill(&*log, &state, 7, 5).await;
    fill(&*log, &topic, 1 << 52, 1).await;
    log.snapshot(&state, mark(7, 4, 4), bytes("s"), 2).await.unwrap();
    let version = kv.put("kept", bytes("v"), Expected::Any, None).await.unwrap().unwrap();
    let gone = kv.put("gone", bytes("v"), Expected::Any, None).await.unwrap().unwrap();
    kv.delete("gone").await.unwrap();
    kv.set_field("m", "f", Some(bytes("v")), None).await.unwrap();
    let before = whole(&*log, &state).await;
    assert_eq!(texts(&before.entries), ["2", "3", "4"]);
    let removed = StreamId::state("removed");
    let last = fill(&*log, &removed, 9, 1).await;
    log.remove(&removed, last).await.unwrap();
    drop((log, kv, sqlite));

    let sqlite = folder.open();
    let (log, kv) = (sqlite.node().log, sqlite.node().kv);
    assert_eq!(whole(&*log, &state).await, before);
    assert_eq!(log.heads(&[topic]).await.unwrap(), [Some(mark(1 << 52, 1, 1))]);
    let repeat = append(&*log, &state, mark(7, 4, 4), 5, bytes("4")).await.unwrap();
    assert_eq!(repeat, at(five), "a repeat across the restart");
    assert_eq!(append(&*log, &state, five, 6, bytes("5")).await.unwrap(), at(mark(7, 6, 6)));
    let since = log.load(&state, Some(mark(7, 4, 4))).await.unwrap();
    assert!(matches!(since, Loaded::Since(entries) if texts(&entries) == ["4", "5"]));
    let again = append(&*log, &removed, Mark::birth(9), 1, bytes("0")).await.unwrap();
    assert!(
        matches!(again, Appended::Conflict { mark, .. } if mark.position.epoch >= 9),
        "an ended life does not come again"
    );
    assert_eq!(kv.get("kept").await.unwrap(), Some((version, bytes("v"))));
    assert_eq!(kv.fields("m").await.unwrap(), [("f".to_owned(), bytes("v"))]);
    assert!(kv.put("gone", bytes("v"), Expected::Absent, None).await.unwrap().unwrap() > gone);
}

/// The schema of the first version, and what its server wrote: a state with a snapshot, a topic, values.
const VERSION_1: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
        UNIQUE (kind, key)
    ) STRICT;
    CREATE TABLE entries (
        stream INTEGER NOT NULL, seq INTEGER NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (stream, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE snapshots (stream INTEGER PRIMARY KEY, seq INTEGER NOT NULL, snapshot BLOB NOT NULL) STRICT;
    CREATE TABLE pairs (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires INTEGER) STRICT, WITHOUT ROWID;
    CREATE INDEX expiring ON pairs (expires) WHERE expires IS NOT NULL;
    PRAGMA application_id = 1685286764;
    PRAGMA user_version = 1;
    INSERT INTO streams VALUES (1, 'state', 'a', 4503599627370495, 5), (2, 'event', 't', 7, 1);
    INSERT INTO entries VALUES (1, 3, x'32'), (1, 4, x'33'), (1, 5, x'34'), (2, 1, x'65');
    INSERT INTO snapshots VALUES (1, 4, x'73');
    INSERT INTO pairs VALUES ('k', x'76', NULL), ('old', x'76', 1);
";

async fn check_version_1(folder: &Folder) {
    let (state, topic) = (StreamId::state("a"), StreamId::event("t"));
    let untagged = |epoch, seq| Mark { position: Position { epoch, seq }, tag: Tag::default() };
    let epoch = (1 << 52) - 1;
    for opened in 0..2 {
        let sqlite = folder.open();
        let (log, kv) = (sqlite.node().log, sqlite.node().kv);
        let stored = whole(&*log, &state).await;
        assert_eq!(stored.snapshot, Some((4, bytes("s"))));
        let expected: &[&str] = if opened == 0 { &["2", "3", "4"] } else { &["2", "3", "4", "new"] };
        assert_eq!(texts(&stored.entries), expected);
        let since = log.load(&state, Some(untagged(epoch, 3))).await.unwrap();
        assert!(matches!(since, Loaded::Since(entries) if texts(&entries) == expected[1..]), "clients resume");
        let appended = append(&*log, &state, untagged(epoch, 5), 1, bytes("new")).await.unwrap();
        assert_eq!(appended, at(mark(epoch, 6, 1)), "and writers go on, once");
        assert_eq!(log.heads(std::slice::from_ref(&topic)).await.unwrap(), [Some(untagged(7, 1))]);
        assert_eq!(kv.get("k").await.unwrap().map(|(_, value)| value), Some(bytes("v")));
        assert_eq!(kv.get("old").await.unwrap(), None);
    }
}

#[tokio::test]
async fn files_of_the_first_version_are_migrated() {
    let folder = Folder::new("version1");
    fs::create_dir_all(&folder.0).unwrap();
    Connection::open(folder.file()).unwrap().execute_batch(VERSION_1).unwrap();
    check_version_1(&folder).await;
}

#[test]
fn one_process_at_a_time() {
    let folder = Folder::new("locked");
    let first = folder.open();
    let node = first.node();
    drop(first);
    assert!(folder.refusal().contains("in use by another server"), "{}", folder.refusal());
    drop(node);
    folder.open();
}

/// The failure of a file of a few megabytes in which these bytes were overwritten, or that was cut there.
async fn check_damage(name: &str, damage: impl FnOnce(&fs::File), expected: &str) {
    let folder = Folder::new(name);
    let id = StreamId::state("a");
    let node = folder.open().node();
    let mut last = Mark::birth(7);
    for seq in 1..=40 {
        append(&*node.log, &id, last, seq, vec![b'x'; 100_000].into()).await.unwrap();
        last = mark(7, seq, seq);
    }
    drop(node);
    damage(&fs::OpenOptions::new().write(true).open(folder.file()).unwrap());
    let found = match Sqlite::open(&folder.0) {
        Ok(sqlite) => sqlite.node().log.load(&id, None).await.map(drop),
        Err(error) => Err(error),
    };
    let found = found.unwrap_err();
    assert!(matches!(found, BackendError::Corrupt(_)), "{name}: {found:?}");
    assert!(found.to_string().contains(expected), "{name}: {found}");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    check_damage("header", |mut file| file.write_all(&[b'?'; 64]).unwrap(), "not a database").await;
    check_damage("cut", |file| file.set_len(1_000_000).unwrap(), "malformed").await;
    let overwrite = |mut file: &fs::File| {
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&[0xff; 40_000]).unwrap();
    };
    check_damage("torn", overwrite, "malformed").await;
}

#[test]
fn a_folder_that_cannot_be_one_is_refused() {
    let folder = Folder::new("file");
    fs::write(&folder.0, "not a folder").unwrap();
    let refusal = folder.refusal();
    assert!(refusal.contains(&folder.0.display().to_string()), "{refusal}");
    fs::remove_file(&folder.0).unwrap();
}

#[tokio::test]
async fn a_log_with_a_gap_is_corrupt() {
    for damage in [
        "DELETE FROM entries WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 3",
        "UPDATE streams SET seq = -1",
        "INSERT INTO snapshots VALUES (1, 4, x'00')",
    ] {
        let folder = Folder::new("gap");
        let (sqlite, id) = (folder.open(), StreamId::state("a"));
        let node = sqlite.node();
        fill(&*node.log, &id, 7, 3).await;
        sqlite.shared.thread.call(move |connection| connection.execute(damage, [])).await.unwrap();
        assert!(matches!(node.log.load(&id, None).await, Err(BackendError::Corrupt(_))), "{damage}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let folder = Folder::new("large");
    let random = Arc::new(|| 5);
    let sqlite = Sqlite::open_at(&folder.0, false, 100, Arc::new(System), random).unwrap();
    let (node, id) = (sqlite.node(), StreamId::state("a"));
    let mut last = Mark::birth(7);
    for (seq, size) in [(1, 99), (2, 100), (3, 101)] {
        let blob = || Bytes::from(vec![0; size]);
        let appended = append(&*node.log, &id, last, seq, blob()).await;
        last = if appended.is_ok() { mark(7, seq, seq) } else { last };
        let snapshot = node.log.snapshot(&id, last, blob(), 0).await;
        let value = node.kv.put("k", blob(), Expected::Any, None).await;
        let field = node.kv.set_field("m", "f", Some(blob()), None).await;
        for outcome in [appended.map(drop), snapshot, value.map(drop), field] {
            assert_eq!(outcome.is_ok(), size <= 100, "{size}");
            assert!(!matches!(outcome, Err(BackendError::Unavailable(_) | BackendError::Corrupt(_))));
        }
    }
    assert_eq!(node.log.heads(&[id]).await.unwrap(), [Some(mark(7, 2, 2))]);
}

/// The disk is full as far as the database may grow: what fits goes on, and nobody hears of what does not.
#[tokio::test]
async fn a_full_disk_fails_what_does_not_fit() {
    let folder = Folder::new("full");
    let (sqlite, id) = (folder.open(), StreamId::state("a"));
    let (node, other) = (sqlite.node(), sqlite.node());
    let mut news = other.log.news().unwrap();
    other.log.follow(std::slice::from_ref(&id)).await.unwrap();
    let limit = |connection: &Connection| {
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        connection.execute_batch(&format!("PRAGMA max_page_count = {}", pages + 4))
    };
    sqlite.shared.thread.call(limit).await.unwrap();
    let full = append(&*node.log, &id, Mark::birth(7), 1, vec![0; 100_000].into()).await;
    assert!(matches!(full, Err(BackendError::Full(_))), "{full:?}");
    assert!(news.try_recv().is_err(), "what was not committed is no news");
    let small = append(&*node.log, &id, Mark::birth(7), 1, bytes("small")).await.unwrap();
    assert_eq!(small, at(mark(7, 1, 1)));
    assert!(news.try_recv().is_ok());
}

/// The last handle may go while an append is on its way: the thread must not wait for itself.
#[tokio::test]
async fn an_abandoned_append_is_stored() {
    let (folder, id) = (Folder::new("abandoned"), StreamId::state("a"));
    let node = folder.open().node();
    let entries = [bytes("x")];
    let appending = Append::new(&id, Mark::birth(7), Rule::Exactly, Tag { node: 1, count: 1 }, &entries);
    assert!(futures_util::FutureExt::now_or_never(node.log.append(appending)).is_none());
    drop(node);
    assert_eq!(whole(&*folder.open().node().log, &id).await.mark, mark(7, 1, 1));
}

#[tokio::test]
async fn a_power_failure_begins_lives_above_all_before() {
    let (folder, id) = (Folder::new("power"), StreamId::state("a"));
    let high = epoch(System.unix_millis(), 0) + (1 << 40);
    let sqlite = folder.open();
    let node = sqlite.node();
    fill(&*node.log, &id, high, 3).await;
    fill(&*node.log, &StreamId::state("b"), 7, 1).await;
    // A copy of the open file, as another boot finds it.
    let copy = Folder::new("power-copy");
    fs::create_dir_all(&copy.0).unwrap();
    let another_boot = "UPDATE meta SET value = 'another boot' WHERE name = 'unsynced'";
    sqlite.shared.thread.call(move |connection| connection.execute(another_boot, [])).await.unwrap();
    for entry in fs::read_dir(&folder.0).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.0.join(entry.file_name())).unwrap();
    }
    let log = copy.open().node().log;
    let heads = log.heads(&[id.clone(), StreamId::state("b")]).await.unwrap();
    assert_eq!(heads[0].map(|mark| mark.position), Some(Position { epoch: high + 1, seq: 3 }));
    let other = heads[1].unwrap().position.epoch;
    assert!(other > 7 && other <= high, "a fresh epoch: {other}");
    assert!(matches!(log.load(&id, Some(mark(high, 3, 3))).await.unwrap(), Loaded::Whole(_)), "nobody resumes");
}
