//! Crowds: connections that come at once, and native clients that come back when their server has been killed and started again.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use datasole_client::Client;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

use crate::{
    Result,
    content::Content,
    load::{Load, Stream},
    payload,
    process::{self, Server},
    serve::{Kind, Order},
};

/// The argument that makes this program clients; the next ones are the server's port and their number.
pub(crate) const SUBCOMMAND: &str = "crowd";
/// The time in which the server's clients are to try again, in its HELLO.
pub(crate) const WINDOW: Duration = Duration::from_secs(4);

/// Connections that come to one server before as many come to the other.
const CROWD: usize = 500;
/// Clients that connect for the first time at once.
const OPENING: usize = 50;
/// Rows of the state that everybody follows.
const ROWS: usize = 20;

/// CPU time for each of so many connections that come and follow a small state, of ours and of the bare server, in microseconds, for
/// each crowd of them; and the most memory of ours that was resident meanwhile. Those of the bare server do not stay.
pub(crate) fn come(connections: usize) -> Result<(Vec<(f64, f64)>, f64)> {
    let connections = connections.min(process::descriptors().saturating_sub(CROWD));
    let (ours, bare) = (Server::start(Kind::Ours, Content::Rows(ROWS))?, Server::start(Kind::Bare, Content::Nothing)?);
    let mut herd = Load::open(ours.port, 0, Stream::State)?;
    let mut pairs = Vec::new();
    for begun in (0..connections).step_by(CROWD) {
        let crowd = CROWD.min(connections - begun);
        let each = |used: u64| used as f64 / crowd as f64 / 1_000.0;
        let before = (ours.cpu()?, bare.cpu()?);
        herd.add(ours.port, crowd, Stream::State)?;
        let _leaving = Load::open(bare.port, crowd, Stream::State)?;
        pairs.push((each(ours.cpu()? - before.0), each(bare.cpu()? - before.1)));
    }
    Ok((pairs, ours.peak()? as f64))
}

/// How long it takes until so many native clients of a server that was killed are back and have the present value, from when it listens
/// again; and how long it must: the window, or the CPU time of the server or of the clients if that is more. Microseconds, for each of so many rounds.
pub(crate) fn come_back(clients: usize, rounds: usize) -> Result<Vec<(f64, f64)>> {
    let clients = clients.min(process::descriptors());
    (0..rounds).map(|_| come_back_once(clients)).collect()
}

fn come_back_once(clients: usize) -> Result<(f64, f64)> {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let server = Server::start(Kind::Ours, Content::Rows(ROWS))?;
    let port = server.port;
    let mut crowd = Server::spawn(&[SUBCOMMAND, &port.to_string(), &clients.to_string()])?;
    crowd.answer()?;
    let before = crowd.cpu()?;
    drop(server);
    let mut server = Server::start_at(Kind::Ours, Content::Rows(ROWS), port)?;
    let began = Instant::now();
    server.order(Order::Replace)?;
    crowd.answer()?;
    let took = micros(began.elapsed());
    let used = [server.cpu()?, crowd.cpu()? - before].map(|nanoseconds| nanoseconds as f64 / 1_000.0);
    eprintln!(
        "  back after {:.0} ms; CPU {:.0} ms of the server, {:.0} of the clients",
        took / 1e3,
        used[0] / 1e3,
        used[1] / 1e3
    );
    Ok((took, micros(WINDOW).max(used[0]).max(used[1])))
}

/// Runs so many native clients until the control connection ends, to which a byte is written once all have the state, and once all have
/// it replaced.
pub(crate) fn run(port: u16, clients: usize) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{port} {}", control.local_addr()?.port());
        let (mut control, _) = control.accept().await?;
        let url = format!("http://127.0.0.1:{port}");
        let connect = |_| Client::builder(url.as_str()).connect();
        let connected: Vec<_> = stream::iter(0..clients).map(connect).buffer_unordered(OPENING).try_collect().await?;
        let (sender, mut values) = mpsc::unbounded_channel();
        for client in &connected {
            let mut state = client.state::<Value>(payload::STATE)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while state.changed().await.is_ok() {
                    let n = state.value().and_then(|value| value["rows"][0]["n"].as_u64());
                    // The other end goes last.
                    let _ = sender.send(n);
                }
            });
        }
        for expected in 0.. {
            let mut missing = clients;
            while missing > 0 {
                let n = values.recv().await.ok_or("the clients have ended")?;
                missing -= usize::from(n == Some(expected));
            }
            control.write_all(&[1]).await?;
        }
        Ok(())
    })
}
