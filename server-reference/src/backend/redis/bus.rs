//! The bus: publish and subscribe.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    engine::Engine,
    link::{Link, Source, write_delivery},
};
use crate::backend::{
    bus::{Address, Bus, Delivery, NodeId},
    error::BackendError,
    memory::Random,
};

/// One node's handle.
pub(super) struct Handle {
    engine: Arc<Engine>,
    link: Arc<Link>,
    name: AtomicU64,
    random: Random,
}

impl Handle {
    pub(super) fn new(engine: &Arc<Engine>, link: &Arc<Link>, random: Random) -> Self {
        Self { engine: Arc::clone(engine), link: Arc::clone(link), name: AtomicU64::new(link.origin), random }
    }
}

#[async_trait]
impl Bus for Handle {
    fn node(&self) -> NodeId {
        NodeId(self.name.load(Ordering::SeqCst))
    }

    async fn rename(&self) -> Result<NodeId, BackendError> {
        let name = (self.random)();
        let names = &self.engine.names;
        self.link.subscribe(vec![(names.inbox(name), Source::Inbox)]).await?;
        let old = self.name.swap(name, Ordering::SeqCst);
        self.link.unsubscribe(vec![names.inbox(old)]);
        // Answered after the old name is gone. A link that broke meanwhile does not subscribe to it again.
        let _ = self.link.subscribe(Vec::new()).await;
        Ok(NodeId(name))
    }

    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError> {
        let message = write_delivery(self.link.origin, self.node(), &bytes);
        let names = &self.engine.names;
        let mut command = redis::cmd("PUBLISH");
        match to {
            Address::Topic(topic) => command.arg(names.topic(topic)).arg(message),
            Address::Node(node) => command.arg(names.inbox(node.0)).arg(message),
            Address::Everybody => command.arg(names.everybody()).arg(message),
        };
        self.engine.command(&command).await
    }

    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError> {
        let channel = |topic: &Arc<str>| (self.engine.names.topic(topic), Source::Topic(Arc::clone(topic)));
        self.link.subscribe(topics.iter().map(channel).collect()).await
    }

    fn unsubscribe(&self, topics: &[Arc<str>]) {
        self.link.unsubscribe(topics.iter().map(|topic| self.engine.names.topic(topic)).collect());
    }

    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        self.link.inbox()
    }
}
