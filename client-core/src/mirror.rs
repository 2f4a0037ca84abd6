//! Documents inside the core: one per state key, for hosts that want to read values without keeping their own.
//!
//! Patches are applied all or nothing. The mirror knows nothing of positions: whoever calls it has checked them.

use std::collections::BTreeMap;

use serde_json::{Value, value::RawValue};

use crate::patch::{Patch, PatchLimits, apply};

/// The values by key; as many as there are subscriptions, or keys on version 1.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    values: BTreeMap<String, Value>,
    limits: PatchLimits,
}

impl Mirror {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Replaces a whole value, or removes it. `false`, and no value, when it is nested too deeply to be held.
    pub(crate) fn replace(&mut self, key: &str, value: Option<&RawValue>) -> bool {
        let Some(raw) = value else {
            self.remove(key);
            return true;
        };
        match serde_json::from_str(raw.get()) {
            Ok(value) => {
                self.values.insert(key.into(), value);
                true
            }
            Err(_) => {
                self.remove(key);
                false
            }
        }
    }

    /// Applies operations. `false`, and the value as it was, when they do not fit.
    pub(crate) fn patch(&mut self, key: &str, ops: &RawValue) -> bool {
        let Ok(patch) = Patch::parse(ops.get(), &self.limits) else { return false };
        match self.values.get_mut(key) {
            Some(value) => apply(value, &patch, &self.limits).is_ok(),
            None => false,
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.values.remove(key);
    }
}
