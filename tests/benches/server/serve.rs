//! The child process: one server on one thread, and a control connection that has it publish.
//!
//! It prints its two ports, `PORT CONTROL`, and ends when the control connection does.

use std::{net::Ipv4Addr, str::FromStr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{Result, alone::Alone, bare::Bare, content::Content, ours::Ours};

/// The argument that makes this program a server; the next ones are its [`Kind`], its [`Content`] and its port, 0 for any. (Or
/// the next one is the `SUBCOMMAND` of [`cluster::node`](crate::cluster::node), [`follower`](crate::follower) or [`herd`](crate::herd).)
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
    /// The same of small ones.
    SmallEvents(u32),
    /// One cell of this row of the state, to everyone.
    Patch(u32),
    /// Changes this much of the content; answered.
    Changes(u32),
    /// Sets the whole state, with another value in one cell of this row; answered.
    Set(u32),
    /// Sets the whole state, so that every row is another; answered.
    Replace,
    /// Notes from now on how long the runtime's thread is kept; answered.
    Watch,
    /// Asks for the longest time since the last such order; answered with it, in nanoseconds.
    Longest,
}

impl Order {
    /// Whether the server answers with a number, once it is carried out.
    pub(crate) fn is_answered(self) -> bool {
        !matches!(self, Self::Events(_) | Self::SmallEvents(_) | Self::Patch(_))
    }

    /// As on the control connection.
    pub(crate) fn encode(self) -> [u8; 5] {
        let (tag, [a, b, c, d]) = match self {
            Self::Events(count) => (0, count.to_be_bytes()),
            Self::Patch(row) => (1, row.to_be_bytes()),
            Self::Changes(count) => (2, count.to_be_bytes()),
            Self::SmallEvents(count) => (3, count.to_be_bytes()),
            Self::Set(row) => (4, row.to_be_bytes()),
            Self::Replace => (5, [0; 4]),
            Self::Watch => (6, [0; 4]),
            Self::Longest => (7, [0; 4]),
        };
        [tag, a, b, c, d]
    }

    fn decode([tag, a, b, c, d]: [u8; 5]) -> Self {
        let number = u32::from_be_bytes([a, b, c, d]);
        match tag {
            0 => Self::Events(number),
            1 => Self::Patch(number),
            2 => Self::Changes(number),
            3 => Self::SmallEvents(number),
            4 => Self::Set(number),
            5 => Self::Replace,
            6 => Self::Watch,
            _ => Self::Longest,
        }
    }
}

/// Runs a server until the control connection ends.
pub(crate) fn run(kind: Kind, content: Content, port: u16) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = datasole_server::listen((Ipv4Addr::LOCALHOST, port)).await?;
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{} {}", listener.local_addr()?.port(), control.local_addr()?.port());
        let (mut control, _) = control.accept().await?;
        match kind {
            Kind::Bare => {
                let (server, mut alone) = (Bare::start(listener), None);
                while let Some(order) = next_order(&mut control).await {
                    match order {
                        Order::Changes(count) => {
                            alone.get_or_insert_with(|| Alone::new(content)).change(count)?;
                            control.write_u64(0).await?;
                        }
                        order => server.carry_out(order)?,
                    }
                }
            }
            Kind::Ours => {
                let server = Ours::start(listener, content).await?;
                while let Some(order) = next_order(&mut control).await {
                    let number = server.carry_out(order).await?;
                    if order.is_answered() {
                        control.write_u64(number).await?;
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
