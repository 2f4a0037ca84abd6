//! Presence: who is in a room, and what each shows of itself. Nothing is stored; an entry lives as long as its
//! connection, and the core announces ours again on the next.

mod handle;
mod room;

pub use handle::Presence;
pub use room::Member;
