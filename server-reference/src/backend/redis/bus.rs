//! The bus: publish and subscribe.

use std::sync::Arc;

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
};

/// One node's handle.
pub(super) struct Handle {
    engine: Arc<Engine>,
    link: Arc<Link>,
}

impl Handle {
    pub(super) fn new(engine: &Arc<Engine>, link: &Arc<Link>) -> Self {
        Self { engine: Arc::clone(engine), link: Arc::clone(link) }
    }
}

#[async_trait]
impl Bus for Handle {
    fn node(&self) -> NodeId {
        NodeId(self.link.origin)
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
