//! Messages between the nodes of one process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    super::{
        bus::{Address, Bus, Delivery, NodeId},
        error::BackendError,
        outlet::Outlet,
    },
    Random,
};
use crate::sync::lock;

/// Messages that wait for a node, at most.
const WAITING: usize = 1_024;

/// The topics and nodes of one process.
pub(super) struct Topics {
    random: Random,
    /// How many nodes there are.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the number of the handle.
    nodes: BTreeMap<u64, Node>,
    topics: HashMap<Arc<str>, Vec<u64>>,
    next: u64,
}

struct Node {
    name: NodeId,
    outlet: Outlet<Delivery>,
}

impl Topics {
    pub(super) fn new(random: Random) -> Self {
        Self { random, count: AtomicUsize::new(0), inner: Mutex::default() }
    }
}

/// One node's handle. The node leaves when this is dropped.
pub(super) struct Handle {
    topics: Arc<Topics>,
    number: u64,
    receiver: Mutex<Option<mpsc::Receiver<Delivery>>>,
}

impl Handle {
    pub(super) fn new(topics: &Arc<Topics>) -> Self {
        let (outlet, receiver) = Outlet::new(WAITING, || Delivery::Lost);
        let name = NodeId((topics.random)());
        let mut inner = lock(&topics.inner);
        let number = inner.next;
        inner.next += 1;
        topics.count.fetch_add(1, Ordering::SeqCst);
        inner.nodes.insert(number, Node { name, outlet });
        Self { topics: Arc::clone(topics), number, receiver: Mutex::new(Some(receiver)) }
    }

    /// Whether no other node can come any more: this handle is all that is left of the memory.
    fn is_alone(&self) -> bool {
        Arc::strong_count(&self.topics) == 1
    }
}

#[async_trait]
impl Bus for Handle {
    fn node(&self) -> NodeId {
        lock(&self.topics.inner).nodes.get(&self.number).map_or(NodeId(0), |node| node.name)
    }

    fn is_heard(&self, by: Address<'_>) -> bool {
        if self.topics.count.load(Ordering::SeqCst) < 2 {
            return false;
        }
        let inner = lock(&self.topics.inner);
        let is_other = |number: &u64| *number != self.number;
        match by {
            Address::Everybody => true,
            Address::Node(name) => inner.nodes.iter().any(|(number, node)| is_other(number) && node.name == name),
            Address::Topic(name) => inner.topics.get(name).is_some_and(|numbers| numbers.iter().any(is_other)),
        }
    }

    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError> {
        let mut inner = lock(&self.topics.inner);
        let Inner { nodes, topics, .. } = &mut *inner;
        let Some(from) = nodes.get(&self.number).map(|node| node.name) else { return Ok(()) };
        let message = |topic| Delivery::Message { topic, from, bytes: bytes.clone() };
        if let Address::Topic(name) = to {
            let Some((topic, subscribers)) = topics.get_key_value(name) else { return Ok(()) };
            for number in subscribers.iter().filter(|number| **number != self.number) {
                if let Some(node) = nodes.get_mut(number) {
                    node.outlet.send(message(Some(Arc::clone(topic))));
                }
            }
            return Ok(());
        }
        for (number, node) in nodes.iter_mut() {
            let is_meant = match to {
                Address::Node(name) => node.name == name,
                Address::Everybody | Address::Topic(_) => true,
            };
            if is_meant && *number != self.number {
                node.outlet.send(message(None));
            }
        }
        Ok(())
    }

    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError> {
        if self.is_alone() {
            return Ok(());
        }
        let mut inner = lock(&self.topics.inner);
        for topic in topics {
            let subscribers = inner.topics.entry(Arc::clone(topic)).or_default();
            if !subscribers.contains(&self.number) {
                subscribers.push(self.number);
            }
        }
        Ok(())
    }

    fn unsubscribe(&self, topics: &[Arc<str>]) {
        let mut inner = lock(&self.topics.inner);
        for topic in topics {
            let Some(subscribers) = inner.topics.get_mut(topic) else { continue };
            subscribers.retain(|number| *number != self.number);
            if subscribers.is_empty() {
                inner.topics.remove(topic);
            }
        }
    }

    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        lock(&self.receiver).take().ok_or_else(|| BackendError::Taken("this handle's inbox is another node's".into()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = lock(&self.topics.inner);
        inner.nodes.remove(&self.number);
        self.topics.count.fetch_sub(1, Ordering::SeqCst);
        inner.topics.retain(|_, subscribers| {
            subscribers.retain(|number| *number != self.number);
            !subscribers.is_empty()
        });
    }
}
