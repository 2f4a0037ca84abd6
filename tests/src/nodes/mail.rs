//! Messages to users and to single connections, which a server sends one after the other.

use datasole_server::Server;
use tokio::sync::mpsc;

use super::record::Record;
use crate::history::{Function, Id, Kind};

/// The event that carries the messages.
pub(super) const MAIL: &str = "mail";

/// The receiver of a message.
pub(super) enum To {
    User(String),
    Connection(String),
}

/// Messages that a server has yet to send, in order.
pub(super) type Outbox = mpsc::UnboundedSender<To>;

/// Sends what is put into the outbox, one message after the other, until it is dropped.
pub(super) fn sender(number: usize, server: Server, record: Record) -> Outbox {
    let (outbox, mut messages) = mpsc::unbounded_channel();
    let process = 2_000 + u32::try_from(number).unwrap();
    tokio::spawn(async move {
        while let Some(to) = messages.recv().await {
            let (target, address) = match &to {
                To::User(user) => (server.to_user(user), user),
                To::Connection(id) => (server.to_connection(id), id),
            };
            let id = record.next();
            record.tell(process, number, Kind::Invoke, address, Function::Send { id: Id(id) });
            target.emit(MAIL, &(address, id)).await.unwrap();
            record.tell(process, number, Kind::Ok, address, Function::Send { id: Id(id) });
            record.count("messages sent");
        }
    });
    outbox
}
