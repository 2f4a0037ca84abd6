//! What applications hold: the server, how it is put together, and what handlers are given.

mod builder;
mod context;
mod peer;
mod server;

pub use self::{
    builder::Builder,
    context::{Connection, Context},
    peer::Peer,
    server::Server,
};
