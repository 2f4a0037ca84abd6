//! Policies: which user may follow which stream, and change it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use datasole_core::StreamId;

use crate::auth::Identity;

/// The application's answer to whether a user may do something to a stream.
pub(crate) type Policy = Box<dyn Fn(&Identity, &StreamId) -> bool + Send + Sync>;

/// The application's policies. A missing policy allows everything.
#[derive(Default)]
pub(crate) struct Access {
    pub(crate) read: Option<Policy>,
    pub(crate) write: Option<Policy>,
}

impl Access {
    /// True if a user may follow a stream.
    pub(crate) fn may_read(&self, identity: &Identity, stream: &StreamId) -> bool {
        allows(self.read.as_ref(), identity, stream)
    }

    /// True if a user may change a stream.
    pub(crate) fn may_write(&self, identity: &Identity, stream: &StreamId) -> bool {
        allows(self.write.as_ref(), identity, stream)
    }

    /// True if there is no policy for reading: everybody may follow every stream.
    pub(crate) fn is_open(&self) -> bool {
        self.read.is_none()
    }
}

/// The answer of a policy. A policy that panics refuses.
fn allows(policy: Option<&Policy>, identity: &Identity, stream: &StreamId) -> bool {
    let Some(policy) = policy else { return true };
    catch_unwind(AssertUnwindSafe(|| policy(identity, stream))).unwrap_or_else(|_| {
        tracing::error!(key = stream.key, "a policy panicked");
        false
    })
}
