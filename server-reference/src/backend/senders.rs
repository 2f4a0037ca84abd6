//! The nodes whose messages this one hears, by the connections over which they send.
//!
//! A message that was not answered may still lie in a connection that its sender has given up, and reach the engine after
//! messages that went over the next one. A bus delivers in order per sender, and each at most once: such a message is
//! dropped.

use std::collections::HashMap;

/// Nodes whose connections are remembered.
const NODES: usize = 1_024;

/// What is known of other nodes' connections.
#[derive(Debug, Default)]
pub(super) struct Senders {
    /// The number of the newest connection of each node that has had another one before.
    newest: HashMap<u64, u64>,
}

impl Senders {
    /// Whether a message comes too late: one has come from this node that went over a later connection. The connections of
    /// a node are numbered from 1.
    pub(super) fn is_late(&mut self, node: u64, connection: u64) -> bool {
        match self.newest.get_mut(&node) {
            Some(newest) if connection < *newest => return true,
            Some(newest) => *newest = connection,
            None if connection > 1 => {
                if self.newest.len() >= NODES {
                    // Most of them have ended long ago.
                    self.newest.clear();
                }
                self.newest.insert(node, connection);
            }
            None => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_over_an_earlier_connection_is_late() {
        let mut senders = Senders::default();
        for (node, connection, is_late) in [
            (7, 1, false),
            (7, 1, false),
            (7, 2, false),
            (7, 1, true),
            (8, 1, false),
            (7, 2, false),
            (7, 4, false),
            (7, 3, true),
            (8, 1, false),
        ] {
            assert_eq!(senders.is_late(node, connection), is_late, "{node} {connection}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut senders = Senders::default();
        for node in 0..3 * NODES as u64 {
            assert!(!senders.is_late(node, 1), "the first connection costs nothing");
        }
        assert_eq!(senders.newest.len(), 0);
        for node in 0..3 * NODES as u64 {
            assert!(!senders.is_late(node, 2));
            assert!(senders.is_late(node, 1) && senders.newest.len() <= NODES, "{node}");
        }
    }
}
