//! A log of one's own: every change is a line of JSON in a plain file, and the streams are in memory.
//!
//! A change is carried out in memory first, which decides about it, and is acknowledged when its line is with the
//! operating system. Opening the file carries out its lines again. The file only grows: an example, not an engine.
//!
//! ```no_run
//! # async fn run() -> Result<(), datasole_server::backend::BackendError> {
//! use datasole_server::Server;
//! use journal::Journal;
//!
//! let journal = Journal::open("changes.jsonl").await?;
//! let server = Server::builder().backend(journal.node()).build();
//! # Ok(()) }
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use datasole_server::{
    Position, StreamId, StreamKind,
    backend::{
        Backend, BackendError, Log, Memory, async_trait,
        log::{Append, Appended, Loaded, Mark, News, Rule, Tag},
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};

/// A file of changes, for the servers of one process.
pub struct Journal {
    memory: Memory,
    file: Arc<Mutex<File>>,
}

/// A change, as a line of the file.
#[derive(Serialize, Deserialize)]
enum Line {
    Append { stream: Name, after: Place, behind: bool, tag: (u64, u64), until: Option<u64>, entries: Vec<Vec<u8>> },
    Snapshot { stream: Name, at: Place, bytes: Vec<u8>, keep: u64 },
    Remove { stream: Name, at: Place },
}

/// The kind and key of a stream.
#[derive(Serialize, Deserialize)]
struct Name(String, String);

/// The epoch, sequence, and the two halves of the tag of a mark.
#[derive(Serialize, Deserialize)]
struct Place(u64, u64, u64, u64);

impl From<&StreamId> for Name {
    fn from(stream: &StreamId) -> Self {
        Self(stream.kind.name().to_owned(), stream.key.to_string())
    }
}

impl Name {
    fn stream(&self) -> Option<StreamId> {
        let kind = StreamKind::ALL.into_iter().find(|kind| kind.name() == self.0)?;
        Some(StreamId { kind, key: self.1.as_str().into() })
    }
}

impl From<Mark> for Place {
    fn from(Mark { position, tag }: Mark) -> Self {
        Self(position.epoch, position.seq, tag.node, tag.count)
    }
}

impl From<Place> for Mark {
    fn from(Place(epoch, seq, node, count): Place) -> Self {
        Self { position: Position { epoch, seq }, tag: Tag { node, count } }
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn failed(error: std::io::Error) -> BackendError {
    BackendError::Unavailable(error.to_string())
}

impl Journal {
    /// Opens the file, and makes it where there is none. A last line that is not whole was never acknowledged: it goes.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BackendError> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let memory = Memory::default();
        let (log, mut text, mut end) = (memory.node().log, String::new(), 0);
        let mut lines = BufReader::new(&mut file);
        while lines.read_line(&mut text).map_err(failed)? > 0 && text.ends_with('\n') {
            let line = serde_json::from_str(&text).map_err(|error| BackendError::Corrupt(error.to_string()))?;
            replay(&*log, line).await?;
            end += text.len() as u64;
            text.clear();
        }
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        Ok(Self { memory, file: Arc::new(Mutex::new(file)) })
    }

    /// Handles of a node of its own: messages and values are in memory.
    pub fn node(&self) -> Backend {
        let memory = self.memory.node();
        Backend { log: Arc::new(Handle { memory: memory.log, file: Arc::clone(&self.file) }), ..memory }
    }
}

/// Carries out a change again. Memory decides as it did then.
async fn replay(log: &dyn Log, line: Line) -> Result<(), BackendError> {
    let named = |name: &Name| name.stream().ok_or_else(|| BackendError::Corrupt(format!("{} is no kind", name.0)));
    match line {
        Line::Append { stream, after, behind, tag: (node, count), until, entries } => {
            let stream = named(&stream)?;
            let entries: Vec<Bytes> = entries.into_iter().map(Bytes::from).collect();
            let rule = if behind { Rule::Behind } else { Rule::Exactly };
            let mut append = Append::new(&stream, after.into(), rule, Tag { node, count }, &entries);
            append.ttl = until.map(|until| Duration::from_millis(until.saturating_sub(now())));
            log.append(append).await.map(drop)
        }
        Line::Snapshot { stream, at, bytes, keep } => log.snapshot(&named(&stream)?, at.into(), bytes.into(), keep).await,
        Line::Remove { stream, at } => log.remove(&named(&stream)?, at.into()).await,
    }
}

/// One node's handle.
struct Handle {
    memory: Arc<dyn Log>,
    file: Arc<Mutex<File>>,
}

fn write(file: &mut File, line: &Line) -> Result<(), BackendError> {
    let mut text = serde_json::to_string(line).map_err(|error| BackendError::Invalid(error.to_string()))?;
    text.push('\n');
    file.write_all(text.as_bytes()).map_err(failed)
}

/// Changes hold the file from before they are decided until they are written: lines are in the order of the decisions.
#[async_trait]
impl Log for Handle {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        let mut file = self.file.lock().await;
        let appended = self.memory.append(append).await?;
        if matches!(appended, Appended::At { .. }) {
            let until = append.ttl.map(|ttl| now().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
            let line = Line::Append {
                stream: append.stream.into(),
                after: append.after.into(),
                behind: append.rule == Rule::Behind,
                tag: (append.tag.node, append.tag.count),
                until,
                entries: append.entries.iter().map(|entry| entry.to_vec()).collect(),
            };
            write(&mut file, &line)?;
        }
        Ok(appended)
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        self.memory.load(stream, since).await
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.memory.heads(streams).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        let mut file = self.file.lock().await;
        self.memory.snapshot(stream, at, bytes.clone(), keep).await?;
        write(&mut file, &Line::Snapshot { stream: stream.into(), at: at.into(), bytes: bytes.to_vec(), keep })
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        let mut file = self.file.lock().await;
        self.memory.remove(stream, at).await?;
        write(&mut file, &Line::Remove { stream: stream.into(), at: at.into() })
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        self.memory.keys(kind, after, limit).await
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.memory.follow(streams).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.memory.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.memory.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.memory.take_turn(stream).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.memory.end_turn(stream).await
    }
}
