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
        let names = &self.engine.names;
        let channel = match to {
            Address::Topic(topic) => names.topic(topic),
            Address::Node(node) => names.inbox(node.0),
            Address::Everybody => names.everybody(),
        };
        let publish = |connection| {
            let mut command = redis::cmd("SPUBLISH");
            command.arg(&channel).arg(write_delivery(self.link.origin, connection, &bytes));
            command
        };
        self.engine.command_over(&channel, publish).await
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
