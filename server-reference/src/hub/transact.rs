//! The one way by which a stored stream changes: plan, append, apply, publish.

use std::{slice, sync::Arc, time::Duration};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{
    Hub,
    kind::{Inapplicable, Kind, LONG},
    ready::{By, Next, Ready, bytes},
    standing::PROBE,
    stream::{Rest, Stream, Writer},
};
use crate::{
    answer::Author,
    backend::{
        BackendError,
        log::{self, Append, Appended, Loaded, Mark, Rule, TURN},
    },
    clock::unix_millis,
    desk::Desk,
    entry::Entry,
    mailbox::AT_ONCE,
    task::to_the_end,
};

/// How long an append whose outcome is open is repeated.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before an append is first repeated; each is twice as long as the one before, up to `LONGEST_PAUSE`.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Conflicts after which a node waits for its turn.
const CONFLICTS: u32 = 3;

/// What came of one try of a change.
pub(crate) enum Tried {
    /// It is stored and published.
    At(Position),
    /// There was nothing to change.
    Nothing,
    /// Others were faster, or the plan was for what is no more.
    Again(Writer),
}

/// What is planned on a content.
pub(crate) enum Plan {
    Entry(Entry),
    Nothing,
    /// What was prepared for it is out of date.
    Again,
}

/// What came of an entry.
enum Committed {
    /// It is stored and published.
    At(Position),
    /// Others were faster. Their entries have been applied and published.
    Conflict(Writer),
}

impl Hub {
    /// Changes a stream that the backend keeps: `plan` makes an entry of the content, which is stored, applied and
    /// published, and acknowledged to its author in the same step. Where others were faster, their entries are applied and
    /// published, and `plan` is asked again. `None` where it has nothing to change.
    ///
    /// `plan` may leave in the content what is pending: see [`Kind`].
    pub(crate) async fn transact<E: From<BackendError>>(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        mut writer: Writer,
        author: Option<Author>,
        mut plan: impl FnMut(&mut dyn Kind) -> Result<Option<Entry>, E>,
    ) -> Result<Option<Position>, E> {
        let mut tries = 0;
        loop {
            let plan = |content: &mut dyn Kind| plan(content).map(|entry| entry.map_or(Plan::Nothing, Plan::Entry));
            match self.attempt(stream, (writer, &mut tries), author.clone(), plan).await? {
                Tried::At(position) => return Ok(Some(position)),
                Tried::Nothing => return Ok(None),
                Tried::Again(still) => writer = still,
            }
        }
    }

    /// Tries a change once, after so many `tries` in vain: for who prepares the plan anew before each, without the stream's
    /// lock.
    pub(crate) async fn attempt<E: From<BackendError>>(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        (writer, tries): (Writer, &mut u32),
        author: Option<Author>,
        plan: impl FnOnce(&mut dyn Kind) -> Result<Plan, E>,
    ) -> Result<Tried, E> {
        let (after, planned) = stream.plan(|content| {
            let plan = plan(content)?;
            let rule = if let Plan::Entry(entry) = &plan { content.rule(entry) } else { Rule::Exactly };
            Ok((plan, rule))
        });
        let writer = match planned {
            Ok((Plan::Entry(entry), rule)) => {
                let (hub, own, has_turn) = (self.clone(), stream.clone(), *tries > CONFLICTS);
                // What was stored would be missing to the followers, were it dropped with its caller.
                let commit =
                    async move { hub.commit(&own, (writer, after), (entry, rule, has_turn), author.as_ref()).await };
                match to_the_end(commit).await? {
                    Committed::At(position) => return Ok(Tried::At(position)),
                    Committed::Conflict(still) => still,
                }
            }
            Ok((Plan::Again, _)) => writer,
            over => {
                if *tries >= CONFLICTS {
                    self.backend.log.end_turn(stream.id()).await?;
                }
                return over.map(|_| Tried::Nothing);
            }
        };
        *tries += 1;
        if *tries >= CONFLICTS {
            Box::pin(self.wait_for_turn(stream)).await?;
        }
        Ok(Tried::Again(writer))
    }

    /// Waits until it is this node's turn to append, at most as long as a turn lasts: then the log decides again.
    async fn wait_for_turn(&self, stream: &Stream) -> Result<(), BackendError> {
        let turn = self.turns.wait(stream.id());
        if !self.backend.log.take_turn(stream.id()).await? {
            let _ = timeout(TURN, turn.came()).await;
        }
        Ok(())
    }

    async fn commit(
        &self,
        stream: &Arc<Stream>,
        (writer, after): (Writer, Mark),
        (entry, rule, has_turn): (Entry, Rule, bool),
        author: Option<&Author>,
    ) -> Result<Committed, BackendError> {
        let (bytes, own) = (entry.bytes().len(), Ready::new(entry));
        let Some(position) = self.append(stream, after, (own, rule, has_turn), author).await? else {
            return Ok(Committed::Conflict(writer));
        };
        if position.seq == 1 {
            Box::pin(self.tell_birth(stream.id())).await;
        }
        if stream.note(bytes)
            && let Err(error) = Box::pin(self.compact(stream)).await
        {
            // It is stored and published; the backend only holds more than it must.
            tracing::error!(%error, key = stream.id().key, "a stream could not be compacted");
        }
        Ok(Committed::At(position))
    }

    /// Stores an entry as the one after `after`, applies and publishes it behind those that came between. `None` when others
    /// were faster; what they have appended is here then, and nothing is pending.
    async fn append(
        &self,
        stream: &Arc<Stream>,
        after: Mark,
        (own, rule, has_turn): (Ready, Rule, bool),
        author: Option<&Author>,
    ) -> Result<Option<Position>, BackendError> {
        let bytes = own.entry.bytes().clone();
        let append = Append::new(stream.id(), after, rule, self.tags.next(), slice::from_ref(&bytes));
        let append = if has_turn { append.hand_on() } else { append };
        let stored = self.store(stream, append).await;
        self.standing.observe(&stored);
        match stored {
            Ok(Appended::At { between, mark }) => {
                if self.publish_own(stream, (after.position, between), (own, mark), author).await.is_err() {
                    // What was planned does not fit: memory is not what the backend has, which is the truth.
                    if Box::pin(self.catch_up(stream, By::Writer)).await.is_err() {
                        self.fall_behind(stream);
                    }
                    if let Some(author) = author {
                        author.connection.acknowledge(author.correlation, mark.position.seq);
                    }
                }
                Ok(Some(mark.position))
            }
            Ok(Appended::Conflict { mark, missed }) => {
                Box::pin(self.give_way(stream, after, (mark, missed))).await.map(|()| None)
            }
            Err(error) => {
                stream.retract();
                Err(error)
            }
        }
    }

    /// Takes what others have appended, who were faster than a plan that was made at `after`.
    async fn give_way(
        &self,
        stream: &Arc<Stream>,
        after: Mark,
        (mark, missed): (Mark, Option<Vec<log::Entry>>),
    ) -> Result<(), BackendError> {
        self.lives.observe(mark.position.epoch);
        stream.retract();
        if let Some(missed) = missed
            && self.take(stream, after.position, missed, By::Writer).await.is_ok()
        {
            return Ok(());
        }
        if mark.position.seq == 0 && stream.mark() == after {
            // There is none, and a new life must begin later than this one would have.
            return self.begin_again(stream, after).await;
        }
        self.catch_up(stream, By::Writer).await
    }

    /// Takes entries that others have appended right behind `after`. Where that takes long, it is done off the async workers,
    /// with the right to append, and the stream is free meanwhile.
    pub(super) async fn take(
        &self,
        stream: &Arc<Stream>,
        after: Position,
        entries: Vec<log::Entry>,
        by: By,
    ) -> Result<(), Inapplicable> {
        if !stream.is_long(bytes(&entries)) {
            return self.accept(stream, after, entries.iter().map(Next::from));
        }
        let (hub, own) = (self.me.upgrade().ok_or(Inapplicable)?, stream.clone());
        let take = move || {
            // What is done apart must not be in the way of a plan.
            let _by = by;
            let entries = own.prepare_next(after, &entries).into_iter();
            own.apart(|| hub.accept(&own, after, entries))
        };
        let taken = self.desk.run(0, take).await;
        self.made_good(stream, taken).await
    }

    /// The outcome of work [apart](Stream::apart); the stream is loaded again where its content was lost.
    async fn made_good(
        &self,
        stream: &Arc<Stream>,
        outcome: Option<Result<(), Inapplicable>>,
    ) -> Result<(), Inapplicable> {
        if let Some(outcome) = outcome {
            return outcome;
        }
        self.reload(stream).await.map_err(|error| {
            tracing::error!(%error, key = stream.id().key, "a damaged stream cannot be loaded");
            Inapplicable
        })
    }

    /// The same at once.
    pub(super) fn accept(
        &self,
        stream: &Arc<Stream>,
        after: Position,
        entries: impl Iterator<Item = Next>,
    ) -> Result<(), Inapplicable> {
        let (now, mut rest) = (unix_millis(), Rest::default());
        let taken = self.with_v1(stream, |v1| stream.accept((after, entries), (now, v1), &mut rest));
        self.settle(stream, rest);
        taken
    }

    /// Publishes an entry that is stored at `mark`, behind those between.
    async fn publish_own(
        &self,
        stream: &Arc<Stream>,
        (after, between): (Position, Vec<log::Entry>),
        (own, mark): (Ready, Mark),
        author: Option<&Author>,
    ) -> Result<(), Inapplicable> {
        let length = own.entry.bytes().len();
        let is_long = if between.is_empty() { length > LONG } else { stream.is_long(bytes(&between) + length) };
        if !is_long {
            return self.publish_at_once(stream, (after, between.iter().map(Next::from)), (own, mark), author);
        }
        Box::pin(self.publish_apart(stream, (after, between), (own, mark), author)).await
    }

    /// The same off the async workers.
    async fn publish_apart(
        &self,
        stream: &Arc<Stream>,
        (after, between): (Position, Vec<log::Entry>),
        (mut own, mark): (Ready, Mark),
        author: Option<&Author>,
    ) -> Result<(), Inapplicable> {
        let (hub, to, author) = (self.me.upgrade().ok_or(Inapplicable)?, stream.clone(), author.cloned());
        let publish = move || {
            let between = to.prepare_next(after, &between).into_iter();
            to.prepare_own(&mut own, mark.position);
            to.apart(|| hub.publish_at_once(&to, (after, between), (own, mark), author.as_ref()))
        };
        let published = self.desk.run(0, publish).await;
        self.made_good(stream, published).await
    }

    fn publish_at_once(
        &self,
        stream: &Arc<Stream>,
        between: (Position, impl Iterator<Item = Next>),
        own: (Ready, Mark),
        author: Option<&Author>,
    ) -> Result<(), Inapplicable> {
        let (now, mut rest) = (unix_millis(), Rest::default());
        let published = self.with_v1(stream, |v1| stream.publish(between, own, (now, v1), author, &mut rest));
        self.settle(stream, rest);
        published
    }

    /// Does what entries have left to do.
    fn settle(&self, stream: &Arc<Stream>, rest: Rest) {
        if !rest.displaced.is_empty() {
            Desk::discard(rest.displaced);
        }
        if rest.unmeasured {
            let (desk, own) = (self.desk.clone(), stream.clone());
            match Handle::try_current() {
                Ok(runtime) if stream.weight() > AT_ONCE => {
                    runtime.spawn(async move { desk.run(0, move || own.measure()).await });
                }
                _ => stream.measure(),
            }
        }
    }

    /// True if the backend stores: the last append was stored, or a probe was since. While all is well the probe only
    /// reads, so that an engine that is away is noticed before somebody writes.
    pub(crate) async fn stores(&self) -> bool {
        if self.standing.may_probe() {
            // A stream of its own, which expires at once: nobody follows it.
            let tag = self.tags.next();
            let stream = StreamId::event(format!("\u{1}probe {:x} {:x}", tag.node, tag.count));
            if self.standing.is_failing() {
                let content = Bytes::from_static(b"null");
                let append =
                    Append::new(&stream, Mark::birth(1), Rule::Exactly, tag, slice::from_ref(&content)).ttl(PROBE);
                if let Ok(outcome) = timeout(PROBE, self.backend.log.append(append)).await {
                    self.standing.observe(&outcome);
                }
            } else {
                let read = timeout(PROBE, self.backend.log.heads(slice::from_ref(&stream))).await;
                let read = read.unwrap_or_else(|_| Err(BackendError::Unavailable("no answer within a second".into())));
                if read.is_err() {
                    self.standing.observe(&read);
                }
            }
        }
        !self.standing.is_failing()
    }

    /// Appends, and repeats what was not answered: the tag makes that one append.
    async fn store(&self, stream: &Arc<Stream>, append: Append<'_>) -> Result<Appended, BackendError> {
        match self.backend.log.append(append).await {
            Err(BackendError::Unavailable(why)) => Box::pin(self.store_again(stream, append, why)).await,
            answer => answer,
        }
    }

    /// The same where it was not answered once, for this reason.
    async fn store_again(
        &self,
        stream: &Arc<Stream>,
        append: Append<'_>,
        mut why: String,
    ) -> Result<Appended, BackendError> {
        let (deadline, mut pause) = (Instant::now() + PATIENCE, PAUSE);
        while Handle::try_current().is_ok() && Instant::now() + pause <= deadline {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            why = match self.backend.log.append(append).await {
                Ok(Appended::Conflict { missed: None, mark }) => match self.find_stored(stream, append).await {
                    Ok(None) => return Ok(Appended::Conflict { missed: None, mark }),
                    Ok(Some(found)) => return Ok(found),
                    Err(BackendError::Unavailable(why)) => why,
                    Err(error) => return Err(error),
                },
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            };
        }
        Err(BackendError::Unknown(why))
    }

    /// Looks for an append, of which copies were not answered, among what the stream has kept; `None` where it is not.
    async fn find_stored(&self, stream: &Arc<Stream>, append: Append<'_>) -> Result<Option<Appended>, BackendError> {
        let after = append.after.position;
        let stored = match self.backend.log.load(append.stream, None).await? {
            Loaded::Whole(stored) => stored,
            Loaded::Absent if after.seq == 0 => return Ok(None),
            Loaded::Absent | Loaded::Since(_) => return Err(BackendError::Unknown("the stream is gone".into())),
        };
        let first = stored.mark.position.seq.saturating_sub(stored.entries.len() as u64);
        if let Some(at) = stored.entries.iter().rposition(|entry| entry.tag == append.tag) {
            self.catch_up(stream, By::Writer).await?;
            let mut mark = stored.mark;
            (mark.position.seq, mark.tag) = (first + 1 + at as u64, append.tag);
            return Ok(Some(Appended::At { between: Vec::new(), mark }));
        }
        if first == 0 || (stored.mark.position.epoch == after.epoch && first <= after.seq) {
            return Ok(None);
        }
        Err(BackendError::Unknown("what came since is forgotten".into()))
    }

    /// Lets the backend forget entries. The caller has the right to append: what the content forgets is an entry, too, so
    /// that all who follow forget the same.
    async fn compact(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        if let (at, Some(compact)) = stream.compaction(unix_millis())
            && let Some((entry, read)) = self.apart(stream, compact).await
        {
            let own = Ready { read: Some(read), ..Ready::new(entry) };
            if self.append(stream, at, (own, Rule::Exactly, false), None).await?.is_none() {
                return Ok(());
            }
        }
        let (own, others) = (stream.clone(), self.has_others());
        let snapshot = self.apart(stream, move || own.snapshot(others)).await;
        match snapshot {
            Some((at, snapshot, keep)) => self.backend.log.snapshot(stream.id(), at, snapshot, keep).await,
            None => Ok(()),
        }
    }

    /// Does work on the whole of a stream's content: off the async workers where that is large.
    pub(crate) async fn apart<T: Send + 'static>(
        &self,
        stream: &Stream,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if stream.weight() > AT_ONCE { self.desk.run(0, work).await } else { work() }
    }

    /// Publishes on a stream that no backend keeps what `plan` makes of its content.
    pub(crate) fn publish<E>(
        &self,
        stream: &Arc<Stream>,
        plan: impl FnOnce(&mut dyn Kind) -> Result<Entry, E>,
    ) -> Result<(), E> {
        self.with_v1(stream, |v1| stream.publish_planned(unix_millis(), v1, plan)).map(drop)
    }
}
