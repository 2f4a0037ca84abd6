//! [`OpenCrdt`]: when the operations of a CRDT are sent, and what is known of the server's value.

use super::{
    Context,
    answer::{Answer, Refused},
    outbox::{News, Outbox},
};
use crate::{
    error::{CommandError, codes},
    event::{Event, Payload, SyncPhase},
    session::Version,
    stream::Position,
    time::Millis,
};

/// One CRDT that is open.
#[derive(Debug, Default)]
pub(crate) struct OpenCrdt {
    pub(crate) outbox: Outbox,
    /// The server has told what it has, or will not: operations can be sent.
    ready: bool,
    /// The server's value is here, on this connection.
    loaded: bool,
    /// Reading was refused.
    unreadable: Option<Refused>,
    /// Everything was refused.
    refused: Option<Refused>,
}

impl OpenCrdt {
    pub(crate) fn phase(&self) -> SyncPhase {
        match (&self.refused, &self.unreadable) {
            (Some(refused), _) => SyncPhase::Refused { code: refused.code, message: refused.message.clone() },
            (None, Some(refused)) => SyncPhase::Unreadable { code: refused.code, message: refused.message.clone() },
            (None, None) if self.loaded => SyncPhase::Synced,
            (None, None) => SyncPhase::Loading,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.outbox.deadline().filter(|_| self.ready)
    }

    pub(crate) fn edit(&mut self, cx: &mut Context<'_>, edit: u64, payload: Payload) -> Result<(), CommandError> {
        if let Some(Refused { code, message }) = self.refused.clone() {
            return Err(CommandError::Refused { code, message });
        }
        let Payload::Json(text) = payload else { return Err(CommandError::Unfit { what: "crdt" }) };
        self.outbox.push(edit, text)?;
        self.flush(cx);
        Ok(())
    }

    /// Sends what can be sent.
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) {
        match cx.version {
            Some(Version::V2) if self.ready => {
                while let Some((number, text)) = self.outbox.next(cx.now) {
                    cx.submit(number, Payload::Json(text));
                }
            }
            // There, operations count anew each time they come: what the application does not send itself stays here.
            Some(Version::V1) => {
                let mut news = Vec::new();
                self.outbox.stay(&mut news);
                tell(cx, news);
            }
            _ => {}
        }
    }

    pub(crate) fn subscribed(&mut self, cx: &mut Context<'_>, recovered: bool) {
        (self.unreadable, self.refused) = (None, None);
        (self.ready, self.loaded) = (recovered, recovered);
        self.flush(cx);
    }

    /// The server will not tell what it has: reading is refused, and writing may still be allowed.
    pub(crate) fn unreadable(&mut self, cx: &mut Context<'_>, refused: Refused) {
        self.unreadable = Some(refused);
        (self.ready, self.loaded) = (true, false);
        self.flush(cx);
    }

    pub(crate) fn entry(&mut self, cx: &mut Context<'_>, payload: Payload, position: Position, whole: bool) {
        let mut news = Vec::new();
        if let Payload::Json(text) = &payload
            && cx.version == Some(Version::V2)
        {
            if whole {
                self.outbox.state(text, &mut news);
            } else {
                self.outbox.entry(text, &mut news);
            }
        }
        if whole {
            (self.ready, self.loaded) = (true, true);
        }
        cx.tell(Event::Entry { stream: cx.stream.clone(), payload, position, whole });
        tell(cx, news);
        self.flush(cx);
    }

    pub(crate) fn answered(&mut self, cx: &mut Context<'_>, number: u64, answer: Answer) {
        let returns = self.unreadable.is_none() && cx.version == Some(Version::V2);
        let mut news = Vec::new();
        let too = match (&self.unreadable, &answer) {
            (Some(reading), Answer::Never(writing)) if [codes::FORBIDDEN, reading.code].contains(&writing.code) => {
                Some(writing.clone())
            }
            _ => None,
        };
        match too {
            Some(refused) => self.refuse(cx, refused),
            None => {
                self.outbox.answered(cx.now, number, answer, returns, &mut news);
                tell(cx, news);
                self.flush(cx);
            }
        }
    }

    /// Everything is refused, and every edit with it.
    pub(crate) fn refuse(&mut self, cx: &mut Context<'_>, refused: Refused) {
        let mut news = Vec::new();
        self.outbox.refuse(&refused, &mut news);
        self.refused = Some(refused);
        (self.ready, self.loaded) = (false, false);
        tell(cx, news);
    }

    /// The value here is not to be trusted, nor a refusal: the state follows.
    pub(crate) fn start_over(&mut self) {
        (self.unreadable, self.refused) = (None, None);
        (self.ready, self.loaded) = (false, false);
    }

    pub(crate) fn lost(&mut self) {
        self.start_over();
        self.outbox.lost();
    }
}

fn tell(cx: &mut Context<'_>, news: Vec<News>) {
    for news in news {
        let stream = cx.stream.clone();
        cx.tell(match news {
            News::Settled(edit, outcome) => Event::Settled { stream, edit, outcome },
            News::Rejected(Refused { code, message }, text) => {
                let payload = Payload::from_json(&text).unwrap_or_default();
                Event::Rejected { stream, code, message, payload }
            }
        });
    }
}
