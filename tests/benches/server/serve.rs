//! The child process: one server on one thread, and a control connection that has it publish.
//!
//! It prints its two ports, `PORT CONTROL`, and ends when the control connection does.

use std::{net::Ipv4Addr, str::FromStr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{Result, bare::Bare, content::Content, ours::Ours};

/// The argument that makes this program a server; the next ones are its [`Kind`] and its [`Content`]. (Or it is
/// [`cluster::node::SUBCOMMAND`](crate::cluster::node::SUBCOMMAND).)
pub(crate) const SUBCOMMAND: &str = "serve";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The baseline.
    Bare,
    /// A `datasole_server::Server`.
    Ours,
}

impl Kind {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ours => "ours",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "bare" => Ok(Self::Bare),
            "ours" => Ok(Self::Ours),
            _ => Err(format!("no server is called `{name}`")),
        }
    }
}

/// What the control connection asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// This many events at once, to everyone.
    Events(u32),
    /// One cell of this row of the state, to everyone.
    Patch(u32),
    /// So many changes of the content, which nobody follows; answered with a byte.
    Changes(u32),
}

impl Order {
    /// As on the control connection.
    pub(crate) fn encode(self) -> [u8; 5] {
        let (tag, [a, b, c, d]) = match self {
            Self::Events(count) => (0, count.to_be_bytes()),
            Self::Patch(row) => (1, row.to_be_bytes()),
            Self::Changes(count) => (2, count.to_be_bytes()),
        };
        [tag, a, b, c, d]
    }

    fn decode([tag, a, b, c, d]: [u8; 5]) -> Self {
        let number = u32::from_be_bytes([a, b, c, d]);
        match tag {
            0 => Self::Events(number),
            1 => Self::Patch(number),
            _ => Self::Changes(number),
        }
    }
}

/// Runs a server until the control connection ends.
pub(crate) fn run(kind: Kind, content: Content) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{} {}", listener.local_addr()?.port(), control.local_addr()?.port());
        let (mut control, _) = control.accept().await?;
        match kind {
            Kind::Bare => {
                let server = Bare::start(listener);
                while let Some(order) = next_order(&mut control).await {
                    server.carry_out(order)?;
                }
            }
            Kind::Ours => {
                let server = Ours::start(listener, content).await?;
                while let Some(order) = next_order(&mut control).await {
                    server.carry_out(order).await?;
                    if matches!(order, Order::Changes(_)) {
                        control.write_all(&[1]).await?;
                    }
                }
            }
        }
        Ok(())
    })
}

async fn next_order(control: &mut TcpStream) -> Option<Order> {
    let mut bytes = [0; 5];
    control.read_exact(&mut bytes).await.ok()?;
    Some(Order::decode(bytes))
}
