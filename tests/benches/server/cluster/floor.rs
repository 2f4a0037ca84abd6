//! The engine without us: raw clients that append and listen with the same script, statement or message as our backends,
//! and nothing else.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use datasole_server::backend::{
    Engines,
    log::{MAX_MISSED, MAX_PUSH, TURN, Tag},
};
use futures_util::{FutureExt, StreamExt, future::try_join_all, stream};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls, Statement, types::ToSql};

use super::{
    engine::{Engine, Kind},
    node::key,
};
use crate::Result;

/// The part of the engine that is the floor's.
const PREFIX: &str = "floor";
/// The floor's one hash tag: on one Redis it makes no difference.
const TAG: &str = "0";
/// The author and the epoch of all entries.
const NODE: u64 = 7;
const EPOCH: u64 = 7;

macro_rules! script {
    ($name:literal) => {
        include_str!(concat!("../../../../server-reference/src/backend/redis/scripts/", $name, ".lua"))
    };
}

/// A client of the engine, and one that listens.
pub(crate) struct Floor {
    client: Client,
    entry: Bytes,
    /// Where each stream is: its `seq`, and the number of its last message.
    heads: Vec<(u64, u64)>,
}

enum Client {
    Redis {
        connection: redis::aio::MultiplexedConnection,
        script: redis::Script,
        pushes: mpsc::UnboundedReceiver<redis::PushInfo>,
        _listener: redis::aio::MultiplexedConnection,
    },
    Postgres {
        client: Box<tokio_postgres::Client>,
        append: Statement,
        notifier: Box<tokio_postgres::Client>,
        read: Statement,
        notes: mpsc::UnboundedReceiver<String>,
        /// Its connection ends with it.
        _listener: Box<tokio_postgres::Client>,
    },
    Nats {
        client: async_nats::Client,
        listener: async_nats::Subscriber,
    },
}

impl Floor {
    /// Connects, with `streams` streams whose entries are of `size` bytes.
    pub(crate) async fn open(engine: &Engine, streams: u32, size: usize) -> Result<Self> {
        let url = engine.url(PREFIX);
        // Makes the layout.
        drop(Engines::open(url.as_str()).await?.node().await?);
        let client = match engine.kind {
            Kind::Redis => redis(&url, streams).await?,
            Kind::Postgres => postgres(&url).await?,
            Kind::Nats => {
                let client = async_nats::connect(&url).await?;
                let listener = client.subscribe(format!("{PREFIX}.n.>")).await?;
                client.flush().await?;
                Client::Nats { client, listener }
            }
        };
        Ok(Self { client, entry: Bytes::from(vec![b'x'; size]), heads: vec![(0, 0); streams as usize] })
    }

    /// Appends an entry to each stream, all at once; as often as `turns` says.
    pub(crate) async fn append(&mut self, turns: u32) -> Result<()> {
        for _ in 0..turns {
            self.append_to(self.heads.len()).await?;
            if let Client::Postgres { notifier, .. } = &self.client {
                // Of all positions at once: as many bytes as ours.
                notifier
                    .execute("SELECT pg_notify('floor_news', repeat('x', $1))", &[&(40 * self.heads.len() as i32)])
                    .await?;
            }
            self.listen().await;
        }
        Ok(())
    }

    /// Takes whatever has come.
    async fn listen(&mut self) {
        match &mut self.client {
            Client::Redis { pushes, .. } => while pushes.try_recv().is_ok() {},
            Client::Postgres { notes, .. } => while notes.try_recv().is_ok() {},
            Client::Nats { listener, .. } => while listener.next().now_or_never().is_some() {},
        }
    }

    /// The time from an append until the listener has its entry.
    pub(crate) async fn push(&mut self) -> Result<Duration> {
        self.listen().await;
        let began = Instant::now();
        self.append_to(1).await?;
        match &mut self.client {
            Client::Redis { pushes, .. } => drop(pushes.recv().await.ok_or("the listener ended")?),
            Client::Postgres { client, notifier, read, notes, .. } => {
                notifier.batch_execute("NOTIFY floor_news, '0'").await?;
                notes.recv().await.ok_or("the listener ended")?;
                client.query_one(read, &[&name(0).as_bytes()]).await?;
            }
            Client::Nats { listener, .. } => drop(listener.next().await.ok_or("the listener ended")?),
        }
        Ok(began.elapsed())
    }

    async fn append_to(&mut self, streams: usize) -> Result<()> {
        let heads = self.heads.iter_mut().take(streams).zip(0_u32..);
        match &mut self.client {
            Client::Redis { connection, script, .. } => {
                let calls = heads.map(|((seq, _), number)| {
                    let call = evalsha(script, number, *seq, &self.entry);
                    *seq += 1;
                    let mut connection = connection.clone();
                    async move { call.invoke_async::<redis::Value>(&mut connection).await }
                });
                try_join_all(calls.collect::<Vec<_>>()).await?;
            }
            Client::Postgres { client, append, .. } => {
                let seqs: Vec<u64> = heads
                    .map(|((seq, _), _)| {
                        *seq += 1;
                        *seq - 1
                    })
                    .collect();
                statement(client, append, &seqs, &self.entry).await?;
            }
            Client::Nats { client, .. } => {
                let calls = heads.map(|((_, last), number)| {
                    let (client, payload) = (client.clone(), self.entry.clone());
                    async move {
                        let mut headers = HeaderMap::new();
                        headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string().as_str());
                        let request = async_nats::Request::new().payload(payload).headers(headers);
                        let answer = client.send_request(format!("{PREFIX}.l.state.{}", key(number)), request).await?;
                        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
                        *last = answer["seq"].as_u64().ok_or_else(|| format!("the engine answered {answer}"))?;
                        Ok::<_, Box<dyn std::error::Error>>(())
                    }
                });
                try_join_all(calls).await?;
            }
        }
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("s{}", key(number))
}

/// The tag of a stream's entry.
fn tag(seq: u64) -> Tag {
    if seq == 0 { Tag::default() } else { Tag { node: NODE, count: seq } }
}

fn tag_bytes(tag: Tag) -> Vec<u8> {
    [tag.node.to_be_bytes(), tag.count.to_be_bytes()].concat()
}

/// Where a stream's entries are published.
fn channel(number: u32) -> String {
    format!("{PREFIX}:{{{TAG}}}:e:{}", name(number))
}

async fn redis(url: &str, streams: u32) -> Result<Client> {
    let client = redis::Client::open(url.split('?').next().unwrap_or_default())?;
    let text = [script!("stream"), script!("turn"), script!("append")].concat();
    let script = redis::Script::new(&text.replace("TURN", &TURN.as_millis().to_string()));
    let (sender, pushes) = mpsc::unbounded_channel();
    let info = client.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(redis::ProtocolVersion::RESP3);
    let listening = redis::Client::open(info.set_redis_settings(settings))?;
    let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
    let mut listener = listening.get_multiplexed_async_connection_with_config(&config).await?;
    let mut subscribe = redis::pipe();
    for number in 0..streams {
        subscribe.cmd("SSUBSCRIBE").arg(channel(number));
    }
    subscribe.query_async::<Vec<redis::Value>>(&mut listener).await?;
    let connection = client.get_multiplexed_async_connection().await?;
    Ok(Client::Redis { connection, script, pushes, _listener: listener })
}

fn evalsha<'a>(script: &'a redis::Script, number: u32, seq: u64, entry: &Bytes) -> redis::ScriptInvocation<'a> {
    let mut call = script.prepare_invoke();
    let of = |part| format!("{PREFIX}:{{{TAG}}}:{part}:{}", name(number));
    for part in ["m", "l", "s", "k", "t", "q"] {
        call.key(if part == "k" { format!("{PREFIX}:{{{TAG}}}:k:s") } else { of(part) });
    }
    let (at, next) = (tag(seq), tag(seq + 1));
    call.arg(key(number)).arg(0).arg(EPOCH).arg(seq).arg(tag_bytes(at)).arg(&at.hash().to_be_bytes()[..]);
    call.arg("exactly").arg(tag_bytes(next)).arg(&next.hash().to_be_bytes()[..]).arg("");
    call.arg(MAX_MISSED).arg(MAX_PUSH).arg(channel(number)).arg(&NODE.to_be_bytes()[..]).arg("");
    call.arg(format!("{PREFIX}:u:")).arg(name(number)).arg(&entry[..]);
    call
}

async fn postgres(url: &str) -> Result<Client> {
    let url = url.split('?').next().unwrap_or_default();
    let (sender, notes) = mpsc::unbounded_channel();
    let (listener, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(note) = message
                && sender.send(note.payload().to_owned()).is_err()
            {
                return;
            }
        }
    });
    listener.batch_execute("LISTEN floor_news").await?;
    let mut others = Vec::new();
    for settings in ["", "SET synchronous_commit = off"] {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        let settings = format!(
            "SET search_path TO \"{PREFIX}\"; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
             SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off; {settings}"
        );
        client.batch_execute(&settings).await?;
        others.push(Box::new(client));
    }
    let mut others = others.into_iter();
    let (Some(client), Some(notifier)) = (others.next(), others.next()) else { return Err("no client".into()) };
    let append = client
        .prepare("SELECT * FROM append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, make_interval(secs => $19))")
        .await?;
    let sql = "SELECT l.entry FROM head h JOIN log l ON l.id = h.id AND l.seq = h.seq WHERE h.name = $1";
    let read = client.prepare(sql).await?;
    Ok(Client::Postgres { client, append, notifier, read, notes, _listener: Box::new(listener) })
}

/// One statement for all streams.
async fn statement(client: &tokio_postgres::Client, append: &Statement, seqs: &[u64], entry: &[u8]) -> Result<()> {
    fn column<T>(seqs: &[u64], value: impl Fn(u64) -> T) -> Vec<T> {
        seqs.iter().map(|seq| value(*seq)).collect()
    }
    let many = i32::try_from(seqs.len())?;
    let names: Vec<Vec<u8>> = (0..seqs.len() as u32).map(|number| name(number).into_bytes()).collect();
    let epochs = column(seqs, |_| EPOCH.cast_signed());
    let signed = column(seqs, u64::cast_signed);
    let nodes = column(seqs, |seq| tag(seq).node.cast_signed());
    let counts = column(seqs, |seq| tag(seq).count.cast_signed());
    let hashes = column(seqs, |seq| tag(seq).hash().cast_signed());
    let behinds = column(seqs, |_| false);
    let tag_nodes = column(seqs, |seq| tag(seq + 1).node.cast_signed());
    let tag_counts = column(seqs, |seq| tag(seq + 1).count.cast_signed());
    let tag_hashes = column(seqs, |seq| tag(seq + 1).hash().cast_signed());
    let (ttls, sizes) = (column(seqs, |_| -1_i64), column(seqs, |_| 1_i64));
    let owners: Vec<i32> = (1..=many).collect();
    let numbers = column(seqs, |_| 1_i32);
    let entries = column(seqs, |_| entry);
    let (most, author, held) = (MAX_MISSED as i64, NODE.cast_signed(), TURN.as_secs_f64());
    let params: [&(dyn ToSql + Sync); 19] = [
        &names,
        &epochs,
        &signed,
        &nodes,
        &counts,
        &hashes,
        &behinds,
        &tag_nodes,
        &tag_counts,
        &tag_hashes,
        &ttls,
        &behinds,
        &sizes,
        &owners,
        &numbers,
        &entries,
        &most,
        &author,
        &held,
    ];
    let stored = client.query(append, &params).await?.iter().filter(|row| row.get::<_, bool>(1)).count();
    if stored == seqs.len() { Ok(()) } else { Err(format!("{stored} of {many} were appended").into()) }
}
