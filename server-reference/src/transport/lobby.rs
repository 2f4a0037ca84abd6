//! Sockets that speak HTTP: requests, files, and clients on their way to a WebSocket.
//!
//! They have no place yet, so they must not keep others out: when the lobby is full, the one that has made no progress for
//! the longest time has to go. Who has asked for a WebSocket and taken a seat among the connections is no guest any more, and stays:
//! were a crowd that comes back at once sent away while it is being authenticated, it would only come again and again.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep, sleep},
};

use crate::{
    admission::{Source, counted},
    sync::lock,
};

/// How a client begins that speaks HTTP/2 without having been asked to.
const PREFACE: &[u8] = b"PRI * HTTP/2";
const NO_HTTP2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\n\
    connection: close\r\ncontent-length: 69\r\n\r\nthis server speaks HTTP/1.1: no h2c, and no proto h2 in front of it.\n";

pub(super) struct Lobby {
    limit: usize,
    /// The most from one source.
    share: usize,
    /// The most that are no guests because they have a seat.
    seats: usize,
    seated: AtomicUsize,
    started: Instant,
    next: AtomicU64,
    guests: Mutex<HashMap<u64, Arc<Flow>>>,
}

/// The record of one socket.
pub(super) struct Flow {
    lobby: Arc<Lobby>,
    number: u64,
    source: Option<Source>,
    /// Milliseconds after the start at which bytes went either way.
    moved: AtomicU64,
    /// Requests that are being answered.
    serving: AtomicUsize,
    /// The peer does not read.
    blocked: AtomicBool,
    /// The socket has a seat among the connections, and is no guest.
    seated: AtomicBool,
    /// The socket speaks HTTP no more.
    over: AtomicBool,
    leave: Notify,
}

/// A socket in the lobby; it leaves when dropped.
pub(super) struct Guest {
    pub(super) flow: Arc<Flow>,
}

impl Lobby {
    /// For so many guests, and so many more that have a seat and are still to be answered.
    pub(super) fn new(limit: usize, seats: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(1),
            share: (limit / 4).max(1),
            seats,
            seated: AtomicUsize::new(0),
            started: Instant::now(),
            next: AtomicU64::new(0),
            guests: Mutex::default(),
        })
    }

    /// Lets a socket in. If the lobby is full, or its source has its share, another one has to go for it.
    pub(super) fn enter(self: &Arc<Self>, source: Option<Source>) -> Guest {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let flow = Arc::new(Flow {
            lobby: self.clone(),
            number,
            source,
            moved: AtomicU64::new(self.now()),
            serving: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            seated: AtomicBool::new(false),
            over: AtomicBool::new(false),
            leave: Notify::new(),
        });
        self.place(&mut lock(&self.guests), flow.clone());
        Guest { flow }
    }

    /// Adds a guest. If the lobby is full, or its source has its share, another one has to go for it.
    fn place(&self, guests: &mut HashMap<u64, Arc<Flow>>, flow: Arc<Flow>) {
        let own = |other: &Flow| flow.source.is_some() && other.source == flow.source;
        if guests.values().filter(|flow| own(flow)).count() >= self.share {
            send_away(guests, own);
        } else if guests.len() >= self.limit {
            send_away(guests, |_| true);
        }
        guests.insert(flow.number, flow);
    }

    /// Sends away the socket that can be spared most; `false` if there is none.
    pub(super) fn make_room(&self) -> bool {
        send_away(&mut lock(&self.guests), |_| true)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Sends away, of those chosen, the one that has been idle longest.
fn send_away(guests: &mut HashMap<u64, Arc<Flow>>, chosen: impl Fn(&Flow) -> bool) -> bool {
    let idlest = guests.iter().filter(|(_, flow)| chosen(flow)).min_by_key(|(number, flow)| (flow.rank(), **number));
    let Some((&number, _)) = idlest else { return false };
    if let Some(flow) = guests.remove(&number) {
        flow.leave.notify_one();
    }
    true
}

impl Flow {
    /// Those with the lowest rank go first: a handler at work is no fault of the client.
    fn rank(&self) -> (bool, u64) {
        let works = self.serving.load(Ordering::Relaxed) > 0 && !self.blocked.load(Ordering::Relaxed);
        (works, self.moved.load(Ordering::Relaxed))
    }

    /// A request that is being answered, until this is dropped.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// Resolves when the socket has to go, unless it [has a seat](Self::is_seated) by then.
    pub(super) async fn sent_away(&self) {
        self.leave.notified().await;
    }

    /// Notes that a request of the socket has taken a seat. It stays a guest where too many have one and are still to be answered.
    pub(super) fn seat(&self) {
        let lobby = &self.lobby;
        let mut guests = lock(&lobby.guests);
        // A handler may outlive its socket.
        let may_sit = lobby.seated.load(Ordering::Relaxed) < lobby.seats && !self.over.load(Ordering::Relaxed);
        if may_sit && !self.seated.swap(true, Ordering::Relaxed) {
            lobby.seated.fetch_add(1, Ordering::Relaxed);
            guests.remove(&self.number);
        }
    }

    /// Gives the seat up; `false` if it had none.
    fn rise(&self) -> bool {
        let had = self.seated.swap(false, Ordering::Relaxed);
        self.lobby.seated.fetch_sub(usize::from(had), Ordering::Relaxed);
        had
    }

    pub(super) fn is_seated(&self) -> bool {
        self.seated.load(Ordering::Relaxed)
    }
}

pub(super) struct Serving(Arc<Flow>);

impl Serving {
    /// Notes that no WebSocket has come of the request: a socket that had a seat is a guest again.
    pub(super) fn stand_up(&self) {
        let flow = &self.0;
        let mut guests = lock(&flow.lobby.guests);
        if flow.rise() {
            flow.lobby.place(&mut guests, flow.clone());
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guest {
    /// The socket as the lobby watches it; an answer that is not read for `patience` ends it.
    pub(super) fn watch(&self, stream: TcpStream, patience: Duration) -> Watched {
        Watched { stream, flow: self.flow.clone(), patience, deadline: None, fresh: true }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.flow.over.store(true, Ordering::Relaxed);
        lock(&self.flow.lobby.guests).remove(&self.flow.number);
        self.flow.rise();
    }
}

/// A socket of the lobby.
pub(super) struct Watched {
    stream: TcpStream,
    flow: Arc<Flow>,
    patience: Duration,
    /// When the peer must have read something.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Nothing was read yet.
    fresh: bool,
}

impl Watched {
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn moved(&mut self) {
        self.flow.moved.store(self.flow.lobby.now(), Ordering::Relaxed);
    }

    /// The outcome of a write: progress, or another moment of waiting.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.deadline.take().is_some() {
                self.flow.blocked.store(false, Ordering::Relaxed);
            }
            self.moved();
            return written;
        }
        self.flow.blocked.store(true, Ordering::Relaxed);
        let patience = self.patience;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(patience)));
        if deadline.as_mut().poll(cx).is_ready() && !self.flow.over.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answer")));
        }
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() && buffer.filled().len() > before {
            self.moved();
            if std::mem::take(&mut self.fresh) && buffer.filled()[before..].starts_with(PREFACE) {
                // The first bytes that this socket is sent: there is room for them.
                let _ = self.stream.try_write(NO_HTTP2);
                buffer.set_filled(before);
            }
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The source of a socket, if bounds count it: the machine itself and trusted proxies stand for many.
pub(super) fn source(peer: SocketAddr, is_proxy: bool) -> Option<Source> {
    counted(Some(peer)).filter(|_| !is_proxy).map(Source::from)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    fn from(address: &str) -> Option<Source> {
        Some(address.parse::<IpAddr>().unwrap().into())
    }

    fn is_sent_away(guest: &Guest) -> bool {
        guest.flow.sent_away().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_idlest_makes_room() {
        let lobby = Lobby::new(4, 0);
        let guests: Vec<_> = (0..4).map(|_| lobby.enter(None)).collect();
        assert!(!guests.iter().any(is_sent_away), "at the limit all may stay");
        // The first has a handler at work, the second has just moved.
        let serving = guests[0].flow.serve();
        guests[1].flow.moved.store(lobby.now() + 1_000, Ordering::Relaxed);
        let fifth = lobby.enter(None);
        assert_eq!(guests.iter().map(is_sent_away).collect::<Vec<_>>(), [false, false, true, false]);
        // One that does not read its answer is not at work.
        guests[0].flow.blocked.store(true, Ordering::Relaxed);
        assert!(lobby.make_room());
        assert!(is_sent_away(&guests[0]));
        drop((serving, guests, fifth));
        assert!(!lobby.make_room(), "all have left");
    }

    #[tokio::test]
    async fn who_has_a_seat_is_no_guest_and_without_it_one_again() {
        let lobby = Lobby::new(2, 9);
        let guests: Vec<_> = (0..2).map(|_| lobby.enter(None)).collect();
        let serving = guests[0].flow.serve();
        guests[0].flow.seat();
        let third = lobby.enter(None);
        assert!(!guests.iter().any(is_sent_away), "there was room");
        // The second one is sent away in the moment in which it takes its seat: it sees that it need not go.
        assert!(lobby.make_room());
        guests[1].flow.seat();
        assert!(is_sent_away(&guests[1]) && guests[1].flow.is_seated());
        // Its token was refused.
        serving.stand_up();
        assert!(!guests[0].flow.is_seated());
        drop(serving);
        let fourth = lobby.enter(None);
        assert_eq!([&guests[0], &third, &fourth].map(is_sent_away), [true, false, false]);
        drop((guests, third, fourth));
        assert!(!lobby.make_room(), "all have left");
    }

    #[tokio::test]
    async fn who_stands_up_is_one_of_as_many_guests() {
        let lobby = Lobby::new(2, 9);
        let guests: Vec<_> = (0..4)
            .map(|_| {
                let guest = lobby.enter(None);
                guest.flow.seat();
                guest
            })
            .collect();
        guests.iter().for_each(|guest| guest.flow.serve().stand_up());
        assert_eq!(guests.iter().map(is_sent_away).collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!(lock(&lobby.guests).len(), 2);
    }

    #[tokio::test]
    async fn nobody_sits_whose_socket_is_gone() {
        let lobby = Lobby::new(2, 9);
        let guest = lobby.enter(None);
        let flow = guest.flow.clone();
        drop(guest);
        flow.seat();
        assert_eq!(lobby.seated.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn seats_below_at_and_above_the_limit() {
        let lobby = Lobby::new(9, 2);
        let guests: Vec<_> = (0..3).map(|_| lobby.enter(None)).collect();
        let seated = || guests.iter().map(|guest| guest.flow.is_seated()).collect::<Vec<_>>();
        for guest in &guests {
            guest.flow.seat();
        }
        assert_eq!(seated(), [true, true, false]);
        guests[0].flow.serve().stand_up();
        guests[2].flow.seat();
        assert_eq!(seated(), [false, true, true]);
        drop(guests);
        assert_eq!(lobby.seated.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_source_that_has_its_share_pays_itself() {
        let lobby = Lobby::new(8, 0);
        let honest = lobby.enter(from("203.0.113.1"));
        let flood: Vec<_> = (0..3).map(|_| lobby.enter(from("203.0.113.7"))).collect();
        assert!(!is_sent_away(&honest));
        assert_eq!(flood.iter().map(is_sent_away).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn the_machine_itself_and_proxies_are_not_counted() {
        assert_eq!(source("127.0.0.1:9".parse().unwrap(), false), None);
        assert_eq!(source("203.0.113.7:9".parse().unwrap(), true), None);
        assert_eq!(source("203.0.113.7:9".parse().unwrap(), false), from("203.0.113.7"));
    }

    #[test]
    fn the_answer_to_http2_is_as_long_as_it_says() {
        let text = std::str::from_utf8(NO_HTTP2).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
