//! What waits for a connection: calls and events, in the order they were made, bounded in number and bytes.

use crate::{
    config::Limits,
    error::CommandError,
    event::{CallId, Payload},
    table::Table,
};

/// Ordered by the number each item was given, so that one that ends early is taken out without a scan.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    last: u64,
    items: Table<u64, Item>,
    bytes: usize,
}

/// One thing to be sent.
#[derive(Debug)]
pub(crate) enum Item {
    Call { call: CallId, params: Payload },
    Event { event: String, data: Payload },
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Call { params: payload, .. } | Self::Event { data: payload, .. } => payload.len(),
        }
    }
}

impl Queue {
    /// Queues an item and returns its number.
    pub(crate) fn push(&mut self, item: Item, limits: &Limits) -> Result<u64, CommandError> {
        if self.items.len() >= limits.max_queued {
            return Err(CommandError::Limit { what: "queued calls and events", limit: limits.max_queued });
        }
        let bytes = self.bytes.saturating_add(item.bytes());
        if bytes > limits.max_queued_bytes {
            return Err(CommandError::Limit { what: "queued bytes", limit: limits.max_queued_bytes });
        }
        self.bytes = bytes;
        self.last += 1;
        self.items.insert(self.last, item);
        Ok(self.last)
    }

    /// The oldest item.
    pub(crate) fn pop(&mut self) -> Option<Item> {
        let (_, item) = self.items.pop_first()?;
        self.bytes -= item.bytes();
        Some(item)
    }

    /// Takes out a call that ended before it was sent.
    pub(crate) fn remove(&mut self, number: u64) {
        if let Some(item) = self.items.remove(&number) {
            self.bytes -= item.bytes();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> Item {
        Item::Event { event: "e".into(), data: Payload::Binary(vec![0; bytes]) }
    }

    #[test]
    fn number_and_bytes_are_bounded_and_given_back() {
        let limits = Limits { max_queued: 3, max_queued_bytes: 10, ..Limits::default() };
        let mut queue = Queue::default();
        assert!(queue.push(event(11), &limits).is_err(), "above the byte limit");
        let first = queue.push(event(4), &limits).unwrap();
        assert!(queue.push(event(7), &limits).is_err(), "above");
        queue.push(event(5), &limits).unwrap();
        queue.push(event(1), &limits).unwrap();
        assert!(queue.push(event(0), &limits).is_err(), "a fourth item");
        queue.remove(first);
        queue.remove(first);
        queue.push(event(4), &limits).unwrap();
        assert_eq!((0..3).filter_map(|_| queue.pop()).map(|item| item.bytes()).collect::<Vec<_>>(), [5, 1, 4]);
        assert!(queue.pop().is_none() && queue.bytes == 0);
    }
}
