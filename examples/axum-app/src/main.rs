//! Votes: an RPC that changes a live state, an event that is relayed, a page that shows both.

use axum::{Router, response::Html, routing::get};
use datasole_server::{Context, Replay, RpcError, Server};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Vote {
    option: usize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder()
        .rpc("vote", vote)
        .topic("chat", Replay::default())
        .on(
            "chat",
            |context: Context, message: Value| async move { context.server().broadcast("chat", &message).await },
        )
        .build();
    let options = json!([{ "name": "tea", "votes": 0 }, { "name": "coffee", "votes": 0 }]);
    server.state().set("poll", &options).await?;

    let app = Router::new().route("/", get(Html(include_str!("../index.html")))).merge(server.router());
    let listener = TcpListener::bind("127.0.0.1:4000").await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// One cell of the state changes: this is all that is sent, however long the list is.
async fn vote(context: Context, vote: Vote) -> Result<(), RpcError> {
    let cell = format!("/{}/votes", vote.option);
    context.server().state().update("poll", |draft| draft.add(&cell, 1)).await?;
    Ok(())
}
