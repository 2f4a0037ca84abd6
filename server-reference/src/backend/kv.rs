//! Values that expire, maps of fields, quotas and leases.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{bus::NodeId, error::BackendError};

/// The version of a value: every change of the key gives another, also after it was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

/// The condition under which a value is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// No value.
    Absent,
    /// This version.
    Version(Version),
}

/// A limit within a sliding window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The most that is granted within any window.
    pub limit: u64,
    /// The length of the window.
    pub window: Duration,
    /// How much this request takes. More than `limit` is never granted.
    pub cost: u64,
}

/// The answer to [`Kv::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether the cost was taken; otherwise nothing was.
    pub granted: bool,
    /// How much could be taken now.
    pub left: u64,
    /// When the same request will be granted if nobody else takes; zero where it was.
    pub retry_after: Duration,
}

/// A right that one node has until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name of the right.
    pub name: String,
    /// The node.
    pub holder: NodeId,
    /// Tells this lease from earlier ones of the same name.
    pub version: Version,
    /// How long it lasts after it was given or renewed.
    pub ttl: Duration,
}

/// Small values shared by all nodes. Times are the engine's.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// The value of `key` and its version.
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError>;

    /// Puts a value if `expected` is there, and answers its version; otherwise `None`. With `ttl` the value expires.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError>;

    /// Deletes the value of `key`, if there is one.
    async fn delete(&self, key: &str) -> Result<(), BackendError>;

    /// The fields of the map `key`, in the order of their names. Maps and values do not share keys.
    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError>;

    /// Sets a field of a map, or removes it. With `ttl` the whole map expires, counted from its last change; without,
    /// it does not.
    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError>;

    /// Takes from a quota. Never more than `limit` is granted within any window, however it lies.
    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError>;

    /// A lease of `name`, if nobody else has one. A holder that asks again gets a new one in place of the old.
    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError>;

    /// Lets a lease last its `ttl` from now; `false` if it has ended.
    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError>;

    /// Ends a lease early; one that has ended is no error.
    async fn end(&self, lease: Lease) -> Result<(), BackendError>;

    /// The leases in force whose names begin with `prefix`, in the order of their names.
    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError>;
}

impl Expected {
    /// Whether a value of this version, or none, is what was expected.
    pub fn allows(self, present: Option<Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => present.is_none(),
            Self::Version(version) => present == Some(version),
        }
    }
}
