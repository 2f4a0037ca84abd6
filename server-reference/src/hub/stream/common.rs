//! [`Common`]: what many streams share, and each would hold otherwise.

use std::sync::{Arc, atomic::AtomicUsize};

use super::super::kind::{Form, Kind, Rules};
use crate::{desk::Desk, limits::Limits};

/// Rules, limits and counters that streams of a kind share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) rules: Rules,
    pub(crate) form: &'static dyn Form,
    /// Longer frames are compressed; bytes.
    pub(crate) compress_above: usize,
    /// Most bytes of entries that follow a shared message of the whole.
    pub(super) max_since: usize,
    /// How many streams of the kind may not leave memory, those too that are followed.
    pub(super) needed: Arc<AtomicUsize>,
    /// Where large contents are written out.
    pub(super) desk: Desk,
}

impl Common {
    /// Of a stream whose content is empty still.
    pub(crate) fn new(content: &dyn Kind, limits: &Limits, needed: Arc<AtomicUsize>, desk: Desk) -> Arc<Self> {
        let (rules, form) = (content.rules(), content.form());
        let Limits { compress_above, max_queue, .. } = *limits;
        Arc::new(Self { rules, form, compress_above, max_since: max_queue / 2, needed, desk })
    }
}
