//! The router: the core, and the receivers of its events (calls, inboxes for events, signals for states, followers for
//! CRDTs, rooms and documents).
//!
//! One lock protects all of it, held for one input or command and never across an `await`. The router performs no
//! output; the driver does.

mod routes;
mod streams;

pub(crate) use streams::{Follower, Notice};

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use datasole_core::{
    CallError, CallId, Client as Core, CommandError, DisconnectReason, Hint, Input, Millis, Output, Payload, Request,
    StreamId, SubscriptionId,
};
use tokio::sync::{Notify, oneshot, watch};

use crate::{
    clock::{self, Instant},
    host::MAX_UNSENT,
    inbox::{Inbox, InboxLimits, Message},
    refusal::Complaints,
    signal::{End, Followers, Signal},
    status::Status,
    watch::Watchers,
};
use streams::Streams;

/// The state shared by the handles of one client and its driver.
#[derive(Debug)]
pub(crate) struct Shared {
    router: Mutex<Router>,
    /// The driver has something to do.
    pub(crate) wake: Notify,
    /// There is room for more to be sent.
    pub(crate) room: Notify,
    pub(crate) watchers: Watchers,
    /// The driver has ended.
    finished: watch::Sender<bool>,
    /// The instant of `Millis(0)`.
    pub(crate) started: Instant,
    /// The time as a test sets it, from which on no other passes.
    #[cfg(test)]
    pub(crate) fixed: Mutex<Option<Millis>>,
}

impl Shared {
    pub(crate) fn new(core: Core, inbox_limits: InboxLimits) -> Self {
        let started = Instant::now();
        let router = Router {
            core,
            started,
            inbox_limits,
            calls: HashMap::new(),
            topics: BTreeMap::new(),
            run: Run::default(),
            states: HashMap::new(),
            streams: Streams::default(),
            ahead: 0,
            complaints: Complaints::default(),
            opening: None,
            warned: false,
            differs: false,
            status: watch::Sender::new(Status::Disconnected(DisconnectReason::Idle)),
            unsent: 0,
            closed: false,
        };
        let finished = watch::Sender::new(false);
        Self {
            router: Mutex::new(router),
            wake: Notify::new(),
            room: Notify::new(),
            watchers: Watchers::default(),
            finished,
            started,
            #[cfg(test)]
            fixed: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Millis {
        #[cfg(test)]
        if let Some(fixed) = *self.fixed.lock().unwrap_or_else(PoisonError::into_inner) {
            return fixed;
        }
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// A panic under the lock is a panic in a caller's `Deserialize`, which only reads.
    pub(crate) fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a command and wakes the driver to drain its outputs.
    pub(crate) fn command<R>(&self, command: impl FnOnce(&mut Router, Millis) -> R) -> R {
        let result = command(&mut self.router(), self.now());
        self.wake.notify_one();
        result
    }

    /// Runs a command that sends `bytes`, once what was sent before has left enough room.
    pub(crate) async fn send_command<R>(&self, bytes: usize, command: impl FnOnce(&mut Router, Millis) -> R) -> R {
        loop {
            // Enabled before looking, so that room made after looking is not overlooked.
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut router = self.router();
                if router.has_room() {
                    router.unsent += bytes;
                    let result = command(&mut router, self.now());
                    drop(router);
                    self.wake.notify_one();
                    return result;
                }
            }
            room.await;
        }
    }

    /// Ends all calls and streams with "closed": the driver has ended.
    pub(crate) fn finish(&self) {
        let mut router = self.router();
        let closed = router.close(self.now());
        let now = self.now();
        while let Some(output) = router.core.poll_output() {
            if let Output::Event(event) = output {
                router.route(now, event);
            }
        }
        router.deliver();
        router.calls.clear();
        router.complaints.end();
        drop(router);
        drop(closed);
        self.room.notify_waiters();
        self.finished.send_replace(true);
        self.watchers.tell();
    }

    pub(crate) async fn wait_finished(&self) {
        // An error means that the sender is gone; `self` holds it.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }
}

/// The core, with the routes of its events.
#[derive(Debug)]
pub(crate) struct Router {
    core: Core,
    started: Instant,
    inbox_limits: InboxLimits,
    calls: HashMap<CallId, oneshot::Sender<Result<Payload, CallError>>>,
    /// Looked up for every run: few short names are compared faster than one is hashed.
    topics: BTreeMap<String, Topic>,
    run: Run,
    states: HashMap<String, Followed>,
    streams: Streams,
    /// The server's clock minus ours; milliseconds.
    ahead: i64,
    complaints: Complaints,
    opening: Option<oneshot::Sender<Result<(), DisconnectReason>>>,
    /// The loss of the connection, or that there is none, was logged.
    warned: bool,
    /// The difference of the contracts was logged.
    differs: bool,
    status: watch::Sender<Status>,
    unsent: usize,
    closed: bool,
}

/// The handles of a state.
#[derive(Debug, Default)]
struct Followed {
    subscription: Option<SubscriptionId>,
    followers: Followers,
}

/// The subscribers of one event name.
#[derive(Debug, Default)]
struct Topic {
    subscription: Option<SubscriptionId>,
    /// The first subscription was answered: later subscriptions that are not recovered missed events.
    followed: bool,
    inboxes: Vec<Arc<Inbox>>,
}

/// Events of one topic that came one after the other, on their way to its subscribers.
#[derive(Debug, Default)]
struct Run {
    name: String,
    messages: Vec<Message>,
}

impl Router {
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Starts connecting; that the connection is open, or why no attempt will follow, comes through the channel.
    pub(crate) fn open(&mut self, now: Millis) -> oneshot::Receiver<Result<(), DisconnectReason>> {
        let (tell, outcome) = oneshot::channel();
        self.opening = Some(tell);
        self.core.connect(now);
        outcome
    }

    /// Closed is for good, though the core could connect again.
    pub(crate) fn reconnect(&mut self, now: Millis) {
        if !self.closed {
            self.core.connect(now);
            self.streams.give_up(None);
        }
    }

    pub(crate) fn hint(&mut self, now: Millis, hint: Hint) {
        if !self.closed {
            self.core.handle_input(now, Input::Hint(hint));
        }
    }

    /// Closes for good. Streams end after their queued items; the core answers the calls. Drop the result without the
    /// lock.
    pub(crate) fn close(&mut self, now: Millis) -> Vec<Arc<dyn Follower>> {
        self.core.close(now);
        self.closed = true;
        for inbox in std::mem::take(&mut self.topics).into_values().flat_map(|topic| topic.inboxes) {
            inbox.end();
        }
        for (_, mut followed) in self.states.drain() {
            followed.followers.end(End::Closed);
        }
        self.streams.close()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn call(
        &mut self,
        now: Millis,
        request: Request,
    ) -> Result<(CallId, oneshot::Receiver<Result<Payload, CallError>>), CommandError> {
        self.check_open()?;
        let call = self.core.call(now, request)?;
        let (tell, outcome) = oneshot::channel();
        self.calls.insert(call, tell);
        Ok((call, outcome))
    }

    pub(crate) fn emit(&mut self, now: Millis, event: &str, data: Payload, queue: bool) -> Result<(), CommandError> {
        self.check_open()?;
        self.core.emit(now, event, data, queue)
    }

    pub(crate) fn join_topic(&mut self, now: Millis, name: &str) -> Result<(SubscriptionId, Arc<Inbox>), CommandError> {
        self.check_open()?;
        let subscription = self.core.subscribe(now, StreamId::event(name))?;
        let inbox = Arc::new(Inbox::new(self.inbox_limits));
        let topic = self.topics.entry(name.to_owned()).or_default();
        if topic.subscription.replace(subscription) != Some(subscription) {
            // Another one has ended.
            topic.followed = false;
        }
        topic.inboxes.push(inbox.clone());
        Ok((subscription, inbox))
    }

    pub(crate) fn leave_topic(&mut self, now: Millis, name: &str, id: SubscriptionId, inbox: &Arc<Inbox>) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
        }
        self.core.unsubscribe(now, id, None);
    }

    pub(crate) fn join_state(&mut self, now: Millis, key: &str) -> Result<(SubscriptionId, Arc<Signal>), CommandError> {
        self.check_open()?;
        let subscription = self.core.subscribe(now, StreamId::state(key))?;
        let known = self.core.state(key).is_some();
        let followed = self.states.entry(key.to_owned()).or_default();
        if followed.subscription.replace(subscription) != Some(subscription) && followed.followers.is_empty() {
            // Another one has ended.
            followed.followers = Followers::default();
        }
        let followers = &mut followed.followers;
        if known {
            followers.load();
        }
        Ok((subscription, followers.join()))
    }

    pub(crate) fn leave_state(&mut self, now: Millis, key: &str, id: SubscriptionId, signal: &Arc<Signal>) {
        if let Some(followed) = self.states.get_mut(key) {
            followed.followers.leave(signal);
        }
        self.core.unsubscribe(now, id, None);
    }

    // --- CRDTs, rooms and documents ---

    /// Counts a handle of a stream, and returns its follower: made now, unless the stream is open.
    pub(crate) fn open_stream<F: Follower, E: From<CommandError>>(
        &mut self,
        now: Millis,
        stream: &StreamId,
        make: impl FnOnce() -> Result<Arc<F>, E>,
    ) -> Result<Arc<F>, E> {
        self.check_open()?;
        self.streams.open(&mut self.core, now, stream, make)
    }

    pub(crate) fn leave(&mut self, now: Millis, stream: &StreamId) {
        self.streams.leave(&mut self.core, now, stream);
    }

    /// The core, unless the client is closed.
    pub(crate) fn open_core(&mut self) -> Result<&mut Core, CommandError> {
        self.check_open()?;
        Ok(&mut self.core)
    }

    /// Unix milliseconds by the server's clock, as far as it is known.
    pub(crate) fn server_time(&self) -> u64 {
        unix_time().saturating_add_signed(self.ahead)
    }

    pub(crate) fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    /// The time at which to call [`run_timers`](Self::run_timers) at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Millis> {
        self.core.poll_timeout()
    }

    pub(crate) fn run_timers(&mut self, now: Millis) {
        self.core.handle_input(now, Input::Timeout);
    }

    /// Takes the number of bytes that the socket has not sent; `true` if there is room for more.
    pub(crate) fn set_unsent(&mut self, bytes: usize) -> bool {
        self.unsent = bytes;
        self.has_room()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.unsent < MAX_UNSENT || self.closed
    }

    fn check_open(&self) -> Result<(), CommandError> {
        if self.closed { Err(CommandError::Closed) } else { Ok(()) }
    }
}

/// Unix milliseconds by our clock.
fn unix_time() -> u64 {
    u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, task::Context};

    use super::*;
    use crate::inbox::tests::Woken;
    use datasole_core::{Config, Event, Seed};
    use futures_util::FutureExt;

    fn shared() -> Shared {
        let core = Core::new(Config::new("ws://localhost/__ds"), Seed([1; 32]));
        Shared::new(core, InboxLimits { items: 1, bytes: 1 })
    }

    #[tokio::test]
    async fn senders_wait_while_too_much_is_unsent() {
        for (unsent, waits) in [(0, false), (MAX_UNSENT - 1, false), (MAX_UNSENT, true), (MAX_UNSENT + 1, true)] {
            let shared = shared();
            shared.router().set_unsent(unsent);
            let sent = shared.send_command(1, |_, _| ()).now_or_never();
            assert_eq!(sent.is_none(), waits, "{unsent}");
        }
    }

    #[tokio::test]
    async fn what_is_sent_counts_at_once_and_room_wakes() {
        let shared = shared();
        shared.send_command(MAX_UNSENT, |_, _| ()).await;
        let mut waiting = Box::pin(shared.send_command(1, |_, _| ()));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(shared.router().set_unsent(MAX_UNSENT - 1));
        shared.room.notify_waiters();
        waiting.await;
    }

    /// The readers of a topic are woken by its events only, and once by those that come together.
    #[test]
    fn what_comes_together_wakes_once_and_nothing_wakes_nobody() {
        let (shared, limits) = (shared(), InboxLimits { items: 10, bytes: 1_000 });
        let (inbox, woken) = (Arc::new(Inbox::new(limits)), Arc::new(Woken::default()));
        let mut router = shared.router();
        router.topics.entry("t".into()).or_default().inboxes.push(inbox.clone());
        let message = |event: &str| Event::Message { event: event.into(), payload: Payload::Empty, timestamp: 0 };
        let expected = [(&["t", "t"][..], 1), (&[], 0), (&["other"], 0), (&["t", "other", "t"], 1)];
        for (events, wakes) in expected {
            let before = woken.0.load(Ordering::Relaxed);
            while inbox.poll_take(&mut Context::from_waker(&woken.clone().into())).is_ready() {}
            for event in events {
                router.route(Millis(0), message(event));
            }
            router.deliver();
            assert_eq!(woken.0.load(Ordering::Relaxed) - before, wakes, "{events:?}");
        }
    }

    #[tokio::test]
    async fn closing_lets_waiting_senders_fail() {
        let shared = shared();
        shared.router().set_unsent(MAX_UNSENT);
        let mut waiting = Box::pin(shared.send_command(1, |router, now| router.emit(now, "e", Payload::Empty, true)));
        assert!(waiting.as_mut().now_or_never().is_none());
        shared.finish();
        assert_eq!(waiting.await, Err(CommandError::Closed));
    }
}
