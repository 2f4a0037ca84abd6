//! A contract as data: what TypeScript is written from, what versions are compared by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A contract as data. Types are TypeScript expressions; the named ones are in `types`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Description {
    /// The contract's name in Rust.
    pub name: String,
    /// Calls by name.
    pub rpc: BTreeMap<String, Item<Called>>,
    /// Events by name.
    pub events: BTreeMap<String, Item<Sent>>,
    /// Live states by the pattern of their key, such as `board:{id}`; with the type of the value.
    pub state: BTreeMap<String, Item<Named>>,
    /// CRDTs by the pattern of their key; the type of the CRDT, such as `'pn-counter'`.
    pub crdt: BTreeMap<String, Item<Named>>,
    /// Presence rooms by pattern; with the type of a member's value.
    pub presence: BTreeMap<String, Item<Named>>,
    /// Documents by the pattern of their key.
    pub docs: BTreeMap<String, Item<()>>,
    /// Declarations of the named types.
    pub types: BTreeMap<String, Declaration>,
}

/// An entry of a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item<T> {
    /// The documentation, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docs: String,
    /// The types.
    #[serde(rename = "type")]
    pub shape: T,
}

/// The types of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// The parameters.
    pub params: String,
    /// The result.
    pub result: String,
    /// The `data` of the method's own errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The type of an event's data, and who sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The data.
    pub data: String,
    /// Clients send it.
    pub up: bool,
    /// The server sends it.
    pub down: bool,
}

/// One type.
pub type Named = String;

/// The declaration of a named type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// The documentation as a TypeScript comment, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docs: String,
    /// `type NAME = …;`
    pub text: String,
}

/// The reason why types are no contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// Two entries of one kind have one name.
    #[error("the contract {contract} has {name:?} twice: give one of them another name")]
    Twice {
        /// The contract.
        contract: String,
        /// The name on the wire.
        name: String,
    },
    /// Two different types have one name in TypeScript.
    #[error("the contract {contract} has two types {name:?}: rename one by #[ts(rename = \"…\")]")]
    TwoTypes {
        /// The contract.
        contract: String,
        /// The name in TypeScript.
        name: String,
    },
}

impl Description {
    /// Tells contracts apart: 16 hexadecimal digits of SHA-256 over everything but documentation.
    pub fn hash(&self) -> String {
        let mut bare = self.clone();
        macro_rules! strip {
            ($($section:ident),*) => {$( bare.$section.values_mut().for_each(|item| item.docs.clear()); )*};
        }
        strip!(rpc, events, state, crdt, presence, docs, types);
        // Maps are in order, so that equal contracts have equal texts.
        let text = serde_json::to_string(&bare).unwrap_or_default();
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
