//! The loop of one connection: drain inbound messages, answer them in one write, pass on queued messages.
//!
//! Nothing is read while a batch is partly written: a peer that does not read is not answered, and neither are its pings.

mod waits;

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::poll_fn;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
    time::{Instant, Sleep, sleep_until, timeout},
};

use self::waits::Waits;
use super::{
    frame::Opcode,
    inbound::{Failure, Inbound},
    parting::{End, goodbye, unauthorized},
    writer,
};
use crate::{
    admission::{Kind, Seat},
    budget::Arriving,
    mailbox::Close,
    message::Outgoing,
    metrics::Metrics,
    protocol::{Session, TURN},
};

/// Messages taken before their answers are written.
const BATCH: usize = 64;
/// How long a connection is served before others have their turn.
const TURN_TIME: Duration = Duration::from_millis(1);
/// Messages between two looks at the clock, but after large ones.
const LOOK: usize = 8;
/// How long a connection whose handlers and frames hold too much is not read, so that a peer can still cancel them.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes gathered for one write, roughly.
const ROOM: usize = 64 * 1024;
/// How long one that never authenticated is waited for at its end.
const PARTING: Duration = Duration::from_millis(250);

thread_local! {
    /// The output buffer of whichever connection runs on this thread: idle ones have none.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

struct Link<S> {
    inbound: Inbound<S>,
    session: Session,
    /// Framed and not yet written.
    out: Outgoing,
    written: usize,
    /// The socket took no more: when it does again, the peer has read.
    blocked: bool,
    /// Something came, or was read at the other end: the peer is there.
    alive: Instant,
    pinged: bool,
    timer: Pin<Box<Sleep>>,
    /// None at rest.
    waits: Option<Box<Waits>>,
    /// The turn is over: others come before this one is read again.
    yields: bool,
    /// Given back when the connection is gone.
    seat: Seat,
}

/// What was served without a pause.
#[derive(Default)]
struct Turn {
    /// Bytes of payloads, and of control frames.
    served: usize,
    began: Option<Instant>,
}

/// Serves one connection until it has ended. `read` is what came behind the upgrade request.
///
/// Idle connections are made of these futures, which are two pointers: what only the end needs is boxed by itself.
pub(super) fn run<S>(stream: S, read: &[u8], session: Session, seat: Seat) -> impl Future<Output = ()> + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = Link::open(stream, read, session, seat);
    async move {
        let end = poll_fn(|cx| link.poll(cx)).await;
        Box::pin(link.finish(end)).await;
    }
}

/// Ends a session: the connection leaves every stream, room and group.
pub(super) async fn end(mut session: Session) {
    if let Some(task) = session.end().await {
        tokio::spawn(task);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    fn open(stream: S, read: &[u8], session: Session, seat: Seat) -> Box<Self> {
        let node = session.node();
        let deferred = session.connection().identity().is_none();
        // One byte more may come, and ends it.
        let allowance = deferred.then(|| node.limits.max_unauthenticated + 1);
        let arriving = Arriving::new(node.budget.clone());
        let inbound = Inbound::new(stream, read, node.limits.max_message, allowance, arriving);
        let now = Instant::now();
        let auth = deferred.then(|| now + node.limits.auth_frame_timeout);
        Box::new(Self {
            inbound,
            out: Outgoing::new(writer::binary),
            written: 0,
            blocked: false,
            alive: now,
            pinged: false,
            timer: Box::pin(sleep_until(now)),
            waits: auth.map(|at| Box::new(Waits { auth: Some(at), ..Waits::default() })),
            yields: false,
            session,
            seat,
        })
    }

    /// Ends the session, says goodbye and waits a while for the peer's, as RFC 6455 wants it.
    async fn finish(self: Box<Self>, end: End) {
        let Self { inbound, session, out, written, seat, .. } = *self;
        let node = session.node().clone();
        // Strangers keep no place while they part: a flood of them would take those of others.
        let stranger = session.connection().identity().is_none() && !node.is_closing();
        self::end(session).await;
        let (_seat, _parting, patience) = if stranger {
            drop(seat);
            let Some(parting) = node.admission.places.part() else { return };
            (None, Some(parting), node.limits.close_timeout.min(PARTING))
        } else {
            (Some(seat), None, node.limits.close_timeout)
        };
        let goodbye = goodbye(inbound.into_stream(), end, &out.bytes[written..], &node);
        match timeout(patience, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a closing handshake failed"),
            Err(_) => tracing::debug!("a closing handshake took too long"),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.out.bytes.capacity() == 0 {
            self.out.bytes = SCRATCH.take();
        }
        let polled = self.poll_loop(cx);
        if self.out.bytes.is_empty() && polled.is_pending() {
            SCRATCH.set(std::mem::take(&mut self.out.bytes));
        }
        self.inbound.rest();
        if self.waits.as_ref().is_some_and(|waits| waits.is_over()) {
            self.waits = None;
        }
        polled
    }

    fn poll_loop(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // Registered before looking, so that nothing queued in between is missed.
        self.session.connection().mailbox().register(cx.waker());
        let mut turn = Turn::default();
        loop {
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(End::Lost),
                // A peer that does not read is not read from; only time and the mailbox can end this.
                Poll::Pending => {
                    if let Some(close) = self.session.connection().mailbox().closing() {
                        return Poll::Ready(End::Close(close));
                    }
                    return self.poll_timer(cx);
                }
            }
            if std::mem::take(&mut self.yields) {
                // Woken once the others have been served, and the runtime has looked at its sockets.
                let _ = pin!(yield_now()).poll(cx);
                return self.poll_timer(cx);
            }
            let replaying = self.session.connection().mailbox().is_replaying();
            let more = replaying
                || self.may_read()
                    && match self.poll_read(cx, &mut turn) {
                        Poll::Ready(Ok(())) => true,
                        Poll::Ready(Err(end)) => return Poll::Ready(end),
                        Poll::Pending => false,
                    };
            let mailbox = self.session.connection().mailbox();
            if mailbox.is_filled() {
                mailbox.drain(&mut self.out, ROOM);
                // What is left has its turn after others.
                self.yields |= mailbox.is_filled();
                if self.out.len() < ROOM
                    && let Some(close) = mailbox.closing()
                {
                    return Poll::Ready(End::Close(close));
                }
            }
            if self.out.bytes.is_empty() && !more && !self.yields {
                return self.poll_timer(cx);
            }
        }
    }

    /// Takes up to a batch of messages: ready when a whole batch was there, and there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<Result<(), End>> {
        let spawn = &mut |task| drop(tokio::spawn(task));
        if self.waits.is_some() && self.session.connection().identity().is_some() {
            self.admit();
        }
        let quiet_since = self.alive;
        // Where the last pong lies in what goes out.
        let mut pong = 0..0;
        for taken in 0..BATCH {
            if self.session.is_busy() {
                self.session.go_on(&mut self.out, spawn);
                self.ends_turn(turn, 0, 0);
                break;
            }
            let received = match self.inbound.poll_next(cx) {
                Poll::Ready(received) => received,
                Poll::Pending => {
                    *turn = Turn::default();
                    if self.inbound.take_heard() {
                        self.alive = Instant::now();
                        self.pinged = false;
                        let alive = self.alive;
                        let begun = *self.waits().begun.get_or_insert(alive);
                        if begun + self.session.node().limits.message_timeout <= self.alive {
                            let reason = "a message took too long".to_owned();
                            return Poll::Ready(Err(self.violation(Close { code: 1009, reason })));
                        }
                    }
                    // Sets the time of the next look.
                    self.may_read();
                    return Poll::Pending;
                }
            };
            if taken == 0 {
                self.alive = Instant::now();
                self.pinged = false;
                // Here, because a client that never pauses never lets the timer be looked at.
                if self.session.connection().expires().is_some_and(|at| at <= self.alive) {
                    return Poll::Ready(Err(unauthorized("expired")));
                }
            }
            let message = match received {
                Ok(Some(message)) => message,
                Ok(None) => return Poll::Ready(Err(self.cut(quiet_since))),
                Err(failure) => {
                    let end = self.failure(&failure, quiet_since);
                    return Poll::Ready(Err(end));
                }
            };
            // Those of messages are counted by the session.
            let mut bytes = 0;
            match message.opcode() {
                Opcode::Binary => self.session.receive(message.payload(), &mut self.out, spawn),
                Opcode::Ping => {
                    // Of several in a row, the last alone is answered.
                    if pong.end == self.out.bytes.len() {
                        self.out.bytes.truncate(pong.start);
                    }
                    pong.start = self.out.bytes.len();
                    writer::answer(&mut self.out.bytes, Opcode::Ping, message.payload());
                    pong.end = self.out.bytes.len();
                    bytes = message.framed();
                }
                Opcode::Pong => bytes = message.framed(),
                Opcode::Close => {
                    writer::answer(&mut self.out.bytes, Opcode::Close, message.payload());
                    return Poll::Ready(Err(End::Goodbye));
                }
                Opcode::Text | Opcode::Continuation => {
                    let reason = "binary messages only".to_owned();
                    return Poll::Ready(Err(self.violation(Close { code: 1003, reason })));
                }
            }
            if let Some(waits) = &mut self.waits
                && self.inbound.is_between()
            {
                waits.begun = None;
            }
            if self.ends_turn(turn, taken, bytes)
                || self.out.len() >= ROOM
                || self.session.connection().mailbox().is_replaying()
            {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn waits(&mut self) -> &mut Waits {
        self.waits.get_or_insert_default()
    }

    /// The first AUTH was accepted.
    fn admit(&mut self) {
        if self.waits.as_ref().is_some_and(|waits| waits.auth.is_some()) {
            self.waits = None;
            self.inbound.lift();
        }
    }

    /// The deadline of the first AUTH: the hook's own time is no fault of a client that has sent a token.
    fn auth_deadline(&self) -> Option<Instant> {
        let deadline = self.waits.as_ref()?.auth?;
        let judging =
            if self.session.awaits_token() { Duration::ZERO } else { self.session.node().limits.auth_timeout };
        Some(deadline + judging)
    }

    /// The socket ended without a goodbye.
    fn cut(&self, quiet_since: Instant) -> End {
        let admission = &self.session.node().admission;
        if let Some(text) = admission.cuts.note(quiet_since.elapsed()) {
            admission.rejections.tell(Kind::Cut, &text, self.session.connection().remote());
        }
        End::Lost
    }

    /// Notes what the last message took, or so many bytes of a control frame: whether the turn is over.
    fn ends_turn(&mut self, turn: &mut Turn, taken: usize, control: usize) -> bool {
        let bytes = self.session.take_served() + control;
        turn.served += bytes;
        let began = *turn.began.get_or_insert(self.alive);
        let looks = bytes > 1024 || taken % LOOK == LOOK - 1;
        let has_spent = self.spends(bytes);
        if has_spent || turn.served >= TURN || looks && began.elapsed() >= TURN_TIME {
            *turn = Turn::default();
            self.yields = true;
        }
        self.yields
    }

    /// Takes note of bytes served, where their rate is bounded: whether the connection has to wait. A second's worth may
    /// come at once.
    fn spends(&mut self, bytes: usize) -> bool {
        let Some(rate) = self.session.node().limits.max_rate else { return false };
        let now = Instant::now();
        let time = Duration::from_secs_f64(bytes as f64 / f64::from(rate.get()));
        let before = &mut self.waits().paid;
        let paid = before.map_or(now, |paid| paid.max(now)) + time;
        *before = Some(paid);
        paid > now + PAUSE
    }

    /// False while handlers and frames under way hold too much, or messages of all that are coming: then nothing is read for
    /// a while. Later messages are read, so that a peer can cancel, and what needs room is refused; and a little of the
    /// message that is coming.
    fn may_read(&mut self) -> bool {
        if let Some(paid) = self.waits.as_ref().and_then(|waits| waits.paid) {
            let now = Instant::now();
            if paid > now + PAUSE {
                self.alive = paid - PAUSE;
                if self.alive < self.timer.deadline() {
                    self.timer.as_mut().reset(self.alive);
                }
                return false;
            }
            self.waits().paid = Some(paid).filter(|paid| *paid > now);
        }
        let stalled = self.inbound.is_stalled();
        if !stalled && !self.session.connection().is_full() {
            if let Some(waits) = &mut self.waits {
                waits.paused = None;
            }
            return true;
        }
        let now = Instant::now();
        let until = *self.waits().paused.get_or_insert(now + PAUSE);
        if until <= now {
            if stalled {
                self.inbound.go_on();
                self.waits().paused = None;
            }
            return true;
        }
        // A peer that is not read is not silent.
        self.alive = until;
        if until < self.timer.deadline() {
            self.timer.as_mut().reset(until);
        }
        false
    }

    fn failure(&self, failure: &Failure, quiet_since: Instant) -> End {
        match (failure.close(), failure) {
            (Some(close), _) => self.violation(close),
            (None, Failure::Io(_)) => self.cut(quiet_since),
            (None, _) => End::Lost,
        }
    }

    fn violation(&self, close: Close) -> End {
        Metrics::add(&self.session.node().metrics.malformed, 1);
        End::Close(close)
    }

    /// Writes all of `out`; ready when there is nothing left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut stream = Pin::new(self.inbound.stream());
        while self.written < self.out.len() {
            let Poll::Ready(n) = stream.as_mut().poll_write(cx, &self.out.bytes[self.written..])? else {
                self.blocked = true;
                return Poll::Pending;
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            if std::mem::take(&mut self.blocked) {
                self.alive = Instant::now();
            }
        }
        ready!(stream.poll_flush(cx))?;
        Metrics::add(&self.session.node().metrics.messages_out, std::mem::take(&mut self.out.messages));
        Metrics::add(&self.session.node().metrics.bytes_out, self.out.len() as u64);
        self.written = 0;
        self.out.bytes.clear();
        if self.out.bytes.capacity() > 4 * ROOM {
            self.out.bytes = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Signs of life, and the identity's time; pending until the next look at them.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let expires = self.session.connection().expires();
        // An AUTH may have brought an identity that ends before the next look.
        if let Some(at) = expires.filter(|at| *at < self.timer.deadline()) {
            self.timer.as_mut().reset(at);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let heartbeat = self.session.node().limits.heartbeat;
            if self.session.connection().identity().is_some() {
                self.admit();
            } else if self.auth_deadline().is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(unauthorized("no AUTH in time"));
            }
            if expires.is_some_and(|at| at <= now) {
                return Poll::Ready(unauthorized("expired"));
            }
            if self.alive + heartbeat * 2 <= now {
                return Poll::Ready(End::Lost);
            }
            let quiet = self.alive + heartbeat <= now;
            if quiet && !self.pinged && self.out.bytes.is_empty() {
                self.pinged = true;
                writer::ping(&mut self.out.bytes);
            }
            let later =
                self.waits.as_ref().map_or([None; 2], |waits| [waits.paused, waits.paid.map(|paid| paid - PAUSE)]);
            if later.into_iter().flatten().any(|until| until <= now) {
                cx.waker().wake_by_ref();
            }
            let mut next = self.alive + if quiet { heartbeat * 2 } else { heartbeat };
            if let Some(deadline) = self.auth_deadline() {
                next = next.min(deadline);
            }
            for at in later.into_iter().flatten().filter(|until| *until > now).chain(expires) {
                next = next.min(at);
            }
            self.timer.as_mut().reset(next);
            if !self.out.bytes.is_empty() && self.written == 0 {
                match self.poll_write(cx) {
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(End::Lost),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
