//! The contract of an app: its calls, events, states, CRDTs, rooms and documents, named and typed in one place.
//!
//! [`contract!`] gives each name its types. Server and native client infer them; [`typescript`] writes them for the
//! browser; [`Description`] holds them as data, and [`changes`] tells which differences break running apps.
//!
//! ```
//! use datasole_contract::{TS, contract, typescript};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, TS)]
//! pub struct GetUser { pub id: u32 }
//! #[derive(Serialize, Deserialize, TS)]
//! pub struct User { pub name: String }
//! #[derive(Serialize, Deserialize, TS)]
//! pub struct Board { pub votes: u32 }
//!
//! contract! {
//!     /// The offers of the board's server.
//!     pub App {
//!         rpc { GetUser = "user.get" -> User; }
//!         state { Dashboard = "dashboard" => Board; BoardOf { id: u32 } = "board:{id}" => Board; }
//!     }
//! }
//!
//! let text = typescript::<App>().unwrap();
//! assert!(text.contains("'user.get': { params: GetUser; result: User }"));
//! assert!(text.contains("[key: `board:${string}`]: Board"));
//! ```
//!
//! The glossary is in ARCHITECTURE.md.

mod change;
mod collect;
pub mod crdt;
mod description;
pub mod file;
mod macros;
mod render;
mod shape;
mod typ;

pub use change::{Change, changes};
pub use collect::Collector;
pub use description::{Called, ContractError, Declaration, Description, Item, Named, Sent};
pub use shape::{Contract, CrdtKey, Direction, DocKey, Event, Invalid, Key, Method, RoomKey};
pub use ts_rs::TS;

/// The description of a contract.
///
/// # Errors
///
/// Fails where two entries have one name, or two types that are not the same.
pub fn describe<C: Contract>() -> Result<Description, ContractError> {
    let mut collector = Collector::new(C::NAME);
    C::collect(&mut collector);
    collector.finish()
}

/// The contract as one TypeScript module, which registers itself with the package `datasole`.
///
/// # Errors
///
/// As [`describe`].
pub fn typescript<C: Contract>() -> Result<String, ContractError> {
    Ok(describe::<C>()?.typescript())
}
