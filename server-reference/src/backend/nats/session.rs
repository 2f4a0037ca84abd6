//! One connection to the engine: opened with its streams made, its generation checked and its clock compared, and
//! never used again once it broke.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Auth, AuthError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use datasole_core::{Position, StreamId};
use serde_json::json;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};

use super::{
    api::{ANSWER, Api, Terms, corrupt, unavailable},
    names::Names,
    record::{Batch, join, split},
};
use crate::{
    backend::{
        authorities,
        epoch::epoch,
        error::BackendError,
        log::{Mark, Tag},
    },
    clock::Clock,
    sync::lock,
};

/// How often the engine's clock is looked at, which is also a sign of life.
const LOOK: Duration = Duration::from_secs(5);
/// How long a comparison of clocks is believed; milliseconds.
const AGE: u64 = 60_000;
/// Heads that are remembered. When there are more all are forgotten, and read again.
const HEADS: usize = 65_536;
/// The oldest version with lifetimes of messages and answers of many.
const VERSION: (u32, u32) = (2, 11);

/// What the URL says.
pub(super) struct Options {
    pub(super) servers: Vec<ServerAddr>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) names: Names,
    /// How many servers keep a copy.
    pub(super) replicas: u8,
    /// The operator declares that nothing acknowledged is ever lost.
    pub(super) durable: bool,
    /// The file of the authorities that are trusted, if not those of the machine.
    pub(super) authorities: Option<PathBuf>,
    pub(super) clock: Arc<dyn Clock>,
}

/// What a node knows of the engine from earlier connections.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The newest generation; `None` before the first connection.
    pub(super) generation: Option<u64>,
    /// The greatest number of a message in the log.
    pub(super) newest: u64,
    /// How many connections there were.
    pub(super) connections: u64,
}

/// Where a stream is, by the last message that this node has seen of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The engine's number of the message.
    pub(super) number: u64,
    pub(super) epoch: u64,
    pub(super) generation: u64,
    pub(super) birth: u64,
    pub(super) seq: u64,
    pub(super) tag: Tag,
    /// The end of its life; 0 for none.
    pub(super) ends: u64,
}

/// The epoch of what was stored with `epoch` in one generation, in a later one.
pub(super) fn epoch_now(epoch: u64, generation: u64, now: u64) -> u64 {
    if generation < now { now.max(epoch + 1) } else { epoch }
}

impl Seen {
    pub(super) fn of(number: u64, batch: &Batch) -> Self {
        let Batch { epoch, generation, birth, ends, .. } = *batch;
        Self { number, epoch, generation, birth, seq: batch.last(), tag: batch.tag(), ends }
    }

    pub(super) fn mark(&self, generation: u64) -> Mark {
        let epoch = epoch_now(self.epoch, self.generation, generation);
        Mark { position: Position { epoch, seq: self.seq }, tag: self.tag }
    }
}

/// A connection.
pub(super) struct Session {
    pub(super) api: Api,
    /// Counts the node's connections, from 1.
    pub(super) number: u64,
    pub(super) log: String,
    pub(super) values: String,
    /// The epoch that every life is above.
    pub(super) generation: u64,
    /// The engine's clock less this process's, in milliseconds.
    ahead: AtomicU64,
    /// How long the answer took from which that is known, and when it came; milliseconds.
    best: Mutex<(u64, u64)>,
    newest: AtomicU64,
    heads: Mutex<HashMap<StreamId, Seen>>,
    clock: Arc<dyn Clock>,
    generation_subject: String,
}

impl Session {
    /// The engine's time; Unix milliseconds.
    pub(super) fn now(&self) -> u64 {
        local(&*self.clock).wrapping_add(self.ahead.load(Ordering::Relaxed))
    }

    /// What the next connection is to know.
    pub(super) fn known(&self) -> Known {
        let newest = self.newest.load(Ordering::Relaxed);
        Known { generation: Some(self.generation), newest, connections: self.number }
    }

    /// Notes a message of the log.
    pub(super) fn observe(&self, number: u64) {
        self.newest.fetch_max(number, Ordering::Relaxed);
    }

    pub(super) fn seen(&self, stream: &StreamId) -> Option<Seen> {
        lock(&self.heads).get(stream).copied()
    }

    /// Remembers where a stream is, unless something newer is known.
    pub(super) fn remember(&self, stream: &StreamId, seen: Seen) {
        self.observe(seen.number);
        let mut heads = lock(&self.heads);
        if let Some(known) = heads.get_mut(stream) {
            if known.number < seen.number {
                *known = seen;
            }
            return;
        }
        if heads.len() >= HEADS {
            heads.clear();
        }
        heads.insert(stream.clone(), seen);
    }

    pub(super) fn forget(&self, stream: &StreamId) {
        lock(&self.heads).remove(stream);
    }

    /// Fails when another generation has begun, after which this connection is replaced.
    pub(super) async fn check_generation(&self) -> Result<(), BackendError> {
        let stored = self.api.last(&self.values, &self.generation_subject).await?;
        let stands = stored.and_then(|message| split::<2>(message.payload)).map(|([generation, _], _)| generation);
        if stands == Some(self.generation) {
            return Ok(());
        }
        self.api.broken.notify_one();
        Err(unavailable("the engine has begun another generation"))
    }

    /// Compares the clocks. The answer that came soonest within a minute is believed.
    async fn look(&self) -> Result<(), BackendError> {
        let asked = local(&*self.clock);
        let info =
            self.api.info(&self.values, None).await?.ok_or_else(|| unavailable("the engine's streams are gone"))?;
        let answered = local(&*self.clock);
        let theirs = unix_millis(&info.ts).ok_or_else(|| corrupt("its time"))?;
        let took = answered - asked;
        let mut best = lock(&self.best);
        if took <= best.0 || answered - best.1 > AGE {
            *best = (took, answered);
            self.ahead.store(theirs.wrapping_sub(asked + took / 2), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn local(clock: &dyn Clock) -> u64 {
    crate::clock::millis(clock.monotonic())
}

/// Unix milliseconds of a time as RFC 3339 has it, in UTC.
fn unix_millis(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let part = |text: &str| text.parse::<u64>().ok();
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (part(date.next()?)?, part(date.next()?)?, part(date.next()?)?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':');
    let (hour, minute, second) = (part(clock.next()?)?, part(clock.next()?)?, part(clock.next()?)?);
    let millis = part(format!("{fraction:0<3}").get(..3)?)?;
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some((days.checked_sub(719_469)? * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000 + millis)
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Opens a connection. Its events are sent to `events`; it ends with the first that says it broke.
pub(super) async fn open(
    options: &Options,
    known: &Known,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<Arc<Session>, BackendError> {
    let client = connect(options, events).await?;
    let mut api = Api { client, broken: Arc::new(Notify::new()), is_single: false };
    let names = &options.names;
    let (log, values) = (names.log_stream(), names.values_stream());
    let info = match api.info(&log, None).await? {
        Some(info) => info,
        None => {
            make(&api, options).await?;
            api.info(&log, None).await?.ok_or_else(|| unavailable("the engine's streams are gone"))?
        }
    };
    if api.info(&values, None).await?.is_none() || api.info(&names.boot_stream(), None).await?.is_none() {
        make(&api, options).await?;
    }
    api.is_single = info.config.num_replicas <= 1;
    let boot = boot(&api, names).await?;
    let generation = generation(&api, options, known, info.state.last_seq, boot).await?;
    let session = Arc::new(Session {
        api,
        number: known.connections + 1,
        log,
        values,
        generation,
        ahead: AtomicU64::new(0),
        best: Mutex::new((u64::MAX, 0)),
        newest: AtomicU64::new(info.state.last_seq),
        heads: Mutex::default(),
        clock: Arc::clone(&options.clock),
        generation_subject: names.generation(),
    });
    for _ in 0..3 {
        session.look().await?;
    }
    let weak = Arc::downgrade(&session);
    tokio::spawn(async move {
        loop {
            sleep(LOOK).await;
            let Some(session) = weak.upgrade() else { return };
            // What goes wrong shows itself: who does not answer is replaced.
            let _ = session.look().await;
            let _ = session.check_generation().await;
        }
    });
    Ok(session)
}

async fn connect(options: &Options, events: &mpsc::UnboundedSender<Event>) -> Result<async_nats::Client, BackendError> {
    // The library would connect again by itself and send what waits, before the generation is checked. It must not:
    // every attempt but the first is refused.
    let is_used = Arc::new(AtomicBool::new(false));
    let auth = (options.user.clone(), options.password.clone(), options.token.clone());
    let used = Arc::clone(&is_used);
    let authenticate = move |_| {
        let (is_used, (username, password, token)) = (used.load(Ordering::Relaxed), auth.clone());
        async move {
            if is_used {
                return Err(AuthError::new("another connection takes its place"));
            }
            let mut auth = Auth::new();
            (auth.username, auth.password, auth.token) = (username, password, token);
            Ok(auth)
        }
    };
    let events = events.clone();
    let mut connecting = ConnectOptions::with_auth_callback(authenticate);
    if let Some(file) = &options.authorities {
        connecting = connecting.add_root_certificates(file.clone());
    }
    let connecting = connecting
        .name("datasole")
        .connection_timeout(ANSWER)
        .ping_interval(ANSWER)
        .request_timeout(Some(ANSWER))
        .subscription_capacity(4_096)
        .ignore_discovered_servers()
        .max_reconnects(options.servers.len())
        .event_callback(move |event| {
            // Nobody listens any more: the node has ended.
            let _ = events.send(event);
            async {}
        })
        .connect(options.servers.as_slice());
    let limit = ANSWER * u32::try_from(options.servers.len()).unwrap_or(1) * 2;
    let client = timeout(limit, connecting).await.map_err(|_| unavailable("the engine does not answer"))?;
    let client = client.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => unavailable(REFUSED),
        // Their texts may hold the address, and the address a password.
        kind => unavailable(match authorities::refusal(&error) {
            Some(why) => format!("no connection to the engine: {why}"),
            None => format!("no connection to the engine: {kind}"),
        }),
    })?;
    is_used.store(true, Ordering::Relaxed);
    let found = client.server_info().version;
    if version(&found).is_none_or(|found| found < VERSION) {
        return Err(BackendError::Invalid(format!("NATS {found}: 2.11 or later is needed")));
    }
    Ok(client)
}

/// What a server says whose user, password or token are others.
pub(super) const REFUSED: &str = "the NATS server refuses the user, the password or the token";

/// Makes the engine's streams, those that are not there.
async fn make(api: &Api, options: &Options) -> Result<(), BackendError> {
    let (names, replicas) = (&options.names, options.replicas);
    let config = |name: String, subject: String, per_subject: i64, storage: &str| {
        json!({
            "name": name, "subjects": [subject], "retention": "limits", "storage": storage, "discard": "new",
            "num_replicas": replicas, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            "max_msgs_per_subject": per_subject, "max_msg_size": -1, "allow_direct": true, "allow_msg_ttl": true,
            "allow_rollup_hdrs": true,
        })
    };
    let mut log = config(names.log_stream(), names.all_appends(), -1, "file");
    log["republish"] = json!({ "src": names.all_appends(), "dest": names.all_news() });
    api.create(&log).await?;
    api.create(&config(names.values_stream(), names.all_values(), 1, "file")).await?;
    api.create(&config(names.boot_stream(), names.boot(), 1, "memory")).await
}

/// A number that is in the engine's memory, and so another one after it was started again.
async fn boot(api: &Api, names: &Names) -> Result<u64, BackendError> {
    loop {
        if let Some(message) = api.last(&names.boot_stream(), &names.boot()).await? {
            let ([boot], _) = split(message.payload).ok_or_else(|| corrupt("the number of a run"))?;
            return Ok(boot);
        }
        let fresh = getrandom::u64().map_err(unavailable)?;
        if api.put(names.boot(), join([fresh], b""), Terms::after(0)).await?.is_some() {
            return Ok(fresh);
        }
    }
}

/// The generation, of which another one is begun if acknowledged entries may have been lost: when the engine was started
/// again and does not promise to have kept all, when its log is shorter than this node knows, and when its record is
/// older.
async fn generation(api: &Api, options: &Options, known: &Known, newest: u64, boot: u64) -> Result<u64, BackendError> {
    let (stream, subject) = (options.names.values_stream(), options.names.generation());
    loop {
        let stored = api.last(&stream, &subject).await?;
        let after = stored.as_ref().map_or(0, |message| message.number);
        let found = stored.map(|message| split::<2>(message.payload).ok_or_else(|| corrupt("a generation")));
        let found = found.transpose()?.map(|([generation, boot], _)| (generation, boot));
        let (stands, at) = found.unwrap_or((0, boot));
        let is_short = match known.generation {
            None => false,
            // Another node has noticed, and begun one.
            Some(known) if stands > known => false,
            Some(other) => stands < other || found.is_none() || newest < known.newest,
        };
        let is_lost = is_short || (at != boot && !options.durable);
        let next = if is_lost {
            let above = stands.max(known.generation.unwrap_or(0)) + 1;
            epoch(options.clock.unix_millis(), 0).max(above)
        } else {
            stands
        };
        if found == Some((next, boot)) {
            return Ok(next);
        }
        if api.put(subject.clone(), join([next, boot], b""), Terms::after(after)).await?.is_some() {
            if next != stands {
                let told = api.client.publish(options.names.generations(), join([next], b"")).await;
                told.map_err(unavailable)?;
            }
            return Ok(next);
        }
    }
}

/// Waits between attempts: the first [`FIRST`](Backoff), doubled up to two seconds, half of each at random.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    wait: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    /// When the next attempt may be made.
    pub(super) fn next(&mut self) -> Instant {
        self.wait = (self.wait * 2).clamp(Self::FIRST, Self::LONGEST);
        let share = getrandom::u32().unwrap_or_default() % 1_000;
        Instant::now() + self.wait / 2 + self.wait / 2 * share / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_time_is_read() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.5Z", 500),
            ("2000-02-29T12:34:56.789123456Z", 951_827_696_789),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
            ("2026-11-29T13:37:00.001Z", 1_795_959_420_001),
        ] {
            assert_eq!(unix_millis(text), Some(millis), "{text}");
        }
        for text in ["", "2026-11-29", "2026-11-29T13:37:00", "2026-11-29T13:37:00+01:00", "yyyy-11-29T13:37:00Z"] {
            assert_eq!(unix_millis(text), None, "{text}");
        }
    }

    #[test]
    fn versions_are_compared() {
        assert_eq!(version("2.11.0"), Some((2, 11)));
        assert!(version("2.9.10") < Some(VERSION));
        assert_eq!(version("dev"), None);
    }
}
