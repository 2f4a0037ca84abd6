//! One node's connection for messages: the news of streams that it follows, and the bus.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use futures_util::StreamExt;
use redis::{
    Msg,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::engine::Engine;
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
/// Channels in one command.
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
    /// Turns that are this node's.
    Turns,
}

type Answer = oneshot::Sender<Result<(), BackendError>>;

enum Command {
    Subscribe(Vec<(String, Source)>, Answer),
    Unsubscribe(Vec<String>),
}

/// The node's handle of the connection; it closes with the last handle.
pub(super) struct Link {
    /// Names this link for ever: tells the node's own messages from others'.
    pub(super) origin: u64,
    commands: mpsc::UnboundedSender<Command>,
    news: Mutex<Option<mpsc::Receiver<News>>>,
    inbox: Mutex<Option<mpsc::Receiver<Delivery>>>,
}

impl Link {
    /// Opens the connection; its first subscription is the node's own inbox.
    pub(super) async fn open(engine: &Arc<Engine>, origin: u64) -> Result<Arc<Self>, BackendError> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (news_out, news) = Outlet::new(WAITING, || News::Lost);
        let (inbox_out, inbox) = Outlet::new(WAITING, || Delivery::Lost);
        let link = Arc::new(Self { origin, commands, news: Mutex::new(Some(news)), inbox: Mutex::new(Some(inbox)) });
        let mut reader = Reader::new(origin, news_out, inbox_out);
        let (sink, stream) = reader.connect(engine).await?;
        let task = Task { engine: Arc::downgrade(engine), reader, commands: receiver };
        drop(tokio::spawn(task.run(sink, stream)));
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
    sources: HashMap<String, Source>,
    news: Outlet<News>,
    inbox: Outlet<Delivery>,
    senders: Senders,
    generation: u64,
}

impl Reader {
    fn new(origin: u64, news: Outlet<News>, inbox: Outlet<Delivery>) -> Self {
        let (sources, senders) = (HashMap::new(), Senders::default());
        Self { origin, sources, news, inbox, senders, generation: 0 }
    }

    /// Connects and subscribes to every channel again. Whoever reads learns what may have been lost meanwhile.
    async fn connect(&mut self, engine: &Engine) -> Result<(PubSubSink, PubSubStream), BackendError> {
        let (connection, generation) = engine.listen().await?;
        let (mut sink, stream) = connection.split();
        let channels: Vec<&String> = self.sources.keys().collect();
        for batch in channels.chunks(BATCH) {
            subscribe(&mut sink, batch).await?;
        }
        if self.generation != generation && !self.sources.is_empty() {
            self.news.send(News::Generation(generation));
        }
        self.generation = generation;
        if !self.sources.is_empty() {
            self.news.send(News::Lost);
            self.inbox.send(Delivery::Lost);
        }
        Ok((sink, stream))
    }

    fn read(&mut self, message: &Msg) {
        let Some(source) = self.sources.get(message.get_channel_name()) else { return };
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        match source {
            Source::Stream(stream) => {
                if let Some(news) = read_news(self.origin, stream, payload) {
                    self.news.send(news);
                }
            }
            Source::Topic(_) | Source::Inbox => {
                let topic = if let Source::Topic(topic) = source { Some(Arc::clone(topic)) } else { None };
                let Some((from, connection, bytes)) = read_delivery(self.origin, payload) else { return };
                if !self.senders.is_late(from, connection) {
                    self.inbox.send(Delivery::Message { topic, from: NodeId(from), bytes });
                }
            }
            Source::Turns => {
                if let Some(stream) = name::read(&payload) {
                    self.news.send(News::Turn(stream));
                }
            }
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

async fn subscribe(sink: &mut PubSubSink, channels: &[&String]) -> Result<(), BackendError> {
    match timeout(SILENCE, sink.subscribe(channels)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(BackendError::Unavailable(error.to_string())),
        Err(_) => Err(BackendError::Unavailable("the engine does not answer".into())),
    }
}

/// The task of a link. Ends when all handles of the link or of the engine are gone.
struct Task {
    engine: Weak<Engine>,
    reader: Reader,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl Task {
    async fn run(mut self, mut sink: PubSubSink, mut stream: PubSubStream) {
        loop {
            if self.serve(&mut sink, &mut stream).await.is_none() {
                return;
            }
            tracing::warn!("the connection for messages between nodes broke; trying again");
            match self.reconnect().await {
                Some(connected) => (sink, stream) = connected,
                None => return,
            }
        }
    }

    /// Reads and subscribes until the connection breaks; `None` when the link has ended.
    async fn serve(&mut self, sink: &mut PubSubSink, stream: &mut PubSubStream) -> Option<()> {
        loop {
            tokio::select! {
                biased;
                message = stream.next() => match message {
                    Some(message) => self.reader.read(&message),
                    None => return Some(()),
                },
                command = self.commands.recv() => match command? {
                    Command::Subscribe(channels, answer) => {
                        // Known before the engine confirms: a message may come before this task sees the confirmation.
                        let names: Vec<String> = channels.iter().map(|(channel, _)| channel.clone()).collect();
                        let known: HashSet<String> = names.iter().filter(|name| self.reader.sources.contains_key(*name)).cloned().collect();
                        self.reader.sources.extend(channels);
                        let fresh: Vec<&String> = names.iter().filter(|name| !known.contains(*name)).collect();
                        let mut outcome = Ok(());
                        for batch in fresh.chunks(BATCH) {
                            outcome = subscribe(sink, batch).await;
                            if outcome.is_err() {
                                break;
                            }
                        }
                        let broke = outcome.is_err();
                        if broke {
                            fresh.iter().for_each(|name| drop(self.reader.sources.remove(*name)));
                        }
                        let _ = answer.send(outcome);
                        if broke {
                            return Some(());
                        }
                    }
                    Command::Unsubscribe(channels) => {
                        let known: Vec<&String> = channels.iter().filter(|name| self.reader.sources.remove(*name).is_some()).collect();
                        for batch in known.chunks(BATCH) {
                            if !matches!(timeout(SILENCE, sink.unsubscribe(batch)).await, Ok(Ok(()))) {
                                return Some(());
                            }
                        }
                    }
                },
                () = sleep(SILENCE) => {
                    let alive = timeout(SILENCE, sink.ping::<redis::Value>()).await;
                    if !matches!(alive, Ok(Ok(_))) {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Connects until it succeeds. Subscriptions fail meanwhile: nobody waits for an engine that is away.
    async fn reconnect(&mut self) -> Option<(PubSubSink, PubSubStream)> {
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
