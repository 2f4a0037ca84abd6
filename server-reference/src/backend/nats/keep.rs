//! Snapshots beside the log, in one message or in parts, and forgetting what they cover.

use bytes::{Bytes, BytesMut};
use datasole_core::StreamId;
use tokio::time::Instant;

use super::{
    api::{Terms, corrupt, unavailable},
    log::{Handle, PATIENCE, joined},
    record::Kept,
    session::{Seen, Session},
};
use crate::backend::{
    error::BackendError,
    log::{Mark, Stored},
};

/// What a message has beside a part of a snapshot; bytes, amply.
const OVERHEAD: usize = 4 * 1_024;

impl Handle {
    /// The whole stream; `None` if what was read does not fit together, because it changed meanwhile.
    pub(super) async fn whole(
        &self,
        session: &Session,
        stream: &StreamId,
        seen: &Seen,
        mark: Mark,
    ) -> Result<Option<Stored>, BackendError> {
        let (batches, kept) =
            futures_util::future::try_join(self.batches(session, stream, seen), self.kept(session, stream)).await?;
        let kept = kept.map(|(_, kept)| kept).filter(|kept| kept.birth == seen.birth);
        if kept.as_ref().is_some_and(|kept| kept.seq > seen.seq) {
            return Ok(None);
        }
        let forgotten = kept.as_ref().map_or(0, |kept| kept.forgotten);
        let entries = joined(batches, forgotten, seen.seq);
        let first = seen.seq - entries.len() as u64;
        let is_whole = first <= kept.as_ref().map_or(0, |kept| kept.seq);
        let snapshot = match kept {
            Some(kept) if kept.parts > 0 => {
                let Some(bytes) = self.parts(session, stream, &kept).await? else { return Ok(None) };
                Some((kept.seq, bytes))
            }
            kept => kept.map(|kept| (kept.seq, kept.bytes)),
        };
        Ok(is_whole.then_some(Stored { mark, snapshot, entries }))
    }

    /// The parts of a snapshot, put together; `None` if a newer one has taken its place.
    async fn parts(&self, session: &Session, stream: &StreamId, kept: &Kept) -> Result<Option<Bytes>, BackendError> {
        let filter = self.link.options.names.chunk(stream, &format!("{:016x}", kept.number), "*");
        let parts = session.api.scan(&session.values, &filter, 1).await?;
        let mut bytes = BytesMut::new();
        parts.iter().for_each(|part| bytes.extend_from_slice(&part.payload));
        Ok((bytes.len() as u64 == kept.parts).then(|| bytes.freeze()))
    }

    pub(super) async fn take_snapshot(
        &self,
        session: &Session,
        stream: &StreamId,
        at: Mark,
        bytes: Bytes,
        keep: u64,
    ) -> Result<(), BackendError> {
        let names = &self.link.options.names;
        let until = Instant::now() + PATIENCE;
        loop {
            let Some(seen) = self.alive(session, stream).await? else { return Ok(()) };
            let mark = seen.mark(session.generation);
            let seq = at.position.seq;
            if mark.position.epoch != at.position.epoch || seq == 0 || seq > mark.position.seq {
                return Ok(());
            }
            let (kept, batches) =
                futures_util::future::try_join(self.kept(session, stream), self.batches(session, stream, &seen))
                    .await?;
            let number = kept.as_ref().map_or(0, |(number, _)| *number);
            let kept = kept.map(|(_, kept)| kept);
            let is_newer = kept.as_ref().is_none_or(|kept| kept.birth != seen.birth || kept.seq < seq);
            let holds = |wanted: u64| batches.iter().find(|(_, batch)| (batch.first..=batch.last()).contains(&wanted));
            let tag = holds(seq).and_then(|(_, batch)| {
                batch.entries.get(usize::try_from(seq - batch.first).ok()?).map(|entry| entry.tag)
            });
            if !is_newer || tag != Some(at.tag) {
                return Ok(());
            }
            let forgotten = seq.saturating_sub(keep);
            // The last message stays, whatever is forgotten: it says where the stream is.
            let first_kept = holds(forgotten + 1).map_or(seen.number, |(number, _)| *number);
            let fresh = getrandom::u64().map_err(unavailable)?;
            let most = session.api.client.max_payload().saturating_sub(OVERHEAD).max(OVERHEAD);
            let is_split = bytes.len() > most;
            if is_split {
                for (index, part) in bytes.chunks(most).enumerate() {
                    let subject = names.chunk(stream, &format!("{fresh:016x}"), &index.to_string());
                    let part = bytes.slice_ref(part);
                    session.api.put(subject, part, Terms::default()).await?.ok_or_else(|| corrupt("a new message"))?;
                }
            }
            let record = Kept {
                birth: seen.birth,
                seq,
                tag: at.tag,
                forgotten,
                number: fresh,
                parts: if is_split { bytes.len() as u64 } else { 0 },
                bytes: if is_split { Bytes::new() } else { bytes.clone() },
            };
            let is_stored = session.api.put(names.beside('s', stream), record.write(), Terms::after(number)).await?;
            let obsolete = if is_stored.is_some() { kept } else { Some(record) };
            if let Some(obsolete) = obsolete.filter(|obsolete| obsolete.parts > 0) {
                let parts = names.chunk(stream, &format!("{:016x}", obsolete.number), "*");
                session.api.purge(&session.values, &parts, None).await?;
            }
            if is_stored.is_some() {
                return session.api.purge(&session.log, &names.log(stream), Some(first_kept)).await;
            }
            if Instant::now() > until {
                return Err(unavailable("too many take snapshots of one stream"));
            }
        }
    }
}
