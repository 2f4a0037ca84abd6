//! Connections to one server: opened again when they break, never used before the generation was checked.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, Row, Statement,
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    backend::{backoff::Backoff, epoch::epoch, error::BackendError},
    clock::Clock,
    sync::lock,
};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(4);
/// How long a connection may take to open.
pub(super) const OPEN: Duration = Duration::from_secs(2);
/// Connections for everything but appends and messages. Calls are pipelined on each.
const LINES: usize = 2;
/// Notifications that wait for their reader, at most.
const WAITING: usize = 4_096;
/// The layout that this version knows.
const VERSION: i32 = 1;
/// Locked while the layout is made: "datasole" in bytes.
const MAKING: i64 = i64::from_be_bytes(*b"datasole");
/// The beginning of errors that the operator must correct.
const REFUSED: &str = "PostgreSQL refuses";

const LAYOUT: [&str; 3] =
    [include_str!("sql/tables.sql"), include_str!("sql/streams.sql"), include_str!("sql/values.sql")];

/// Plans are made once, whatever the tables hold at that time: always by the indexes.
const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET jit = off; SET statement_timeout = 10000; SET client_min_messages = error";

pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// One server, as all nodes of this process use it.
pub(super) struct Engine {
    config: Config,
    tls: MakeRustlsConnect,
    /// The schema of the application, and the channel of its notifications.
    pub(super) schema: String,
    clock: Arc<dyn Clock>,
    /// The operator declares that nothing acknowledged is ever lost.
    durable: bool,
    lines: [Line; LINES],
    next: AtomicUsize,
}

/// A connection whose generation was checked.
pub(super) struct Session {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    broken: AtomicBool,
    /// The epoch that every life is above.
    pub(super) generation: u64,
}

/// The notifications that a connection brings.
pub(super) struct Notifications {
    pub(super) receiver: mpsc::Receiver<String>,
    /// Some did not fit.
    pub(super) overflowed: Arc<AtomicBool>,
}

/// A connection that is opened when it is needed. While the server is away, calls fail at once.
#[derive(Default)]
pub(super) struct Line {
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    backoff: Backoff,
    closed_until: Option<Instant>,
    /// The newest failure to connect.
    failure: String,
}

impl Line {
    /// The connection, opened if there is none.
    pub(super) async fn session(&self, engine: &Engine) -> Result<Arc<Session>, BackendError> {
        let mut state = self.state.lock().await;
        if let Some(session) = state.session.as_ref().filter(|session| !session.is_broken()) {
            return Ok(Arc::clone(session));
        }
        state.session = None;
        if state.closed_until.is_some_and(|until| until > Instant::now()) {
            return Err(BackendError::Unavailable(state.failure.clone()));
        }
        match engine.open().await {
            Ok((session, _)) => {
                (state.backoff, state.closed_until) = (Backoff::default(), None);
                state.session = Some(Arc::clone(&session));
                Ok(session)
            }
            Err(error) => {
                let wait = state.backoff.next(getrandom::u32().unwrap_or_default());
                state.closed_until = Some(Instant::now() + wait);
                match &error {
                    BackendError::Unavailable(text) => state.failure.clone_from(text),
                    other => state.failure = other.to_string(),
                }
                Err(error)
            }
        }
    }
}

impl Session {
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.client.is_closed()
    }

    /// Runs a statement, prepared at its first use.
    pub(super) async fn query(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, BackendError> {
        let error = match timeout(ANSWER, self.run(sql, params)).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => error,
            Err(_) => {
                self.broken.store(true, Ordering::Relaxed);
                return Err(silent());
            }
        };
        let is_elsewhere = [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
        ];
        if error.code().is_none_or(|code| is_elsewhere.contains(code)) {
            self.broken.store(true, Ordering::Relaxed);
        }
        Err(failure(&error))
    }

    async fn run(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let known = lock(&self.statements).get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql).await?;
                lock(&self.statements).insert(sql, statement.clone());
                statement
            }
        };
        self.client.query(&statement, params).await
    }

    /// Has the server send notifications of a channel.
    pub(super) async fn listen(&self, channel: &str) -> Result<(), BackendError> {
        let listening = timeout(ANSWER, self.client.batch_execute(&format!("LISTEN \"{channel}\""))).await;
        listening.map_err(|_| silent())?.map_err(|error| failure(&error))
    }
}

impl Engine {
    pub(super) fn new(
        config: Config,
        tls: MakeRustlsConnect,
        schema: &str,
        clock: Arc<dyn Clock>,
        durable: bool,
    ) -> Self {
        let lines = std::array::from_fn(|_| Line::default());
        Self { config, tls, schema: schema.to_owned(), clock, durable, lines, next: AtomicUsize::new(0) }
    }

    /// A connection for the first look at the server. What is wrong with user, password or database is the caller's to
    /// correct.
    pub(super) async fn first_session(&self) -> Result<Arc<Session>, BackendError> {
        self.lines[0].session(self).await.map_err(|error| match error {
            BackendError::Unavailable(text) if text.starts_with(REFUSED) => BackendError::Invalid(text),
            other => other,
        })
    }

    /// Opens a connection, makes the layout where there is none, and checks the generation.
    pub(super) async fn open(&self) -> Result<(Arc<Session>, Notifications), BackendError> {
        timeout(OPEN, self.connect()).await.unwrap_or_else(|_| Err(silent()))
    }

    async fn connect(&self) -> Result<(Arc<Session>, Notifications), BackendError> {
        let connected = self.config.connect(self.tls.clone()).await;
        let (client, mut connection) = connected.map_err(|error| failure(&error))?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let overflowed = Arc::new(AtomicBool::new(false));
        let overflow = Arc::clone(&overflowed);
        // Drives the connection until the client is dropped or the connection ends.
        drop(tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(note) = message
                    && sender.try_send(note.payload().to_owned()).is_err()
                {
                    overflow.store(true, Ordering::Release);
                }
            }
        }));
        let generation = self.enter(&client).await?;
        let session = Session { client, statements: Mutex::default(), broken: AtomicBool::new(false), generation };
        Ok((Arc::new(session), Notifications { receiver, overflowed }))
    }

    async fn enter(&self, client: &Client) -> Result<u64, BackendError> {
        let failed = |error: Error| failure(&error);
        let schema = &self.schema;
        client.batch_execute(&format!("SET search_path TO \"{schema}\"; {SETTINGS}")).await.map_err(failed)?;
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let meta = format!("\"{schema}\".meta");
        let made = client.query_typed_one(sql, &[(&meta, Type::TEXT)]).await.map_err(failed)?;
        if !made.try_get::<_, bool>(0).map_err(failed)? {
            let [tables, streams, values] = LAYOUT;
            let sql = format!(
                "BEGIN; SELECT pg_advisory_xact_lock({MAKING}); CREATE SCHEMA IF NOT EXISTS \"{schema}\"; \
                 {tables} {streams} {values} \
                 INSERT INTO meta (version) VALUES ({VERSION}) ON CONFLICT DO NOTHING; COMMIT"
            );
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        let version = client.query_typed_one("SELECT version FROM meta", &[]).await.map_err(failed)?;
        let version: i32 = version.try_get(0).map_err(failed)?;
        if version != VERSION {
            let text = format!("the schema {schema} has layout {version}, and this version knows {VERSION}");
            return Err(BackendError::Corrupt(text));
        }
        let fresh = epoch(self.clock.unix_millis(), 0).cast_signed();
        let params: [(Param<'_>, Type); 2] = [(&fresh, Type::INT8), (&self.durable, Type::BOOL)];
        let entered = client.query_typed_one("SELECT enter($1, $2)", &params).await.map_err(failed)?;
        entered.try_get::<_, i64>(0).map(i64::cast_unsigned).map_err(failed)
    }

    /// Runs a statement on one of the shared connections.
    pub(super) async fn query(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, BackendError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % LINES;
        self.lines[number].session(self).await?.query(sql, params).await
    }
}

fn silent() -> BackendError {
    BackendError::Unavailable("PostgreSQL does not answer".into())
}

/// An error with its cause.
pub(super) fn text(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The error that a caller sees.
pub(super) fn failure(error: &Error) -> BackendError {
    let Some(answer) = error.as_db_error() else {
        let text = text(error);
        // Such as a password that the server asks for.
        let is_ours = text.starts_with("invalid configuration");
        return BackendError::Unavailable(if is_ours { format!("{REFUSED}: {text}") } else { text });
    };
    let (code, text) = (answer.code().code(), format!("{} ({})", answer.message(), answer.code().code()));
    match code {
        // Connections are no room that entries take.
        "53300" => BackendError::Unavailable(text),
        "3D000" | "42501" => BackendError::Unavailable(format!("{REFUSED}: {text}")),
        _ if code.starts_with("28") => BackendError::Unavailable(format!("{REFUSED} the user or the password: {text}")),
        _ if code.starts_with("53") || code.starts_with("54") => BackendError::Full(text),
        // What we made is not there, or not as we made it.
        "3F000" | "42P01" | "42703" | "42883" => BackendError::Corrupt(text),
        _ if code.starts_with("XX") => BackendError::Corrupt(text),
        _ => BackendError::Unavailable(text),
    }
}

/// The error of a row that is not what was stored.
pub(super) fn corrupt(what: &str) -> BackendError {
    BackendError::Corrupt(format!("PostgreSQL answered something other than {what}"))
}
