//! The bus: notes of messages, which every node hears and most do not read.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{link::Link, message, note::Note};
use crate::backend::{
    bus::{Address, Bus, Delivery, NodeId},
    error::BackendError,
};

/// The longest message; bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024 - 1_024;

/// One node's handle.
pub(super) struct Handle {
    link: Arc<Link>,
}

impl Handle {
    pub(super) fn new(link: &Arc<Link>) -> Self {
        Self { link: Arc::clone(link) }
    }
}

#[async_trait]
impl Bus for Handle {
    fn node(&self) -> NodeId {
        NodeId(self.link.origin)
    }

    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError> {
        self.link.check()?;
        if bytes.len() > MAX_BYTES {
            return Err(BackendError::Full(format!(
                "{} bytes exceed the limit of {MAX_BYTES} for a message",
                bytes.len()
            )));
        }
        let (to, body) = message::write(to, &bytes);
        self.link.sent(self.link.tell(Note::Message { to, body })).await
    }

    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError> {
        self.link.check()?;
        let is_leaving = self.link.sources(|sources| {
            sources.subscribe(topics);
            sources.is_leaving()
        });
        // Whatever was unsubscribed from is over, too, when this answers.
        if is_leaving { self.link.sent_all().await } else { Ok(()) }
    }

    fn unsubscribe(&self, topics: &[Arc<str>]) {
        let number = self.link.sources(|sources| sources.unsubscribe(topics));
        self.link.tell(Note::Left { number });
    }

    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        self.link.inbox()
    }
}
