//! A container alone: what is to be paid by whoever keeps so many rows, entries or keys, and what others missed. Each change is
//! read, written, framed and kept for those who come back; there are no limits, no stamps of several writers, nobody who follows.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use datasole_tests::table::Table;
use serde_json::{Value, json};

use crate::{Result, bare, content::Content, payload};

/// Changes that are kept, as by our server's default.
const KEPT: usize = 500;

/// A value, and when it was written by whom.
struct Register {
    stamp: u64,
    node: Arc<str>,
    value: Box<str>,
}

/// The container of a [`Content`], with the same names.
pub(crate) struct Alone {
    content: Content,
    rows: Value,
    entries: BTreeMap<Box<str>, Register>,
    keys: HashMap<Box<str>, Arc<Mutex<Register>>>,
    log: VecDeque<Vec<u8>>,
    seq: u64,
}

impl Alone {
    /// With what the content has from the start.
    pub(crate) fn new(content: Content) -> Result<Self> {
        let (entries, keys, log) = (BTreeMap::new(), HashMap::new(), VecDeque::new());
        let mut alone = Self { content, rows: Value::Null, entries, keys, log, seq: 0 };
        let node: Arc<str> = "server".into();
        let register = || Register { stamp: 0, node: node.clone(), value: "0".into() };
        match content {
            Content::Nothing => {}
            Content::Rows(count) => alone.rows = serde_json::to_value(Table::new(count))?,
            Content::Entries(count) => {
                alone.entries = (0..count).map(|index| (payload::entry(index).into(), register())).collect();
            }
            Content::Keys(count) => {
                let register = || Arc::new(Mutex::new(register()));
                alone.keys = (0..count).map(|index| (payload::key(index).into(), register())).collect();
            }
        }
        Ok(alone)
    }

    /// Changes so many, in the order in which our server does.
    pub(crate) fn change(&mut self, changes: u32) -> Result<()> {
        for change in 0..u64::from(changes) {
            let (index, value) = (self.content.of(change), payload::now() + change);
            self.seq += 1;
            let (key, operations) = match self.content {
                Content::Rows(_) => self.patch_row(index, value)?,
                Content::Entries(_) => self.set_entry(index, value)?,
                _ => self.patch_key(index, value)?,
            };
            if self.log.len() == KEPT {
                self.log.pop_front();
            }
            self.log.push_back(bare::change(&key, &operations, self.seq)?);
        }
        Ok(())
    }

    fn patch_row(&mut self, index: usize, value: u64) -> Result<(String, Value)> {
        let operations = read(&payload::one_cell(index, value))?;
        let cell = operations[0]["path"].as_str().and_then(|path| self.rows.pointer_mut(path));
        *cell.ok_or("no such cell")? = operations[0]["value"].clone();
        Ok((payload::STATE.to_owned(), operations))
    }

    fn set_entry(&mut self, index: usize, value: u64) -> Result<(String, Value)> {
        let (name, value) = (payload::entry(index), Value::from(value));
        self.entries.get_mut(&*name).ok_or("no such entry")?.write(self.seq, &value);
        Ok((payload::MAP.to_owned(), json!([name, value])))
    }

    fn patch_key(&mut self, index: usize, value: u64) -> Result<(String, Value)> {
        let key = payload::key(index);
        let operations = read(&json!([{"op": "replace", "path": "/n", "value": value}]))?;
        let register = self.keys.get(&*key).cloned().ok_or("no such key")?;
        register.lock().unwrap_or_else(PoisonError::into_inner).write(self.seq, &operations[0]["value"]);
        Ok((key, operations))
    }
}

/// Patches come as text.
fn read(operations: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&operations.to_string())?)
}

impl Register {
    /// The later value wins, and of two at one time that of the greater node.
    fn write(&mut self, stamp: u64, value: &Value) {
        if (self.stamp, &*self.node) <= (stamp, "server") {
            (self.stamp, self.value) = (stamp, value.to_string().into());
        }
    }
}
