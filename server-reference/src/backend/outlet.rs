//! A bounded channel whose sender never waits: messages that do not fit become one notice of loss.

use tokio::sync::mpsc;

/// The sending half. Senders take turns (`&mut`), which keeps the order.
#[derive(Debug)]
pub(super) struct Outlet<T> {
    /// Has one slot more than messages: the last is for the notice.
    sender: mpsc::Sender<T>,
    notice: fn() -> T,
    /// Whether the newest message is a notice.
    noticed: bool,
}

impl<T> Outlet<T> {
    /// A channel for `capacity` messages, and a notice after them.
    pub(super) fn new(capacity: usize, notice: fn() -> T) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1) + 1);
        (Self { sender, notice, noticed: false }, receiver)
    }

    pub(super) fn send(&mut self, message: T) {
        // Only the receiver changes the capacity meanwhile, and only upwards: both sends find room. They fail when it
        // has ended, which concerns nobody.
        match self.sender.capacity() {
            0 => {}
            1 if self.noticed => {}
            1 => {
                self.noticed = true;
                let _ = self.sender.try_send((self.notice)());
            }
            _ => {
                self.noticed = false;
                let _ = self.sender.try_send(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: u32 = 0;

    fn drain(receiver: &mut mpsc::Receiver<u32>) -> Vec<u32> {
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    #[test]
    fn what_does_not_fit_is_one_notice() {
        for sent in [1, 2, 3, 4, 5, 100] {
            let (mut outlet, mut receiver) = Outlet::new(3, || LOST);
            (1..=sent).for_each(|n| outlet.send(n));
            let expected: Vec<u32> = (1..=sent.min(3)).chain((sent > 3).then_some(LOST)).collect();
            assert_eq!(drain(&mut receiver), expected, "{sent} sent");
            outlet.send(7);
            assert_eq!(drain(&mut receiver), [7], "room again");
        }
    }

    #[test]
    fn a_loss_after_the_notice_was_read_is_told_again() {
        let (mut outlet, mut receiver) = Outlet::new(2, || LOST);
        (1..=5).for_each(|n| outlet.send(n));
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Ok(1), Ok(2)));
        outlet.send(6);
        outlet.send(7);
        outlet.send(8);
        assert_eq!(drain(&mut receiver), [LOST, 6, LOST], "7 and 8 found one slot, which is the notice's");
    }
}
