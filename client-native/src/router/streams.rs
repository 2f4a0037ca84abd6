//! The open streams: CRDTs, presence rooms and documents, each with what takes its events.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

#[cfg(feature = "docs")]
use datasole_core::Question;
use datasole_core::{
    Client as Core, CommandError, DisconnectReason, EditOutcome, Millis, Payload, Progress, StreamId, SyncPhase,
};

use crate::signal::{End, Feed};

/// The keeper of the value of one open stream. All methods are called under the router's lock, and so must not call
/// into the program.
pub(crate) trait Follower: Any + Send + Sync {
    /// The readers of the value.
    fn feed(&self) -> &Arc<Feed>;

    /// Notes that the core knows the stream from now on.
    fn opened(&self, _core: &mut Core, _now: Millis) {}

    /// Applies an entry, or says why it does not fit. The router notifies the readers.
    fn apply(&self, payload: Payload, whole: bool) -> Result<(), String>;

    /// Takes a notice, and passes its consequences to the core.
    fn take(&self, _core: &mut Core, _now: Millis, _notice: Notice) {}

    /// Notes that the server tells nothing before the stream is followed anew.
    fn lost(&self) {}

    /// True if nothing is left to do once the last handle is gone.
    fn is_settled(&self) -> bool {
        true
    }

    /// Ends the follower: the stream was left, or the client closed.
    fn end(&self) {
        self.feed().followers().end(End::Closed);
    }
}

/// The core's notices of one open stream, entries aside.
pub(crate) enum Notice {
    Settled {
        edit: u64,
        outcome: EditOutcome,
    },
    Progress(Progress),
    #[cfg(feature = "docs")]
    Ask(Question),
    #[cfg(feature = "docs")]
    Awareness(Vec<u8>),
}

#[derive(Default)]
pub(crate) struct Streams {
    open: HashMap<StreamId, Open>,
    /// The client has given up reconnecting.
    gone: Option<DisconnectReason>,
}

struct Open {
    follower: Arc<dyn Follower>,
    handles: usize,
    /// An entry was applied since the last that did not fit.
    applied: bool,
}

impl Streams {
    /// Counts a handle of a stream, and returns the follower: made now, unless the stream was open. A refused stream is
    /// subscribed again.
    pub(super) fn open<F: Follower, E: From<CommandError>>(
        &mut self,
        core: &mut Core,
        now: Millis,
        stream: &StreamId,
        make: impl FnOnce() -> Result<Arc<F>, E>,
    ) -> Result<Arc<F>, E> {
        let found = self.open.get(stream).map(|open| -> Arc<dyn Any + Send + Sync> { open.follower.clone() });
        // A kind of streams has one kind of followers.
        let found = found.and_then(|found| found.downcast::<F>().ok());
        let new = found.is_none();
        let follower = found.map_or_else(make, Ok)?;
        core.open(now, stream.clone(), None)?;
        let open = self.open.entry(stream.clone()).or_insert_with(|| Open {
            follower: follower.clone(),
            handles: 0,
            applied: false,
        });
        open.handles += 1;
        if new {
            follower.opened(core, now);
        }
        let mut followers = follower.feed().followers();
        if new {
            followers.give_up(self.gone.clone());
        }
        if *followers.phase() != SyncPhase::Synced {
            followers.enter(SyncPhase::Loading);
        }
        drop(followers);
        Ok(follower)
    }

    /// Removes a handle.
    pub(super) fn leave(&mut self, core: &mut Core, now: Millis, stream: &StreamId) {
        let Some(open) = self.open.get_mut(stream) else { return };
        open.handles -= 1;
        core.leave(now, stream);
        self.release(stream);
    }

    /// Ends a stream that has neither handles nor anything left to do.
    fn release(&mut self, stream: &StreamId) {
        if self.open.get(stream).is_some_and(|open| open.handles == 0 && open.follower.is_settled())
            && let Some(open) = self.open.remove(stream)
        {
            open.follower.end();
        }
    }

    pub(super) fn entry(&mut self, core: &mut Core, now: Millis, stream: &StreamId, payload: Payload, whole: bool) {
        let Some(open) = self.open.get_mut(stream) else { return };
        match open.follower.apply(payload, whole) {
            Ok(()) => {
                open.applied = true;
                open.follower.feed().followers().change();
            }
            Err(why) => {
                tracing::warn!(key = stream.key, why, "an entry does not fit the local value");
                core.unfit(now, stream, std::mem::take(&mut open.applied));
            }
        }
        if open.handles == 0 {
            self.release(stream);
        }
    }

    pub(super) fn notice(&mut self, core: &mut Core, now: Millis, stream: &StreamId, notice: Notice) {
        let Some(open) = self.open.get(stream) else { return };
        if let Notice::Progress(progress) = &notice {
            open.follower.feed().followers().enter(progress.phase.clone());
            if progress.phase == SyncPhase::Loading {
                open.follower.lost();
            }
        }
        open.follower.take(core, now, notice);
        if open.handles == 0 {
            self.release(stream);
        }
    }

    /// There is no connection.
    pub(super) fn lost(&self) {
        self.open.values().for_each(|open| open.follower.lost());
    }

    /// The client has given up reconnecting, or tries.
    pub(super) fn give_up(&mut self, reason: Option<&DisconnectReason>) {
        self.gone = reason.cloned();
        for open in self.open.values() {
            open.follower.feed().followers().give_up(self.gone.clone());
        }
    }

    /// Ends all of them. Drop the result without the router's lock, because it may hold values of the program.
    pub(super) fn close(&mut self) -> Vec<Arc<dyn Follower>> {
        let closed: Vec<_> = self.open.drain().map(|(_, open)| open.follower).collect();
        closed.iter().for_each(|follower| follower.end());
        closed
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.open.keys()).finish()
    }
}
