//! One of several servers that are one, in a process of its own, for the runs with faults: `node URL [SEED]`. One line
//! `listening HOST:PORT` once it accepts. With a seed it is late, or ends, at points that are drawn from it, until its
//! standard input ends.

use std::io::{Error, ErrorKind};

use datasole_server::{
    AuthError, AuthRequest, Context, Draft, Identity, Limits, Server, StateError,
    backend::{
        Engines,
        chaos::{Failpoints, Rates},
    },
};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

/// How often a node that has failpoints fails.
const RATES: Rates = Rates { late: 4, end: 1 };

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
    let url = std::env::args().nth(1).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "node URL [SEED]"))?;
    let seed = std::env::args().nth(2).map(|seed| seed.parse::<u64>()).transpose().map_err(Error::other)?;
    let engines = Engines::open(url.as_str()).await.map_err(Error::other)?;
    let mut backend = engines.node().await.map_err(Error::other)?;
    if let Some(seed) = seed {
        let failpoints = Failpoints::new(seed, RATES, |_| std::process::abort());
        backend = failpoints.wrap(backend);
        std::thread::spawn(move || {
            // However it ends.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            failpoints.set_rates(Rates::default());
        });
    }
    let mut limits = Limits::default();
    limits.max_connections_per_address = None;
    let server = Server::builder()
        .limits(limits)
        .backend(backend)
        .auth(|request: AuthRequest| async move {
            Ok::<_, AuthError>(request.token.map_or_else(Identity::anonymous, Identity::user))
        })
        .rpc("write", |context: Context, Write { key, id }: Write| async move {
            let mut plans = 0;
            let planned = |draft: &mut Draft<'_>| {
                plans += 1;
                append(draft, id)
            };
            let at = context.server().state().update(&key, planned).await?;
            Ok(json!({ "epoch": at.epoch, "seq": at.seq, "plans": plans }))
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

fn append(draft: &mut Draft<'_>, id: u64) -> Result<(), StateError> {
    if draft.get("").is_none_or(datasole_server::Tree::is_null) {
        return draft.set("", json!([id]));
    }
    draft.insert("/-", id)
}
