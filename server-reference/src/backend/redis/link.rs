//! One node's connections for messages: the news of streams that it follows, and the bus. Channels are a master's own
//! (`SSUBSCRIBE`), as the keys are with which they share their slot.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use futures_util::future::try_join_all;
use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    engine::{Engine, Listening, failure},
    names::Names,
    shards::Shards,
};
use crate::{
    backend::{
        bus::{Delivery, NodeId},
        error::BackendError,
        log::{Entry, News, Tag},
        name,
        outlet::Outlet,
        senders::Senders,
    },
    sync::lock,
};

/// News, and messages, that wait for a node, at most.
const WAITING: usize = 1_024;
/// Channels that are asked for in one round trip.
const BATCH: usize = 512;
/// How long the connection may be silent before it is asked for a sign of life, and how long that may take.
const SILENCE: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The messages that a channel brings.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Stream(StreamId),
    Topic(Arc<str>),
    /// Messages for this node or for everybody.
    Inbox,
    /// Turns that are this node's: a channel that all masters know, because a script may tell of a turn from any. What
    /// one publishes comes from each: that of the stream's own master comes after the stream's entries, and counts.
    Turns,
}

/// What is done about channels: the command for a master's own, and for those that all know.
type Deed = (&'static str, &'static str);
const SUBSCRIBE: Deed = ("SSUBSCRIBE", "SUBSCRIBE");
const UNSUBSCRIBE: Deed = ("SUNSUBSCRIBE", "UNSUBSCRIBE");

type Answer = oneshot::Sender<Result<(), BackendError>>;

enum Command {
    Subscribe(Vec<(String, Source)>, Answer),
    Unsubscribe(Vec<String>),
}

/// The node's handle of the connections; they close with the last handle.
pub(super) struct Link {
    /// Names this link for ever: tells the node's own messages from others'.
    pub(super) origin: u64,
    commands: mpsc::UnboundedSender<Command>,
    news: Mutex<Option<mpsc::Receiver<News>>>,
    inbox: Mutex<Option<mpsc::Receiver<Delivery>>>,
}

impl Link {
    /// Opens the connections; the first subscription is the node's own inbox.
    pub(super) async fn open(engine: &Arc<Engine>, origin: u64) -> Result<Arc<Self>, BackendError> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (news_out, news) = Outlet::new(WAITING, || News::Lost);
        let (inbox_out, inbox) = Outlet::new(WAITING, || Delivery::Lost);
        let link = Arc::new(Self { origin, commands, news: Mutex::new(Some(news)), inbox: Mutex::new(Some(inbox)) });
        let mut reader = Reader::new(origin, engine.names.clone(), news_out, inbox_out);
        let listening = reader.connect(engine).await?;
        let task = Task { engine: Arc::downgrade(engine), reader, commands: receiver };
        drop(tokio::spawn(task.run(listening)));
        let names = &engine.names;
        let turns = format!("{}{origin:016x}", names.turns());
        let own = [(names.everybody(), Source::Inbox), (names.inbox(origin), Source::Inbox), (turns, Source::Turns)];
        link.subscribe(own.into()).await?;
        Ok(link)
    }

    /// In force, as are all commands before it, when this answers.
    pub(super) async fn subscribe(&self, channels: Vec<(String, Source)>) -> Result<(), BackendError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(Command::Subscribe(channels, answer));
        sent.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    pub(super) fn unsubscribe(&self, channels: Vec<String>) {
        // Fails when the task has ended, and with it all subscriptions.
        let _ = self.commands.send(Command::Unsubscribe(channels));
    }

    pub(super) fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        lock(&self.news).take().ok_or_else(|| BackendError::Taken("this handle's news are another node's".into()))
    }

    pub(super) fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        lock(&self.inbox).take().ok_or_else(|| BackendError::Taken("this handle's inbox is another node's".into()))
    }
}

fn ended() -> BackendError {
    BackendError::Unavailable("the connection for messages has ended".into())
}

/// Reads messages and hands them on.
struct Reader {
    origin: u64,
    names: Names,
    sources: HashMap<String, Source>,
    /// Channels that this node has left, until that is confirmed.
    leaving: HashSet<String>,
    news: Outlet<News>,
    inbox: Outlet<Delivery>,
    senders: Senders,
    generation: u64,
}

impl Reader {
    fn new(origin: u64, names: Names, news: Outlet<News>, inbox: Outlet<Delivery>) -> Self {
        let (sources, leaving, senders) = (HashMap::new(), HashSet::new(), Senders::default());
        Self { origin, names, sources, leaving, news, inbox, senders, generation: 0 }
    }

    /// Connects and subscribes to every channel again. Whoever reads learns what may have been lost meanwhile.
    async fn connect(&mut self, engine: &Engine) -> Result<Listening, BackendError> {
        let listening = engine.listen().await?;
        self.leaving.clear();
        let channels = self.sources.iter().map(|(channel, source)| (channel, is_known_to_all(source)));
        tell(&listening.shards, SUBSCRIBE, channels.collect()).await?;
        if self.generation != listening.generation && !self.sources.is_empty() {
            self.news.send(News::Generation(listening.generation));
        }
        self.generation = listening.generation;
        if !self.sources.is_empty() {
            self.news.send(News::Lost);
            self.inbox.send(Delivery::Lost);
        }
        Ok(listening)
    }

    /// Reads what the connection of this number has pushed; `None` where the connections must be opened again.
    fn read(&mut self, shards: &Shards, number: u16, push: PushInfo) -> Option<()> {
        let mut data =
            push.data.into_iter().map(|value| if let Value::BulkString(bytes) = value { bytes } else { Vec::new() });
        let channel = data.next().unwrap_or_default();
        let source = std::str::from_utf8(&channel).ok().and_then(|channel| self.sources.get(channel));
        match (push.kind, source) {
            (PushKind::Message | PushKind::SMessage, Some(source)) => {
                let payload = Bytes::from(data.next().unwrap_or_default());
                match source {
                    Source::Stream(stream) => {
                        if let Some(news) = read_news(self.origin, stream, payload) {
                            self.news.send(news);
                        }
                    }
                    Source::Topic(_) | Source::Inbox => {
                        let topic = if let Source::Topic(topic) = source { Some(Arc::clone(topic)) } else { None };
                        if let Some((from, connection, bytes)) = read_delivery(self.origin, payload)
                            && !self.senders.is_late(from, connection)
                        {
                            self.inbox.send(Delivery::Message { topic, from: NodeId(from), bytes });
                        }
                    }
                    Source::Turns => {
                        if let Some(stream) = name::read(&payload)
                            && shards.is_from(number, &self.names.stream(&stream).channel)
                        {
                            self.news.send(News::Turn(stream));
                        }
                    }
                }
                Some(())
            }
            (PushKind::SUnsubscribe, source) => {
                let is_left = std::str::from_utf8(&channel).is_ok_and(|channel| self.leaving.remove(channel));
                // The slot of a channel that is still wanted is another master's now.
                (is_left || source.is_none()).then_some(())
            }
            (PushKind::Disconnection, _) => None,
            _ => Some(()),
        }
    }
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    let head: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    *bytes = bytes.slice(8..);
    Some(u64::from_be_bytes(head))
}

/// The news that the script of appends publishes; `None` for this node's own.
fn read_news(origin: u64, stream: &StreamId, mut payload: Bytes) -> Option<News> {
    if take_u64(&mut payload)? == origin {
        return None;
    }
    let kind = *payload.first()?;
    payload = payload.slice(1..);
    let (epoch, seq) = (take_u64(&mut payload)?, take_u64(&mut payload)?);
    let (stream, position) = (stream.clone(), Position { epoch, seq });
    if kind == b'A' {
        return Some(News::Advanced { stream, position });
    }
    let mut entries = Vec::new();
    while !payload.is_empty() {
        let head: [u8; 4] = payload.get(..4)?.try_into().ok()?;
        let end = 4 + usize::try_from(u32::from_be_bytes(head)).ok()?;
        payload.get(4..end)?;
        entries.push(read_entry(payload.slice(4..end))?);
        payload = payload.slice(end..);
    }
    Some(News::Entries { stream, first: position, entries })
}

/// An entry as it is stored: tag, hash of the tag before, content.
pub(super) fn read_entry(mut stored: Bytes) -> Option<Entry> {
    let tag = Tag { node: take_u64(&mut stored)?, count: take_u64(&mut stored)? };
    let prev = take_u64(&mut stored)?;
    Some(Entry { tag, prev, bytes: stored })
}

/// A message's sender, the number of the sender's connection, and the content; `None` for this node's own.
fn read_delivery(origin: u64, mut payload: Bytes) -> Option<(u64, u64, Bytes)> {
    let from = take_u64(&mut payload).filter(|from| *from != origin)?;
    Some((from, take_u64(&mut payload)?, payload))
}

/// A message as it is published over the connection of this number.
pub(super) fn write_delivery(origin: u64, connection: u64, bytes: &[u8]) -> Vec<u8> {
    [&origin.to_be_bytes()[..], &connection.to_be_bytes(), bytes].concat()
}

fn is_known_to_all(source: &Source) -> bool {
    matches!(source, Source::Turns)
}

/// Does something about channels at the masters that have them, of which some are known to all.
async fn tell(shards: &Shards, deed: Deed, channels: Vec<(&String, bool)>) -> Result<(), BackendError> {
    let mut by_master: HashMap<usize, Vec<(&String, bool)>> = HashMap::new();
    for (channel, known_to_all) in channels {
        let masters = if known_to_all { 0..shards.count() } else { shards.of(channel)..shards.of(channel) + 1 };
        for master in masters {
            by_master.entry(master).or_default().push((channel, known_to_all));
        }
    }
    let told = by_master.into_iter().map(async |(master, channels)| {
        let mut connection = shards.connection(master);
        for batch in channels.chunks(BATCH) {
            // One by one, each of which is answered: many in one command are answered as often.
            let mut pipeline = redis::pipe();
            for (channel, known_to_all) in batch {
                pipeline.cmd(if *known_to_all { deed.1 } else { deed.0 }).arg(channel.as_str());
            }
            answered(pipeline.query_async::<Vec<Value>>(&mut connection)).await?;
        }
        Ok::<_, BackendError>(())
    });
    try_join_all(told).await.map(drop)
}

/// An answer that comes in time.
async fn answered<T>(answer: impl Future<Output = redis::RedisResult<T>>) -> Result<T, BackendError> {
    match timeout(SILENCE, answer).await {
        Ok(answer) => answer.map_err(failure),
        Err(_) => Err(BackendError::Unavailable("the engine does not answer".into())),
    }
}

async fn ping(mut connection: MultiplexedConnection) -> Result<Value, BackendError> {
    answered(redis::cmd("PING").query_async(&mut connection)).await
}

/// The task of a link. Ends when all handles of the link or of the engine are gone.
struct Task {
    engine: Weak<Engine>,
    reader: Reader,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl Task {
    async fn run(mut self, mut listening: Listening) {
        loop {
            if self.serve(&mut listening).await.is_none() {
                return;
            }
            tracing::warn!("a connection for messages between nodes broke, or a slot moved; trying again");
            match self.reconnect().await {
                Some(connected) => listening = connected,
                None => return,
            }
        }
    }

    /// Reads and subscribes until a connection breaks; `None` when the link has ended.
    async fn serve(&mut self, listening: &mut Listening) -> Option<()> {
        let Listening { shards, pushes, .. } = listening;
        loop {
            tokio::select! {
                biased;
                push = pushes.recv() => match push.and_then(|(number, push)| self.reader.read(shards, number, push)) {
                    Some(()) => {}
                    None => return Some(()),
                },
                command = self.commands.recv() => {
                    if self.obey(shards, command?).await.is_err() {
                        return Some(());
                    }
                }
                () = sleep(SILENCE) => {
                    if try_join_all(shards.connections().map(ping)).await.is_err() {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Fails when the connections must be opened again.
    async fn obey(&mut self, shards: &Shards, command: Command) -> Result<(), BackendError> {
        match command {
            Command::Subscribe(channels, answer) => {
                let fresh: Vec<_> =
                    channels.into_iter().filter(|(channel, _)| !self.reader.sources.contains_key(channel)).collect();
                // Known before the engine confirms: a message may come before this task sees the confirmation.
                self.reader.sources.extend(fresh.iter().cloned());
                let told = fresh.iter().map(|(channel, source)| (channel, is_known_to_all(source)));
                let outcome = tell(shards, SUBSCRIBE, told.collect()).await;
                if outcome.is_err() {
                    fresh.iter().for_each(|(channel, _)| drop(self.reader.sources.remove(channel)));
                }
                // Whoever asked may have given up.
                let _ = answer.send(outcome.clone());
                outcome
            }
            Command::Unsubscribe(channels) => {
                let Reader { sources, leaving, .. } = &mut self.reader;
                let gone =
                    channels.iter().filter_map(|channel| Some((channel, is_known_to_all(&sources.remove(channel)?))));
                let gone: Vec<_> = gone.collect();
                leaving.extend(gone.iter().map(|(channel, _)| (*channel).clone()));
                tell(shards, UNSUBSCRIBE, gone).await
            }
        }
    }

    /// Connects until it succeeds. Subscriptions fail meanwhile: nobody waits for an engine that is away.
    async fn reconnect(&mut self) -> Option<Listening> {
        let mut wait = FIRST_WAIT;
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.refuse(command);
            }
            let engine = self.engine.upgrade()?;
            match self.reader.connect(&engine).await {
                Ok(connected) => return Some(connected),
                Err(error) => tracing::debug!(%error, "the engine cannot be reached"),
            }
            drop(engine);
            // Half of the wait at least: the nodes of a server that comes back spread over the other half.
            let share = getrandom::u32().unwrap_or_default() % 1_000;
            let pause = wait / 2 + wait / 2 * share / 1_000;
            let woken = timeout(pause, self.commands.recv()).await;
            match woken {
                Ok(None) => return None,
                Ok(Some(command)) => self.refuse(command),
                Err(_) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn refuse(&mut self, command: Command) {
        match command {
            Command::Subscribe(_, answer) => {
                let _ = answer.send(Err(BackendError::Unavailable("the engine cannot be reached".into())));
            }
            Command::Unsubscribe(channels) => {
                channels.iter().for_each(|name| drop(self.reader.sources.remove(name)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_messages_are_nothing() {
        let stream = StreamId::state("s");
        let mut good = [&7_u64.to_be_bytes()[..], b"E", &1_u64.to_be_bytes(), &2_u64.to_be_bytes()].concat();
        good.extend([&25_u32.to_be_bytes()[..], &[1; 24], b"x"].concat());
        let news = read_news(8, &stream, Bytes::from(good.clone()));
        assert!(
            matches!(news, Some(News::Entries { first, entries, .. }) if first.seq == 2 && entries[0].bytes == "x")
        );
        assert_eq!(read_news(7, &stream, Bytes::from(good.clone())), None, "the node's own");
        for end in (0..good.len()).filter(|end| *end != 25) {
            assert_eq!(read_news(8, &stream, Bytes::copy_from_slice(&good[..end])), None, "{end}");
        }
        let message = Bytes::from(write_delivery(7, 9, b"m"));
        assert_eq!(read_delivery(8, message.clone()), Some((7, 9, Bytes::from_static(b"m"))));
        assert_eq!(read_delivery(7, message.clone()), None, "the node's own");
        assert_eq!(read_delivery(8, message.slice(..15)), None);
    }
}
