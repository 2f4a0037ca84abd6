//! [`Awareness`]: when this client's awareness of a document is announced.

use super::message;
use crate::{
    event::{Event, Question},
    sync::Context,
    time::Millis,
};

/// Others take an awareness for outdated after 30 s (y-protocols); milliseconds.
const RENEW: u64 = 20_000;

#[derive(Debug)]
pub(super) struct Awareness {
    /// Milliseconds between two announcements.
    throttle: u64,
    /// The document has a channel to announce in.
    joined: bool,
    /// Something is shown, and has been announced at least once.
    shown: bool,
    announced: bool,
    /// The update to be announced.
    unsent: Option<Vec<u8>>,
    not_before: Millis,
    renew: Millis,
}

impl Awareness {
    pub(super) fn new(throttle: u64) -> Self {
        Self {
            throttle,
            joined: false,
            shown: false,
            announced: false,
            unsent: None,
            not_before: Millis(0),
            renew: Millis(0),
        }
    }

    pub(super) fn show(&mut self, cx: &mut Context<'_>, update: Option<Vec<u8>>) {
        match update {
            Some(update) => {
                self.shown = true;
                self.unsent = Some(update);
                self.run(cx);
            }
            None => {
                // The update that waits may say that nothing is shown.
                self.not_before = cx.now;
                self.run(cx);
                (self.shown, self.announced, self.unsent) = (false, false, None);
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        let unsent = self.unsent.as_ref().map(|_| self.not_before);
        let renew = (self.shown && self.announced).then_some(self.renew);
        [unsent, renew].into_iter().flatten().min().filter(|_| self.joined)
    }

    /// Announces what waits, if it is time, and asks for what is out of date.
    pub(super) fn run(&mut self, cx: &mut Context<'_>) {
        if self.deadline().is_none_or(|due| cx.now < due) {
            return;
        }
        match self.unsent.take_if(|_| self.not_before <= cx.now) {
            Some(update) => {
                self.announced = true;
                self.not_before = cx.now + self.throttle;
                self.renew = cx.now + RENEW;
                cx.notify(message::awareness(&update));
            }
            None => self.ask(cx),
        }
    }

    /// The server has forgotten what was announced before, and takes no clock again.
    pub(super) fn subscribed(&mut self, cx: &mut Context<'_>) {
        self.joined = true;
        self.not_before = cx.now;
        if self.shown && self.announced {
            self.unsent = None;
            self.ask(cx);
        } else {
            self.run(cx);
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>) {
        self.renew = cx.now + RENEW;
        cx.tell(Event::Ask { document: cx.stream.key.clone(), question: Question::Awareness });
    }

    pub(super) fn lost(&mut self) {
        self.joined = false;
    }
}
