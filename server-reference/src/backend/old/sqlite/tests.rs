use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
};

use super::{super::conformance, *};
use crate::Server;

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("datasole-sqlite-{name}-{}", std::process::id()));
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

fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch, seq }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn conforms() {
    let folder = Folder::new("conforms");
    conformance::check(&folder.open()).await;
    drop(folder);
    let folder = Folder::new("conforms-synced");
    conformance::check(&Sqlite::open_synced(&folder.0).unwrap()).await;
}

#[tokio::test]
async fn everything_survives_reopening() {
    let folder = Folder::new("reopen");
    let (state, topic) = (StreamId::state("a"), StreamId::event("a"));
    let backend = folder.open();
    for seq in 0..5 {
        let appended = backend.append(&state, at(7, seq), bytes(&seq.to_string())).await.unwrap();
        assert_eq!(appended, Appended::At(at(7, seq + 1)));
    }
    backend.append(&topic, at(1 << 52, 0), bytes("e")).await.unwrap();
    backend.snapshot(&state, at(7, 4), bytes("s"), 2).await.unwrap();
    backend.put("kept", bytes("v"), None).await.unwrap();
    backend.put("gone", bytes("v"), Some(Duration::ZERO)).await.unwrap();
    let before = backend.load(&state).await.unwrap().unwrap();
    assert_eq!(before.entries, ["2", "3", "4"].map(bytes));
    drop(backend);

    let backend = folder.open();
    assert_eq!(backend.load(&state).await.unwrap(), Some(before));
    assert_eq!(backend.load(&topic).await.unwrap().unwrap().position, at(1 << 52, 1));
    assert_eq!(backend.append(&state, at(7, 4), bytes("x")).await.unwrap(), Appended::Conflict(at(7, 5)));
    assert_eq!(backend.append(&state, at(7, 5), bytes("5")).await.unwrap(), Appended::At(at(7, 6)));
    assert_eq!(backend.read(&state, at(7, 4)).await.unwrap(), Some(vec![bytes("4"), bytes("5")]));
    assert_eq!(backend.read(&state, at(7, 1)).await.unwrap(), None, "forgotten");
    assert_eq!(backend.get("kept").await.unwrap(), Some(bytes("v")));
    assert_eq!(backend.get("gone").await.unwrap(), None);
}

#[tokio::test]
async fn a_server_goes_on_where_the_last_one_was() {
    let folder = Folder::new("server");
    let server = Server::builder().backend(folder.open()).build();
    let first = server.state().set("n", &1).await.unwrap();
    let removed = server.state().set("removed", &1).await.unwrap();
    server.state().remove("removed").await.unwrap();
    drop(server);

    let server = Server::builder().backend(folder.open()).build();
    assert_eq!(server.state().get_as("n").await.unwrap(), Some(1));
    let second = server.state().set("n", &2).await.unwrap();
    assert_eq!(second, Position { seq: first.seq + 1, ..first });
    let fresh = server.state().set("fresh", &1).await.unwrap();
    assert_ne!(fresh.epoch, first.epoch, "a new life is not one that is stored");
    let again = server.state().set("removed", &2).await.unwrap();
    assert_ne!(again.epoch, removed.epoch, "nor one that ended");
}

#[test]
fn one_server_at_a_time() {
    let folder = Folder::new("locked");
    let first = folder.open();
    let second = first.clone();
    drop(first);
    assert!(folder.refusal().contains("in use by another server"), "{}", folder.refusal());
    drop(second);
    folder.open();
}

/// What is wrong with a file of a few megabytes in which these bytes were overwritten, or that was cut there.
async fn check_damage(name: &str, damage: impl FnOnce(&fs::File), expected: &str) {
    let folder = Folder::new(name);
    let backend = folder.open();
    let id = StreamId::state("a");
    for seq in 0..40 {
        backend.append(&id, at(7, seq), vec![b'x'; 100_000].into()).await.unwrap();
    }
    drop(backend);
    damage(&fs::OpenOptions::new().write(true).open(folder.file()).unwrap());
    let found = match Sqlite::open(&folder.0) {
        Ok(backend) => backend.load(&id).await.map(drop),
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
        let (backend, id) = (folder.open(), StreamId::state("a"));
        for seq in 0..3 {
            backend.append(&id, at(7, seq), bytes("e")).await.unwrap();
        }
        backend.thread.call(move |connection| connection.execute(damage, [])).await.unwrap();
        assert!(matches!(backend.load(&id).await, Err(BackendError::Corrupt(_))), "{damage}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let folder = Folder::new("large");
    let backend = Sqlite::open_with(&folder.0, false, 100).unwrap();
    let id = StreamId::state("a");
    for (seq, size) in [(0, 99), (1, 100), (2, 101)] {
        let blob = || Bytes::from(vec![0; size]);
        let appended = backend.append(&id, at(7, seq), blob()).await;
        let snapshot = backend.snapshot(&id, at(7, seq + 1), blob(), 0).await;
        let value = backend.put("k", blob(), None).await;
        for outcome in [appended.map(drop), snapshot, value] {
            assert_eq!(outcome.is_ok(), size <= 100, "{size}");
            assert!(!matches!(outcome, Err(BackendError::Unavailable(_) | BackendError::Corrupt(_))));
        }
    }
    assert_eq!(backend.load(&id).await.unwrap().unwrap().position, at(7, 2));
}

/// The disk is full as far as the database may grow: what fits goes on.
#[tokio::test]
async fn a_full_disk_fails_what_does_not_fit() {
    let folder = Folder::new("full");
    let (backend, id) = (folder.open(), StreamId::state("a"));
    let limit = |connection: &Connection| {
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        connection.execute_batch(&format!("PRAGMA max_page_count = {}", pages + 4))
    };
    backend.thread.call(limit).await.unwrap();
    let full = backend.append(&id, at(7, 0), vec![0; 100_000].into()).await;
    assert!(matches!(full, Err(BackendError::Full(_))), "{full:?}");
    assert_eq!(backend.append(&id, at(7, 0), bytes("small")).await.unwrap(), Appended::At(at(7, 1)));
}

/// Writers of many streams at once, each of which appends by compare-and-set, against one another as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_are_linearised() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 50;
    let folder = Folder::new("writers");
    let backend = folder.open();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let id = StreamId::state((writer % 2).to_string());
                let mut next = at(7, 0);
                for n in 0..EACH {
                    let entry = bytes(&format!("{writer}:{n}"));
                    while let Appended::Conflict(now) = backend.append(&id, next, entry.clone()).await.unwrap() {
                        next = Position { epoch: 7, ..now };
                    }
                    next.seq += 1;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for key in ["0", "1"] {
        let stored = backend.load(&StreamId::state(key)).await.unwrap().unwrap();
        assert_eq!(stored.position, at(7, WRITERS / 2 * EACH));
        let mut entries = stored.entries;
        entries.sort_unstable();
        entries.dedup();
        assert_eq!(entries.len() as u64, WRITERS / 2 * EACH);
    }
}
