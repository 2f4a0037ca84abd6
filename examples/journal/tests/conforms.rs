//! The journal passes the suite that every engine passes, and keeps what it acknowledged.

use std::{path::PathBuf, sync::atomic::{AtomicU64, Ordering}, time::Duration};

use datasole_server::{
    StreamId,
    backend::{
        Backend, BackendError, async_trait,
        conformance::{Subject, verify},
        log::{Append, Loaded, Mark, Rule, Tag},
    },
};
use journal::Journal;

static FILES: AtomicU64 = AtomicU64::new(0);

/// A file of the test's own; it goes with this.
struct Store {
    journal: Journal,
    path: PathBuf,
}

impl Store {
    async fn open() -> Self {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("journal-{}-{number}", std::process::id()));
        Self { journal: Journal::open(&path).await.unwrap(), path }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[async_trait]
impl Subject for Store {
    async fn node(&self) -> Result<Backend, BackendError> {
        Ok(self.journal.node())
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time + Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    verify(Store::open).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_and_what_was_not_goes() {
    let store = Store::open().await;
    let (stream, removed) = (StreamId::state("k"), StreamId::state("removed"));
    let append = async |stream: &StreamId, after, count, text: &'static str| {
        let entries = [text.into()];
        store.journal.node().log.append(Append::new(stream, after, Rule::Behind, Tag { node: 1, count }, &entries)).await
    };
    append(&stream, Mark::birth(7), 1, "one").await.unwrap();
    append(&stream, Mark::birth(7), 2, "two").await.unwrap();
    append(&removed, Mark::birth(7), 3, "gone").await.unwrap();
    let log = store.journal.node().log;
    let mark = log.heads(&[removed.clone()]).await.unwrap()[0].unwrap();
    log.remove(&removed, mark).await.unwrap();
    let before = log.load(&stream, None).await.unwrap();
    assert!(matches!(&before, Loaded::Whole(stored) if stored.entries.len() == 2));
    // The process ends within a line.
    let mut text = std::fs::read(&store.path).unwrap();
    let whole = text.len();
    text.extend_from_within(..20);
    std::fs::write(&store.path, &text).unwrap();
    let again = Journal::open(&store.path).await.unwrap();
    assert_eq!(again.node().log.load(&stream, None).await.unwrap(), before);
    assert_eq!(again.node().log.load(&removed, None).await.unwrap(), Loaded::Absent);
    assert_eq!(std::fs::metadata(&store.path).unwrap().len(), whole as u64);
    std::fs::write(&store.path, "{}\n").unwrap();
    assert!(matches!(Journal::open(&store.path).await, Err(BackendError::Corrupt(_))));
}
