//! The inbox of one event subscriber: bounded, filled by the driver, emptied by the program.
//!
//! A slow subscriber never slows the connection down or another subscriber: the oldest items are discarded, and the
//! subscriber is told how many.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use datasole_core::{DisconnectReason, Payload};

/// An event's content.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) payload: Payload,
    pub(crate) timestamp: u64,
}

/// An item for a subscriber, in order.
#[derive(Debug)]
pub(crate) enum Item {
    Message(Message),
    Missed,
    Lagged(u64),
    /// Elsewhere, because events are moved more often.
    Disconnected(Box<DisconnectReason>),
    Refused {
        code: i32,
        message: String,
    },
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.payload.len(),
            Self::Missed | Self::Lagged(_) | Self::Disconnected(_) | Self::Refused { .. } => 0,
        }
    }
}

/// How much an [`Inbox`] holds. One event is always held, whatever its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboxLimits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// The queue of one subscriber; above its bounds the oldest items are discarded.
#[derive(Debug)]
pub(crate) struct Inbox {
    limits: InboxLimits,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    discarded: u64,
    ended: bool,
    /// Waits for the next item, or for the end.
    reader: Option<Waker>,
}

impl Inbox {
    pub(crate) fn new(limits: InboxLimits) -> Self {
        Self { limits, queue: Mutex::default() }
    }

    pub(crate) fn push(&self, item: Item) {
        self.extend([item]);
    }

    /// Takes items that came together: with one lock, and one wake of the reader.
    pub(crate) fn extend(&self, items: impl IntoIterator<Item = Item>) {
        let mut queue = self.queue();
        let Queue { items: all, bytes, discarded, .. } = &mut *queue;
        for item in items {
            *bytes += item.bytes();
            all.push_back(item);
            while all.len() > self.limits.items.max(1) || (*bytes > self.limits.bytes && all.len() > 1) {
                let Some(oldest) = all.pop_front() else { break };
                *bytes -= oldest.bytes();
                *discarded += 1;
            }
        }
        Self::wake(queue);
    }

    /// Ends the inbox after the items that are in it.
    pub(crate) fn end(&self) {
        let mut queue = self.queue();
        queue.ended = true;
        Self::wake(queue);
    }

    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut queue = self.queue();
        if queue.discarded > 0 {
            return Poll::Ready(Some(Item::Lagged(std::mem::take(&mut queue.discarded))));
        }
        match queue.items.pop_front() {
            Some(item) => {
                queue.bytes -= item.bytes();
                Poll::Ready(Some(item))
            }
            None if queue.ended => Poll::Ready(None),
            None => {
                // The one before is dropped without the lock: a task may end with it.
                let before = queue.reader.replace(cx.waker().clone());
                drop(queue);
                drop(before);
                Poll::Pending
            }
        }
    }

    /// Wakes the reader, if it waits, without the lock.
    fn wake(mut queue: MutexGuard<'_, Queue>) {
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;
    use futures_util::task::noop_waker;

    const LIMITS: InboxLimits = InboxLimits { items: 4, bytes: 100 };

    /// Pushes events of these sizes (event `n` has the timestamp `n`) and reads everything back.
    fn check(sizes: &[usize], read: &[&str]) {
        for together in [1, 2, sizes.len()] {
            let inbox = Inbox::new(LIMITS);
            for (timestamp, sizes) in (0..).step_by(together).zip(sizes.chunks(together)) {
                let message = |(timestamp, &size)| Message { payload: Payload::Binary(vec![0; size]), timestamp };
                inbox.extend((timestamp..).zip(sizes).map(message).map(Item::Message));
            }
            inbox.end();
            assert_eq!(take_all(&inbox), read, "{sizes:?}");
            assert_eq!(inbox.queue().bytes, 0);
        }
    }

    fn take_all(inbox: &Inbox) -> Vec<String> {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut read = Vec::new();
        while let Poll::Ready(Some(item)) = inbox.poll_take(&mut cx) {
            read.push(match item {
                Item::Message(message) => message.timestamp.to_string(),
                other => format!("{other:?}"),
            });
        }
        read
    }

    #[test]
    fn the_count_of_items_is_bounded() {
        check(&[1; 3], &["0", "1", "2"]);
        check(&[1; 4], &["0", "1", "2", "3"]);
        check(&[1; 5], &["Lagged(1)", "1", "2", "3", "4"]);
        check(&[1; 9], &["Lagged(5)", "5", "6", "7", "8"]);
    }

    #[test]
    fn their_bytes_are_bounded() {
        check(&[50, 49], &["0", "1"]);
        check(&[50, 50], &["0", "1"]);
        check(&[50, 51], &["Lagged(1)", "1"]);
        check(&[40, 40, 101], &["Lagged(2)", "2"]);
        check(&[101], &["0"]);
    }

    #[test]
    fn reading_makes_room_and_order_is_kept() {
        let inbox = Inbox::new(LIMITS);
        for _ in 0..4 {
            inbox.push(Item::Missed);
        }
        assert_eq!(take_all(&inbox), ["Missed"; 4]);
        inbox.push(Item::Disconnected(Box::new(DisconnectReason::HalfOpen)));
        inbox.push(Item::Missed);
        assert_eq!(take_all(&inbox), ["Disconnected(HalfOpen)", "Missed"]);
    }

    #[derive(Default)]
    pub(crate) struct Woken(pub(crate) AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_last_is_woken_once_by_items_and_by_the_end() {
        let inbox = Inbox::new(LIMITS);
        let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let poll = |woken: &Arc<Woken>| inbox.poll_take(&mut Context::from_waker(&woken.clone().into()));
        let counts = || [&first, &last].map(|woken| woken.0.load(Ordering::Relaxed));
        assert!(poll(&first).is_pending() && poll(&last).is_pending());
        inbox.push(Item::Missed);
        inbox.push(Item::Missed);
        assert_eq!(counts(), [0, 1]);
        assert!(poll(&last).is_ready() && poll(&last).is_ready() && poll(&last).is_pending());
        inbox.end();
        assert_eq!(counts(), [0, 2]);
        assert!(matches!(poll(&last), Poll::Ready(None)));
    }

    #[test]
    fn what_is_in_it_comes_before_the_end() {
        let inbox = Inbox::new(LIMITS);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        assert!(inbox.poll_take(&mut cx).is_pending());
        inbox.push(Item::Missed);
        inbox.end();
        assert!(matches!(inbox.poll_take(&mut cx), Poll::Ready(Some(Item::Missed))));
        assert!(matches!(inbox.poll_take(&mut cx), Poll::Ready(None)));
    }
}
