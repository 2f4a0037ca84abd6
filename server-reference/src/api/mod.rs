//! The top floor: the server as applications hold it, how it is put together, and the context of handlers.

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
