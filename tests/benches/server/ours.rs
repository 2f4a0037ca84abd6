//! Our server as an application has it: every default, mounted by its router, served by `Server::serve`.

use datasole_server::{
    Context, Server,
    patch::{Patch, PatchLimits},
};
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use crate::{Result, payload, serve::Order};

/// The server.
pub(crate) struct Ours {
    server: Server,
}

impl Ours {
    /// Accepts connections from now on.
    pub(crate) async fn start(listener: TcpListener, table: bool) -> Result<Self> {
        let server = Server::builder()
            .rpc(payload::METHOD, |_: Context, params: Box<RawValue>| async move { Ok(params) })
            .build();
        if table {
            server.state().set(payload::STATE, &payload::table()).await?;
        }
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(&listener, serving.router()).await });
        Ok(Self { server })
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
            Order::Patch(row) => {
                let operations = payload::one_cell(row as usize, payload::now()).to_string();
                let patch = Patch::parse(&operations, &PatchLimits::default())?;
                self.server.state().patch(payload::STATE, &patch).await?;
            }
        }
        Ok(())
    }
}
