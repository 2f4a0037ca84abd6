//! Clients that receive bursts of events, each in a process of its own: the native client, a bare one as the baseline, and the same
//! that hands each event to another task, as every client does whose user may be slow.
//!
//! The bare ones are tokio-tungstenite with the same buffers, which take the same frames apart and parse the data of each event.
//! They know no limits, positions, subscriptions or reconnecting.

use std::{hint::black_box, net::Ipv4Addr, str::FromStr};

use bytes::Bytes;
use datasole_client::Client;
use datasole_core::{
    frame::{HEADER_LEN, Opcode},
    wire::{split_item, split_varuint},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message, client::IntoClientRequest, http::HeaderValue, http::header::SEC_WEBSOCKET_PROTOCOL,
        protocol::WebSocketConfig,
    },
};

use crate::{
    Result,
    content::Content,
    payload,
    process::Server,
    serve::{Kind, Order},
};

/// The argument that makes this program a client; the next ones are its [`Follower`] and the server's port.
pub(crate) const SUBCOMMAND: &str = "follow";

/// A kind of clients.
#[derive(Clone, Copy)]
pub(crate) enum Follower {
    Ours,
    /// Parses each event and drops it.
    Bare,
    /// Hands each event to another task.
    Handing,
}

impl Follower {
    /// As on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bare => "bare",
            Self::Handing => "handing",
        }
    }
}

impl FromStr for Follower {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = [Self::Ours, Self::Bare, Self::Handing].into_iter().find(|follower| follower.name() == name);
        known.ok_or_else(|| format!("no such client: {name}"))
    }
}

/// Events that are published at once; the client says when it has them.
const BURST: u32 = 500;

/// tungstenite's buffers in the native client; bytes.
const READ_BUFFER: usize = 4 * 1024;
const WRITE_BUFFER: usize = 16 * 1024;

/// A server and a client that follows it.
pub(crate) struct Rig {
    server: Server,
    client: Server,
}

impl Rig {
    /// With a client of this kind.
    pub(crate) fn start(follower: Follower) -> Result<Self> {
        let server = Server::start(Kind::Ours, Content::Nothing)?;
        let mut client = Server::spawn(&[SUBCOMMAND, follower.name(), &server.port.to_string()])?;
        client.answer()?;
        Ok(Self { server, client })
    }

    /// The CPU time of the client for one event of so many bursts; microseconds.
    pub(crate) fn slice(&mut self, bursts: usize) -> Result<f64> {
        let before = self.client.cpu()?;
        for _ in 0..bursts {
            self.server.order(Order::Events(BURST))?;
            self.client.answer()?;
        }
        let used = self.client.cpu()? - before;
        Ok(used as f64 / (bursts * BURST as usize) as f64 / 1_000.0)
    }
}

/// Runs a client until the control connection ends, to which it writes a byte once it follows, and one after each burst.
pub(crate) fn run(follower: Follower, port: u16) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{port} {}", control.local_addr()?.port());
        let (control, _) = control.accept().await?;
        match follower {
            Follower::Ours => follow(port, control).await,
            Follower::Bare => follow_bare(port, control).await,
            Follower::Handing => follow_handing(port, control).await,
        }
    })
}

async fn follow(port: u16, mut control: TcpStream) -> Result<()> {
    let client = Client::builder(format!("http://127.0.0.1:{port}").as_str()).connect().await?;
    let mut events = client.events::<Value>(payload::TOPIC)?;
    // The state's subscription is answered after the topic's.
    client.state::<Value>(payload::STATE)?.changed().await?;
    loop {
        control.write_all(&[1]).await?;
        for _ in 0..BURST {
            black_box(events.next().await.ok_or("the client has ended")??);
        }
    }
}

async fn follow_bare(port: u16, mut control: TcpStream) -> Result<()> {
    let mut socket = subscribed(port).await?;
    loop {
        control.write_all(&[1]).await?;
        let mut missing = BURST;
        while missing > 0 {
            events(&receive(&mut socket).await?, &mut |data| {
                black_box(data);
                missing -= 1;
            })?;
        }
    }
}

async fn follow_handing(port: u16, mut control: TcpStream) -> Result<()> {
    let mut socket = subscribed(port).await?;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(message) = receive(&mut socket).await {
            // The other end goes last.
            if events(&message, &mut |data| drop(sender.send(data))).is_err() {
                return;
            }
        }
    });
    loop {
        control.write_all(&[1]).await?;
        for _ in 0..BURST {
            black_box(receiver.recv().await.ok_or("the client has ended")?);
        }
    }
}

/// A bare client that follows the topic.
async fn subscribed(port: u16) -> Result<WebSocketStream<TcpStream>> {
    let mut request = format!("ws://127.0.0.1:{port}/__ds").into_client_request()?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("datasole.v2"));
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(WRITE_BUFFER);
    let (mut socket, _) = client_async_with_config(request, stream, Some(config)).await?;
    receive(&mut socket).await?;
    for message in [payload::takes_batches(), payload::subscribe(1, "event", payload::TOPIC)] {
        socket.send(Message::Binary(message.into())).await?;
    }
    while receive(&mut socket).await?.first() != Some(&(Opcode::Subscribed as u8)) {}
    Ok(socket)
}

async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Result<Bytes> {
    loop {
        match socket.next().await.ok_or("the server has ended")?? {
            Message::Binary(message) => return Ok(message),
            Message::Ping(_) => {}
            message => return Err(format!("the server sent {message:?}").into()),
        }
    }
}

/// Parses the data of each event in a message.
fn events(message: &[u8], take: &mut impl FnMut(Value)) -> Result<()> {
    let (header, payload) = message.split_first_chunk::<HEADER_LEN>().ok_or("a message without a header")?;
    match Opcode::from_byte(header[0]) {
        Some(Opcode::Batch) => {
            let mut items = payload;
            while !items.is_empty() {
                let (item, rest) = split_item(items).ok_or("a batch that is cut off")?;
                events(item, take)?;
                items = rest;
            }
            Ok(())
        }
        Some(Opcode::Entry) => {
            let data =
                split_varuint(payload).and_then(|(_, rest)| split_varuint(rest)).ok_or("an entry without numbers")?;
            take(serde_json::from_slice(data.1)?);
            Ok(())
        }
        opcode => Err(format!("the server sent {opcode:?}").into()),
    }
}
