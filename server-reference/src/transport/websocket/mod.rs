//! WebSockets: the upgrade, and one [`link`] per connection.

#[cfg(test)]
mod autobahn;
mod frame;
mod inbound;
mod link;
mod parting;
mod reader;
mod upgrade;
mod writer;

#[cfg(any(test, feature = "arbitrary"))]
pub(crate) use self::reader::fuzz;

pub(super) use upgrade::handle;
