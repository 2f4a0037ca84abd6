//! Clients by contract: names follow from types.

use datasole_contract::{CrdtKey, Event, Key, Method, RoomKey, crdt};
use datasole_core::crdt::CrdtKind;

use crate::{
    CallError, CallOptions, Client, CommandError, EditError, EmitError, Events, Presence, PresenceError, Replicated,
    State, kinds,
};

/// A CRDT of a contract as this client holds it.
pub trait NativeCrdt: crdt::CrdtType {
    /// The parameter of [`Replicated`].
    type Kind;
    /// The type on the wire.
    const KIND: CrdtKind;
}

macro_rules! natives {
    ($($type:ident $(<$value:ident>)?),*) => {$(
        impl$(<$value: datasole_contract::TS + 'static>)? NativeCrdt for crdt::$type$(<$value>)? {
            type Kind = kinds::$type$(<$value>)?;
            const KIND: CrdtKind = CrdtKind::$type;
        }
    )*};
}

natives!(GCounter, PnCounter, LwwRegister<T>, LwwMap<T>, GSet<T>, OrSet<T>);

/// By the types of a contract: the counterparts of `call`, `emit`, `events`, `state`, `crdt`, `presence` and `doc`.
///
/// ```no_run
/// use datasole_client::Client;
/// use datasole_contract::{TS, contract};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, TS)]
/// pub struct Add { a: i32, b: i32 }
/// #[derive(Serialize, Deserialize, TS)]
/// pub struct Board { votes: u32 }
/// contract! {
///     pub App {
///         rpc { Add = "add" -> i32; }
///         state { Dashboard = "dashboard" => Board; }
///         crdt { Likes = "likes" => PnCounter; }
///     }
/// }
///
/// # async fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
/// let sum = client.request(&Add { a: 1, b: 2 }).await?;
/// let board = client.at(Dashboard)?.get()?.map(|board| board.votes);
/// client.replica(Likes)?.increment(1)?;
/// # drop((sum, board));
/// # Ok(())
/// # }
/// ```
impl Client {
    /// Calls the method that the type of the parameters names. See [`call`](Self::call).
    ///
    /// A field that is renamed in the contract is an error wherever the old name is read:
    ///
    /// ```compile_fail,E0609
    /// # use datasole_client::Client;
    /// # use datasole_contract::{TS, contract};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, TS)]
    /// # pub struct Vote { by: u32 }
    /// #[derive(Serialize, Deserialize, TS)]
    /// pub struct Board { heading: String, votes: u32 } // before: `title`
    /// # contract! { pub App { rpc { Vote = "vote" -> Board; } } }
    ///
    /// # async fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    /// println!("{}", client.request(&Vote { by: 1 }).await?.title);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call). [`CallError::data`] reads what the method's own errors carry.
    pub async fn request<M: Method>(&self, params: &M) -> Result<M::Output, CallError> {
        self.call(M::NAME, params).await
    }

    /// [`request`](Self::request), with options.
    ///
    /// # Errors
    ///
    /// As for [`request`](Self::request).
    pub async fn request_with<M: Method>(&self, params: &M, options: CallOptions) -> Result<M::Output, CallError> {
        self.call_with(M::NAME, params, options).await
    }

    /// Sends the event that the type of the data names. See [`emit`](Self::emit).
    ///
    /// # Errors
    ///
    /// As for [`emit`](Self::emit).
    pub async fn publish<E: Event>(&self, event: &E) -> Result<(), EmitError> {
        self.emit(E::NAME, event).await
    }

    /// Follows the events of a type. See [`events`](Self::events).
    ///
    /// # Errors
    ///
    /// As for [`events`](Self::events).
    pub fn listen<E: Event>(&self) -> Result<Events<E>, CommandError> {
        self.events(E::NAME)
    }

    /// Follows the live state of a key. See [`state`](Self::state).
    ///
    /// # Errors
    ///
    /// As for [`state`](Self::state).
    pub fn at<K: Key>(&self, key: K) -> Result<State<K::Value>, CommandError> {
        self.state(&key.key())
    }

    /// Opens the CRDT of a key. See [`crdt`](Self::crdt).
    ///
    /// # Errors
    ///
    /// As for [`Crdts::counter`](crate::Crdts::counter).
    pub fn replica<K>(&self, key: K) -> Result<Replicated<<K::Type as NativeCrdt>::Kind>, EditError>
    where
        K: CrdtKey<Type: NativeCrdt>,
    {
        self.crdt().open(K::Type::KIND, &key.key())
    }

    /// Follows the presence room of a key. See [`presence`](Self::presence).
    ///
    /// # Errors
    ///
    /// As for [`presence`](Self::presence).
    pub fn room<K: RoomKey>(&self, room: K) -> Result<Presence<K::Value>, PresenceError> {
        self.presence(&room.key())
    }

    /// Opens the document of a key. See [`doc`](Self::doc).
    ///
    /// # Errors
    ///
    /// As for [`doc`](Self::doc).
    #[cfg(feature = "docs")]
    pub fn document<K: datasole_contract::DocKey>(&self, key: K) -> Result<crate::Document, crate::DocError> {
        self.doc(&key.key())
    }
}
