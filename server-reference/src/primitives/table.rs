//! The table of kinds: a line for each kind of streams that this server has.

use std::{collections::HashMap, sync::Arc};

#[cfg(feature = "docs")]
use super::docs;
use super::{crdt, events, presence, state};
use crate::{
    hub::Spec,
    limits::{Limits, Replay},
};

/// The kinds, in the order in which version 1 clients are shown their streams.
pub(crate) fn kinds(limits: &Arc<Limits>, histories: &Arc<HashMap<String, Replay>>) -> Vec<Spec> {
    vec![
        state::kind(limits),
        events::kind(limits, histories),
        crdt::kind(limits),
        presence::kind(limits),
        #[cfg(feature = "docs")]
        docs::kind(limits),
    ]
}
