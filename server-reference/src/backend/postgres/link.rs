//! One node's connection for messages: what it tells other nodes, and what it hears.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    engine::{Engine, Notifications, Session, corrupt},
    note::{INLINE, Note, pack},
    reader::{Reader, Sources},
};
use crate::{
    backend::{backoff::Backoff, bus::Delivery, error::BackendError, log::News, outlet::Outlet},
    sync::lock,
};

/// News, and messages, that wait for a node, at most.
const WAITING: usize = 1_024;
/// Bytes of notes that wait to be sent, at most.
const UNSENT: usize = 4 * 1024 * 1024;
/// Payloads in one statement.
const BATCH: usize = 16;
/// The wait after a statement that notifies of several things: each wakes every node.
const GATHER: Duration = Duration::from_millis(1);
/// How long the connection may be silent before it is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a node removes what has expired, and how many of each.
const SWEEP: Duration = Duration::from_secs(30);
const SWEPT: i32 = 1_000;

/// The node's handle of the connection; it closes with the last handle, when what waits is sent.
pub(super) struct Link {
    /// Names this link for ever: tells the node's own notes from others'.
    pub(super) origin: u64,
    shared: Arc<Shared>,
    news: Mutex<Option<mpsc::Receiver<News>>>,
    inbox: Mutex<Option<mpsc::Receiver<Delivery>>>,
}

struct Shared {
    sources: Mutex<Sources>,
    outbox: Mutex<Outbox>,
    /// Something is in the outbox, or the link closes.
    wake: Notify,
    progress: watch::Sender<Progress>,
    is_closing: AtomicBool,
}

/// How far the outbox is emptied.
#[derive(Clone, Copy, Debug)]
struct Progress {
    is_up: bool,
    /// The number of the last batch of notes that was sent.
    sent: u64,
}

/// Notes that wait to be sent.
#[derive(Default)]
struct Outbox {
    notes: Vec<Note>,
    bytes: usize,
    /// The number of batches that were taken before these notes.
    taken: u64,
    /// Some found no room: other nodes are to know.
    dropped: bool,
}

impl Link {
    /// Opens the connection.
    pub(super) async fn open(engine: &Arc<Engine>, origin: u64) -> Result<Arc<Self>, BackendError> {
        let (news_out, news) = Outlet::new(WAITING, || News::Lost);
        let (inbox_out, inbox) = Outlet::new(WAITING, || Delivery::Lost);
        let (session, notifications) = connect(engine).await?;
        let shared = Arc::new(Shared {
            sources: Mutex::default(),
            outbox: Mutex::default(),
            wake: Notify::new(),
            progress: watch::Sender::new(Progress { is_up: true, sent: 0 }),
            is_closing: AtomicBool::new(false),
        });
        let reader = Reader::new(origin, session.generation, news_out, inbox_out);
        let sender = Sender { origin, count: 0, notes: Vec::new(), taken: 0, unsent: Vec::new() };
        let task = Task { engine: Arc::downgrade(engine), shared: Arc::clone(&shared), reader, sender };
        drop(tokio::spawn(task.run(session, notifications)));
        Ok(Arc::new(Self { origin, shared, news: Mutex::new(Some(news)), inbox: Mutex::new(Some(inbox)) }))
    }

    /// Puts a note into the outbox; the number of the batch with which it goes. When the outbox is full, other nodes learn
    /// that something was lost.
    pub(super) fn tell(&self, note: Note) -> u64 {
        let size = 64 + if let Note::Message { body, .. } = &note { body.len() } else { 0 };
        let mut outbox = lock(&self.shared.outbox);
        if outbox.bytes + size > UNSENT {
            outbox.dropped = true;
        } else {
            outbox.bytes += size;
            outbox.notes.push(note);
        }
        let batch = outbox.taken + 1;
        drop(outbox);
        self.shared.wake.notify_one();
        batch
    }

    /// Waits until a batch is sent, as long as the connection stands.
    pub(super) async fn sent(&self, batch: u64) -> Result<(), BackendError> {
        let mut progress = self.shared.progress.subscribe();
        let progress = progress.wait_for(|progress| progress.sent >= batch || !progress.is_up).await;
        match progress.as_deref() {
            Ok(Progress { sent, .. }) if *sent >= batch => Ok(()),
            _ => Err(away()),
        }
    }

    /// Waits until everything that was told is sent.
    pub(super) async fn sent_all(&self) -> Result<(), BackendError> {
        let batch = {
            let outbox = lock(&self.shared.outbox);
            outbox.taken + u64::from(!outbox.notes.is_empty())
        };
        self.sent(batch).await
    }

    /// An error while the connection is away: nobody waits for it.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        if self.shared.progress.borrow().is_up { Ok(()) } else { Err(away()) }
    }

    /// Changes what is listened to. In force at once, because every node hears everything.
    pub(super) fn sources<T>(&self, change: impl FnOnce(&mut Sources) -> T) -> T {
        change(&mut lock(&self.shared.sources))
    }

    pub(super) fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        lock(&self.news).take().ok_or_else(|| BackendError::Taken("this handle's news are another node's".into()))
    }

    pub(super) fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        lock(&self.inbox).take().ok_or_else(|| BackendError::Taken("this handle's inbox is another node's".into()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

fn away() -> BackendError {
    BackendError::Unavailable("the connection for messages is away".into())
}

async fn connect(engine: &Engine) -> Result<(Arc<Session>, Notifications), BackendError> {
    let (session, notifications) = engine.open().await?;
    // Notes are news of what is stored: they need not wait for the disk themselves.
    session.query("SELECT set_config('synchronous_commit', 'off', false)", &[]).await?;
    session.listen(&engine.schema).await?;
    Ok((session, notifications))
}

/// The task of a link. Ends when all handles of the link or of the engine are gone.
struct Task {
    engine: Weak<Engine>,
    shared: Arc<Shared>,
    reader: Reader,
    sender: Sender,
}

impl Task {
    async fn run(mut self, mut session: Arc<Session>, mut notifications: Notifications) {
        loop {
            let channel = self.engine.upgrade().map(|engine| engine.schema.clone()).unwrap_or_default();
            tokio::select! {
                () = hear(&session, &mut notifications, &mut self.reader, &self.shared.sources) => {}
                is_over = self.sender.send(&session, &channel, &self.shared) => if is_over { return },
                () = sweep(&session) => {}
            }
            self.shared.progress.send_modify(|progress| progress.is_up = false);
            tracing::warn!("the connection for messages between nodes broke; trying again");
            match self.reconnect().await {
                Some(connected) => (session, notifications) = connected,
                None => return,
            }
            self.reader.reconnected(session.generation);
            self.shared.progress.send_modify(|progress| progress.is_up = true);
        }
    }

    /// Connects until it succeeds.
    async fn reconnect(&self) -> Option<(Arc<Session>, Notifications)> {
        let mut backoff = Backoff::default();
        loop {
            if self.shared.is_closing.load(Ordering::Acquire) {
                return None;
            }
            let engine = self.engine.upgrade()?;
            match connect(&engine).await {
                Ok(connected) => return Some(connected),
                Err(error) => tracing::debug!(%error, "PostgreSQL cannot be reached"),
            }
            drop(engine);
            sleep(backoff.next(getrandom::u32().unwrap_or_default())).await;
        }
    }
}

/// Reads until the connection breaks.
async fn hear(session: &Session, notifications: &mut Notifications, reader: &mut Reader, sources: &Mutex<Sources>) {
    let mut payloads = Vec::new();
    loop {
        match timeout(SILENCE, notifications.receiver.recv_many(&mut payloads, 256)).await {
            Ok(0) => return,
            Ok(_) => {
                if reader.deliver(session, &payloads, sources).await.is_err() {
                    return;
                }
                payloads.clear();
                if notifications.overflowed.swap(false, Ordering::AcqRel) {
                    reader.lost();
                }
            }
            Err(_) => {
                if session.query("SELECT 1", &[]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Removes what has expired, until the connection breaks.
async fn sweep(session: &Session) {
    loop {
        // Nodes that were started together spread.
        sleep(SWEEP / 2 + SWEEP * (getrandom::u32().unwrap_or_default() % 1_000) / 1_000).await;
        if let Err(error) = session.query("SELECT sweep($1)", &[&SWEPT]).await {
            tracing::debug!(%error, "what has expired was not removed");
            if session.is_broken() {
                return;
            }
        }
    }
}

/// Sends notes. Its numbers go on over all connections.
struct Sender {
    origin: u64,
    /// The number of the last payload.
    count: u64,
    /// Notes that are taken from the outbox, and the number of their batch.
    notes: Vec<Note>,
    taken: u64,
    /// Payloads whose arrival is not known: sent again, and told from their copies by number.
    unsent: Vec<String>,
}

impl Sender {
    /// Sends what is told until the connection breaks; `true` when the link closes and everything is sent.
    async fn send(&mut self, session: &Session, channel: &str, shared: &Shared) -> bool {
        loop {
            if self.notes.is_empty() && self.unsent.is_empty() {
                self.take(shared);
                if self.notes.is_empty() {
                    if shared.is_closing.load(Ordering::Acquire) {
                        return true;
                    }
                    shared.wake.notified().await;
                    continue;
                }
            }
            // Who tells one thing after another waits for each; what many tell is gathered.
            let gathers = self.notes.len() + self.unsent.len() > 1;
            if let Err(error) = self.notify(session, channel).await {
                if session.is_broken() {
                    return false;
                }
                tracing::warn!(%error, "other nodes were not told");
                // They see the gap.
                self.count += 1;
                self.notes.clear();
                self.unsent.clear();
            }
            if self.unsent.is_empty() {
                shared.progress.send_modify(|progress| progress.sent = self.taken);
            }
            if gathers {
                sleep(GATHER).await;
            }
        }
    }

    fn take(&mut self, shared: &Shared) {
        let mut outbox = lock(&shared.outbox);
        if !outbox.notes.is_empty() {
            outbox.taken += 1;
            outbox.bytes = 0;
            self.taken = outbox.taken;
            self.notes = std::mem::take(&mut outbox.notes);
            self.count += u64::from(std::mem::take(&mut outbox.dropped));
        }
    }

    /// Sends some payloads. Whatever was not sent, or may not have been, is left.
    async fn notify(&mut self, session: &Session, channel: &str) -> Result<(), BackendError> {
        if self.unsent.is_empty() {
            store_long(session, &mut self.notes).await?;
            self.unsent = pack(self.origin, &mut self.count, &std::mem::take(&mut self.notes));
        }
        let batch: Vec<&str> = self.unsent.iter().take(BATCH).map(String::as_str).collect();
        let sql = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";
        session.query(sql, &[&channel, &batch]).await?;
        let sent = batch.len();
        self.unsent.drain(..sent);
        Ok(())
    }
}

/// Stores the messages that are too long for a note, and leaves notes of where they are.
async fn store_long(session: &Session, notes: &mut [Note]) -> Result<(), BackendError> {
    for note in notes {
        if let Note::Message { to, body } = note
            && body.len() > INLINE
        {
            let rows = session.query("INSERT INTO mail (body) VALUES ($1) RETURNING id", &[&&body[..]]).await?;
            let row = rows.first().and_then(|row| row.try_get(0).ok()).ok_or_else(|| corrupt("a row's number"))?;
            *note = Note::Mail { to: *to, row };
        }
    }
    Ok(())
}
