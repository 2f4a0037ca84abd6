//! Edits: what someone who sees a state does to it, as the operation it is.

use std::borrow::Borrow;

use serde_json::Value;

use super::{Change, Crdt, CrdtError, CrdtKind, CrdtLimits, Hlc, Json, Op};

/// A change that a user makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Counters; 1 to 2^53 − 1.
    Increment(u64),
    /// `pn-counter`; 1 to 2^53 − 1.
    Decrement(u64),
    /// `lww-register`.
    Set(Value),
    /// `lww-map`: an entry.
    Put(String, Value),
    /// `lww-map`: removes an entry.
    Delete(String),
    /// Sets.
    Add(Value),
    /// `or-set`.
    Remove(Value),
}

impl Crdt {
    /// The operation that an edit of this state is, numbered after all that has been seen of `node`, with a stamp later
    /// than the latest; `now` in Unix milliseconds. Nothing is applied. `None`: the edit would change nothing.
    ///
    /// For code that is where the state is: a server, or a peer that has all it ever did in its state. [`Replica`] is for
    /// clients.
    ///
    /// [`Replica`]: super::Replica
    ///
    /// # Errors
    ///
    /// Those of [`Op::parse`] and [`apply`](Self::apply), and [`CrdtError::Clock`].
    pub fn compose(
        &self,
        node: &str,
        now: u64,
        edit: impl Borrow<Edit>,
        limits: &CrdtLimits,
    ) -> Result<Option<Op>, CrdtError> {
        let Some(change) = self.change(edit.borrow(), limits)? else { return Ok(None) };
        let mut clock = Hlc::new(u64::MAX);
        clock.observe((self.stamp().timestamp, self.stamp().logical), now);
        let (timestamp, logical) = clock.tick(now)?;
        let (kind, (counter, done)) = (self.kind(), self.number(node, now));
        let op = Op { kind, node: self.seen.name(node), counter, timestamp, logical, done, change }.check(limits)?;
        self.plan(&op, limits)?;
        Ok(Some(op))
    }

    /// What an edit means here.
    pub(super) fn change(&self, edit: &Edit, limits: &CrdtLimits) -> Result<Option<Change>, CrdtError> {
        use CrdtKind::{GCounter, GSet, LwwMap, LwwRegister, OrSet, PnCounter};
        let json = |value: &Value| Json::new(value, limits);
        Ok(Some(match (self.kind(), edit) {
            (GCounter | PnCounter, Edit::Increment(by)) => Change::Increment(*by),
            (PnCounter, Edit::Decrement(by)) => Change::Decrement(*by),
            (LwwRegister, Edit::Set(value)) => Change::Set(json(value)?),
            (LwwMap, Edit::Put(key, value)) => Change::Put(key.as_str().into(), Some(json(value)?)),
            (LwwMap, Edit::Delete(key)) => match self.get(key) {
                Some(_) => Change::Put(key.as_str().into(), None),
                None => return Ok(None),
            },
            (GSet, Edit::Add(value)) => Change::Add(json(value)?, Vec::new()),
            (OrSet, Edit::Add(value)) => {
                let value = json(value)?;
                let dots = self.dots(&value);
                Change::Add(value, dots)
            }
            (OrSet, Edit::Remove(value)) => {
                let value = json(value)?;
                match self.dots(&value) {
                    dots if dots.is_empty() => return Ok(None),
                    dots => Change::Remove(value, dots),
                }
            }
            _ => return Err(CrdtError::Malformed("the type has no such op")),
        }))
    }
}
