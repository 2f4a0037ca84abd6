//! One node's connection: requests, the news of streams that it follows, and the bus. A task opens it again whenever it
//! breaks; until then requests fail at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::{Event, Message};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    stream::{AbortHandle, Abortable, SelectAll},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::unconstrained,
    time::{timeout, timeout_at},
};

use super::{
    api::{ANSWER, unavailable},
    reader::{Heard, Reader, Source, Tagged},
    record::join,
    session::{Backoff, Known, Options, Session, open},
};
use crate::{
    backend::{bus::Delivery, error::BackendError, log::News, outlet::Outlet},
    sync::lock,
};

/// News, and messages, that wait for a node, at most.
const WAITING: usize = 1_024;
/// Subscriptions that are made before the engine is asked whether they are in force.
const BATCH: usize = 1_024;

type Answer = oneshot::Sender<Result<(), BackendError>>;

enum Command {
    Subscribe(Vec<(String, Source)>, Answer),
    Unsubscribe(Vec<String>),
}

/// The node's handle of the connection; it closes with the last handle.
pub(super) struct Link {
    /// Names this link for ever: tells the node's own messages from others'.
    pub(super) origin: u64,
    pub(super) options: Arc<Options>,
    /// How many messages it has published.
    published: AtomicU64,
    commands: mpsc::UnboundedSender<Command>,
    session: Mutex<Result<Arc<Session>, String>>,
    news: Mutex<Option<mpsc::Receiver<News>>>,
    inbox: Mutex<Option<mpsc::Receiver<Delivery>>>,
}

impl Link {
    /// Opens the connection; its first subscription is the node's own inbox.
    pub(super) async fn open(options: &Arc<Options>, origin: u64) -> Result<Arc<Self>, BackendError> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (news_out, news) = Outlet::new(WAITING, || News::Lost);
        let (inbox_out, inbox) = Outlet::new(WAITING, || Delivery::Lost);
        let (events, events_in) = mpsc::unbounded_channel();
        let session = open(options, &Known::default(), &events).await?;
        let link = Arc::new(Self {
            origin,
            options: Arc::clone(options),
            published: AtomicU64::new(0),
            commands,
            session: Mutex::new(Ok(Arc::clone(&session))),
            news: Mutex::new(Some(news)),
            inbox: Mutex::new(Some(inbox)),
        });
        let reader = Reader::new(origin, news_out, inbox_out);
        let task = Task {
            link: Arc::downgrade(&link),
            options: Arc::clone(options),
            reader,
            commands: receiver,
            subscriptions: SelectAll::new(),
            echoes: VecDeque::new(),
            echo: 0,
        };
        drop(tokio::spawn(task.run(Arc::clone(&session), events_in)));
        let names = &options.names;
        let own = [
            (names.echo(origin), Source::Echo),
            (names.generations(), Source::Generations),
            (names.everybody(), Source::Inbox),
            (names.inbox(origin), Source::Inbox),
        ];
        link.subscribe(own.into()).await?;
        // One that another node has begun meanwhile was not heard of: then the task looks again.
        let _ = session.check_generation().await;
        Ok(link)
    }

    /// The connection, if there is one.
    pub(super) fn session(&self) -> Result<Arc<Session>, BackendError> {
        lock(&self.session).clone().map_err(BackendError::Unavailable)
    }

    /// In force, as are all commands before it, when this answers.
    pub(super) async fn subscribe(&self, subjects: Vec<(String, Source)>) -> Result<(), BackendError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Subscribe(subjects, answer)).map_err(|_| ended())?;
        let limit = ANSWER * 2;
        timeout(limit, answered)
            .await
            .map_or_else(|_| Err(unavailable(SILENT)), |answer| answer.unwrap_or_else(|_| Err(ended())))
    }

    pub(super) fn unsubscribe(&self, subjects: Vec<String>) {
        // Fails when the task has ended, and with it all subscriptions.
        let _ = self.commands.send(Command::Unsubscribe(subjects));
    }

    /// A message as it is published over a connection.
    pub(super) fn write_delivery(&self, session: &Session, bytes: &[u8]) -> Bytes {
        join([self.origin, session.number, self.published.fetch_add(1, Ordering::Relaxed)], bytes)
    }

    pub(super) fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        lock(&self.news).take().ok_or_else(|| BackendError::Taken("this handle's news are another node's".into()))
    }

    pub(super) fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        lock(&self.inbox).take().ok_or_else(|| BackendError::Taken("this handle's inbox is another node's".into()))
    }
}

const SILENT: &str = "the engine does not answer";

fn ended() -> BackendError {
    unavailable("the connection to the engine has ended")
}

/// What waits for an echo.
enum Reply {
    To(Answer),
    /// The end of these subscriptions.
    End(Vec<String>),
}

/// The task of a link. Ends when all handles of the link are gone.
struct Task {
    link: Weak<Link>,
    options: Arc<Options>,
    reader: Reader,
    commands: mpsc::UnboundedReceiver<Command>,
    subscriptions: SelectAll<Abortable<Tagged>>,
    /// What waits, for the echo of this number.
    echoes: VecDeque<(u64, Reply)>,
    echo: u64,
}

impl Task {
    async fn run(mut self, mut session: Arc<Session>, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            if self.serve(&session, &mut events).await.is_none() {
                return;
            }
            tracing::warn!("the connection to the engine broke; trying again");
            self.close("the connection to the engine broke");
            let known = session.known();
            // Requests under way have their own handle of it, and end by themselves.
            drop(session);
            match self.reconnect(known).await {
                Some(opened) => (session, events) = opened,
                None => return,
            }
        }
    }

    /// Reads and subscribes until the connection breaks; `None` when the link has ended.
    async fn serve(&mut self, session: &Arc<Session>, events: &mut mpsc::UnboundedReceiver<Event>) -> Option<()> {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event::SlowConsumer(_)) => self.reader.lose(),
                    Some(Event::Disconnected | Event::Closed | Event::Draining) | None => return Some(()),
                    Some(_) => {}
                },
                () = session.api.broken.notified() => return Some(()),
                Some((source, message)) = self.subscriptions.next(), if !self.subscriptions.is_empty() => {
                    self.read(session, &source, message);
                    unconstrained(self.read_on(session)).await;
                    self.reader.hand_on();
                }
                command = self.commands.recv() => {
                    let command = command?;
                    if !matches!(timeout(ANSWER, self.obey(session, command)).await, Ok(Ok(()))) {
                        return Some(());
                    }
                }
            }
        }
    }

    fn read(&mut self, session: &Session, source: &Source, message: Message) {
        let Some(echo) = self.reader.read(session, source, message) else { return };
        while let Some((_, reply)) = self.echoes.pop_front_if(|(number, _)| *number <= echo) {
            match reply {
                // Whoever asked may have given up.
                Reply::To(answer) => drop(answer.send(Ok(()))),
                Reply::End(subjects) => self.reader.end(&subjects, echo),
            }
        }
    }

    /// Does what is asked for, and all else that is, before it asks for an echo.
    async fn obey(&mut self, session: &Session, command: Command) -> Result<(), BackendError> {
        let (mut next, number) = (Some(command), self.echo + 1);
        for _ in 0..BATCH {
            match next.take() {
                Some(Command::Subscribe(subjects, answer)) => {
                    self.subscribe(session, subjects).await?;
                    self.echoes.push_back((number, Reply::To(answer)));
                }
                Some(Command::Unsubscribe(subjects)) => {
                    // What was published before still comes.
                    self.reader.ends_at(&subjects, number);
                    self.echoes.push_back((number, Reply::End(subjects)));
                }
                None => break,
            }
            next = self.commands.try_recv().ok();
        }
        if let Some(command) = next {
            self.refuse(command);
        }
        self.send_echo(session).await
    }

    /// Reads everything that is there already. Of what one sender sent, whatever came before a message that was read is
    /// read as well: the connection is read in order.
    async fn read_on(&mut self, session: &Session) {
        let mut silent = 0;
        for _ in 0..WAITING {
            match self.subscriptions.next().now_or_never().flatten() {
                Some((source, message)) => {
                    silent = 0;
                    self.read(session, &source, message);
                }
                // It may have paused.
                None if silent == 0 => silent = 1,
                None => return,
            }
        }
    }

    async fn subscribe(&mut self, session: &Session, subjects: Vec<(String, Source)>) -> Result<(), BackendError> {
        for (subject, source) in subjects {
            if let Some(known) = self.reader.sources.get_mut(&subject) {
                known.ends_at = None;
                if let (Source::Stream { is_followed: now, .. }, Source::Stream { is_followed, .. }) =
                    (&source, &*known.source)
                {
                    is_followed.fetch_or(now.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                continue;
            }
            let source = Arc::new(source);
            let handle = self.listen(session, &subject, &source).await?;
            self.reader.sources.insert(subject, Heard { source, handle: Some(handle), ends_at: None });
        }
        Ok(())
    }

    async fn listen(
        &mut self,
        session: &Session,
        subject: &str,
        source: &Arc<Source>,
    ) -> Result<AbortHandle, BackendError> {
        let messages = session.api.client.subscribe(subject.to_owned()).await.map_err(unavailable)?;
        let (handle, registration) = AbortHandle::new_pair();
        let tagged = Tagged { source: Arc::clone(source), messages };
        self.subscriptions.push(Abortable::new(tagged, registration));
        Ok(handle)
    }

    /// Sends a message that comes back when the engine has seen all subscriptions before it.
    async fn send_echo(&mut self, session: &Session) -> Result<(), BackendError> {
        self.echo += 1;
        let subject = self.options.names.echo(self.reader.origin);
        session.api.client.publish(subject, join([self.echo], b"")).await.map_err(unavailable)
    }

    /// Ends what stands on the connection.
    fn close(&mut self, why: &str) {
        if let Some(link) = self.link.upgrade() {
            *lock(&link.session) = Err(why.to_owned());
        }
        self.subscriptions = SelectAll::new();
        self.reader.sources.retain(|_, heard| heard.ends_at.is_none());
        self.reader.sources.values_mut().for_each(|heard| heard.handle = None);
        for (_, reply) in self.echoes.drain(..) {
            if let Reply::To(answer) = reply {
                let _ = answer.send(Err(unavailable(why)));
            }
        }
    }

    /// Connects until it succeeds. Subscriptions fail meanwhile: nobody waits for an engine that is away.
    async fn reconnect(&mut self, known: Known) -> Option<(Arc<Session>, mpsc::UnboundedReceiver<Event>)> {
        let mut backoff = Backoff::default();
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.refuse(command);
            }
            self.link.upgrade()?;
            match self.connect(&known).await {
                Ok(opened) => return Some(opened),
                Err(error) => {
                    tracing::debug!(%error, "the engine cannot be reached");
                    self.close(&match error {
                        BackendError::Unavailable(why) => why,
                        error => error.to_string(),
                    });
                }
            }
            let until = backoff.next();
            while let Ok(command) = timeout_at(until, self.commands.recv()).await {
                self.refuse(command?);
            }
        }
    }

    /// Connects and subscribes to everything again. Whoever reads learns what may have been lost meanwhile.
    async fn connect(&mut self, known: &Known) -> Result<(Arc<Session>, mpsc::UnboundedReceiver<Event>), BackendError> {
        let (events, events_in) = mpsc::unbounded_channel();
        let session = open(&self.options, known, &events).await?;
        let mut subjects: Vec<(String, Arc<Source>)> =
            self.reader.sources.iter().map(|(subject, heard)| (subject.clone(), Arc::clone(&heard.source))).collect();
        // Each batch waits for an echo, so that is heard first.
        subjects.sort_by_key(|(_, source)| !matches!(**source, Source::Echo));
        for batch in subjects.chunks(BATCH) {
            timeout(ANSWER, self.renew(&session, batch)).await.map_err(|_| unavailable(SILENT))??;
        }
        // One that another node has begun meanwhile was not heard of.
        session.check_generation().await?;
        if known.generation != Some(session.generation) {
            self.reader.news.send(News::Generation(session.generation));
        }
        self.reader.lose();
        if let Some(link) = self.link.upgrade() {
            *lock(&link.session) = Ok(Arc::clone(&session));
        }
        Ok((session, events_in))
    }

    /// Subscribes again, and reads until that is in force.
    async fn renew(&mut self, session: &Session, subjects: &[(String, Arc<Source>)]) -> Result<(), BackendError> {
        for (subject, source) in subjects {
            let handle = self.listen(session, subject, source).await?;
            if let Some(heard) = self.reader.sources.get_mut(subject) {
                heard.handle = Some(handle);
            }
        }
        self.send_echo(session).await?;
        while let Some((source, message)) = self.subscriptions.next().await {
            let echo = self.reader.read(session, &source, message);
            self.reader.hand_on();
            if echo.is_some_and(|echo| echo >= self.echo) {
                return Ok(());
            }
        }
        Err(ended())
    }

    fn refuse(&mut self, command: Command) {
        match command {
            Command::Subscribe(_, answer) => {
                let _ = answer.send(Err(unavailable("the engine cannot be reached")));
            }
            Command::Unsubscribe(subjects) => {
                subjects.iter().for_each(|subject| drop(self.reader.sources.remove(subject)));
            }
        }
    }
}
