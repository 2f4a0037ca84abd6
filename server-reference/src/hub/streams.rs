//! Streams by kind: opening them, and letting go of them.

mod eviction;

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet, VecDeque},
    hash::{Hash, Hasher},
    slice,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use datasole_core::{Position, StreamId, StreamKind};

use super::{
    Hub,
    following::LINGER,
    kind::{Delivery, Kind, Rules, Spec, V1},
    ready::By,
    stream::{Common, Stream},
};
use crate::{
    backend::BackendError,
    connection::Connection,
    mailbox::AT_ONCE,
    sync::{lock, read, write},
};

/// Streams of one kind in memory before those that nobody needs are looked for.
const SWEEP_AT: usize = 1024;
/// Keys that the backend is asked for at once.
const PAGE: usize = 1024;

/// A stream that is known by its key, which it alone holds.
#[derive(Clone)]
struct ByKey(Arc<Stream>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.id().key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.id().key == other.0.id().key
    }
}

impl Eq for ByKey {}

/// Streams by key.
type Map = HashSet<ByKey>;

/// The streams of one kind that are in memory.
pub(super) struct Streams {
    spec: Spec,
    map: RwLock<Map>,
    /// How many of them may not leave memory: they are followed, or of those that stay.
    needed: Arc<AtomicUsize>,
    /// What the stream that was made last has in common with others.
    common: Mutex<Option<Arc<Common>>>,
    /// Keys that the backend is asked for: what it answers must not have been overtaken by a stream that has come and gone
    /// meanwhile.
    opening: Mutex<HashMap<String, Asked>>,
    /// Streams that have left memory while their news came, and at which tick.
    left: Mutex<Vec<(StreamId, u64)>>,
    /// Those that nobody followed when they were released, and when that was: the first to leave memory, if they still are.
    idle: Mutex<VecDeque<(Weak<Stream>, u64)>>,
    /// How many there may be before the idle ones are swept.
    sweep_at: AtomicUsize,
}

/// Those who ask for a key.
#[derive(Default)]
struct Asked {
    count: usize,
    /// Whether there were news of the stream meanwhile.
    news: bool,
    /// Held by the one that asks the backend for all.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How often the backend has failed, and how it did last.
    failures: (usize, Option<BackendError>),
}

/// A key that the backend is asked for.
struct Opening<'a> {
    streams: &'a Streams,
    key: &'a str,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Failures before it was asked for.
    failures: usize,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut opening = lock(&self.streams.opening);
        if let Some(asked) = opening.get_mut(self.key) {
            asked.count -= 1;
            if asked.count == 0 {
                opening.remove(self.key);
            }
        }
    }
}

impl Opening<'_> {
    /// The failure of another's attempt that began no earlier.
    fn failed(&self) -> Option<BackendError> {
        let opening = lock(&self.streams.opening);
        let (count, error) = &opening.get(self.key)?.failures;
        error.clone().filter(|_| *count > self.failures)
    }

    /// Tells those who wait that the attempt has failed.
    fn fail(&self, error: &BackendError) {
        if let Some(asked) = lock(&self.streams.opening).get_mut(self.key) {
            asked.failures = (asked.failures.0 + 1, Some(error.clone()));
        }
    }

    fn had_news(&self) -> bool {
        lock(&self.streams.opening).get(self.key).is_some_and(|asked| asked.news)
    }
}

impl Streams {
    pub(super) fn new(spec: Spec) -> Self {
        let sweep_at = AtomicUsize::new(SWEEP_AT);
        let (map, needed, common) = (RwLock::default(), Arc::default(), Mutex::default());
        let (opening, left, idle) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { spec, map, needed, common, opening, left, idle, sweep_at }
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(super) fn in_memory(&self) -> Vec<Arc<Stream>> {
        read(&self.map).iter().map(|stream| stream.0.clone()).collect()
    }

    fn opening<'a>(&'a self, key: &'a str) -> Opening<'a> {
        let mut opening = lock(&self.opening);
        let asked = opening.entry(key.to_owned()).or_default();
        asked.count += 1;
        Opening { streams: self, key, turn: asked.turn.clone(), failures: asked.failures.0 }
    }
}

impl Hub {
    /// Whether there are streams of a kind.
    pub(crate) fn serves(&self, kind: StreamKind) -> bool {
        self.streams(kind).is_ok()
    }

    fn streams(&self, kind: StreamKind) -> Result<&Streams, BackendError> {
        let streams = self.streams.iter().find(|streams| streams.spec.kind == kind);
        streams.ok_or_else(|| BackendError::Unavailable(format!("no streams of the kind {:?} here", kind.name())))
    }

    /// The empty content of a stream.
    pub(super) fn empty(&self, id: &StreamId) -> Result<Box<dyn Kind>, BackendError> {
        Ok((self.streams(id.kind)?.spec.make)(&id.key))
    }

    /// The stream, as the backend has it, or a new and empty one. News of one that is stored come from here on.
    pub(crate) async fn open(&self, kind: StreamKind, key: &str) -> Result<Arc<Stream>, BackendError> {
        self.open_in(kind, key, 0).await
    }

    async fn open_in(&self, kind: StreamKind, key: &str, lane: u64) -> Result<Arc<Stream>, BackendError> {
        match self.current(kind, key) {
            Some(stream) => Ok(stream),
            // Rarely needed, and large: every caller's future would have room for it.
            None => Box::pin(self.open_anew(kind, key, lane)).await,
        }
    }

    async fn open_anew(&self, kind: StreamKind, key: &str, lane: u64) -> Result<Arc<Stream>, BackendError> {
        let streams = self.streams(kind)?;
        let opening = streams.opening(key);
        // Those who come together ask the backend once.
        let _turn = opening.turn.lock().await;
        if let Some(stream) = self.current(kind, key) {
            return Ok(stream);
        }
        match opening.failed() {
            Some(error) => Err(error),
            None => self.load(streams, &opening, lane).await.inspect_err(|error| opening.fail(error)),
        }
    }

    /// The stream, if it is in memory and can be used as it is.
    fn current(&self, kind: StreamKind, key: &str) -> Option<Arc<Stream>> {
        self.known(kind, key).filter(|stream| self.is_current(stream))
    }

    async fn load(&self, streams: &Streams, opening: &Opening<'_>, lane: u64) -> Result<Arc<Stream>, BackendError> {
        let (kind, key) = (streams.spec.kind, opening.key);
        if let Some(stream) = self.known(kind, key) {
            self.follow(stream.id()).await?;
            self.catch_up(&stream, By::Reader(None)).await?;
            stream.followed.store(true, Ordering::SeqCst);
            return Ok(stream);
        }
        let content = (streams.spec.make)(key);
        let (id, rules) = (StreamId { kind, key: key.to_owned() }, content.rules());
        let stored = if rules.stored {
            self.follow(&id).await?;
            self.stored(&id).await.inspect_err(|_| lock(&streams.left).push((id.clone(), self.now())))?
        } else {
            if rules.relayed {
                self.follow_relayed(&id).await?;
            }
            None
        };
        let channel = if rules.numbered { self.channel(rules.delivery) } else { 0 };
        if stored.is_some() && !streams.has_room(self.now()) {
            return Err(BackendError::Unavailable("there is no memory for more streams at the moment".into()));
        }
        let common = self.common(streams, &*content, rules);
        let start = self.start(content, stored, (&id, channel, &common), (false, lane)).await?;
        let stream = Stream::new(id, start, common, channel);
        stream.followed.store(rules.stored || rules.relayed, Ordering::SeqCst);
        stream.used.store(self.now(), Ordering::SeqCst);
        stream.heard.store(self.now(), Ordering::Relaxed);
        let (stream, forgotten) = {
            let mut map = write(&streams.map);
            let forgotten = streams.sweep(&mut map, self.now());
            let stream = match map.get(key) {
                Some(known) => known.0.clone(),
                None => {
                    let stream = Arc::new(stream);
                    map.insert(ByKey(stream.clone()));
                    stream
                }
            };
            (stream, forgotten)
        };
        if streams.spec.v1_follows {
            let mut room = AT_ONCE;
            self.with_readers(stream.id(), |v1| v1.iter().for_each(|one| stream.subscribe_v1(one, &mut room)));
        }
        if opening.had_news() {
            self.fall_behind(&stream);
        }
        for (id, at) in forgotten {
            self.forget(&id, at).await;
        }
        Ok(stream)
    }

    /// What a stream that goes by these rules has in common with others: those of most kinds all go by the same.
    fn common(&self, streams: &Streams, content: &dyn Kind, rules: Rules) -> Arc<Common> {
        let mut last = lock(&streams.common);
        match &*last {
            Some(common) if common.rules == rules => common.clone(),
            _ => last.insert(Common::new(content, &self.limits, streams.needed.clone(), self.desk.clone())).clone(),
        }
    }

    /// The number of a stream: odd for what cannot do without, and may have that of one long gone; else even, and 0 once there are
    /// no more.
    fn channel(&self, delivery: Delivery) -> u32 {
        if delivery == Delivery::Others {
            return self.next_channel.fetch_add(2, Ordering::Relaxed) | 1;
        }
        let next = self.next_number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| last.checked_add(2));
        next.map_or(0, |last| last + 2)
    }

    /// The stream for a client that has it up to `since`, which another node may have told: at least as far. What takes
    /// long is done in the client's lane.
    pub(crate) async fn open_since(
        &self,
        id: &StreamId,
        since: Option<Position>,
        lane: u64,
    ) -> Result<Arc<Stream>, BackendError> {
        let stream = self.open_in(id.kind, &id.key, lane).await?;
        let order = |position: Position| (position.epoch, position.seq);
        if since.is_some_and(|since| order(since) > order(stream.position())) && stream.rules().stored {
            self.catch_up(&stream, By::Reader(None)).await?;
        }
        self.attend(&stream).await;
        Ok(stream)
    }

    /// The count of ticks.
    pub(super) fn now(&self) -> u64 {
        self.following.ticks.load(Ordering::Relaxed)
    }

    /// Whether the news of a stream come, so that it can be used as it is; takes note of the use.
    fn is_current(&self, stream: &Stream) -> bool {
        stream.used.store(self.now(), Ordering::SeqCst);
        !stream.rules().stored || stream.followed.load(Ordering::SeqCst)
    }

    /// Lets go of streams that nobody follows, where there are too many or there is no room.
    pub(crate) fn evict(&self) {
        let now = self.now();
        self.streams.iter().for_each(|streams| streams.evict(now));
    }

    /// The streams of every kind that are in memory.
    pub(super) fn all_in_memory(&self) -> Vec<Arc<Stream>> {
        self.streams.iter().flat_map(Streams::in_memory).collect()
    }

    /// The streams of certain kinds that are in memory.
    pub(super) fn in_memory_of(&self, kinds: impl Fn(StreamKind) -> bool) -> Vec<Arc<Stream>> {
        self.streams.iter().filter(|streams| kinds(streams.spec.kind)).flat_map(Streams::in_memory).collect()
    }

    /// Ends the news of streams that have left memory for good.
    pub(super) fn unfollow_left(&self, now: u64) {
        self.streams.iter().for_each(|streams| streams.unfollow_left(now, &self.backend));
    }

    /// Ends the news of a stream in memory, unless somebody needs it again.
    pub(super) fn unfollow_idle(&self, stream: &Stream, now: u64) {
        let Ok(streams) = self.streams(stream.id().kind) else { return };
        let opening = lock(&streams.opening);
        if opening.contains_key(&stream.id().key) {
            return;
        }
        stream.followed.store(false, Ordering::SeqCst);
        // Whoever has seen it followed has said before that it is used.
        if stream.used.load(Ordering::SeqCst) + LINGER > now {
            stream.followed.store(true, Ordering::SeqCst);
        } else {
            self.backend.log.unfollow(slice::from_ref(stream.id()));
        }
    }

    /// The stream that there are news of, if it is in memory. Whoever is opening it learns that there are some.
    pub(super) fn known_or_opening(&self, id: &StreamId) -> Option<Arc<Stream>> {
        if let Some(stream) = self.known(id.kind, &id.key) {
            return Some(stream);
        }
        lock(&self.streams(id.kind).ok()?.opening).get_mut(&id.key)?.news = true;
        // It may have been opened before that was noted.
        self.known(id.kind, &id.key)
    }

    /// The stream, if it may exist; looking for one that does not makes none.
    pub(crate) async fn find(&self, kind: StreamKind, key: &str) -> Result<Option<Arc<Stream>>, BackendError> {
        if let Some(stream) = self.current(kind, key) {
            return Ok(Some(stream));
        }
        let id = StreamId { kind, key: key.to_owned() };
        if !self.empty(&id)?.rules().stored {
            return Ok(None);
        }
        let heads = self.backend.log.heads(slice::from_ref(&id)).await?;
        if heads.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        self.open(kind, key).await.map(Some)
    }

    /// The stream if it is in memory.
    pub(crate) fn known(&self, kind: StreamKind, key: &str) -> Option<Arc<Stream>> {
        read(&self.streams(kind).ok()?.map).get(key).map(|stream| stream.0.clone())
    }

    /// How many streams of a kind are in memory.
    #[cfg(test)]
    pub(crate) fn in_memory(&self, kind: StreamKind) -> usize {
        self.streams(kind).map_or(0, |streams| read(&streams.map).len())
    }

    /// How many streams of a kind are in memory that may leave it.
    pub(crate) fn idle(&self, kind: StreamKind) -> usize {
        self.streams(kind).map_or(0, |streams| streams.idle_of(&read(&streams.map)))
    }

    /// The keys of all stored streams of a kind that exist, sorted.
    pub(crate) async fn keys(&self, kind: StreamKind) -> Result<Vec<String>, BackendError> {
        let mut keys = self.stored_keys(kind).await?;
        keys.retain(|key| self.known(kind, key).is_none_or(|stream| stream.gone_at().is_none()));
        keys.sort();
        Ok(keys)
    }

    pub(super) async fn stored_keys(&self, kind: StreamKind) -> Result<Vec<String>, BackendError> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let page = self.backend.log.keys(kind, keys.last().map(String::as_str), PAGE).await?;
            let is_last = page.len() < PAGE;
            keys.extend(page);
            if is_last {
                return Ok(keys);
            }
        }
    }

    /// The kinds whose streams clients of version 1 follow without asking.
    pub(super) fn v1_kinds(&self) -> impl Iterator<Item = StreamKind> {
        self.streams.iter().map(Streams::spec).filter(|spec| spec.v1_follows).map(|spec| spec.kind)
    }

    /// Lets go of a stream: it leaves memory if nobody follows it and it holds nothing, or there are enough of its kind.
    /// Others that hold it keep it alive; one that they leave behind is swept up later.
    pub(crate) async fn release(&self, stream: Arc<Stream>) {
        if !stream.is_idle() {
            return;
        }
        let Ok(streams) = self.streams(stream.id().kind) else { return };
        let now = self.now();
        let Some(stream) = streams.leave_idle(stream, now) else { return };
        let id = stream.id().clone();
        drop(stream);
        if let Some(at) = streams.release(&id, now) {
            Box::pin(self.forget(&id, at)).await;
        }
    }

    /// Runs `f` with the version 1 clients that get the entries of a stream without having asked for them.
    pub(super) fn with_v1<R>(&self, stream: &Stream, f: impl FnOnce(&[Arc<Connection>]) -> R) -> R {
        match stream.rules().v1 {
            V1::Entries => self.with_readers(stream.id(), f),
            V1::Nothing | V1::Followed | V1::Whole => f(&[]),
        }
    }

    /// Runs `f` with the version 1 clients that may read a stream.
    pub(crate) fn with_readers<R>(&self, stream: &StreamId, f: impl FnOnce(&[Arc<Connection>]) -> R) -> R {
        let v1 = read(&self.v1);
        if self.access.is_open() || v1.is_empty() {
            return f(v1.as_slice());
        }
        let may = |c: &&Arc<Connection>| c.identity().is_some_and(|identity| self.access.may_read(&identity, stream));
        let admitted: Vec<Arc<Connection>> = v1.iter().filter(may).cloned().collect();
        f(&admitted)
    }
}
