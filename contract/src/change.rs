//! The differences between two versions of a contract, and which of them break apps that are running.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use crate::{
    description::{Description, Item},
    typ::{Declared, Flow, declared, parse},
};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The kind of the entry and its name, such as `rpc user.get`.
    pub place: String,
    /// The difference, in words.
    pub what: String,
    /// True if pages or programs built from the old contract fail with a server built from the new one.
    pub breaking: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.breaking { "breaking" } else { "safe" };
        write!(f, "{kind}: {}: {}", self.place, self.what)
    }
}

/// The differences, in the order of sections and names. New entries, new members of results, and new members of parameters
/// that may be missing are safe. Removed entries are breaking, as are members that are missing or of other types where an
/// old client reads them, and members that it does not send.
pub fn changes(old: &Description, new: &Description) -> Vec<Change> {
    let (old_types, new_types) = (declared(&old.types), declared(&new.types));
    let types = Types { old: &old_types, new: &new_types };
    let mut found = Vec::new();
    section(&mut found, "rpc", &old.rpc, &new.rpc, |old, new| {
        let error = match (&old.error, &new.error) {
            (Some(old), Some(new)) => types.read("error", old, new),
            (Some(_), None) => Some("error has no data any more".to_owned()),
            _ => None,
        };
        vec![types.written("params", &old.params, &new.params), types.read("result", &old.result, &new.result), error]
    });
    section(&mut found, "events", &old.events, &new.events, |old, new| {
        let gone = |was: bool, is: bool, who: &str| (was && !is).then(|| format!("is not sent by {who} any more"));
        let [up, down] = [old.up && new.up, old.down && new.down];
        vec![
            gone(old.up, new.up, "clients"),
            gone(old.down, new.down, "the server"),
            up.then(|| types.written("data", &old.data, &new.data)).flatten(),
            down.then(|| types.read("data", &old.data, &new.data)).flatten(),
        ]
    });
    section(&mut found, "state", &old.state, &new.state, |old, new| vec![types.read("value", old, new)]);
    let both =
        |old: &String, new: &String| vec![types.read("value", old, new).or_else(|| types.written("value", old, new))];
    section(&mut found, "crdt", &old.crdt, &new.crdt, both);
    section(&mut found, "presence", &old.presence, &new.presence, both);
    section(&mut found, "docs", &old.docs, &new.docs, |(), ()| Vec::new());
    found
}

struct Types<'a> {
    old: &'a Declared,
    new: &'a Declared,
}

impl Types<'_> {
    /// An old client reads what the new server sends, called `what`.
    fn read(&self, what: &str, old: &str, new: &str) -> Option<String> {
        told(what, Flow { from: self.new, to: self.old, lenient: false, open: HashSet::new() }, new, old)
    }

    /// The new server reads what an old client sends, called `what`.
    fn written(&self, what: &str, old: &str, new: &str) -> Option<String> {
        told(what, Flow { from: self.old, to: self.new, lenient: true, open: HashSet::new() }, old, new)
    }
}

fn told(what: &str, mut flow: Flow<'_>, from: &str, to: &str) -> Option<String> {
    match (parse(from), parse(to)) {
        (Some(from), Some(to)) => {
            let (path, found) = flow.differs(&from, &to)?;
            let between = if found.ends_with("missing") { "" } else { ":" };
            Some(format!("{what}{path}{between} {found}"))
        }
        _ => (from != to).then(|| format!("{what}: another type")),
    }
}

/// Compares the entries of a section; `compare` yields what breaks of one that stays.
fn section<T: PartialEq>(
    found: &mut Vec<Change>,
    name: &str,
    old: &BTreeMap<String, Item<T>>,
    new: &BTreeMap<String, Item<T>>,
    compare: impl Fn(&T, &T) -> Vec<Option<String>>,
) {
    let mut note = |key: &str, what: String, breaking: bool| {
        found.push(Change { place: format!("{name} {key}"), what, breaking });
    };
    for (key, item) in old {
        let Some(now) = new.get(key) else {
            note(key, "removed".to_owned(), true);
            continue;
        };
        let breaking: Vec<String> = compare(&item.shape, &now.shape).into_iter().flatten().collect();
        if breaking.is_empty() && item.shape != now.shape {
            note(key, "other types, which fit".to_owned(), false);
        }
        for what in breaking {
            note(key, what, true);
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        note(key, "added".to_owned(), false);
    }
}
