//! [`Trace`]: the edits of a text in the order in which they were made, as `tests/data/automerge-paper.json.gz` has them.

use std::io::Read;

use serde::Deserialize;

/// Position, characters deleted, text inserted.
pub type Edit = (u32, u32, String);

/// See the module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The text that the edits lead to.
    pub end_content: String,
    txns: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    patches: Vec<Edit>,
}

impl Trace {
    /// Reads a trace from its JSON.
    ///
    /// # Errors
    ///
    /// Fails if the text cannot be read, or is no trace.
    pub fn read(json: impl Read) -> Result<Self, serde_json::Error> {
        serde_json::from_reader(json)
    }

    /// The edits, each after the one before.
    pub fn edits(&self) -> impl Iterator<Item = &Edit> {
        self.txns.iter().flat_map(|transaction| &transaction.patches)
    }
}
