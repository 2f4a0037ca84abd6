//! [`Forms`]: the messages that carry one entry, each made when it is first needed and shared by all who read it.

use bytes::Bytes;

use super::{
    kind::{At, Form},
    ready::Made,
};
use crate::{connection::Connection, entry::Entry};

pub(super) struct Forms<'a> {
    form: &'static dyn Form,
    entry: &'a Entry,
    at: At<'a>,
    made: Made,
}

impl<'a> Forms<'a> {
    /// Some may have been made already. Without `numbered` no number names the stream in its present life.
    pub(super) fn new(form: &'static dyn Form, entry: &'a Entry, at: At<'a>, made: Made, numbered: bool) -> Self {
        let short = if numbered { made.short } else { Some(None) };
        Self { form, entry, at, made: Made { short, ..made } }
    }

    /// The form that everybody reads.
    pub(super) fn long(&mut self) -> Bytes {
        self.made.long.get_or_insert_with(|| self.form.message(self.entry, &self.at)).clone()
    }

    /// The shortest form that a connection reads.
    pub(super) fn of(&mut self, connection: &Connection) -> Bytes {
        let short = if connection.mailbox().is_short() {
            self.made.short.get_or_insert_with(|| self.form.short(self.entry, &self.at)).clone()
        } else {
            None
        };
        short.unwrap_or_else(|| self.long())
    }
}
