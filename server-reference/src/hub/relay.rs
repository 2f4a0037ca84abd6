//! Messages between nodes: sending to clients that other nodes hold, and handing on what other nodes send.
//!
//! Local members are served first and without the bus; what goes through it arrives at most once, in order per sender and
//! topic. A node subscribes to `u:<user>`, `g:<group>` and `v1` while it holds such connections, to `e:<topic>` while
//! that topic, without history, is in memory, and to `p:<room>` and `a:<document>` while somebody follows those here.

use std::sync::{Arc, Weak, atomic::Ordering};

use bytes::Bytes;
use datasole_core::{
    StreamId, StreamKind,
    frame::{self, HEADER_LEN, Opcode, ZLIB_MARK},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{
    Hub,
    groups::{Audience, send_to_all},
    kind::Kind,
    lease::{hold_lease, watch_others},
    letter::{Letter, To},
    relaying::{PAUSE, Relaying, V1, event_topic, group_topic, parse, user_topic},
    roster::Shares,
    rosters::share,
};
use crate::{
    backend::{
        BackendError, Bus,
        bus::{Address, Delivery, NodeId},
    },
    clock::unix_millis,
    entry::Entry,
    metrics::Relayed,
    sync::{lock, read},
};

/// Bytes of shares in a message, at most.
const SHARES: usize = 1024 * 1024;

impl Hub {
    /// The first half of connection ids: the node's name.
    pub(crate) fn node(&self) -> u64 {
        self.relaying.node.0
    }

    /// Messages between nodes that came to nothing.
    pub(crate) fn relayed(&self) -> &Relayed {
        &self.relaying.counts
    }

    /// Hands a message to the connections that it is for, and that understand it: at once to those of this node, and by
    /// the bus to those of others.
    pub(crate) async fn send(&self, audience: Audience<'_>, message: &Bytes, v2_only: bool) {
        self.send_here(audience, message, v2_only);
        if !self.has_others() {
            return;
        }
        match audience {
            Audience::Connection(id) => {
                let Some((node, serial)) = parse(id) else { return };
                if node != self.relaying.node {
                    let letter = Letter { to: To::Connection(serial), v2_only, message: message.clone() };
                    self.post(Address::Node(node), || letter.encode()).await;
                }
            }
            Audience::User(user) => self.post_members(&user_topic(user), message, v2_only).await,
            Audience::Group(group) => self.post_members(&group_topic(group), message, v2_only).await,
        }
    }

    async fn post_members(&self, topic: &str, message: &Bytes, v2_only: bool) {
        let letter = || Letter { to: To::Members, v2_only, message: message.clone() }.encode();
        self.post(Address::Topic(topic), letter).await;
    }

    /// Ends a connection of any node.
    pub(crate) async fn disconnect(&self, id: &str, code: u16, reason: &str) {
        if let Some(connection) = self.connection(id) {
            connection.mailbox().close(code, reason);
        } else if let Some((node, serial)) = parse(id)
            && node != self.relaying.node
        {
            let message = Bytes::copy_from_slice(reason.as_bytes());
            let letter = || Letter { to: To::Close { serial, code }, v2_only: false, message }.encode();
            self.post(Address::Node(node), letter).await;
        }
    }

    /// Sends an event of a topic without history, published here already, to the nodes that have the topic in memory,
    /// and its `message` for version 1 to those with such clients.
    pub(crate) async fn relay(
        &self,
        event: &str,
        entry: impl FnOnce() -> Entry,
        message: impl FnOnce() -> Option<Bytes>,
    ) {
        if !self.has_others() {
            return;
        }
        let letter = || Letter { to: To::Stream, v2_only: false, message: entry().bytes().clone() }.encode();
        self.post(Address::Topic(&event_topic(event)), letter).await;
        if self.backend.bus.is_heard(Address::Topic(V1))
            && let Some(message) = message()
        {
            let letter = || Letter { to: To::V1(event.into()), v2_only: false, message }.encode();
            self.post(Address::Topic(V1), letter).await;
        }
    }

    /// Whether there may be other nodes: a cheap question before anything is written for them.
    pub(crate) fn has_others(&self) -> bool {
        self.backend.bus.is_heard(Address::Everybody)
    }

    /// Publishes what somebody may hear. Nothing else can be done about a failure: it is counted.
    pub(super) async fn post(&self, to: Address<'_>, letter: impl FnOnce() -> Bytes) {
        let bus = &self.backend.bus;
        if bus.is_heard(to)
            && let Err(error) = bus.publish(to, letter()).await
            && self.relaying.counts.unsent.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(%error, "a message for other nodes was not sent; later ones are counted only");
        }
    }

    /// Begins to hear what other nodes send, if there is a runtime to do so.
    pub(super) fn listen_to_nodes(&self) -> bool {
        if self.relaying.tasks.get().is_some() {
            return true;
        }
        let Ok(runtime) = Handle::try_current() else { return false };
        self.relaying.tasks.get_or_init(|| {
            let mut tasks =
                vec![runtime.spawn(keep_topics(self.me.clone(), self.relaying.bell.clone())).abort_handle()];
            tasks.push(runtime.spawn(share(self.me.clone(), self.sharing.bell.clone())).abort_handle());
            tasks.push(runtime.spawn(hold_lease(self.me.clone(), self.sharing.wake.clone())).abort_handle());
            tasks.push(runtime.spawn(watch_others(self.me.clone(), self.sharing.renewed.clone())).abort_handle());
            match self.backend.bus.inbox() {
                Ok(inbox) => tasks.push(runtime.spawn(hear(self.me.clone(), inbox)).abort_handle()),
                Err(error) => tracing::error!(%error, "messages of other servers are not heard"),
            }
            tasks
        });
        true
    }

    /// Takes note that the first member of a topic has come, or its last has gone.
    pub(super) fn topic_changed(&self, topic: Arc<str>) {
        if self.listen_to_nodes() {
            lock(&self.relaying.changed).push(topic);
            self.relaying.bell.notify_one();
        }
    }

    /// Subscribes to the topics that this node has members of, and ends those it has none of any more; what failed is
    /// tried again later.
    pub(super) async fn settle_topics(&self) {
        settle(self, self.backend.bus.clone()).await;
    }

    fn has_members(&self, topic: &str) -> bool {
        match topic.split_once(':') {
            Some(("u", user)) => lock(&self.users).contains_key(user),
            Some(("g", group)) => lock(&self.groups).contains_key(group),
            Some(("p" | "a", _)) => lock(&self.sharing.rosters).contains_key(topic),
            _ => topic == V1 && !read(&self.v1).is_empty(),
        }
    }

    fn hear_delivery(&self, delivery: Delivery) {
        let (topic, from, bytes) = match delivery {
            Delivery::Message { topic, from, bytes } => (topic, from, bytes),
            Delivery::Lost => {
                if self.relaying.counts.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        "messages of other nodes were lost: this one is too slow; later losses are counted only"
                    );
                }
                self.reread_rosters();
                self.look_for_births();
                return;
            }
        };
        if from == self.relaying.node {
            return;
        }
        if Letter::decode(&bytes).is_none_or(|letter| self.hand_on(topic.as_deref(), from, letter).is_none()) {
            self.relaying.counts.malformed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands what has come to the connections it is for; `None` if it makes no sense.
    fn hand_on(&self, topic: Option<&str>, from: NodeId, letter: Letter) -> Option<()> {
        let Letter { to, v2_only, message } = letter;
        let fits = match &to {
            To::Members | To::V1(_) | To::Connection(_) => is_event(&message, self.limits.max_payload),
            To::Stream | To::Close { .. } => message.len() <= self.limits.max_payload,
            To::Shares => message.len() <= SHARES,
            To::Born(_) => message.len() <= self.limits.max_key,
            To::Greeting => message.is_empty(),
        };
        if !fits {
            return None;
        }
        let name = topic;
        match (to, topic.map(|topic| topic.split_once(':').unwrap_or((topic, "")))) {
            (To::Connection(serial), None) => {
                if let Some(connection) = read(&self.connections).get(serial) {
                    send_to_all(std::slice::from_ref(connection), &message, v2_only);
                }
            }
            (To::Close { serial, code }, None) => {
                let reason = std::str::from_utf8(&message).ok()?;
                if let Some(connection) = read(&self.connections).get(serial) {
                    connection.mailbox().close(code, reason);
                }
            }
            (To::Members, Some(("u", user))) => self.send_here(Audience::User(user), &message, v2_only),
            (To::Members, Some(("g", group))) => self.send_here(Audience::Group(group), &message, v2_only),
            (To::Stream, Some(("e", event))) => {
                let entry = Entry::stored(message)?;
                let Some(stream) = self.known(StreamKind::Event, event).filter(|stream| stream.rules().relayed) else {
                    return Some(());
                };
                // The author's node has its own position, as this one has.
                let plan = |content: &mut dyn Kind| content.form().reads(&entry).then(|| entry.clone()).ok_or(());
                stream.publish_planned(unix_millis(), &[], plan).ok().flatten()?;
            }
            (To::Shares, Some(("p" | "a", _))) => self.hear_shares(name?, from, Shares::decode(message)?),
            (To::Greeting, None) => drop(self.is_sharing()),
            (To::V1(event), Some((V1, _))) => self.with_readers(&StreamId::event(&*event), |v1| {
                send_to_all(v1, &message, false);
            }),
            (To::Born(kind), Some((V1, _))) => self.hear_birth(kind, std::str::from_utf8(&message).ok()?),
            _ => return None,
        }
        Some(())
    }
}

/// Whether a message is one event's frame that clients accept, as far as its header tells; of one that is compressed, only
/// the length.
fn is_event(message: &[u8], max_payload: usize) -> bool {
    if message.first() == Some(&ZLIB_MARK) {
        return message.len() <= max_payload.saturating_add(HEADER_LEN);
    }
    frame::decode(message, max_payload).is_ok_and(|frame| {
        let length = HEADER_LEN + frame.payload.len();
        matches!(frame.opcode, Opcode::ServerEvent | Opcode::ServerEventBinary) && length == message.len()
    })
}

/// Topics whose subscriptions change; whoever changes them may be dropped meanwhile, and then they are changed later.
struct Unsettled<'a> {
    relaying: &'a Relaying,
    topics: Vec<Arc<str>>,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if !self.topics.is_empty() {
            lock(&self.relaying.changed).append(&mut self.topics);
            self.relaying.bell.notify_one();
        }
    }
}

/// Brings the subscriptions to where the members are.
async fn settle(hub: &Hub, bus: Arc<dyn Bus>) {
    let relaying = &hub.relaying;
    let _turn = relaying.turn.lock().await;
    let mut unsettled = Unsettled { relaying, topics: std::mem::take(&mut *lock(&relaying.changed)) };
    if unsettled.topics.is_empty() {
        return;
    }
    let (wanted, left): (Vec<_>, Vec<_>) = unsettled.topics.iter().cloned().partition(|topic| hub.has_members(topic));
    bus.unsubscribe(&left);
    match subscribe(&*bus, &wanted).await {
        Ok(()) => {
            unsettled.topics.clear();
            hub.heard_from_here(&wanted);
        }
        Err(error) => tracing::warn!(%error, topics = wanted.len(), "messages of other nodes do not come yet"),
    }
}

async fn subscribe(bus: &dyn Bus, topics: &[Arc<str>]) -> Result<(), BackendError> {
    if topics.is_empty() { Ok(()) } else { bus.subscribe(topics).await }
}

/// Keeps the subscriptions where the members are, as long as the server lives.
async fn keep_topics(hub: Weak<Hub>, bell: Arc<Notify>) {
    loop {
        bell.notified().await;
        loop {
            let Some(hub) = hub.upgrade() else { return };
            hub.settle_topics().await;
            if lock(&hub.relaying.changed).is_empty() {
                break;
            }
            drop(hub);
            sleep(PAUSE).await;
        }
    }
}

/// Hears the messages of other nodes as long as the server lives.
async fn hear(hub: Weak<Hub>, mut inbox: mpsc::Receiver<Delivery>) {
    while let (Some(delivery), Some(hub)) = (inbox.recv().await, hub.upgrade()) {
        hub.hear_delivery(delivery);
    }
}
