//! Presence: the members of a room and their values. Nothing is stored; a member leaves with its connection, and the
//! core announces this client again on the next.

mod handle;
mod room;

pub use handle::Presence;
pub use room::Member;
