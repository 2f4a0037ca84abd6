//! A container alone: what is to be paid by whoever keeps so many rows, entries or keys of known types, and what others missed. Each change is
//! read where it comes as text, written, framed and kept for those who come back; there are no limits, and there is nobody who follows.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use serde_json::json;

use crate::{Result, bare, content::Content, payload};

/// Changes that are kept of a container or a key, as by our server's default.
const KEPT: usize = 500;

/// A row of a [`Table`](datasole_tests::table::Table).
struct Row {
    n: u64,
    _name: Box<str>,
    _price: f64,
}

/// A value, and when it was written by whom.
struct Register {
    stamp: u64,
    node: Arc<str>,
    value: Box<str>,
}

/// Messages for those who come back.
#[derive(Default)]
struct Log(VecDeque<Vec<u8>>);

/// An operation of a patch.
#[derive(Deserialize)]
struct Operation<'a> {
    path: &'a str,
    value: u64,
}

/// The container of a [`Content`], with the same names.
pub(crate) struct Alone {
    content: Content,
    rows: Vec<Row>,
    entries: BTreeMap<Box<str>, Register>,
    keys: HashMap<Box<str>, Arc<Mutex<(Register, Log)>>>,
    log: Log,
    seq: u64,
}

impl Alone {
    /// With what the content has from the start.
    pub(crate) fn new(content: Content) -> Self {
        let (entries, keys, log) = (BTreeMap::new(), HashMap::new(), Log::default());
        let mut alone = Self { content, rows: Vec::new(), entries, keys, log, seq: 0 };
        let node: Arc<str> = "server".into();
        let register = || Register { stamp: 0, node: node.clone(), value: "0".into() };
        match content {
            Content::Nothing => {}
            Content::Rows(count) => {
                let row = |id| Row { n: 0, _name: format!("row {id}").into(), _price: 10.5 };
                alone.rows = (0..count).map(row).collect();
            }
            Content::Entries(count) => {
                alone.entries = (0..count).map(|index| (payload::entry(index).into(), register())).collect();
            }
            Content::Keys(count) => {
                let key = || Arc::new(Mutex::new((register(), Log::default())));
                alone.keys = (0..count).map(|index| (payload::key(index).into(), key())).collect();
            }
        }
        alone
    }

    /// Changes so many, in the order in which our server does.
    pub(crate) fn change(&mut self, changes: u32) -> Result<()> {
        for change in 0..u64::from(changes) {
            let (index, value) = (self.content.of(change), payload::now() + change);
            self.seq += 1;
            match self.content {
                Content::Rows(_) => self.patch_row(index, value)?,
                Content::Entries(_) => self.set_entry(index, value)?,
                _ => self.patch_key(index, value)?,
            }
        }
        Ok(())
    }

    fn patch_row(&mut self, index: usize, value: u64) -> Result<()> {
        let text = payload::one_cell(index, value).to_string();
        let [Operation { path, value }] = serde_json::from_str(&text)?;
        let row = path.split('/').nth(2).and_then(|row| self.rows.get_mut(row.parse::<usize>().ok()?));
        row.ok_or("no such row")?.n = value;
        self.log.keep(bare::change(payload::STATE, &text, self.seq)?);
        Ok(())
    }

    fn set_entry(&mut self, index: usize, value: u64) -> Result<()> {
        let (name, value) = (payload::entry(index), value.to_string());
        self.entries.get_mut(&*name).ok_or("no such entry")?.write(self.seq, &value);
        self.log.keep(bare::change(payload::MAP, &format!(r#"["{name}",{value}]"#), self.seq)?);
        Ok(())
    }

    fn patch_key(&mut self, index: usize, value: u64) -> Result<()> {
        let key = payload::key(index);
        let text = json!([{"op": "replace", "path": "/n", "value": value}]).to_string();
        let [Operation { value, .. }] = serde_json::from_str(&text)?;
        let kept = self.keys.get(&*key).cloned().ok_or("no such key")?;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0.write(self.seq, &value.to_string());
        kept.1.keep(bare::change(&key, &text, self.seq)?);
        Ok(())
    }
}

impl Register {
    /// The later value wins, and of two at one time that of the greater node.
    fn write(&mut self, stamp: u64, value: &str) {
        if (self.stamp, &*self.node) <= (stamp, "server") {
            (self.stamp, self.value) = (stamp, value.into());
        }
    }
}

impl Log {
    fn keep(&mut self, message: Vec<u8>) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(message);
    }
}
