//! Our server as an application has it: every default, mounted by its router, served by `Server::serve`.

use datasole_server::{
    Context, Limits, Server,
    patch::{Patch, PatchLimits},
};
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use crate::{Result, payload, serve::Order};

/// The server.
pub(crate) struct Ours {
    server: Server,
    rows: usize,
}

impl Ours {
    /// Accepts connections from now on.
    pub(crate) async fn start(listener: TcpListener, rows: usize) -> Result<Self> {
        let mut limits = Limits::default();
        if rows > payload::ROWS {
            // Larger than a server takes that nobody has set up for it.
            limits = limits.with(|limits| limits.max_payload = 64 * 1024 * 1024);
        }
        let server = Server::builder()
            .limits(limits)
            .rpc(payload::METHOD, |_: Context, params: Box<RawValue>| async move { Ok(params) })
            .build();
        if rows > 0 {
            server.state().set(payload::STATE, &payload::table(rows)).await?;
        }
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(&listener, serving.router()).await });
        Ok(Self { server, rows })
    }

    /// Publishes to every subscriber.
    pub(crate) async fn carry_out(&self, order: Order) -> Result<()> {
        match order {
            Order::Events(count) => {
                let tick = payload::tick();
                for _ in 0..count {
                    self.server.broadcast(payload::TOPIC, &tick).await?;
                }
            }
            Order::Patch(row) => self.change(row as usize).await?,
            Order::Changes(count) => {
                for change in 0..count as usize {
                    // Far from the last one, as a prime distance is from nearly everything.
                    self.change(change * 7_919 % self.rows).await?;
                }
            }
        }
        Ok(())
    }

    async fn change(&self, row: usize) -> Result<()> {
        let operations = payload::one_cell(row, payload::now()).to_string();
        let patch = Patch::parse(&operations, &PatchLimits::default())?;
        self.server.state().patch(payload::STATE, &patch).await?;
        Ok(())
    }
}
