//! A node that serves nobody and hears everything: which writes the log holds, in its order.

use datasole_server::{
    StreamId, StreamKind,
    backend::{
        Backend, Memory,
        log::{Entry, Loaded, Mark},
    },
};
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::client::{Replica, STREAMS, id_of};

/// What the log holds of each stream.
pub(super) struct Spy {
    backend: Backend,
    streams: Vec<Seen>,
}

#[derive(Default)]
struct Seen {
    at: Option<Mark>,
    writes: Vec<u64>,
    replica: Replica,
}

pub(super) fn id(stream: usize) -> StreamId {
    let (kind, key, _) = STREAMS[stream];
    let kind = StreamKind::ALL.into_iter().find(|known| known.name() == kind).unwrap();
    StreamId { kind, key: key.to_owned() }
}

impl Spy {
    pub(super) fn new(memory: &Memory) -> Self {
        Self { backend: memory.node(), streams: STREAMS.iter().map(|_| Seen::default()).collect() }
    }

    /// Reads what is new. Memory answers at once.
    pub(super) fn look(&mut self) {
        for (stream, seen) in self.streams.iter_mut().enumerate() {
            let loaded = self.backend.log.load(&id(stream), seen.at).now_or_never().unwrap().unwrap();
            let (entries, head) = match loaded {
                Loaded::Absent => continue,
                Loaded::Since(entries) => (entries, None),
                Loaded::Whole(stored) => {
                    let known = seen.at.map_or(0, |at| at.position.seq);
                    let first = stored.mark.position.seq - stored.entries.len() as u64;
                    assert!(first <= known, "it looks before anything is forgotten");
                    let new = stored.entries[usize::try_from(known - first).unwrap()..].to_vec();
                    (new, Some(stored.mark))
                }
            };
            for Entry { tag, bytes, .. } in &entries {
                seen.writes.push(match STREAMS[stream].0 {
                    "doc" => seen.replica.notes.entry(&bytes[1..]),
                    kind => seen.replica.entry(kind, &body(bytes)),
                });
                if let Some(at) = &mut seen.at {
                    (at.position.seq, at.tag) = (at.position.seq + 1, *tag);
                }
            }
            seen.at = head.or(seen.at);
        }
    }

    /// The writes of a stream, in the order of the log.
    pub(super) fn writes(&self, stream: usize) -> &[u64] {
        &self.streams[stream].writes
    }

    /// Where a stream is.
    pub(super) fn at(&self, stream: usize) -> Mark {
        self.streams[stream].at.unwrap_or_default()
    }
}

/// An entry as a frame would carry it.
fn body(entry: &[u8]) -> Value {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    match entry[0] {
        b'p' => json!({ "patches": json(&entry[1..]) }),
        // The first write makes a list of one.
        b'v' => json!({ "patches": [{ "value": id_of(&json(&entry[1..])[0]) }] }),
        // After the owner of a new name.
        b'o' => json!({ "op": json(entry[1..].rsplit(|byte| *byte == b'\n').next().unwrap()) }),
        b'e' => json!({ "data": json(&entry[9..]) }),
        other => panic!("an entry {other}"),
    }
}
