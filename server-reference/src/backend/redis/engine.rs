//! The connections over which scripts run: opened again when one breaks, never used before the generation was checked.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    names::{Names, PARTITIONS},
    scripts::Scripts,
    shards::{ANSWER, Pushes, Seeds, Shards},
};
use crate::{
    backend::{epoch::epoch, error::BackendError},
    clock::Clock,
};

/// The wait after the first failure to connect, doubled up to [`LONGEST_WAIT`]; calls fail at once meanwhile.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The wait before a call is repeated whose keys are on their way to another master.
const MOVING: Duration = Duration::from_millis(20);
const REFUSED: &str = "the Redis server refuses the user or the password";

/// One server or cluster, as all nodes of this process use it.
pub(super) struct Engine {
    seeds: Seeds,
    pub(super) names: Names,
    pub(super) scripts: Scripts,
    clock: Arc<dyn Clock>,
    /// The operator declares that nothing acknowledged is ever lost.
    durable: bool,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    shards: Option<Arc<Shards>>,
    /// Counts connections, so that a failure closes those on which it happened and no later ones.
    number: u64,
    generation: u64,
    wait: Duration,
    closed_until: Option<Instant>,
    /// The newest failure to connect.
    failure: String,
}

/// Connections whose generation was checked.
pub(super) struct Session {
    pub(super) shards: Arc<Shards>,
    number: u64,
    /// The epoch that every life is above.
    pub(super) generation: u64,
}

/// Connections for messages.
pub(super) struct Listening {
    pub(super) shards: Shards,
    pub(super) pushes: mpsc::UnboundedReceiver<(u16, redis::PushInfo)>,
    /// The generation that was found before them.
    pub(super) generation: u64,
}

impl Engine {
    pub(super) fn new(seeds: Seeds, names: Names, clock: Arc<dyn Clock>, durable: bool) -> Self {
        Self { seeds, names, scripts: Scripts::default(), clock, durable, state: tokio::sync::Mutex::default() }
    }

    /// Opens the connections. What is wrong with the user or the password is the caller's to correct.
    pub(super) async fn first_session(&self) -> Result<(), BackendError> {
        self.session().await.map(drop).map_err(|error| match error {
            BackendError::Unavailable(text) if text == REFUSED => BackendError::Invalid(text),
            other => other,
        })
    }

    /// The connections, opened if there are none.
    pub(super) async fn session(&self) -> Result<Session, BackendError> {
        let mut state = self.state.lock().await;
        if let Some(shards) = &state.shards {
            let shards = Arc::clone(shards);
            return Ok(Session { shards, number: state.number, generation: state.generation });
        }
        if state.closed_until.is_some_and(|until| until > Instant::now()) {
            return Err(BackendError::Unavailable(state.failure.clone()));
        }
        match self.open(None).await {
            Ok((shards, generation)) => {
                let shards = Arc::new(shards);
                state.number += 1;
                (state.wait, state.closed_until) = (Duration::ZERO, None);
                state.generation = generation;
                state.shards = Some(Arc::clone(&shards));
                Ok(Session { shards, number: state.number, generation })
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

    async fn open(&self, pushes: Option<&Pushes>) -> Result<(Shards, u64), BackendError> {
        let shards = self.seeds.open(pushes).await?;
        let fresh = epoch(self.clock.unix_millis(), 0);
        let key = self.names.generation();
        let mut call = evalsha(&self.scripts.generation, &[&key]);
        call.arg(shards.runs()).arg(fresh).arg(PARTITIONS).arg(u8::from(self.durable));
        let answer = send(&shards, &key, Some(&self.scripts.generation), &call).await.map_err(failure)?;
        let (generation, theirs): (i64, String) = read(answer)?;
        let Ok(generation) = u64::try_from(generation) else {
            let text = format!("the store has {theirs} partitions, this version {PARTITIONS}");
            return Err(BackendError::Corrupt(text));
        };
        Ok((shards, generation))
    }

    /// Connections for messages.
    pub(super) async fn listen(&self) -> Result<Listening, BackendError> {
        // The generation is checked on connections of their own, so that a new server is noticed whichever finds it first.
        let (sender, pushes) = mpsc::unbounded_channel();
        let (shards, generation) = self.open(Some(&sender)).await?;
        let mut state = self.state.lock().await;
        if state.generation != generation {
            state.shards = None;
        }
        Ok(Listening { shards, pushes, generation })
    }

    /// Runs a script whose arguments may depend on the generation. All `keys` are in the slot of the first.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        prepare: impl Fn(&mut Cmd, u64),
    ) -> Result<T, BackendError> {
        let key = keys.first().copied().unwrap_or_default();
        let attempt = async || {
            let session = self.session().await?;
            let mut call = evalsha(script, keys);
            prepare(&mut call, session.generation);
            let answer = send(&session.shards, key, Some(script), &call).await;
            Ok::<_, BackendError>((session, answer))
        };
        let (mut session, mut answer) = attempt().await?;
        if answer.as_ref().is_err_and(is_unknown) {
            // A master has joined: with it the connections are others, and maybe the generation.
            self.close(&session).await;
            (session, answer) = attempt().await?;
        }
        read(self.checked(&session, answer).await?)
    }

    /// Runs one command on the master that has `key`.
    pub(super) async fn command<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, BackendError> {
        let session = self.session().await?;
        let answer = send(&session.shards, key, None, command).await;
        read(self.checked(&session, answer).await?)
    }

    /// Runs a command on the master that has `key`, which depends on the number of the connections; they are counted from 1.
    pub(super) async fn command_over<T: FromRedisValue>(
        &self,
        key: &str,
        command: impl FnOnce(u64) -> Cmd,
    ) -> Result<T, BackendError> {
        let session = self.session().await?;
        let answer = send(&session.shards, key, None, &command(session.number)).await;
        read(self.checked(&session, answer).await?)
    }

    /// Runs commands on one master, in one round trip; `None` if the keys of one are on their way to another master.
    pub(super) async fn pipeline(
        &self,
        session: &Session,
        master: usize,
        pipeline: &redis::Pipeline,
    ) -> Result<Option<Vec<Value>>, BackendError> {
        let answer = pipeline.query_async(&mut session.shards.connection(master)).await;
        match answer {
            Err(error) if error.is_cluster_error() => Ok(None),
            answer => self.checked(session, answer).await.map(Some),
        }
    }

    async fn close(&self, session: &Session) {
        let mut state = self.state.lock().await;
        if state.number == session.number {
            state.shards = None;
        }
    }

    async fn checked<T>(&self, session: &Session, answer: RedisResult<T>) -> Result<T, BackendError> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_elsewhere = matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"));
        if is_elsewhere || is_unknown(&error) || error.is_io_error() || error.is_unrecoverable_error() {
            self.close(session).await;
        }
        Err(failure(error))
    }
}

/// A call of a script with these keys; its arguments follow.
fn evalsha(script: &Script, keys: &[&str]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script.get_hash()).arg(keys.len()).arg(keys);
    call
}

/// Sends a call to the master that has `key`, and to another one where it is told to.
async fn send(shards: &Shards, key: &str, script: Option<&Script>, call: &Cmd) -> RedisResult<Value> {
    let until = Instant::now() + ANSWER;
    let (mut master, mut is_asked) = (shards.of(key), false);
    loop {
        let mut connection = shards.connection(master);
        let answer = if is_asked { ask(&mut connection, call).await } else { call.query_async(&mut connection).await };
        let Err(error) = answer else { return answer };
        let is_late = Instant::now() > until;
        match (error.kind(), script) {
            _ if is_late => return Err(error),
            (ErrorKind::Server(ServerErrorKind::NoScript), Some(script)) => {
                script.load_async(&mut connection).await?;
            }
            (ErrorKind::Server(ServerErrorKind::TryAgain), _) => {
                sleep(MOVING).await;
                (master, is_asked) = (shards.of(key), false);
            }
            (ErrorKind::Server(kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask)), _) => {
                let Some((named, slot)) =
                    error.redirect_node().and_then(|(name, slot)| Some((shards.named(name)?, slot)))
                else {
                    return Err(error);
                };
                (master, is_asked) = (named, kind == ServerErrorKind::Ask);
                if !is_asked {
                    shards.note_move(slot, named);
                }
            }
            _ => return Err(error),
        }
    }
}

/// Sends a call to the master to which its slot is moving.
async fn ask(connection: &mut MultiplexedConnection, call: &Cmd) -> RedisResult<Value> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("ASKING").ignore().add_command(call.clone());
    let (answer,) = pipeline.query_async(connection).await?;
    Ok(answer)
}

/// Whether a call was sent to a master that is not known.
fn is_unknown(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask))
}

fn read<T: FromRedisValue>(answer: Value) -> Result<T, BackendError> {
    redis::from_redis_value(answer).map_err(|error| failure(error.into()))
}

pub(super) fn unavailable(error: &RedisError) -> BackendError {
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
