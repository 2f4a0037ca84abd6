//! WebSockets: the upgrade, and one [`link`] per connection.

mod framing;
mod heard;
mod link;
mod parting;
mod upgrade;

pub(super) use upgrade::handle;
