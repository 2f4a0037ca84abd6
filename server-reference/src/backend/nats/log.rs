//! The log: each append is one message on its stream's subject, stored if the message that its author knew is still the
//! last.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use futures_util::future::try_join_all;
use tokio::{sync::mpsc, time::Instant};

use super::{
    api::{SUBJECTS, Terms, corrupt, unavailable},
    link::Link,
    reader::Source,
    record::{Batch, Kept, Record},
    session::{Seen, Session},
};
use crate::{
    backend::{
        error::BackendError,
        judge::{Claim, Verdict, chain},
        log::{Append, Appended, Entry, Loaded, Log, Mark, News, Turn},
    },
    clock::millis,
};

/// How long a stream that was removed, or has expired, is remembered: late copies of its appends are known as such.
pub(super) const MEMORY: Duration = Duration::from_secs(24 * 3_600);
/// How long an append among many others is tried, and a load while entries are forgotten.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// One node's handle.
pub(super) struct Handle {
    pub(super) link: Arc<Link>,
}

/// Where a stream is.
enum Head {
    /// There is none, or none any more. New lives begin above `floor`; `number` is the last message's.
    Absent { number: u64, floor: u64 },
    /// It lives; `batch` is its last message, if that was read.
    Alive { seen: Seen, batch: Option<Batch> },
}

impl Head {
    fn number(&self) -> u64 {
        match self {
            Self::Absent { number, .. } => *number,
            Self::Alive { seen, .. } => seen.number,
        }
    }
}

impl Handle {
    /// Where the stream is, as the engine's leader has it.
    async fn head(&self, session: &Session, stream: &StreamId) -> Result<Head, BackendError> {
        let names = &self.link.options.names;
        let Some(message) = session.api.last(&session.log, &names.log(stream)).await? else {
            session.forget(stream);
            return Ok(Head::Absent { number: 0, floor: 0 });
        };
        self.read_head(session, stream, message.number, message.payload).await
    }

    async fn read_head(
        &self,
        session: &Session,
        stream: &StreamId,
        number: u64,
        payload: Bytes,
    ) -> Result<Head, BackendError> {
        session.observe(number);
        let batch = match Record::read(payload).ok_or_else(|| corrupt("an append"))? {
            Record::Append(batch) => batch,
            Record::End { floor } => {
                session.forget(stream);
                return Ok(Head::Absent { number, floor });
            }
        };
        let mut seen = Seen::of(number, &batch);
        if seen.generation > session.generation {
            // Begun by another node: this one must hear of it before it goes on.
            session.api.broken.notify_one();
            return Err(unavailable("the engine has begun another generation"));
        }
        if is_over(seen.ends, session) {
            session.forget(stream);
            return Ok(Head::Absent { number, floor: seen.epoch });
        }
        // Where entries were lost, a snapshot may know more than the log has kept.
        if seen.generation < session.generation
            && let Some(kept) = self.kept(session, stream).await?
            && kept.1.birth == seen.birth
            && kept.1.seq > seen.seq
        {
            (seen.seq, seen.tag) = (kept.1.seq, kept.1.tag);
            return Ok(Head::Alive { seen, batch: None });
        }
        session.remember(stream, seen);
        Ok(Head::Alive { seen, batch: Some(batch) })
    }

    /// Where the stream is, if it lives.
    pub(super) async fn alive(&self, session: &Session, stream: &StreamId) -> Result<Option<Seen>, BackendError> {
        Ok(match self.head(session, stream).await? {
            Head::Absent { .. } => None,
            Head::Alive { seen, .. } => Some(seen),
        })
    }

    /// The number and the record of the newest snapshot.
    pub(super) async fn kept(&self, session: &Session, stream: &StreamId) -> Result<Option<(u64, Kept)>, BackendError> {
        let subject = self.link.options.names.beside('s', stream);
        let Some(message) = session.api.last(&session.values, &subject).await? else { return Ok(None) };
        let kept = Kept::read(message.payload).ok_or_else(|| corrupt("a snapshot"))?;
        Ok(Some((message.number, kept)))
    }

    /// The greatest epoch with which anybody tried to begin a life while there was another.
    async fn proposed(&self, session: &Session, stream: &StreamId) -> Result<(u64, u64), BackendError> {
        let subject = self.link.options.names.beside('p', stream);
        let Some(message) = session.api.last(&session.values, &subject).await? else { return Ok((0, 0)) };
        let ([epoch], _) = super::record::split(message.payload).ok_or_else(|| corrupt("an epoch"))?;
        Ok((message.number, epoch))
    }

    /// Notes that a life with this epoch was refused: it never begins.
    async fn propose(&self, session: &Session, stream: &StreamId, epoch: u64) -> Result<(), BackendError> {
        loop {
            let (number, proposed) = self.proposed(session, stream).await?;
            if proposed >= epoch {
                return Ok(());
            }
            let terms = Terms::after(number).ttl(Some(MEMORY));
            let subject = self.link.options.names.beside('p', stream);
            if session.api.put(subject, super::record::join([epoch], b""), terms).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// The kept messages of the life that `seen` belongs to, up to it, oldest first.
    pub(super) async fn batches(
        &self,
        session: &Session,
        stream: &StreamId,
        seen: &Seen,
    ) -> Result<Vec<(u64, Batch)>, BackendError> {
        let messages = session.api.scan(&session.log, &self.link.options.names.log(stream), 1).await?;
        let mut batches: Vec<(u64, Batch)> = Vec::with_capacity(messages.len());
        for message in messages.into_iter().filter(|message| message.number <= seen.number) {
            match Record::read(message.payload).ok_or_else(|| corrupt("an append"))? {
                Record::Append(batch) if batch.birth == seen.birth => batches.push((message.number, batch)),
                Record::Append(_) | Record::End { .. } => batches.clear(),
            }
        }
        Ok(batches)
    }

    /// The kept entries after `after`, up to where the stream is; fewer if some are forgotten.
    async fn entries(
        &self,
        session: &Session,
        stream: &StreamId,
        seen: &Seen,
        last: Option<Batch>,
        after: u64,
    ) -> Result<Vec<Entry>, BackendError> {
        let batches = match last.filter(|batch| batch.first <= after + 1) {
            Some(batch) => vec![(seen.number, batch)],
            None => self.batches(session, stream, seen).await?,
        };
        // What is forgotten goes message by message, and one may hold entries on both sides.
        let forgotten = if batches.iter().any(|(_, batch)| batch.entries.len() > 1) {
            self.kept(session, stream)
                .await?
                .filter(|(_, kept)| kept.birth == seen.birth)
                .map_or(0, |(_, kept)| kept.forgotten)
        } else {
            0
        };
        Ok(joined(batches, after.max(forgotten), seen.seq))
    }

    async fn publish(
        &self,
        session: &Session,
        append: &Append<'_>,
        head: &Head,
    ) -> Result<Option<(Seen, Mark)>, BackendError> {
        let names = &self.link.options.names;
        let (number, birth, before, is_brief) = match head {
            Head::Absent { number, .. } => {
                let epoch = append.after.position.epoch;
                (*number, epoch, Mark::birth(epoch), false)
            }
            Head::Alive { seen, .. } => (seen.number, seen.birth, seen.mark(session.generation), seen.ends > 0),
        };
        let ends = append.ttl.map_or(0, |ttl| session.now().saturating_add(millis(ttl)).max(1));
        let mut entries: Vec<Entry> = chain(before.tag, append.tag, append.entries).collect();
        let fresh = entries.len() as u64;
        // A stream with a lifetime is one message, so that the engine forgets it as a whole.
        let replaces = matches!(head, Head::Alive { .. }) && (is_brief || ends > 0);
        if let (true, Head::Alive { seen, .. }) = (replaces, head) {
            let mut all = joined(self.batches(session, append.stream, seen).await?, 0, seen.seq);
            all.append(&mut entries);
            entries = all;
        }
        let seq = before.position.seq + fresh;
        let batch = Batch {
            origin: self.link.origin,
            epoch: before.position.epoch,
            generation: session.generation,
            birth,
            ends,
            first: seq + 1 - entries.len() as u64,
            fresh,
            entries,
        };
        let terms = Terms { after: Some(number), ttl: append.ttl.map(|ttl| ttl.saturating_add(MEMORY)), replaces };
        let Some(stored) = session.api.put(names.log(append.stream), batch.write(), terms).await? else {
            return Ok(None);
        };
        let seen = Seen::of(stored, &batch);
        session.remember(append.stream, seen);
        Ok(Some((seen, seen.mark(session.generation))))
    }
}

fn is_over(ends: u64, session: &Session) -> bool {
    ends > 0 && ends <= session.now()
}

/// The entries after `after` that follow each other without a gap up to `last`.
pub(super) fn joined(batches: Vec<(u64, Batch)>, after: u64, last: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut next = 0;
    for (_, batch) in batches {
        if batch.first != next {
            entries.clear();
        }
        next = batch.last() + 1;
        let skip = usize::try_from((after + 1).saturating_sub(batch.first)).unwrap_or(usize::MAX);
        entries.extend(batch.entries.into_iter().skip(skip));
    }
    if next != last + 1 {
        entries.clear();
    }
    entries
}

#[async_trait]
impl Log for Handle {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        let claim = Claim::of(&append)?;
        let session = self.link.session()?;
        let Append { stream, after, rule, .. } = append;
        let is_birth = after.position.seq == 0;
        // What is remembered may be old, which the engine tells: it only ever says yes to what is still true.
        let mut guess = match session.seen(stream) {
            Some(seen) if seen.mark(session.generation) == after && !is_over(seen.ends, &session) => {
                Some(Head::Alive { seen, batch: None })
            }
            None if is_birth => Some(Head::Absent { number: 0, floor: 0 }),
            _ => None,
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let mut head = match guess.take() {
                Some(head) => head,
                None => self.head(&session, stream).await?,
            };
            let (mark, floor, entries) = match &mut head {
                Head::Absent { number: 0, .. } => (None, 0, Vec::new()),
                Head::Absent { floor, .. } => (None, self.proposed(&session, stream).await?.1.max(*floor), Vec::new()),
                Head::Alive { seen, batch } => {
                    let mark = seen.mark(session.generation);
                    let is_behind = mark.position.seq > after.position.seq
                        && (is_birth || mark.position.epoch == after.position.epoch);
                    let entries = if is_behind && mark != after {
                        self.entries(&session, stream, seen, batch.take(), after.position.seq).await?
                    } else {
                        Vec::new()
                    };
                    (Some(mark), 0, entries)
                }
            };
            let between = match claim.judge(mark, floor, |_| Ok::<_, BackendError>(entries))? {
                Verdict::Create => Vec::new(),
                Verdict::Append(between) => between,
                Verdict::Answer(answer) => {
                    if is_birth && matches!(answer, Appended::Conflict { .. }) && mark.is_some() {
                        self.propose(&session, stream, after.position.epoch).await?;
                    }
                    return Ok(answer);
                }
            };
            if let Some((seen, mark)) = self.publish(&session, &append, &head).await? {
                if matches!(head, Head::Absent { number: 1.., .. }) {
                    // The end of the life before; should it stay, it is not read.
                    let names = &self.link.options.names;
                    let _ = session.api.purge(&session.log, &names.log(stream), Some(seen.number)).await;
                }
                if append.turn == Turn::HandOn {
                    // The append stands; a turn that is not handed on ends by itself.
                    let _ = self.hand_on(&session, stream).await;
                }
                return Ok(Appended::At { between, mark });
            }
            if Instant::now() > until {
                return Err(unavailable(format!("too many append to one stream (after {rule:?})")));
            }
        }
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let session = self.link.session()?;
        let until = Instant::now() + PATIENCE;
        loop {
            let Head::Alive { seen, batch } = self.head(&session, stream).await? else { return Ok(Loaded::Absent) };
            let mark = seen.mark(session.generation);
            let is_near =
                |since: &Mark| since.position.epoch == mark.position.epoch && since.position.seq <= mark.position.seq;
            if let Some(since) = since.filter(is_near) {
                if since == mark {
                    return Ok(Loaded::Since(Vec::new()));
                }
                let entries = self.entries(&session, stream, &seen, batch, since.position.seq).await?;
                if crate::backend::judge::follows(mark, since, &entries) {
                    return Ok(Loaded::Since(entries));
                }
            }
            if let Some(stored) = self.whole(&session, stream, &seen, mark).await? {
                return Ok(Loaded::Whole(stored));
            }
            // Another node has forgotten entries meanwhile, or a copy of the engine is behind.
            if Instant::now() > until {
                return Err(corrupt("a stream without a gap"));
            }
        }
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        let session = self.link.session()?;
        let names = &self.link.options.names;
        let subjects: Vec<String> = streams.iter().map(|stream| names.log(stream)).collect();
        let read = subjects.chunks(SUBJECTS).map(|subjects| session.api.lasts(&session.log, subjects));
        let mut found = HashMap::with_capacity(streams.len());
        for message in try_join_all(read).await?.into_iter().flatten() {
            found.insert(message.subject, (message.number, message.payload));
        }
        let heads = streams.iter().zip(&subjects).map(|(stream, subject)| {
            let message = found.remove(subject);
            let session = &session;
            async move {
                let Some((number, payload)) = message else { return Ok(None) };
                Ok::<_, BackendError>(match self.read_head(session, stream, number, payload).await? {
                    Head::Absent { .. } => None,
                    Head::Alive { seen, .. } => Some(seen.mark(session.generation)),
                })
            }
        });
        try_join_all(heads).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        let session = self.link.session()?;
        self.take_snapshot(&session, stream, at, bytes, keep).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        let session = self.link.session()?;
        let names = &self.link.options.names;
        loop {
            let head = self.head(&session, stream).await?;
            let Head::Alive { seen, .. } = &head else { return Ok(()) };
            if seen.mark(session.generation) != at {
                return Ok(());
            }
            let floor = self.proposed(&session, stream).await?.1.max(at.position.epoch);
            let terms = Terms::after(head.number()).ttl(Some(MEMORY));
            session.forget(stream);
            if let Some(number) = session.api.put(names.log(stream), Record::end(floor), terms).await? {
                session.observe(number);
                session.api.purge(&session.log, &names.log(stream), Some(number)).await?;
                session.api.purge(&session.values, &names.beside('s', stream), None).await?;
                return session.api.purge(&session.values, &names.chunk(stream, "*", "*"), None).await;
            }
        }
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        let session = self.link.session()?;
        let (names, filter) = (&self.link.options.names, self.link.options.names.kind(kind));
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let info = session.api.info(&session.log, Some((&filter, offset))).await?;
            let info = info.ok_or_else(|| unavailable("the engine's streams are gone"))?;
            offset += info.state.subjects.len();
            let keys = info.state.subjects.into_keys().filter_map(|subject| names.key(&subject));
            found.extend(keys.filter(|key| after.is_none_or(|after| key.as_str() > after)));
            if info.total <= offset {
                break;
            }
        }
        found.sort_unstable();
        // Those that have ended are still there for a while.
        let (mut alive, mut rest) = (Vec::new(), found.into_iter());
        while alive.len() < limit {
            let streams: Vec<StreamId> =
                rest.by_ref().take((limit - alive.len()).min(SUBJECTS)).map(|key| StreamId { kind, key }).collect();
            if streams.is_empty() {
                break;
            }
            let heads = self.heads(&streams).await?;
            let living = streams.into_iter().zip(heads).filter(|(_, head)| head.is_some());
            alive.extend(living.map(|(stream, _)| stream.key));
        }
        Ok(alive)
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.link.session()?;
        let names = &self.link.options.names;
        let source = |stream: &StreamId| Source::Stream { id: stream.clone(), is_followed: true.into() };
        let subject = |stream: &StreamId| (names.news(stream), source(stream));
        self.link.subscribe(streams.iter().map(subject).collect()).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.link.unsubscribe(streams.iter().map(|stream| self.link.options.names.news(stream)).collect());
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.link.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.ask_turn(&*self.link.session()?, stream).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.hand_on(&*self.link.session()?, stream).await
    }
}
