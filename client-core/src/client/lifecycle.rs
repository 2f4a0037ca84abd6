//! From idle to open and back: attempts, tokens, greetings, losses, timers, hints.

use super::Client;
use crate::{
    config::TokenVia,
    error::CallError,
    event::{CloseVerdict, DisconnectReason, Event, Hint, Output, SocketClose, SocketId, Status},
    frame::Opcode,
    queue::Item,
    read::Read,
    reconnect::{MAX_WINDOW, STABLE_AFTER},
    session::{Link, Phase, Version},
    time::{Millis, TimerKind},
    wire::{CLOSE_INVALID, Hello, SUBPROTOCOLS},
    write,
};

impl Client {
    // --- towards open ---

    /// Begins an attempt: asks for a token where one is to be asked for, then for a socket.
    pub(super) fn attempt(&mut self) {
        self.set_status(match self.backoff.attempts {
            0 => Status::Connecting,
            attempt => Status::Reconnecting { attempt },
        });
        if !self.config.ask_token {
            return self.open_socket();
        }
        self.phase = Phase::Token { deadline: self.clock.now() + self.config.token_timeout };
        if !self.token_asked {
            self.token_asked = true;
            self.outputs.push_back(Output::NeedToken);
        }
    }

    pub(super) fn on_token(&mut self, answer: Result<Option<String>, String>) {
        self.token_asked = false;
        if !matches!(self.phase, Phase::Token { .. }) {
            return;
        }
        match answer {
            Ok(token) => {
                self.token = token;
                self.open_socket();
            }
            Err(message) => self.lose(DisconnectReason::Unauthorized(message), CloseVerdict::Retry),
        }
    }

    fn open_socket(&mut self) {
        self.last_socket += 1;
        let socket = SocketId(self.last_socket);
        let url = self.config.url.split(' ').cycle().nth(self.endpoint).unwrap_or_default();
        let url = match (self.config.token_via, &self.token) {
            (TokenVia::Url, Some(token)) => with_query(url, "token", token),
            (TokenVia::Frame, _) => with_query(url, "auth", "frame"),
            (TokenVia::Url, None) | (TokenVia::Host, _) => url.into(),
        };
        let protocols = if self.offers_v2() { SUBPROTOCOLS } else { SUBPROTOCOLS.split_at(1).0 };
        self.phase = Phase::Opening { socket, deadline: self.clock.now() + self.config.connect_timeout };
        self.outputs.push_back(Output::OpenSocket { socket, url, protocols });
    }

    /// A token in a frame needs version 2.
    fn offers_v2(&self) -> bool {
        self.config.offer_v2 || self.config.token_via == TokenVia::Frame
    }

    pub(super) fn on_opened(&mut self, socket: SocketId, protocol: Option<&str>) {
        let Phase::Opening { socket: awaited, deadline } = self.phase else { return };
        if awaited != socket {
            return;
        }
        let by_frame = self.config.token_via == TokenVia::Frame;
        let version = match protocol {
            Some("datasole.v2") if self.offers_v2() => Version::V2,
            None | Some("" | "datasole.v1") => Version::V1,
            Some(_) => return self.refuse("the server chose a subprotocol that was not offered"),
        };
        let link = Link::new(socket, version, self.clock.now(), &self.config);
        match version {
            Version::V1 if by_frame => self.refuse("the server speaks version 1, which takes no token in a frame"),
            Version::V1 => {
                self.subscriptions.begin_v1();
                let connected = Status::Connected {
                    protocol: 1,
                    connection_id: String::new(),
                    user_id: None,
                    server_time: None,
                    same_contract: None,
                };
                self.opened(link, false, connected);
            }
            Version::V2 => {
                self.phase = Phase::Greeting { link, deadline };
                if by_frame {
                    self.send_auth(true);
                }
            }
        }
    }

    /// HELLO came.
    pub(super) fn on_hello(&mut self, payload: &[u8]) {
        let Some(hello) = Hello::read(payload) else {
            return self.violation("HELLO cannot be read");
        };
        if hello.protocol != 2 {
            return self.refuse("HELLO is of another version");
        }
        let link = match std::mem::take(&mut self.phase) {
            Phase::Greeting { mut link, .. } if link.auth.is_none() => {
                link.greeted(self.clock.now(), &hello);
                link
            }
            phase => {
                self.phase = phase;
                return self.violation("HELLO out of place");
            }
        };
        self.subscriptions.begin_v2();
        #[cfg(feature = "mirror")]
        self.mirror.retain(|key| self.subscriptions.find(crate::stream::StreamKind::State, key).is_some());
        let announces = !hello.features.is_empty() && self.config.token_via != TokenVia::Frame;
        let connected = Status::Connected {
            protocol: 2,
            connection_id: hello.connection_id.into_owned(),
            user_id: hello.user_id.map(Into::into),
            server_time: hello.time,
            same_contract: hello.contract.zip(self.config.contract.as_deref()).map(|(theirs, ours)| theirs == ours),
        };
        self.opened(link, announces, connected);
    }

    /// The connection is of use: the client `announces` what it can do, subscriptions are renewed, then what has waited is
    /// sent.
    fn opened(&mut self, mut link: Link, announces: bool, connected: Status) {
        let version = link.version;
        link.ping_within(self.cuts.every);
        self.phase = Phase::Open(link);
        self.was_open = true;
        self.set_status(connected);
        if announces {
            self.send(Opcode::Client, 0, &write::hello());
        }
        self.streams_connected(version);
        self.renew_all();
        while let Some(item) = self.queue.pop() {
            match item {
                Item::Event { event, data } => {
                    // Nobody waits for an event's fate; see `emit`.
                    let _ = self.send_event(&event, &data);
                }
                Item::Call { call, params } => {
                    let Some(method) = self.calls.method(call).map(String::from) else { continue };
                    match self.send_call(&method, &params) {
                        Ok(correlation) => self.calls.sent(call, correlation),
                        Err(refused) => {
                            self.calls.take(call);
                            self.done(call, Err(CallError::Refused(refused)));
                        }
                    }
                }
            }
        }
    }

    // --- away from open ---

    pub(super) fn on_closed(&mut self, socket: SocketId, close: SocketClose) {
        if self.phase.socket() != Some(socket) {
            return;
        }
        let verdict = CloseVerdict::of(&close);
        let reason = match verdict {
            CloseVerdict::RetryWithNewToken if close.reason.is_empty() => {
                DisconnectReason::Unauthorized("the server refused the token".into())
            }
            CloseVerdict::RetryWithNewToken => DisconnectReason::Unauthorized(close.reason),
            _ => DisconnectReason::Closed(close),
        };
        self.lose(reason, verdict);
    }

    /// The peer broke version 2's rules: what it sent meanwhile may be lost, so the connection is made anew.
    pub(super) fn violation(&mut self, why: &'static str) {
        self.hang_up(CLOSE_INVALID, why);
        self.lose(DisconnectReason::Protocol(why), CloseVerdict::Retry);
    }

    /// The peer is not one we can talk to.
    fn refuse(&mut self, why: &'static str) {
        self.hang_up(1000, why);
        self.lose(DisconnectReason::Protocol(why), CloseVerdict::Stop);
    }

    /// The server refused the token in an ERROR.
    pub(super) fn unauthorized(&mut self, message: String) {
        self.hang_up(1000, "token refused");
        self.lose(DisconnectReason::Unauthorized(message), CloseVerdict::RetryWithNewToken);
    }

    /// Tells the host to close the socket there is.
    pub(super) fn hang_up(&mut self, code: u16, reason: &'static str) {
        if let Some(socket) = self.phase.socket() {
            self.outputs.push_back(Output::CloseSocket { socket, code, reason });
        }
    }

    /// The attempt or connection is over; waits for the next, or stops.
    fn lose(&mut self, reason: DisconnectReason, verdict: CloseVerdict) {
        let now = self.clock.now();
        let (mut window, mut patience) = (None, 0);
        let mut moves = true;
        // Whatever bounds the attempts: each endpoint is tried once.
        let mut least = self.config.url.matches(' ').count() as u32;
        if let Phase::Open(link) = std::mem::take(&mut self.phase) {
            least = 0;
            if now - link.opened >= STABLE_AFTER {
                self.backoff = Default::default();
                moves = matches!(reason, DisconnectReason::Closed(SocketClose { code: Some(1001 | 1012), .. }));
            }
            window = link.window.filter(|_| verdict == CloseVerdict::Retry);
            if matches!(reason, DisconnectReason::Closed(SocketClose { code: None | Some(1006), .. })) {
                self.cuts.lost(&link, now);
            }
        }
        if let DisconnectReason::Closed(SocketClose { retry_after: Some(millis), .. }) = reason {
            patience = millis.min(MAX_WINDOW);
        }
        // A connection that was stable may come back to its endpoint; one that does not answer is left for the next.
        self.endpoint += usize::from(moves);
        self.subscriptions.detach();
        while let Some((call, pending)) = self.calls.take_any_sent() {
            self.done(call, Err(CallError::ConnectionLost { method: pending.method }));
        }
        self.streams.lost(now);

        let mut policy = self.config.reconnect;
        let most = if policy.enabled { policy.max_attempts } else { Some(0) };
        policy.max_attempts = most.map(|most| most.max(least));
        let refused = verdict == CloseVerdict::RetryWithNewToken;
        let refused_before = std::mem::replace(&mut self.backoff.refused, refused);
        let wanted = match verdict {
            CloseVerdict::Stop => false,
            // The second refusal in a row is final.
            CloseVerdict::RetryWithNewToken => self.config.ask_token && !refused_before,
            _ => true,
        };
        let wait = if wanted { self.backoff.next(&policy, verdict, window, &mut self.rng) } else { None };
        match wait {
            Some(_) if self.offline => self.wait_for_network(),
            Some(wait) => {
                let until = now + patience + wait;
                self.phase = Phase::Waiting { until: Some(until) };
                let until = self.clock.to_host(until);
                self.set_status(Status::Waiting { until, attempt: self.backoff.attempts, reason });
            }
            None => self.stop(reason),
        }
    }

    fn wait_for_network(&mut self) {
        self.phase = Phase::Waiting { until: None };
        let attempt = self.backoff.attempts;
        self.set_status(Status::Waiting { until: Millis(u64::MAX), attempt, reason: DisconnectReason::Offline });
    }

    /// Nothing is under way any more: what waits for a connection ends.
    pub(super) fn stop(&mut self, reason: DisconnectReason) {
        self.queue.clear();
        while let Some(call) = self.calls.take_any() {
            self.done(call, Err(CallError::Closed));
        }
        self.set_status(Status::Disconnected(reason));
    }

    fn set_status(&mut self, status: Status) {
        if self.status != status {
            self.status = status;
            self.event(Event::Status(self.status.clone()));
        }
    }

    // --- timers and hints ---

    pub(super) fn run_timers(&mut self) {
        let now = self.clock.now();
        while let Some((call, pending)) = self.calls.take_expired(now) {
            self.abandon(pending.place);
            self.done(call, Err(CallError::Timeout { method: pending.method, millis: pending.timeout }));
        }
        self.streams.run(now);
        self.end_lingering(now);
        for id in self.subscriptions.rested(now) {
            self.ask(id);
        }
        match self.phase.deadline() {
            Some((deadline, kind)) if deadline <= now => self.on_deadline(kind),
            _ => {}
        }
    }

    fn on_deadline(&mut self, kind: TimerKind) {
        match kind {
            TimerKind::Token => {
                // The host may have lost the question: the next attempt asks again.
                self.token_asked = false;
                self.lose(DisconnectReason::Unauthorized("no token in time".into()), CloseVerdict::Retry);
            }
            TimerKind::Connect => {
                self.hang_up(1000, "connect timeout");
                self.lose(DisconnectReason::ConnectTimeout, CloseVerdict::Retry);
            }
            TimerKind::Reconnect => self.attempt(),
            TimerKind::Ping => self.ping(),
            TimerKind::Silence => {
                self.hang_up(1000, "heartbeat timeout");
                self.lose(DisconnectReason::HalfOpen, CloseVerdict::Retry);
            }
            TimerKind::Call | TimerKind::Stream => {}
        }
    }

    fn ping(&mut self) {
        if let Some(link) = self.phase.link() {
            link.pinged(self.clock.now());
        }
        self.send(Opcode::Ping, 0, b"null");
    }

    pub(super) fn on_hint(&mut self, hint: Hint) {
        match hint {
            Hint::Hidden => return,
            Hint::Online => self.offline = false,
            Hint::Offline => {
                self.offline = true;
                if matches!(self.phase, Phase::Waiting { .. }) {
                    self.wait_for_network();
                }
                return;
            }
            Hint::Visible => {}
        }
        match &mut self.phase {
            Phase::Waiting { .. } if !self.offline => self.attempt(),
            Phase::Open(link) => {
                link.probed(self.clock.now());
                self.ping();
            }
            _ => {}
        }
    }
}

/// `url` with a further query parameter, its value percent-encoded (RFC 3986: all but the unreserved characters).
fn with_query(url: &str, name: &str, value: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(url.len() + name.len() + value.len() + 2);
    out.push_str(url);
    out.push(if url.contains('?') { '&' } else { '?' });
    out.push_str(name);
    out.push('=');
    for &byte in value.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                for digit in [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]] {
                    out.push(char::from(digit));
                }
            }
        }
    }
    out
}
