//! A server on an engine, in a process of its own, which changes states as it is told.
//!
//! It prints its two ports, `PORT CONTROL`, answers each order with a byte, and ends when the control connection does.

use std::{net::Ipv4Addr, time::Duration};

use datasole_core::StreamId;
use datasole_server::{
    Limits, Server,
    backend::{Engines, Memory, log::Loaded},
    patch::{Patch, PatchLimits},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::Result;

/// The argument that makes this program a node; the URL of its engine follows.
pub(crate) const SUBCOMMAND: &str = "node";
/// Characters in each state, of which every change replaces all.
const TEXT: usize = 150;
/// Changes at once while states are made.
const AT_ONCE: usize = 512;

/// What the control connection asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// States of these numbers, each as [`TEXT`] has it.
    Make { count: u32 },
    /// A change of `count` states at once, from `first` on at distances of `stride`; `turns` times.
    Change { first: u32, count: u32, stride: u32, turns: u32 },
}

/// Bytes of an order.
const LENGTH: usize = 16;

impl Order {
    /// As on the control connection.
    pub(crate) fn encode(self) -> [u8; LENGTH] {
        let numbers = match self {
            Self::Make { count } => [0, count, 0, 0],
            Self::Change { first, count, stride, turns } => [first, count, stride, turns],
        };
        let mut bytes = [0; LENGTH];
        for (to, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; LENGTH]) -> Self {
        let mut numbers =
            bytes.chunks_exact(4).map(|number| number.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
        let mut next = || numbers.next().unwrap_or_default();
        match (next(), next(), next(), next()) {
            (_, count, 0, _) => Self::Make { count },
            (first, count, stride, turns) => Self::Change { first, count, stride, turns },
        }
    }
}

/// The key of a state.
pub(crate) fn key(number: u32) -> String {
    format!("s{number}")
}

/// Runs a node until the control connection ends.
pub(crate) fn run(url: &str) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let server = Server::builder()
            .backend(Engines::open(url).await?.node().await?)
            // Clients do not read while others subscribe.
            .limits(Limits::default().with(|limits| limits.heartbeat = Duration::from_secs(3_600)))
            .build();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{} {}", listener.local_addr()?.port(), control.local_addr()?.port());
        let (mut control, _) = control.accept().await?;
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(&listener, serving.router()).await });
        let mut changes = 0;
        while let Some(order) = next_order(&mut control).await {
            carry_out(&server, order, &mut changes).await?;
            control.write_all(&[0]).await?;
        }
        Ok(())
    })
}

async fn next_order(control: &mut TcpStream) -> Option<Order> {
    let mut bytes = [0; LENGTH];
    control.read_exact(&mut bytes).await.ok()?;
    Some(Order::decode(bytes))
}

async fn carry_out(server: &Server, order: Order, changes: &mut u64) -> Result<()> {
    match order {
        Order::Make { count } => {
            let value = &json!({"text": "x".repeat(TEXT)});
            let made =
                stream::iter(0..count).map(|number| async move { server.state().set(&key(number), value).await });
            made.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
        }
        Order::Change { first, count, stride, turns } => {
            for _ in 0..turns {
                *changes += 1;
                let patch = &patch(*changes)?;
                let keys = (0..count).map(|number| key(first + number * stride));
                let changed = keys.map(|key| async move { server.state().patch(&key, patch).await });
                futures_util::future::try_join_all(changed).await?;
            }
        }
    }
    Ok(())
}

fn patch(number: u64) -> Result<Patch> {
    let operations = json!([{"op": "replace", "path": "/text", "value": format!("{number:0TEXT$}")}]);
    Ok(Patch::parse(&operations.to_string(), &PatchLimits::default())?)
}

/// The bytes of the entry that a change appends.
pub(crate) async fn entry() -> Result<usize> {
    let backend = Memory::default().node();
    let log = backend.log.clone();
    let server = Server::builder().backend(backend).build();
    carry_out(&server, Order::Make { count: 1 }, &mut 0).await?;
    carry_out(&server, Order::Change { first: 0, count: 1, stride: 1, turns: 1 }, &mut 0).await?;
    let Loaded::Whole(stored) = log.load(&StreamId::state(key(0)), None).await? else {
        return Err("the state is not stored".into());
    };
    stored.entries.last().map(|entry| entry.bytes.len()).ok_or_else(|| "the change is not stored".into())
}
