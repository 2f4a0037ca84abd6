//! The server that tests and other people's tools talk to. One line `listening HOST:PORT` once it accepts.

use std::{path::PathBuf, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, header::HOST},
};
use bytes::Bytes;
use clap::Parser;
use datasole_server::{
    AuthError, AuthRequest, Context, Identity, Limits, Payload, RpcError, Server, Tree,
    backend::{Backend, BackendError, Engines, Urls},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_http::services::ServeDir;

#[derive(Parser)]
struct Flags {
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// How long authentication takes.
    #[arg(long, default_value_t = 0)]
    auth_delay_ms: u64,
    /// Open connections, at most.
    #[arg(long)]
    max_connections: Option<usize>,
    /// The longest payload of a frame, bytes.
    #[arg(long)]
    max_payload: Option<usize>,
    /// Let every page of this machine connect, whatever its port.
    #[arg(long)]
    dev: bool,
    /// Serve this folder beside the endpoint.
    #[arg(long = "static")]
    folder: Option<PathBuf>,
    /// The engine of everything, as a URL.
    #[arg(long, env = "DATASOLE_BACKEND", hide_env_values = true)]
    backend: Option<String>,
    /// The engine of streams.
    #[arg(long)]
    log: Option<String>,
    /// The engine of messages between servers.
    #[arg(long, env = "DATASOLE_BUS", hide_env_values = true)]
    bus: Option<String>,
    /// The engine of short-lived values.
    #[arg(long, env = "DATASOLE_KV", hide_env_values = true)]
    kv: Option<String>,
}

#[derive(Deserialize)]
struct Add {
    a: f64,
    b: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Slow {
    Millis(u64),
    Object { ms: u64 },
}

#[derive(Deserialize)]
struct SetState {
    key: String,
    value: Value,
}

#[derive(Deserialize)]
struct GetState {
    key: String,
}

#[derive(Deserialize)]
struct Room {
    room: String,
}

#[derive(Deserialize)]
struct User {
    user: String,
}

/// Whom an event is for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum To {
    Room(String),
    User(String),
    Connection(String),
}

#[derive(Deserialize)]
struct EmitTo {
    #[serde(flatten)]
    to: To,
    event: String,
    data: Value,
}

/// What this node stands on, for what it tells of itself and for whom it may have to end.
struct Standing {
    backend: Backend,
    description: Vec<String>,
}

#[derive(Deserialize)]
struct Row {
    row: usize,
}

/// A dashboard of so many rows, each of which is another one in each round, and has 16 bytes that do not compress.
#[derive(Deserialize)]
struct Fill {
    rows: usize,
    round: u64,
}

#[derive(Deserialize, Serialize)]
struct Counts {
    visitors: i64,
    active: i64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let flags = Flags::parse();
    let server = server(&flags, standing(&flags).await.map_err(std::io::Error::other)?);
    let mut router = server.router();
    if let Some(folder) = flags.folder {
        router = router.fallback_service(ServeDir::new(folder));
    }
    let listener = datasole_server::listen((flags.host.as_str(), flags.port)).await?;
    println!("listening {}", listener.local_addr()?);
    server.serve(&listener, router).await
}

/// A node on the engines of the flags; memory without any.
async fn standing(flags: &Flags) -> Result<Standing, BackendError> {
    let Flags { backend, log, bus, kv, .. } = flags;
    let urls = Urls { backend: backend.clone(), log: log.clone(), bus: bus.clone(), kv: kv.clone() };
    let engines = Engines::open(urls).await?;
    engines.describe().iter().for_each(|line| eprintln!("{line}"));
    Ok(Standing { backend: engines.node().await?, description: engines.describe() })
}

fn server(flags: &Flags, standing: Standing) -> Server {
    let delay = Duration::from_millis(flags.auth_delay_ms);
    let mut limits = Limits::default();
    if let Some(max_connections) = flags.max_connections {
        limits.max_connections = max_connections;
    }
    if let Some(max_payload) = flags.max_payload {
        limits.max_payload = max_payload;
    }
    let builder = if flags.dev { Server::builder().allow_loopback_origins() } else { Server::builder() };
    builder
        .backend(standing.backend.clone())
        .data(standing)
        .on_connect(|context: Context| async move { note(&context, Some(Bytes::new())).await })
        .on_disconnect(|context: Context| async move { note(&context, None).await })
        .limits(limits)
        .auth(move |request: AuthRequest| async move {
            tokio::time::sleep(delay).await;
            match request.token {
                Some(token) if token == "bad" => Err(AuthError::refused("the token is bad")),
                Some(token) => Ok(Identity::user(token)),
                None => Ok(Identity::anonymous()),
            }
        })
        .rpc_raw("echo", |_: Context, payload: Payload| async move { Ok(payload) })
        .rpc("add", |_: Context, Add { a, b }: Add| async move { Ok(json!({ "sum": number(a + b) })) })
        .rpc("fail", |_: Context, _: Value| async move { Err::<(), _>(RpcError::new("boom")) })
        .rpc("slow", |_: Context, slow: Slow| async move {
            let (Slow::Millis(ms) | Slow::Object { ms }) = slow;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(json!({ "waited": ms }))
        })
        .rpc("setState", |context: Context, SetState { key, value }: SetState| async move {
            context.server().state().set(&key, &value).await?;
            Ok(json!({ "ok": true }))
        })
        .rpc("getState", |context: Context, GetState { key }: GetState| async move {
            Ok(context.server().state().get(&key).await?)
        })
        .rpc("metrics", |context: Context, _: Value| async move { Ok(metrics(context.server())) })
        .rpc("removeState", |context: Context, GetState { key }: GetState| async move {
            context.server().state().remove(&key).await?;
            Ok(json!({ "ok": true }))
        })
        .rpc("whoami", |context: Context, _: Value| async move {
            let connection = context.connection_id();
            let node = connection.split('-').next();
            Ok(json!({ "userId": context.identity().user_id, "connectionId": connection, "node": node }))
        })
        .rpc("join", |context: Context, Room { room }: Room| async move {
            context.join_group(&room).await?;
            Ok(json!({ "ok": true }))
        })
        .rpc("leave", |context: Context, Room { room }: Room| async move {
            context.leave_group(&room).await;
            Ok(json!({ "ok": true }))
        })
        .rpc("emitTo", |context: Context, EmitTo { to, event, data }: EmitTo| async move {
            let server = context.server();
            let target = match &to {
                To::Room(room) => server.to_group(room),
                To::User(user) => server.to_user(user),
                To::Connection(connection) => server.to_connection(connection),
            };
            target.emit(&event, &data).await?;
            Ok(json!({ "ok": true }))
        })
        .rpc("kick", |context: Context, User { user }: User| async move {
            let connections = context.data::<Standing>()?.backend.kv.fields(&connections_of(&user)).await;
            let connections = connections.map_err(|error| RpcError::new(error.to_string()))?;
            for (connection, _) in &connections {
                context.server().disconnect(connection, 4_000, "kicked").await;
            }
            Ok(json!({ "connections": connections.len() }))
        })
        .rpc("node", |context: Context, _: Value| async move { node(&context).await })
        .rpc("bump", |context: Context, row: Option<Row>| async move { bump(&context, row).await })
        .rpc("fill", |context: Context, fill: Fill| async move {
            context.server().state().set("dashboard", &dashboard(&fill)).await?;
            Ok(json!({ "ok": true }))
        })
        .on_raw("chat:message", |context: Context, message: Payload| async move {
            if let Err(error) = context.server().broadcast_payload("chat:message", message).await {
                eprintln!("chat:message: {error}");
            }
        })
        .build()
}

/// Whole sums look whole, as they do in JavaScript.
fn number(sum: f64) -> Value {
    if sum.fract() == 0.0 && sum.abs() < 9e15 { json!(sum as i64) } else { json!(sum) }
}

/// The map of a user's connections on all nodes.
fn connections_of(user: &str) -> String {
    format!("fixture:connections:{user}")
}

/// Notes that a connection is open, or no longer. Those of a node that was killed stay, and harm nobody.
async fn note(context: &Context, open: Option<Bytes>) -> Result<(), RpcError> {
    let kv = &context.data::<Standing>()?.backend.kv;
    let noted = kv.set_field(&connections_of(&context.identity().user_id), &context.connection_id(), open, None).await;
    noted.map_err(|error| RpcError::new(error.to_string()))
}

/// What this node is, and what `health` says of it.
async fn node(context: &Context) -> Result<Value, RpcError> {
    let Standing { backend, description } = context.data()?;
    let request = Request::get("/__ds/health").header(HOST, "127.0.0.1").body(Body::empty());
    let request = request.map_err(|error| RpcError::new(error.to_string()))?;
    let answer = context.server().router().oneshot(request).await.map_err(|error| RpcError::new(error.to_string()))?;
    let body = to_bytes(answer.into_body(), 64 * 1_024).await.map_err(|error| RpcError::new(error.to_string()))?;
    let health: Value = serde_json::from_slice(&body).map_err(|error| RpcError::new(error.to_string()))?;
    let id = format!("{:x}", backend.bus.node().0);
    Ok(json!({ "id": id, "backend": description, "live": health["live"], "ready": health["ready"] }))
}

/// What the server has counted; `pid` tells where to look for the rest.
fn metrics(server: &Server) -> Value {
    let counted = server.metrics_snapshot();
    json!({
        "pid": std::process::id(),
        "connections": counted.connections,
        "messagesIn": counted.messages_in,
        "bytesIn": counted.bytes_in,
        "bytesOut": counted.bytes_out,
    })
}

fn dashboard(Fill { rows, round }: &Fill) -> Value {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64 ^ round;
    let mut next = || {
        // xorshift64
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    let row = |id| json!({ "id": id, "name": format!("row {id}: {:016x}{:016x}", next(), next()), "n": round });
    json!({ "visitors": 0, "active": 0, "rows": (0..*rows).map(row).collect::<Vec<_>>() })
}

async fn bump(context: &Context, row: Option<Row>) -> Result<Counts, RpcError> {
    let state = context.server().state();
    let mut counts = Counts { visitors: 0, active: 0 };
    state
        .update("dashboard", |draft| {
            if draft.get("").is_none_or(Tree::is_null) {
                let rows: Vec<Value> = (0..3).map(|id| json!({ "id": id, "n": 0 })).collect();
                draft.set("", json!({ "visitors": 0, "active": 0, "rows": rows }))?;
            }
            let rows = draft.get("/rows").and_then(Tree::as_array).map_or(0, <[_]>::len).max(1);
            let at = match &row {
                Some(Row { row }) => *row,
                None => {
                    draft.add("/visitors", 1)?;
                    let visitors = draft.get("/visitors").and_then(Tree::as_i64).unwrap_or(0);
                    draft.set("/active", visitors % 7)?;
                    usize::try_from(visitors).unwrap_or(0) % rows
                }
            };
            draft.add(&format!("/rows/{at}/n"), 1)?;
            let read = |name| draft.get(name).and_then(Tree::as_i64).unwrap_or(0);
            counts = Counts { visitors: read("/visitors"), active: read("/active") };
            Ok(())
        })
        .await?;
    Ok(counts)
}
