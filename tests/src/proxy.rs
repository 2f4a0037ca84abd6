//! A TCP proxy that cuts connections at arbitrary bytes: in the HTTP handshake, between frames, in the middle of one.
//!
//! It knows nothing of what passes through. A cut waits for its number of bytes in its direction, over as many
//! connections as it takes, then drops both sockets of the connection it hit: the bytes up to there arrive, none after.
//! A weather holds for all connections: bytes of a direction wait, as behind a broken link, or are late.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// A cut to be made.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The direction whose bytes count.
    pub direction: Direction,
    /// How many of them pass.
    pub after: u64,
    /// Reset the connection instead of ending it in order.
    pub reset: bool,
}

/// What the way is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing arrives at the server; it waits.
    pub up_is_closed: bool,
    /// Nothing arrives at the client; it waits.
    pub down_is_closed: bool,
    /// How long everything takes.
    pub delay: Duration,
}

impl Weather {
    fn is_closed(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.up_is_closed,
            Direction::Down => self.down_is_closed,
        }
    }
}

/// A proxy; it stops accepting when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    armed: Mutex<Option<Cut>>,
    made: watch::Sender<u64>,
    weather: watch::Sender<Weather>,
    /// Counts how often all connections were ended.
    ended: watch::Sender<u64>,
}

impl Proxy {
    /// Forwards to `target` from a free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            armed: Mutex::default(),
            made: watch::Sender::new(0),
            weather: watch::Sender::default(),
            ended: watch::Sender::default(),
        });
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(forward(client, shared.clone()));
                }
            }
        });
        Self { address, shared, accepting }
    }

    /// The base URL for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Ends every connection that there is.
    pub fn end_all(&self) {
        self.shared.ended.send_modify(|ended| *ended += 1);
    }

    /// Where connections made from here on go.
    pub fn set_target(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// Makes this cut, counting bytes from here on, and waits until it is made.
    pub async fn cut(&self, cut: Cut) {
        let mut made = self.shared.made.subscribe();
        made.mark_unchanged();
        assert!(lock(&self.shared.armed).replace(cut).is_none(), "one cut at a time");
        made.changed().await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Forwards until either side ends or the cut comes; then both are dropped.
async fn forward(mut client: TcpStream, shared: Arc<Shared>) {
    let target = *lock(&shared.target);
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    // What is cut off must not arrive late.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let mut ended = shared.ended.subscribe();
    let cut = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        tokio::select! {
            cut = pump(client_reads, server_writes, Direction::Up, &shared) => cut,
            cut = pump(server_reads, client_writes, Direction::Down, &shared) => cut,
            _ = ended.changed() => None,
        }
    };
    if let Some(cut) = cut {
        if cut.reset {
            client.set_zero_linger().unwrap();
            server.set_zero_linger().unwrap();
        }
        drop((client, server));
        shared.made.send_modify(|made| *made += 1);
    }
}

/// Copies one direction until its end, or until the cut that came in it.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction, shared: &Shared) -> Option<Cut> {
    let mut buffer = vec![0; 16 * 1024];
    let mut weather = shared.weather.subscribe();
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|&read| read > 0)?;
        let delay = weather.wait_for(|weather| !weather.is_closed(direction)).await.ok()?.delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let (pass, cut) = shared.pass(direction, read);
        let written = to.write_all(&buffer[..pass]).await;
        if cut.is_some() {
            return cut;
        }
        written.ok()?;
    }
}

impl Shared {
    /// How many of the bytes that were read may pass, and the cut that comes after them.
    fn pass(&self, direction: Direction, read: usize) -> (usize, Option<Cut>) {
        let mut armed = lock(&self.armed);
        let Some(cut) = armed.as_mut().filter(|cut| cut.direction == direction) else { return (read, None) };
        if cut.after > read as u64 {
            cut.after -= read as u64;
            return (read, None);
        }
        (cut.after as usize, armed.take())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
