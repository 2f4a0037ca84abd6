//! The task behind a client: feeds the core, performs its outputs, and re-arms its one timer. No protocol is here.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use datasole_core::{Input, Millis, Output, SocketClose, SocketId};
use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{
    clock::sleep_until,
    host::{BoxFuture, Dialer, Function, Hints, Received, Socket, Task},
    router::Shared,
};

/// Asks the program for a token.
pub(crate) type TokenProvider = Function<Answer>;
pub(crate) type Answer = Result<Option<String>, String>;

pub(crate) struct Driver {
    shared: Arc<Shared>,
    dialer: Dialer,
    provider: Option<TokenProvider>,
    /// How long a closing handshake may take.
    close_timeout: Duration,
    link: Link,
    token: Option<Task<Answer>>,
    /// Sockets that only have their closing handshake left.
    closing: FuturesUnordered<Task<()>>,
    hints: Hints,
    closed: bool,
}

/// The core has one socket at a time.
enum Link {
    Idle,
    Opening { socket: SocketId, attempt: Attempt },
    Open { socket: SocketId, stream: Box<Socket> },
}

type Attempt = BoxFuture<Result<(Socket, Option<String>), SocketClose>>;

/// An event of the socket.
enum Happened {
    Opened(Option<String>),
    Message(Bytes),
    Room,
    Closed(SocketClose),
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        dialer: Dialer,
        provider: Option<TokenProvider>,
        close_timeout: Duration,
    ) -> Self {
        let (link, closing) = (Link::Idle, FuturesUnordered::new());
        let hints = Hints::listen();
        Self { shared, dialer, provider, close_timeout, link, token: None, closing, hints, closed: false }
    }

    /// Runs until the client is closed and its last socket with it.
    pub(crate) async fn run(mut self) {
        loop {
            let deadline = self.perform_outputs();
            if self.closed && self.closing.is_empty() {
                return;
            }
            self.wait(deadline).await;
        }
    }

    /// Drains the core; returns its deadline.
    fn perform_outputs(&mut self) -> Option<Millis> {
        let shared = self.shared.clone();
        let mut router = shared.router();
        let now = shared.now();
        let mut news = false;
        while let Some(output) = router.core_mut().poll_output() {
            match output {
                Output::OpenSocket { socket, url, protocols } => self.open(socket, url, protocols),
                Output::Send { socket, message } => self.send(socket, message),
                Output::CloseSocket { socket, code, reason } => self.close(socket, code, reason),
                Output::NeedToken => self.ask_token(),
                Output::Event(event) => {
                    news = true;
                    router.route(now, event);
                }
            }
        }
        router.deliver();
        self.closed = router.is_closed();
        if router.set_unsent(self.link.unsent()) {
            shared.room.notify_waiters();
        }
        let deadline = router.poll_timeout();
        drop(router);
        if news {
            shared.watchers.tell();
        }
        deadline
    }

    fn open(&mut self, socket: SocketId, url: String, protocols: &'static [&'static str]) {
        self.link = Link::Opening { socket, attempt: Box::pin(self.dialer.clone().open(url, protocols)) };
    }

    fn send(&mut self, to: SocketId, message: Vec<u8>) {
        if let Link::Open { socket, stream } = &mut self.link
            && *socket == to
        {
            stream.send(message);
        }
    }

    fn close(&mut self, which: SocketId, code: u16, reason: &'static str) {
        if self.link.socket() != Some(which) {
            return;
        }
        if let Link::Open { stream, .. } = std::mem::replace(&mut self.link, Link::Idle) {
            let patience = self.close_timeout;
            self.closing.push(Task::spawn(async move { stream.close(code, reason, patience).await }));
        }
    }

    /// Runs in a task of its own, so that a panic in the program's provider is a failed token and not a dead client.
    fn ask_token(&mut self) {
        self.token = self.provider.clone().map(|provider| Task::spawn(async move { provider().await }));
    }

    /// Waits for one thing to happen and feeds it.
    async fn wait(&mut self, deadline: Option<Millis>) {
        let shared = &self.shared;
        let timer = async {
            let instant = deadline.and_then(|Millis(at)| shared.started.checked_add(Duration::from_millis(at)));
            match instant {
                Some(instant) => sleep_until(instant).await,
                None => pending().await,
            }
        };
        tokio::select! {
            (socket, happened) = self.link.next() => self.feed(socket, happened),
            token = answer(&mut self.token) => {
                self.token = None;
                self.feed_input(Input::Token(token));
            }
            () = timer => {
                let now = shared.now();
                shared.router().run_timers(now);
            }
            () = shared.wake.notified() => {}
            Some(_) = self.closing.next() => {}
            hint = self.hints.next() => self.feed_input(Input::Hint(hint)),
        }
    }

    fn feed(&mut self, socket: SocketId, happened: Happened) {
        match happened {
            Happened::Opened(protocol) => {
                self.feed_input(Input::SocketOpened { socket, protocol: protocol.as_deref() });
            }
            Happened::Message(bytes) => self.feed_input(Input::Message { socket, bytes: &bytes }),
            Happened::Room => {}
            Happened::Closed(close) => {
                if let Link::Open { stream, .. } = std::mem::replace(&mut self.link, Link::Idle) {
                    self.closing.push(Task::spawn(stream.end(self.close_timeout)));
                }
                self.feed_input(Input::SocketClosed { socket, close });
            }
        }
    }

    fn feed_input(&self, input: Input<'_>) {
        let now = self.shared.now();
        self.shared.router().core_mut().handle_input(now, input);
    }
}

impl Drop for Driver {
    /// Also runs if the runtime shuts down under the client: pending calls and streams must end.
    fn drop(&mut self) {
        self.shared.finish();
    }
}

impl Link {
    fn socket(&self) -> Option<SocketId> {
        match self {
            Self::Idle => None,
            Self::Opening { socket, .. } | Self::Open { socket, .. } => Some(*socket),
        }
    }

    fn unsent(&self) -> usize {
        match self {
            Self::Idle | Self::Opening { .. } => 0,
            Self::Open { stream, .. } => stream.unsent(),
        }
    }

    /// Cancel safe.
    async fn next(&mut self) -> (SocketId, Happened) {
        match self {
            Self::Idle => pending().await,
            Self::Opening { socket, attempt } => {
                let socket = *socket;
                match attempt.await {
                    Ok((stream, protocol)) => {
                        *self = Self::Open { socket, stream: Box::new(stream) };
                        (socket, Happened::Opened(protocol))
                    }
                    Err(close) => {
                        *self = Self::Idle;
                        (socket, Happened::Closed(close))
                    }
                }
            }
            Self::Open { socket, stream } => {
                let happened = match stream.next().await {
                    Received::Message(bytes) => Happened::Message(bytes),
                    Received::Room => Happened::Room,
                    Received::Closed(close) => Happened::Closed(close),
                };
                (*socket, happened)
            }
        }
    }
}

async fn answer(token: &mut Option<Task<Answer>>) -> Answer {
    match token {
        Some(asked) => asked.await.unwrap_or_else(|| Err("the token provider panicked".into())),
        None => pending().await,
    }
}
