//! A container alone: what is to be paid by whoever keeps so many entries or keys, without operations, a log or a stream around it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{content::Content, payload};

/// A value, and when it was written by whom.
struct Register {
    stamp: u64,
    node: Arc<str>,
    value: Box<str>,
}

/// The container of a [`Content`], with the same names.
pub(crate) struct Alone {
    content: Content,
    entries: BTreeMap<Box<str>, Register>,
    keys: HashMap<Box<str>, Arc<Mutex<Register>>>,
}

impl Alone {
    /// With what the content has from the start, if that is entries or keys.
    pub(crate) fn new(content: Content) -> Self {
        let mut alone = Self { content, entries: BTreeMap::new(), keys: HashMap::new() };
        let node: Arc<str> = "server".into();
        let register = || Register { stamp: 0, node: node.clone(), value: "0".into() };
        match content {
            Content::Nothing | Content::Rows(_) => {}
            Content::Entries(count) => {
                alone.entries = (0..count).map(|index| (payload::entry(index).into(), register())).collect();
            }
            Content::Keys(count) => {
                let register = || Arc::new(Mutex::new(register()));
                alone.keys = (0..count).map(|index| (payload::key(index).into(), register())).collect();
            }
        }
        alone
    }

    /// Changes so many, in the order in which our server does: one look-up and a new value each.
    pub(crate) fn change(&mut self, changes: u32) {
        for change in 0..u64::from(changes) {
            let (index, stamp) = (self.content.of(change), payload::now() + change);
            if let Content::Keys(_) = self.content {
                let register = self.keys.get(&*payload::key(index)).cloned();
                register.into_iter().for_each(|register| {
                    register.lock().unwrap_or_else(PoisonError::into_inner).write(stamp);
                });
            } else if let Some(register) = self.entries.get_mut(&*payload::entry(index)) {
                register.write(stamp);
            }
        }
    }
}

impl Register {
    /// The later value wins, and of two at one time that of the greater node.
    fn write(&mut self, stamp: u64) {
        if (self.stamp, &*self.node) <= (stamp, "server") {
            (self.stamp, self.value) = (stamp, stamp.to_string().into());
        }
    }
}
