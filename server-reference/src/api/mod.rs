//! The top floor: the server as applications hold it, how it is put together, and the context of handlers.

mod builder;
mod context;
#[cfg(feature = "contract")]
mod contract;
mod peer;
mod server;

#[cfg(feature = "contract")]
pub use self::contract::{At, ContractMismatch};
pub use self::{
    builder::Builder,
    context::{Connection, Context},
    peer::Peer,
    server::Server,
};
