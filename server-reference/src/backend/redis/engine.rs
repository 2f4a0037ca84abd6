//! The connection over which scripts run: opened again when it breaks, never used before the generation was checked.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, Value,
    aio::MultiplexedConnection, aio::PubSub,
};
use tokio::time::{Instant, timeout};

use super::{
    names::{Names, PARTITIONS},
    scripts::Scripts,
};
use crate::{
    backend::{epoch::epoch, error::BackendError},
    clock::Clock,
};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a connection may take to open.
const OPEN: Duration = Duration::from_secs(2);
/// The wait after the first failure to connect, doubled up to [`LONGEST_WAIT`]; calls fail at once meanwhile.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const REFUSED: &str = "the Redis server refuses the user or the password";

/// One server, as all nodes of this process use it.
pub(super) struct Engine {
    client: Client,
    pub(super) names: Names,
    pub(super) scripts: Scripts,
    clock: Arc<dyn Clock>,
    /// The operator declares that nothing acknowledged is ever lost.
    durable: bool,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a failure closes the one on which it happened and no later one.
    number: u64,
    generation: u64,
    wait: Duration,
    closed_until: Option<Instant>,
    /// The newest failure to connect.
    failure: String,
}

/// A connection whose generation was checked.
pub(super) struct Session {
    connection: MultiplexedConnection,
    number: u64,
    /// The epoch that every life is above.
    pub(super) generation: u64,
}

impl Engine {
    pub(super) fn new(client: Client, names: Names, clock: Arc<dyn Clock>, durable: bool) -> Self {
        Self { client, names, scripts: Scripts::default(), clock, durable, state: tokio::sync::Mutex::default() }
    }

    /// Opens the connection. What is wrong with the user or the password is the caller's to correct.
    pub(super) async fn first_session(&self) -> Result<(), BackendError> {
        self.session().await.map(drop).map_err(|error| match error {
            BackendError::Unavailable(text) if text == REFUSED => BackendError::Invalid(text),
            other => other,
        })
    }

    /// The connection, opened if there is none.
    pub(super) async fn session(&self) -> Result<Session, BackendError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            let connection = connection.clone();
            return Ok(Session { connection, number: state.number, generation: state.generation });
        }
        if state.closed_until.is_some_and(|until| until > Instant::now()) {
            return Err(BackendError::Unavailable(state.failure.clone()));
        }
        match self.open().await {
            Ok((connection, generation)) => {
                state.number += 1;
                (state.wait, state.closed_until) = (Duration::ZERO, None);
                state.generation = generation;
                state.connection = Some(connection.clone());
                Ok(Session { connection, number: state.number, generation })
            }
            Err(error) => {
                state.wait = (state.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
                state.closed_until = Some(Instant::now() + state.wait);
                if let BackendError::Unavailable(text) = &error {
                    state.failure.clone_from(text);
                } else {
                    state.failure = error.to_string();
                }
                Err(error)
            }
        }
    }

    async fn open(&self) -> Result<(MultiplexedConnection, u64), BackendError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(OPEN)).set_response_timeout(Some(ANSWER));
        let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = opened.map_err(|error| unavailable(&error))?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await.map_err(failure)?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().to_owned()
        };
        let fresh = epoch(self.clock.unix_millis(), 0);
        let answer = self
            .scripts
            .generation
            .key(self.names.generation())
            .arg(field("run_id"))
            .arg(fresh)
            .arg(PARTITIONS)
            .arg(u8::from(self.durable))
            .invoke_async::<(i64, String)>(&mut connection)
            .await
            .map_err(failure)?;
        let Ok(generation) = u64::try_from(answer.0) else {
            let (ours, theirs) = (PARTITIONS, answer.1);
            let text = format!("the store has {theirs} partitions, this version {ours}");
            return Err(BackendError::Corrupt(text));
        };
        Ok((connection, generation))
    }

    /// A connection for messages, and the generation that was found before it.
    pub(super) async fn listen(&self) -> Result<(PubSub, u64), BackendError> {
        // Checked on a connection of its own, so that a new server is noticed whichever connection finds it first.
        let (_, generation) = self.open().await?;
        {
            let mut state = self.state.lock().await;
            if state.generation != generation {
                state.connection = None;
            }
        }
        let opened = timeout(OPEN, self.client.get_async_pubsub()).await;
        let opened = opened.map_err(|_| BackendError::Unavailable("the engine does not answer".into()))?;
        Ok((opened.map_err(|error| unavailable(&error))?, generation))
    }

    /// Runs a script whose arguments may depend on the generation.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        prepare: impl FnOnce(&mut redis::ScriptInvocation<'_>, u64),
    ) -> Result<T, BackendError> {
        let mut session = self.session().await?;
        let mut invocation = script.prepare_invoke();
        prepare(&mut invocation, session.generation);
        let answer = invocation.invoke_async(&mut session.connection).await;
        self.checked(&session, answer).await
    }

    /// Runs one command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, BackendError> {
        let mut session = self.session().await?;
        let answer = command.query_async(&mut session.connection).await;
        self.checked(&session, answer).await
    }

    /// Runs a command that depends on the number of the connection; connections are counted from 1.
    pub(super) async fn command_over<T: FromRedisValue>(
        &self,
        command: impl FnOnce(u64) -> Cmd,
    ) -> Result<T, BackendError> {
        let mut session = self.session().await?;
        let answer = command(session.number).query_async(&mut session.connection).await;
        self.checked(&session, answer).await
    }

    /// Runs commands in one round trip, and answers the generation beside their answers.
    pub(super) async fn pipeline(&self, pipeline: &redis::Pipeline) -> Result<(Vec<Value>, u64), BackendError> {
        let mut session = self.session().await?;
        let answer = pipeline.query_async(&mut session.connection).await;
        let answers = self.checked(&session, answer).await?;
        Ok((answers, session.generation))
    }

    async fn checked<T>(&self, session: &Session, answer: RedisResult<T>) -> Result<T, BackendError> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_elsewhere = matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"));
        if is_elsewhere || error.is_io_error() || error.is_unrecoverable_error() {
            let mut state = self.state.lock().await;
            if state.number == session.number {
                state.connection = None;
            }
        }
        Err(failure(error))
    }
}

fn unavailable(error: &RedisError) -> BackendError {
    let refused =
        error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    BackendError::Unavailable(if refused { REFUSED.to_owned() } else { error.to_string() })
}

/// The error that a caller sees.
pub(super) fn failure(error: RedisError) -> BackendError {
    match error.code() {
        Some("OOM") => BackendError::Full(error.to_string()),
        Some("WRONGTYPE") => BackendError::Corrupt(error.to_string()),
        _ if error.kind() == ErrorKind::UnexpectedReturnType => BackendError::Corrupt(error.to_string()),
        _ => unavailable(&error),
    }
}
