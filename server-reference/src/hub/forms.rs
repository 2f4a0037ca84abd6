//! [`Forms`]: the messages that carry one entry, each made when it is first needed and shared by all who read it.

use bytes::Bytes;

use super::kind::{At, Kind};
use crate::{connection::Connection, entry::Entry};

pub(super) struct Forms<'a> {
    content: &'a dyn Kind,
    entry: &'a Entry,
    at: At<'a>,
    long: Option<Bytes>,
    /// The form in which a number names the stream; `None` inside where there is none.
    short: Option<Option<Bytes>>,
}

impl<'a> Forms<'a> {
    /// `long` may have been made already. Without `numbered` no number names the stream in its present life.
    pub(super) fn new(
        content: &'a dyn Kind,
        entry: &'a Entry,
        at: At<'a>,
        long: Option<Bytes>,
        numbered: bool,
    ) -> Self {
        Self { content, entry, at, long, short: (!numbered).then_some(None) }
    }

    /// The form that everybody reads.
    pub(super) fn long(&mut self) -> Bytes {
        self.long.get_or_insert_with(|| self.content.message(self.entry, &self.at)).clone()
    }

    /// The shortest form that a connection reads.
    pub(super) fn of(&mut self, connection: &Connection) -> Bytes {
        let short = if connection.mailbox().is_short() {
            self.short.get_or_insert_with(|| self.content.short(self.entry, &self.at)).clone()
        } else {
            None
        };
        short.unwrap_or_else(|| self.long())
    }
}
