//! CRDTs among peers and around a server, when everything goes wrong that a network and a disk can do: nothing but the
//! data structures, a seed, and a model that knows what must come of it.

mod hub;
pub(crate) mod model;
mod peers;

use datasole_core::crdt::{CrdtKind, Edit};
use serde_json::json;

pub use hub::hub;
pub use peers::peers;

use crate::random::Random;

/// How often something happened in a run.
pub type Stats = std::collections::BTreeMap<&'static str, u64>;

/// Names of replicas: as bytes they sort otherwise than as UTF-16.
const NODES: [&str; 5] = ["ann", "\u{fb33}bob", "😀", "10", "\"\\"];

/// Any edit of this type; few keys and values, so that they meet.
fn edit(random: &mut Random, kind: CrdtKind) -> Edit {
    let values = [json!(1), json!("é"), json!({"b": [1.0], "a": null}), json!(true)];
    let value = values[random.below(4) as usize].clone();
    let (by, key, removes) =
        (random.magnitude(20), ["a", "b", "\u{fb33}", "😀"][random.below(4) as usize], random.coin());
    match kind {
        CrdtKind::PnCounter if removes => Edit::Decrement(by),
        CrdtKind::GCounter | CrdtKind::PnCounter => Edit::Increment(by),
        CrdtKind::LwwRegister => Edit::Set(json!([value, by])),
        CrdtKind::LwwMap if removes => Edit::Delete(key.into()),
        CrdtKind::LwwMap => Edit::Put(key.into(), json!([value, by])),
        CrdtKind::GSet => Edit::Add(json!([value, by % 8])),
        CrdtKind::OrSet if removes => Edit::Remove(value),
        CrdtKind::OrSet => Edit::Add(value),
    }
}

/// The beginning of a state, for a message.
fn excerpt(text: &str) -> String {
    text.chars().take(2_000).collect()
}
