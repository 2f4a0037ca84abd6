//! The bus: messages between nodes that nobody stores.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::BackendError;

/// The name of a node: random, new for each process, and part of the ids of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// The nodes that a message is for. The publisher itself hears nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// One node.
    Node(NodeId),
    /// Every node.
    Everybody,
    /// The nodes that subscribe to a topic.
    Topic(&'a str),
}

/// Something that comes in from other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A message.
    Message {
        /// The topic; `None` if the message was for this node or for everybody.
        topic: Option<Arc<str>>,
        /// The publisher.
        from: NodeId,
        /// The content.
        bytes: Bytes,
    },
    /// Messages were lost, of any topic.
    Lost,
}

/// Messages between nodes, by the handle of one node: each is delivered at most once, in order per sender and topic.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// The node's name.
    fn node(&self) -> NodeId;

    /// Whether a node but this may hear what is published there: `false` only if none does. The answer is cheap, from this
    /// process's memory, and saves writing what nobody reads.
    fn is_heard(&self, _by: Address<'_>) -> bool {
        true
    }

    /// Sends a message. `Ok` promises nothing about its delivery.
    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError>;

    /// Subscribes to topics: what is published after the answer is delivered. Idempotent.
    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError>;

    /// Ends the subscription of topics. Messages that are on their way may still come.
    fn unsubscribe(&self, topics: &[Arc<str>]);

    /// The messages for this node, bounded: what does not fit becomes [`Delivery::Lost`].
    ///
    /// # Errors
    ///
    /// [`BackendError::Taken`] at the second call: the handle is another node's.
    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError>;
}
