//! One of several servers that are one, in a process of its own, for the runs with faults: `node URL`. One line
//! `listening HOST:PORT` once it accepts.

use std::io::{Error, ErrorKind};

use datasole_server::{AuthError, AuthRequest, Context, Identity, Limits, Server, StateError, backend::Engines};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

/// A write to a state whose value is a list.
#[derive(Deserialize)]
struct Write {
    key: String,
    id: u64,
}

/// A message to a user.
#[derive(Deserialize)]
struct Mail {
    to: String,
    id: u64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    let url = std::env::args().nth(1).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "node URL"))?;
    let engines = Engines::open(url.as_str()).await.map_err(Error::other)?;
    let mut limits = Limits::default();
    limits.max_connections_per_address = None;
    let server = Server::builder()
        .limits(limits)
        .backend(engines.node().await.map_err(Error::other)?)
        .auth(|request: AuthRequest| async move {
            Ok::<_, AuthError>(request.token.map_or_else(Identity::anonymous, Identity::user))
        })
        .rpc("write", |context: Context, Write { key, id }: Write| async move {
            let at = context.server().state().update(&key, |draft| append(draft, id)).await?;
            Ok(json!({ "epoch": at.epoch, "seq": at.seq }))
        })
        .rpc("mail", |context: Context, Mail { to, id }: Mail| async move {
            context.server().to_user(&to).emit("mail", &id).await?;
            Ok(id)
        })
        .rpc("read", |context: Context, key: String| async move { Ok(context.server().state().get(&key).await?) })
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    server.serve(&listener, server.router()).await
}

fn append(draft: &mut datasole_server::Draft<'_>, id: u64) -> Result<(), StateError> {
    if draft.get("").is_none_or(serde_json::Value::is_null) {
        return draft.set("", json!([id]));
    }
    draft.insert("/-", id)
}
