//! The bus: the engine's own publish and subscribe.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::{
    api::{ANSWER, unavailable},
    link::Link,
    reader::Source,
};
use crate::backend::{
    bus::{Address, Bus, Delivery, NodeId},
    error::BackendError,
};

/// One node's handle.
pub(super) struct Handle {
    pub(super) link: Arc<Link>,
}

#[async_trait]
impl Bus for Handle {
    fn node(&self) -> NodeId {
        NodeId(self.link.origin)
    }

    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError> {
        let session = self.link.session()?;
        let names = &self.link.options.names;
        let subject = match to {
            Address::Topic(topic) => names.topic(topic),
            Address::Node(node) => names.inbox(node.0),
            Address::Everybody => names.everybody(),
        };
        let message = self.link.write_delivery(&session, &bytes);
        let most = session.api.client.max_payload();
        if message.len() > most {
            return Err(BackendError::Full(format!(
                "the engine accepts {most} bytes a message: raise its max_payload"
            )));
        }
        let sent = timeout(ANSWER, session.api.client.publish(subject, message)).await;
        sent.map_err(|_| unavailable("the engine does not answer"))?.map_err(unavailable)?;
        // Those who subscribe now are sent it, whatever they do next.
        self.link.subscribe(Vec::new()).await
    }

    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError> {
        let names = &self.link.options.names;
        let subject = |topic: &Arc<str>| (names.topic(topic), Source::Topic(Arc::clone(topic)));
        self.link.subscribe(topics.iter().map(subject).collect()).await
    }

    fn unsubscribe(&self, topics: &[Arc<str>]) {
        self.link.unsubscribe(topics.iter().map(|topic| self.link.options.names.topic(topic)).collect());
    }

    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        self.link.inbox()
    }
}
