//! The server that tests and other people's tools talk to. One line `listening HOST:PORT` once it accepts.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use datasole_server::{
    AuthError, AuthRequest, Context, Identity, Limits, Payload, RpcError, Server,
    backend::{Backend, BackendError, Engines, Urls},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
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
    /// Let every page of this machine connect, whatever its port.
    #[arg(long)]
    dev: bool,
    /// Serve this folder beside the endpoint.
    #[arg(long = "static")]
    folder: Option<PathBuf>,
    /// The engine of everything, as a URL.
    #[arg(long, env = "DATASOLE_BACKEND")]
    backend: Option<String>,
    /// The engine of streams.
    #[arg(long)]
    log: Option<String>,
    /// The engine of messages between servers.
    #[arg(long, env = "DATASOLE_BUS")]
    bus: Option<String>,
    /// The engine of short-lived values.
    #[arg(long, env = "DATASOLE_KV")]
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
struct Row {
    row: usize,
}

#[derive(Deserialize, Serialize)]
struct Counts {
    visitors: i64,
    active: i64,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let flags = Flags::parse();
    let server = server(&flags, backend(&flags).await.map_err(std::io::Error::other)?);
    let mut router = server.router();
    if let Some(folder) = flags.folder {
        router = router.fallback_service(ServeDir::new(folder));
    }
    let listener = TcpListener::bind((flags.host.as_str(), flags.port)).await?;
    println!("listening {}", listener.local_addr()?);
    server.serve(&listener, router).await
}

/// A node on the engines of the flags; memory without any.
async fn backend(flags: &Flags) -> Result<Backend, BackendError> {
    let Flags { backend, log, bus, kv, .. } = flags;
    let urls = Urls { backend: backend.clone(), log: log.clone(), bus: bus.clone(), kv: kv.clone() };
    let engines = Engines::open(urls).await?;
    engines.describe().iter().for_each(|line| eprintln!("{line}"));
    engines.node().await
}

fn server(flags: &Flags, backend: Backend) -> Server {
    let delay = Duration::from_millis(flags.auth_delay_ms);
    let mut limits = Limits::default();
    if let Some(max_connections) = flags.max_connections {
        limits.max_connections = max_connections;
    }
    let builder = if flags.dev { Server::builder().allow_loopback_origins() } else { Server::builder() };
    builder
        .backend(backend)
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
        .rpc("bump", |context: Context, row: Option<Row>| async move { bump(&context, row).await })
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

/// What the server has counted; `pid` tells where to look for the rest.
fn metrics(server: &Server) -> Value {
    let counted = server.metrics_snapshot();
    json!({
        "pid": std::process::id(),
        "messagesIn": counted.messages_in,
        "bytesIn": counted.bytes_in,
        "bytesOut": counted.bytes_out,
    })
}

async fn bump(context: &Context, row: Option<Row>) -> Result<Counts, RpcError> {
    let state = context.server().state();
    let mut counts = Counts { visitors: 0, active: 0 };
    state
        .update("dashboard", |draft| {
            if draft.get("").is_none_or(Value::is_null) {
                let rows: Vec<Value> = (0..3).map(|id| json!({ "id": id, "n": 0 })).collect();
                draft.set("", json!({ "visitors": 0, "active": 0, "rows": rows }))?;
            }
            let rows = draft.get("/rows").and_then(Value::as_array).map_or(0, Vec::len).max(1);
            let at = match &row {
                Some(Row { row }) => *row,
                None => {
                    draft.add("/visitors", 1)?;
                    let visitors = draft.get("/visitors").and_then(Value::as_i64).unwrap_or(0);
                    draft.set("/active", visitors % 7)?;
                    usize::try_from(visitors).unwrap_or(0) % rows
                }
            };
            draft.add(&format!("/rows/{at}/n"), 1)?;
            let read = |name| draft.get(name).and_then(Value::as_i64).unwrap_or(0);
            counts = Counts { visitors: read("/visitors"), active: read("/active") };
            Ok(())
        })
        .await?;
    Ok(counts)
}
