//! Documents inside the core: one per state key, for hosts that want to read values without keeping their own.
//!
//! Patches are applied all or nothing. The mirror knows nothing of positions: whoever calls it has checked them.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::{
    patch::{Operation, Patch, PatchLimits, apply, text_length},
    tree::{Tree, parse},
};

/// How long a value may become by patches, as text; bytes. Snapshots are far shorter: they fit into a frame.
const MAX_TEXT: usize = 16 * 1024 * 1024;

/// The values by key; as many as there are subscriptions, or keys on version 1.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    entries: BTreeMap<String, Entry>,
    limits: PatchLimits,
}

#[derive(Debug)]
struct Entry {
    value: Tree,
    /// At least the length of its text: counted up by what comes in, measured only when that exceeds the limit.
    text: usize,
    /// A change was left out.
    doubtful: bool,
}

impl Mirror {
    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Replaces a whole value, or removes it. `false`, and no value, when it is nested too deeply to be held.
    pub(crate) fn replace(&mut self, key: &str, value: Option<&RawValue>) -> bool {
        let Some(raw) = value else {
            self.remove(key);
            return true;
        };
        match parse(raw.get()) {
            Ok(value) => {
                self.entries.insert(key.into(), Entry { value, text: raw.get().len(), doubtful: false });
                true
            }
            Err(_) => {
                self.remove(key);
                false
            }
        }
    }

    /// Applies operations. `false`, and the value as it was, when they do not fit; `false`, and no value, when it has
    /// become too long.
    pub(crate) fn patch(&mut self, key: &str, ops: &RawValue) -> bool {
        let Ok(patch) = Patch::parse(ops.get(), &self.limits) else { return false };
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if apply(&mut entry.value, &patch, &self.limits).is_err() {
            return false;
        }
        let copies = patch.operations().iter().any(|operation| matches!(operation, Operation::Copy { .. }));
        let copied = if copies { self.limits.max_copied_bytes } else { 0 };
        entry.text = entry.text.saturating_add(ops.get().len()).saturating_add(copied);
        if entry.text > MAX_TEXT {
            entry.text = text_length(&entry.value);
        }
        let fits = entry.text <= MAX_TEXT;
        if !fits {
            self.remove(key);
        }
        fits
    }

    /// Says that a change was left out; `true` the first time since the last whole value.
    pub(crate) fn doubt(&mut self, key: &str) -> bool {
        self.entries.get_mut(key).is_some_and(|entry| !std::mem::replace(&mut entry.doubtful, true))
    }

    /// Keeps only the keys that are still `wanted`.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| wanted(key));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_value_cannot_grow_without_end() {
        let long = "x".repeat(1024 * 1024);
        for patch in [
            format!(r#"[{{"op":"add","path":"/texts/-","value":"{long}"}}]"#),
            r#"[{"op":"copy","from":"/texts/0","path":"/texts/-"}]"#.into(),
        ] {
            let mut mirror = Mirror::default();
            assert!(mirror.replace("k", Some(&raw(&format!(r#"{{"n":0,"texts":["{long}"]}}"#)))));
            let applied = (0..100).take_while(|_| mirror.patch("k", &raw(&patch))).count();
            assert_eq!(applied, 14, "15 MiB fit, 16 and their quotes do not");
            assert!(mirror.get("k").is_none());
        }
    }

    #[test]
    fn a_value_that_only_changes_is_kept() {
        let mut mirror = Mirror::default();
        let long = "x".repeat(1024 * 1024);
        assert!(mirror.replace("k", Some(&raw(r#"{"text":""}"#))));
        let patch = raw(&format!(r#"[{{"op":"replace","path":"/text","value":"{long}"}}]"#));
        assert!((0..40).all(|_| mirror.patch("k", &patch)));
        assert!(!mirror.patch("k", &raw(r#"[{"op":"remove","path":"/nope"}]"#)));
        assert_eq!(mirror.get("k").and_then(|value| value["text"].as_str()).map(str::len), Some(long.len()));
    }
}
