//! A server that stores in the folder it is given, in a process of its own: for `tests/durable.rs` to kill.

use std::io::{Error, ErrorKind};

use datasole_server::{Context, Replay, Server, StateError, backend::Sqlite};
use serde_json::json;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let dir = std::env::args_os().nth(1).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "durable DIR"))?;
    let server = Server::builder()
        .backend(Sqlite::open(dir).map_err(Error::other)?)
        .topic("feed", Replay::default())
        // Answered when both are stored.
        .rpc("edit", |context: Context, n: u64| async move {
            context.server().state().update("log", |draft| append(draft, n)).await?;
            context.server().broadcast("feed", &n).await?;
            Ok(n)
        })
        .build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    server.serve(&listener, server.router()).await
}

fn append(draft: &mut datasole_server::Draft<'_>, n: u64) -> Result<(), StateError> {
    if draft.get("").is_none_or(datasole_server::Tree::is_null) {
        return draft.set("", json!([n]));
    }
    draft.insert("/-", n)
}
