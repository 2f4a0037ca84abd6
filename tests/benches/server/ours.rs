//! Our server as an application has it: every default that the content fits in, mounted by its router, served by
//! `Server::serve`.

use std::sync::atomic::{AtomicU64, Ordering};

use datasole_server::{
    Context, CrdtKind, Limits, Server,
    patch::{Patch, PatchLimits},
};
use datasole_tests::table::Table;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::{net::TcpListener, task::spawn_blocking};

use crate::{Result, content::Content, herd, payload, serve::Order, watch::Watch};

/// More connections than the descriptors of most systems permit.
const CONNECTIONS: usize = 100_000;

/// The server.
pub(crate) struct Ours {
    server: Server,
    content: Content,
    /// The cell `n` of all rows of the state.
    n: AtomicU64,
    watch: Watch,
}

impl Ours {
    /// Accepts connections from now on.
    pub(crate) async fn start(listener: TcpListener, content: Content) -> Result<Self> {
        let limits = Limits::default().with(|limits| {
            limits.max_connections = CONNECTIONS;
            if let Content::Keys(count) = content {
                // In memory, though nobody follows them.
                limits.max_idle_states = count;
            }
            if content.count() >= payload::ROWS {
                limits.max_payload = payload::LARGE;
                limits.crdt.max_bytes = payload::LARGE;
                limits.crdt.max_entries = content.count() + 1;
            }
        });
        let server = Server::builder()
            .limits(limits)
            .reconnect_window(herd::WINDOW)
            .crdt(payload::MAP, CrdtKind::LwwMap)
            .rpc(payload::METHOD, |_: Context, params: Box<RawValue>| async move { Ok(params) })
            .build();
        let serving = server.clone();
        let ours = Self { server, content, n: AtomicU64::default(), watch: Watch::default() };
        match content {
            Content::Nothing => {}
            Content::Rows(rows) => {
                ours.server.state().set(payload::STATE, &Table::new(rows)).await?;
            }
            Content::Entries(count) | Content::Keys(count) => {
                for index in 0..count {
                    ours.make(index).await?;
                }
            }
        }
        tokio::spawn(async move { serving.serve(&listener, serving.router()).await });
        Ok(ours)
    }

    /// Carries out an order; the number that answers it, where one does.
    pub(crate) async fn carry_out(&self, order: Order) -> Result<u64> {
        match order {
            Order::Events(count) => self.publish(count, &payload::tick()).await?,
            Order::SmallEvents(count) => self.publish(count, &payload::small_tick()).await?,
            Order::Patch(row) => self.change(row as usize, payload::now()).await?,
            Order::Changes(count) => {
                for change in 0..u64::from(count) {
                    self.change(self.content.of(change), payload::now() + change).await?;
                }
            }
            Order::Set(row) => self.set(Some((row as usize, payload::now()))).await?,
            Order::Replace => {
                self.n.fetch_add(1, Ordering::Relaxed);
                self.set(None).await?;
            }
            Order::Watch => self.watch.start(),
            Order::Longest => return Ok(self.watch.longest().await),
        }
        Ok(0)
    }

    async fn publish(&self, count: u32, data: &Value) -> Result<()> {
        for _ in 0..count {
            self.server.broadcast(payload::TOPIC, data).await?;
        }
        Ok(())
    }

    /// Sets the state as who has a large one should: its text is written off the runtime's thread.
    async fn set(&self, changed: Option<(usize, u64)>) -> Result<()> {
        let table = Table { rows: self.content.count(), n: self.n.load(Ordering::Relaxed), changed };
        let text = spawn_blocking(move || to_raw_value(&table)).await??;
        self.server.state().set(payload::STATE, &text).await?;
        Ok(())
    }

    async fn make(&self, index: usize) -> Result<()> {
        match self.content {
            Content::Entries(_) => self.server.crdt().map(payload::MAP).set(&payload::entry(index), &0).await?,
            Content::Keys(_) => {
                self.server.state().set(&payload::key(index), &json!({ "n": 0 })).await?;
            }
            Content::Nothing | Content::Rows(_) => {}
        }
        Ok(())
    }

    async fn change(&self, index: usize, value: u64) -> Result<()> {
        let (key, operations) = match self.content {
            Content::Entries(_) => {
                self.server.crdt().map(payload::MAP).set(&payload::entry(index), &value).await?;
                return Ok(());
            }
            Content::Keys(_) => (payload::key(index), json!([{"op": "replace", "path": "/n", "value": value}])),
            Content::Nothing | Content::Rows(_) => (payload::STATE.to_owned(), payload::one_cell(index, value)),
        };
        let patch = Patch::parse(&operations.to_string(), &PatchLimits::default())?;
        self.server.state().patch(&key, &patch).await?;
        Ok(())
    }
}
