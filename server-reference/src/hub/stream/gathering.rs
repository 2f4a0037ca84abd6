//! Changes of what no backend keeps, gathered: followers are told of those of one moment together.

use std::sync::Arc;

use super::{
    super::{
        kind::{Kind, Taken},
        ready::Made,
        roster::Change,
    },
    Inner, Stream,
};
use crate::{answer::Author, backend::log::Tag, sync::lock};

impl Stream {
    /// Makes a change of what no backend keeps, and acknowledges it. Followers are told with the changes that are made in
    /// the same moment: at or after the number of the acknowledgement, or never if it is undone before.
    pub(crate) fn change<E>(
        self: &Arc<Self>,
        author: Option<&Author>,
        change: impl FnOnce(&mut dyn Kind) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut inner = lock(&self.inner);
        change(&mut *inner.content)?;
        let waits = self.gather(&mut inner);
        if let Some(author) = author {
            let seq = inner.mark.position.seq + u64::from(waits);
            author.connection.acknowledge(author.correlation, seq);
        }
        Ok(())
    }

    /// Tells the followers of the changes that are gathered, or will in a moment; whether those wait.
    fn gather(self: &Arc<Self>, inner: &mut Inner) -> bool {
        let Some(rest) = inner.content.rest() else { return false };
        if inner.is_due() || !rest.is_zero() && self.come_due(inner, rest) {
            return true;
        }
        self.tell_news(inner);
        false
    }

    pub(super) fn tell_news(self: &Arc<Self>, inner: &mut Inner) {
        while let Some(entry) = inner.content.news() {
            self.push(inner, (&entry, Made::default()), Tag::default(), (0, &[]), None);
        }
    }

    /// Takes what connections of other nodes share, and tells the followers; the connections of this node whose shares are
    /// others thereby.
    pub(in crate::hub) fn take_shares(self: &Arc<Self>, shares: Vec<Change>) -> Vec<u64> {
        let mut inner = lock(&self.inner);
        let position = inner.mark.position;
        let robbed = shares.into_iter().flat_map(|(of, share)| {
            match inner.content.take_share(of, share.as_deref(), &self.at(position)) {
                Taken::Nothing => Vec::new(),
                #[cfg(feature = "docs")]
                Taken::Message { message, robbed } => {
                    inner.followers().iter().for_each(|follower| follower.mailbox().push(message.clone()));
                    robbed
                }
            }
        });
        let robbed = robbed.collect();
        self.gather(&mut inner);
        robbed
    }
}
