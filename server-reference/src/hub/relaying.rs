//! [`Relaying`]: what a node needs to hear from other nodes, and the names of topics.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use datasole_core::{StreamId, StreamKind};
use tokio::{sync::Notify, task::AbortHandle};

use crate::{backend::bus::NodeId, metrics::Relayed};

/// The topic of events for clients of version 1, which get those of every topic.
pub(super) const V1: &str = "v1";
/// The pause before what has failed is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// What a node needs to send through the bus and to hear from it.
#[derive(Debug)]
pub(super) struct Relaying {
    /// The node's name when it started, which is part of its connections' ids.
    pub(super) node: NodeId,
    pub(super) tasks: OnceLock<Vec<AbortHandle>>,
    /// Topics whose first member has come or whose last has gone.
    pub(super) changed: Mutex<Vec<Arc<str>>>,
    /// Held while subscriptions change, so that the last change stands.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) bell: Arc<Notify>,
    pub(super) counts: Relayed,
}

impl Relaying {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            tasks: OnceLock::new(),
            changed: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            bell: Arc::default(),
            counts: Relayed::default(),
        }
    }
}

impl Drop for Relaying {
    fn drop(&mut self) {
        self.tasks.get().into_iter().flatten().for_each(AbortHandle::abort);
    }
}

/// The topic of a user's connections.
pub(super) fn user_topic(user: &str) -> Arc<str> {
    format!("u:{user}").into()
}

/// The topic of a group's connections.
pub(super) fn group_topic(group: &str) -> Arc<str> {
    format!("g:{group}").into()
}

/// The topic of an event without history.
pub(super) fn event_topic(event: &str) -> Arc<str> {
    format!("e:{event}").into()
}

/// The topics by which streams that no backend keeps cross nodes.
pub(super) fn stream_topics(streams: &[StreamId]) -> Vec<Arc<str>> {
    streams.iter().filter(|id| id.kind == StreamKind::Event).map(|id| event_topic(&id.key)).collect()
}

/// The node and the number that the id of a connection tells.
pub(super) fn parse(id: &str) -> Option<(NodeId, u64)> {
    let (node, serial) = id.split_once('-')?;
    Some((NodeId(u64::from_str_radix(node, 16).ok()?), u64::from_str_radix(serial, 16).ok()?))
}
