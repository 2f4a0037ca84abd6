//! One operation on a CRDT: `{type, nodeId, counter, timestamp, logical?, done?, op, key?, value?, dots?}`.

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    CrdtError, CrdtKind, CrdtLimits, Json, MAX_INTEGER, Stamp,
    value::{integers, list, quote, raw},
};

/// What the replicas that have been forgotten contributed to a counter goes under this name.
pub(super) const RETIRED: &str = "retired";
/// What the names of version 1 replicas begin with.
pub(super) const V1_PREFIX: &str = "v1:";

/// Bytes that the text of most operations has room in.
const TEXT: usize = 256;

/// Bytes of a replica's secret.
pub(super) const MAX_SECRET: usize = 64;

/// The id of an operation: the replica's name, and the operation's number there.
pub type Dot = (Arc<str>, u64);

/// A well-formed operation: it has what its type needs, within the limits it was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub(super) kind: CrdtKind,
    pub(super) node: Arc<str>,
    pub(super) counter: u64,
    pub(super) timestamp: u64,
    pub(super) logical: u64,
    pub(super) done: u64,
    pub(super) change: Change,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Counters: by 1 to 2^53 − 1.
    Increment(u64),
    /// `pn-counter`: by 1 to 2^53 − 1.
    Decrement(u64),
    /// `lww-register`.
    Set(Json),
    /// `lww-map`: an entry; `None` removes it.
    Put(Arc<str>, Option<Json>),
    /// Sets; for an `or-set` with the additions of this element that it takes the place of.
    Add(Json, Vec<Dot>),
    /// `or-set`: removes these additions of the element.
    Remove(Json, Vec<Dot>),
    /// Nothing: takes the place of an operation that was refused.
    None,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members<'a> {
    r#type: CrdtKind,
    node_id: String,
    counter: Option<u64>,
    timestamp: u64,
    #[serde(default)]
    logical: u64,
    #[serde(default)]
    done: u64,
    op: Name,
    key: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    dots: Option<Vec<(String, u64)>>,
    #[serde(borrow)]
    secret: Option<Cow<'a, str>>,
}

impl Members<'_> {
    fn value(&self) -> Result<Option<Value>, CrdtError> {
        Ok(self.value.map(|text| crate::value::parse(text.get())).transpose()?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Increment,
    Decrement,
    Set,
    Add,
    Remove,
    None,
}

impl Op {
    /// Reads an operation as it is on the wire. Unknown members are ignored.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Json`], [`CrdtError::Malformed`], [`CrdtError::Limit`].
    pub fn parse(json: &str, limits: &CrdtLimits) -> Result<Self, CrdtError> {
        Ok(Self::with_secret(json, limits)?.0)
    }

    /// The same, and the secret of the operation's replica if there is one: what a client sends to its server.
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse).
    pub fn with_secret<'a>(json: &'a str, limits: &CrdtLimits) -> Result<(Self, Option<Cow<'a, str>>), CrdtError> {
        let members: Members<'_> = serde_json::from_str(json)?;
        let op = Self {
            kind: members.r#type,
            counter: members.counter.ok_or(CrdtError::Malformed("no counter"))?,
            timestamp: members.timestamp,
            logical: members.logical,
            done: members.done,
            change: change(&members, members.value()?, limits)?,
            node: members.node_id.into(),
        };
        if members.secret.as_ref().is_some_and(|secret| secret.is_empty() || secret.len() > MAX_SECRET) {
            return Err(CrdtError::Malformed("a secret has 1 to 64 bytes"));
        }
        Ok((op.check(limits)?, members.secret))
    }

    /// Reads an operation of version 1: without `counter`, and with increments that may be negative. `number` tells the
    /// counter, `done`, and the stamp's time and count, given the replica's name and the time the operation has.
    pub(super) fn parse_v1(
        json: &str,
        limits: &CrdtLimits,
        number: impl FnOnce(&str, u64) -> ((u64, u64), (u64, u64)),
    ) -> Result<Self, CrdtError> {
        let mut members: Members<'_> = serde_json::from_str(json)?;
        let mut value = members.value()?;
        if let Some(by) = value.as_ref().and_then(Value::as_i64).filter(|by| *by < 0) {
            members.op = match members.op {
                Name::Increment if members.r#type == CrdtKind::PnCounter => Name::Decrement,
                Name::Decrement => Name::Increment,
                other => other,
            };
            if matches!(members.op, Name::Increment | Name::Decrement) {
                value = Some(by.unsigned_abs().into());
            }
        }
        members.dots = None;
        let node: Arc<str> = format!("{V1_PREFIX}{}", members.node_id).into();
        let ((counter, done), (timestamp, logical)) = number(&node, members.timestamp);
        let change = change(&members, value, limits)?;
        Self { kind: members.r#type, node, counter, timestamp, logical, done, change }.check(limits)
    }

    pub(super) fn check(self, limits: &CrdtLimits) -> Result<Self, CrdtError> {
        check_node(&self.node, limits)?;
        let integers = [self.counter, self.timestamp, self.logical];
        if self.counter == 0 || integers.into_iter().any(|integer| integer > MAX_INTEGER) {
            return Err(CrdtError::Malformed("counter and stamp are integers below 2^53, the counter at least 1"));
        }
        if self.done >= self.counter {
            return Err(CrdtError::Malformed("done is below the counter"));
        }
        match &self.change {
            Change::Increment(by) | Change::Decrement(by) if !(1..=MAX_INTEGER).contains(by) => {
                return Err(CrdtError::Malformed("a counter changes by an integer from 1 to 2^53-1"));
            }
            Change::Put(key, _) if key.len() > limits.max_key => {
                return Err(CrdtError::Limit { what: "bytes of an entry's key", limit: limits.max_key });
            }
            Change::Add(_, dots) | Change::Remove(_, dots) => {
                if dots.len() > limits.max_dots {
                    return Err(CrdtError::Limit { what: "dots", limit: limits.max_dots });
                }
                for (node, counter) in dots {
                    check_node(node, limits)?;
                    if !(1..=MAX_INTEGER).contains(counter) {
                        return Err(CrdtError::Malformed("a dot's counter is an integer from 1 to 2^53-1"));
                    }
                    if (node, *counter) == (&self.node, self.counter) {
                        return Err(CrdtError::Malformed("an operation among its own dots"));
                    }
                }
            }
            _ => {}
        }
        Ok(self)
    }

    /// The type it is for.
    pub fn kind(&self) -> CrdtKind {
        self.kind
    }

    /// The replica that made it.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its number there, from 1.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Every operation of the replica up to this one has been acknowledged: none of them comes (again).
    pub fn done(&self) -> u64 {
        self.done
    }

    /// When it was made, and by whom.
    pub fn stamp(&self) -> Stamp {
        Stamp { timestamp: self.timestamp, logical: self.logical, node: self.node.clone() }
    }

    /// What it does.
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// What it does to a counter.
    pub(super) fn effect(&self) -> i64 {
        // The amounts are below 2^53.
        match self.change {
            Change::Increment(by) => by.cast_signed(),
            Change::Decrement(by) => -by.cast_signed(),
            _ => 0,
        }
    }

    pub(super) fn dots(&self) -> &[Dot] {
        match &self.change {
            Change::Add(_, dots) | Change::Remove(_, dots) => dots,
            _ => &[],
        }
    }

    /// The operation as it goes over the wire: canonical JSON.
    pub fn to_json(&self) -> Box<RawValue> {
        raw(self.to_text())
    }

    /// The text of [`to_json`](Self::to_json), which is not read again to be known as JSON.
    pub fn to_text(&self) -> String {
        let mut out = String::with_capacity(TEXT);
        integers(format_args!("{{\"counter\":{}", self.counter), &mut out);
        if self.done > 0 {
            integers(format_args!(",\"done\":{}", self.done), &mut out);
        }
        if !self.dots().is_empty() {
            out.push_str(",\"dots\":");
            write_dots(self.dots(), &mut out);
        }
        self.write_key(&mut out);
        if self.logical > 0 {
            integers(format_args!(",\"logical\":{}", self.logical), &mut out);
        }
        self.write_rest(&self.node, &mut out);
        out
    }

    /// The operation for a server of version 1, where it has neither id nor dots.
    pub fn to_json_v1(&self) -> Box<RawValue> {
        let mut out = String::from("{");
        self.write_key(&mut out);
        self.write_rest(&self.node, &mut out);
        raw(out.replacen("{,", "{", 1))
    }

    fn write_key(&self, out: &mut String) {
        if let Change::Put(key, _) = &self.change {
            out.push_str(",\"key\":");
            quote(key, out);
        }
    }

    fn write_rest(&self, node: &str, out: &mut String) {
        let name = match &self.change {
            Change::Increment(_) => "increment",
            Change::Decrement(_) => "decrement",
            Change::Set(_) | Change::Put(_, Some(_)) => "set",
            Change::Add(..) => "add",
            Change::Put(_, None) | Change::Remove(..) => "remove",
            Change::None => "none",
        };
        out.push_str(",\"nodeId\":");
        quote(node, out);
        for part in [",\"op\":\"", name, "\",\"timestamp\":"] {
            out.push_str(part);
        }
        integers(self.timestamp, out);
        for part in [",\"type\":\"", self.kind.name(), "\""] {
            out.push_str(part);
        }
        match &self.change {
            Change::Increment(by) | Change::Decrement(by) => integers(format_args!(",\"value\":{by}"), out),
            Change::Set(value) | Change::Put(_, Some(value)) | Change::Add(value, _) | Change::Remove(value, _) => {
                out.push_str(",\"value\":");
                out.push_str(value.get());
            }
            Change::Put(_, None) | Change::None => {}
        }
        out.push('}');
    }
}

/// What the members say, for the type they are for.
fn change(members: &Members<'_>, value: Option<Value>, limits: &CrdtLimits) -> Result<Change, CrdtError> {
    use CrdtKind::{GCounter, GSet, LwwMap, LwwRegister, OrSet, PnCounter};
    let json = || Json::new(value.as_ref().unwrap_or(&Value::Null), limits);
    let amount = || match &value {
        None => Ok(1),
        // An integer may be written as a float.
        Some(Value::Number(_)) => json()?.get().parse().map_err(|_| AMOUNT),
        Some(_) => Err(AMOUNT),
    };
    let key = || members.key.as_deref().map(Arc::from).ok_or(CrdtError::Malformed("no key"));
    let dots = || members.dots.iter().flatten().map(|(node, counter)| (node.as_str().into(), *counter)).collect();
    Ok(match (members.r#type, &members.op) {
        (GCounter | PnCounter, Name::Increment) => Change::Increment(amount()?),
        (PnCounter, Name::Decrement) => Change::Decrement(amount()?),
        (LwwRegister, Name::Set) => Change::Set(json()?),
        (LwwMap, Name::Set) => Change::Put(key()?, Some(json()?)),
        (LwwMap, Name::Remove) => Change::Put(key()?, None),
        (GSet, Name::Add) => Change::Add(json()?, Vec::new()),
        (OrSet, Name::Add) => Change::Add(json()?, dots()),
        (OrSet, Name::Remove) => Change::Remove(json()?, dots()),
        (_, Name::None) => Change::None,
        _ => return Err(CrdtError::Malformed("the type has no such op")),
    })
}

const AMOUNT: CrdtError = CrdtError::Malformed("a counter changes by an integer from 1 to 2^53-1");

/// Whether this can be a replica's name.
pub(super) fn check_node(node: &str, limits: &CrdtLimits) -> Result<(), CrdtError> {
    let name = node.strip_prefix(V1_PREFIX).unwrap_or(node);
    if name.is_empty() || node == RETIRED {
        return Err(CrdtError::Malformed("nodeId is empty or reserved"));
    }
    if name.len() > limits.max_node {
        return Err(CrdtError::Limit { what: "bytes of a nodeId", limit: limits.max_node });
    }
    Ok(())
}

pub(super) fn write_dots<'a>(dots: impl IntoIterator<Item = &'a Dot>, out: &mut String) {
    list(out, ('[', ']'), dots, |(node, counter), out| {
        out.push('[');
        quote(node, out);
        integers(format_args!(",{counter}]"), out);
    });
}
