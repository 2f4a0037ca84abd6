//! States as JSON, both ways: `{metadata, type, value}`, canonical, so that equal states are equal texts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Content, Crdt, CrdtError, CrdtKind, CrdtLimits, Json, LwwRegister, MAX_INTEGER, Stamp,
    g_counter::{GCounter, amount},
    key::Key,
    op::{Dot, RETIRED, V1_PREFIX, check_node, write_dots},
    seen::Node,
    value::{integers, list, order, quote, raw},
};

/// The replica that stands for a version 1 server, whose states do not say whose what is; towards version 1 clients, for
/// all replicas that are not of version 1.
const SERVER: &str = "server";

#[derive(Deserialize)]
struct State<'a> {
    r#type: CrdtKind,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    node_id: String,
    timestamp: u64,
    logical: u64,
    version: u64,
    vector: Option<Vector>,
    entries: Option<BTreeMap<String, EntryRow>>,
    dots: Option<Vec<Vec<(String, u64)>>>,
    seen: Option<BTreeMap<String, SeenRow>>,
    floor: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Vector {
    increments: BTreeMap<String, u64>,
    decrements: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryRow {
    timestamp: u64,
    #[serde(default)]
    logical: u64,
    node_id: String,
    #[serde(default)]
    removed: bool,
}

#[derive(Deserialize)]
struct SeenRow(u64, u64, #[serde(default)] Vec<(u64, i64)>);

impl Crdt {
    /// Reads a state: one of ours, or a plain one of version 1, which lacks `seen` and more. `None` for `null`: there is
    /// no such CRDT.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Json`], [`CrdtError::Malformed`], [`CrdtError::Range`], [`CrdtError::Limit`].
    pub fn from_json(json: &str, limits: &CrdtLimits) -> Result<Option<Self>, CrdtError> {
        Ok(Self::from_any(json, limits)?.map(|(state, _)| state))
    }

    /// The same, and whether the state is a plain one.
    pub(super) fn from_any(json: &str, limits: &CrdtLimits) -> Result<Option<(Self, bool)>, CrdtError> {
        if json.len() > limits.max_bytes {
            return Err(CrdtError::Limit { what: "bytes of a CRDT", limit: limits.max_bytes });
        }
        let Some(state) = serde_json::from_str::<Option<State<'_>>>(json)? else { return Ok(None) };
        let plain = state.metadata.seen.is_none();
        Ok(Some((read(state, limits)?, plain)))
    }

    /// The state as JSON: canonical, so that equal states are equal texts.
    pub fn to_json(&self) -> Box<RawValue> {
        raw(self.to_text())
    }

    /// The text of [`to_json`](Self::to_json), which is not read again to be known as JSON.
    pub fn to_text(&self) -> String {
        self.write(false)
    }

    /// The state for clients of version 1, without what they do not read: their own names are without prefix in `vector`
    /// and `nodeId`, and the other replicas appear together as `server`.
    pub fn to_json_v1(&self) -> Box<RawValue> {
        raw(self.to_text_v1())
    }

    /// The text of [`to_json_v1`](Self::to_json_v1), likewise.
    pub fn to_text_v1(&self) -> String {
        self.write(true)
    }

    fn write(&self, v1: bool) -> String {
        let mut out = String::with_capacity(self.size());
        out.push_str("{\"metadata\":{");
        if !v1 {
            self.write_content(&mut out);
            if self.floor > 0 {
                integers(format_args!("\"floor\":{},", self.floor), &mut out);
            }
        }
        let (kind, stamp) = (self.kind(), self.stamp());
        if stamp.logical > 0 {
            integers(format_args!("\"logical\":{},", stamp.logical), &mut out);
        }
        out.push_str("\"nodeId\":");
        quote(if v1 { stamp.node.strip_prefix(V1_PREFIX).unwrap_or(&stamp.node) } else { &stamp.node }, &mut out);
        if !v1 {
            let mut seen: Vec<_> = self.seen.iter().collect();
            seen.sort_by(|(a, _), (b, _)| order(a, b));
            out.push_str(",\"seen\":");
            list(&mut out, ('{', '}'), seen, |(node, seen), out| write_seen(node, seen, out));
        }
        integers(format_args!(",\"timestamp\":{},\"type\":\"{kind}\"", stamp.timestamp), &mut out);
        if let Content::GCounter(counter) | Content::PnCounter(counter) = &self.content {
            for (name, half) in [("vector\":{\"decrements", &counter.decrements), ("increments", &counter.increments)] {
                integers(format_args!(",\"{name}\":"), &mut out);
                write_totals(half, v1, &mut out);
            }
            out.push('}');
        }
        integers(format_args!(",\"version\":{}}},\"type\":\"{kind}\",\"value\":", self.version()), &mut out);
        self.write_value(&mut out);
        out.push('}');
        out
    }

    /// What merging needs of maps and sets, beside the value.
    fn write_content(&self, out: &mut String) {
        match &self.content {
            Content::Map(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by(|(a, _), (b, _)| order(a, b));
                out.push_str("\"entries\":");
                list(out, ('{', '}'), entries, |(key, entry), out| write_entry(key, entry, out));
                out.push(',');
            }
            Content::OrSet(set) => {
                let mut elements: Vec<_> = set.iter().collect();
                elements.sort_by(|(a, _), (b, _)| order(a, b));
                out.push_str("\"dots\":");
                list(out, ('[', ']'), elements, |(_, dots), out| {
                    let mut dots: Vec<_> = dots.iter().collect();
                    dots.sort_by(|a, b| order(&a.0, &b.0).then(a.1.cmp(&b.1)));
                    write_dots(dots, out);
                });
                out.push(',');
            }
            _ => {}
        }
    }

    fn write_value(&self, out: &mut String) {
        match &self.content {
            Content::GCounter(counter) | Content::PnCounter(counter) => integers(counter.value(), out),
            Content::Register(register) => out.push_str(register.value.as_ref().map_or("null", Json::get)),
            Content::Map(_) => {
                let mut entries: Vec<_> = self.entries().collect();
                entries.sort_by(|(a, _), (b, _)| order(a, b));
                list(out, ('{', '}'), entries, |(key, value), out| {
                    quote(key, out);
                    out.push(':');
                    out.push_str(value.get());
                });
            }
            Content::GSet(_) | Content::OrSet(_) => {
                list(out, ('[', ']'), self.elements(), |element, out| out.push_str(element.get()));
            }
        }
    }
}

fn write_entry(key: &str, entry: &LwwRegister, out: &mut String) {
    quote(key, out);
    out.push_str(":{");
    if entry.stamp.logical > 0 {
        integers(format_args!("\"logical\":{},", entry.stamp.logical), out);
    }
    out.push_str("\"nodeId\":");
    quote(&entry.stamp.node, out);
    if entry.value.is_none() {
        out.push_str(",\"removed\":true");
    }
    integers(format_args!(",\"timestamp\":{}}}", entry.stamp.timestamp), out);
}

fn write_seen(node: &str, seen: &Node, out: &mut String) {
    quote(node, out);
    integers(format_args!(":[{},{}", seen.upto, seen.time), out);
    if !seen.ahead.is_empty() {
        out.push(',');
        list(out, ('[', ']'), &seen.ahead, |(counter, effect), out| {
            integers(format_args!("[{counter},{effect}]"), out);
        });
    }
    out.push(']');
}

fn write_totals(counter: &GCounter, v1: bool, out: &mut String) {
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for (node, total) in counter.iter() {
        let name = if v1 { node.strip_prefix(V1_PREFIX).unwrap_or(SERVER) } else { node };
        let sum = totals.entry(name).or_default();
        *sum = sum.saturating_add(total);
    }
    let mut totals: Vec<_> = totals.into_iter().collect();
    totals.sort_by(|(a, _), (b, _)| order(a, b));
    list(out, ('{', '}'), totals, |(node, total), out| {
        quote(node, out);
        integers(format_args!(":{total}"), out);
    });
}

/// What a state says, checked.
fn read(state: State<'_>, limits: &CrdtLimits) -> Result<Crdt, CrdtError> {
    let State { r#type: kind, value, metadata } = state;
    let value = value.map_or(Ok(Value::Null), |value| crate::value::parse(value.get()))?;
    let mut crdt = Crdt::new(kind);
    crdt.floor = integer(metadata.floor)?;
    read_seen(&mut crdt, &metadata, limits)?;
    crdt.forgotten = i128::from(integer(metadata.version)?) - crdt.seen.count();
    let stamp = Stamp {
        timestamp: integer(metadata.timestamp)?,
        logical: integer(metadata.logical)?,
        node: metadata.node_id.as_str().into(),
    };
    if metadata.node_id.len() > limits.max_node.saturating_add(V1_PREFIX.len()) {
        return Err(CrdtError::Limit { what: "bytes of a nodeId", limit: limits.max_node });
    }
    let known = stamp != Stamp::zero();
    match &mut crdt.content {
        Content::Register(register) if known => {
            *register = LwwRegister { stamp: stamp.clone(), value: Some(Json::new(&value, limits)?) };
        }
        Content::Register(_) => {}
        _ => crdt.latest = stamp.clone(),
    }
    match kind {
        CrdtKind::GCounter | CrdtKind::PnCounter => read_counter(&mut crdt, &value, metadata.vector, limits)?,
        CrdtKind::LwwRegister => {}
        CrdtKind::LwwMap => read_map(&mut crdt, value, metadata.entries, &stamp, limits)?,
        CrdtKind::GSet | CrdtKind::OrSet => read_set(&mut crdt, value, metadata.dots, limits)?,
    }
    Ok(crdt)
}

fn read_seen(crdt: &mut Crdt, metadata: &Metadata, limits: &CrdtLimits) -> Result<(), CrdtError> {
    let Some(rows) = &metadata.seen else { return Ok(()) };
    if rows.len() > limits.max_replicas {
        return Err(CrdtError::Limit { what: "replicas", limit: limits.max_replicas });
    }
    for (node, SeenRow(upto, time, ahead)) in rows {
        check_node(node, limits)?;
        if ahead.len() > limits.max_ahead {
            return Err(CrdtError::Limit { what: "operations after a gap", limit: limits.max_ahead });
        }
        let mut read = Node { upto: integer(*upto)?, time: integer(*time)?, ahead: BTreeMap::new() };
        for &(counter, effect) in ahead {
            integer(effect.unsigned_abs())?;
            read.ahead.insert(integer(counter)?, effect);
        }
        crdt.seen.insert(&node.as_str().into(), read);
    }
    Ok(())
}

fn read_counter(crdt: &mut Crdt, value: &Value, vector: Option<Vector>, limits: &CrdtLimits) -> Result<(), CrdtError> {
    let vector = vector.map_or_else(|| plain_vector(value), Ok)?;
    let grows = crdt.kind() == CrdtKind::GCounter;
    let (Content::GCounter(counter) | Content::PnCounter(counter)) = &mut crdt.content else { return Ok(()) };
    if grows && !vector.decrements.is_empty() {
        return Err(CrdtError::Malformed("a g-counter has no decrements"));
    }
    if vector.increments.len().max(vector.decrements.len()) > limits.max_replicas.saturating_add(1) {
        return Err(CrdtError::Limit { what: "replicas", limit: limits.max_replicas });
    }
    for (totals, half) in [(vector.increments, &mut counter.increments), (vector.decrements, &mut counter.decrements)] {
        for (node, total) in totals {
            if node != RETIRED {
                check_node(&node, limits)?;
            }
            half.set(&node.into(), total);
        }
    }
    counter.check()?;
    for (node, seen) in crdt.seen.iter() {
        for (half, sign) in [(&counter.increments, 1), (&counter.decrements, -1)] {
            let ahead = seen.ahead.values().map(|effect| u128::from(amount(*effect, sign))).sum::<u128>();
            if ahead > u128::from(half.get(node)) {
                return Err(CrdtError::Malformed("effects after a gap that the total does not have"));
            }
        }
    }
    Ok(())
}

/// A counter of which only the value is known.
fn plain_vector(value: &Value) -> Result<Vector, CrdtError> {
    let value = value.as_i64().ok_or(CrdtError::Malformed("a counter's value is an integer"))?;
    let half = |sign| [(SERVER.to_owned(), amount(value, sign))].into_iter().filter(|half| half.1 > 0).collect();
    Ok(Vector { increments: half(1), decrements: half(-1) })
}

fn read_map(
    crdt: &mut Crdt,
    value: Value,
    entries: Option<BTreeMap<String, EntryRow>>,
    stamp: &Stamp,
    limits: &CrdtLimits,
) -> Result<(), CrdtError> {
    let Crdt { content: Content::Map(map), seen, .. } = crdt else { return Ok(()) };
    let mut values = match value {
        Value::Object(values) => values,
        Value::Null => Map::new(),
        _ => return Err(CrdtError::Malformed("a map's value is an object")),
    };
    let mut put = |key: String, stamp: Stamp, value: Option<Value>| {
        if key.len() > limits.max_key {
            return Err(CrdtError::Limit { what: "bytes of an entry's key", limit: limits.max_key });
        }
        let value = value.map(|value| Json::new(&value, limits)).transpose()?;
        map.put(Key::from(key.as_str()), LwwRegister { stamp, value });
        if map.len() > limits.max_entries {
            return Err(CrdtError::Limit { what: "entries", limit: limits.max_entries });
        }
        Ok(())
    };
    match entries {
        Some(entries) => {
            for (key, row) in entries {
                check_node(&row.node_id, limits)?;
                let (timestamp, logical) = (integer(row.timestamp)?, integer(row.logical)?);
                let value = values.remove(&key);
                if value.is_none() != row.removed {
                    return Err(CrdtError::Malformed("an entry is removed or has a value"));
                }
                put(key, Stamp { timestamp, logical, node: seen.name(&row.node_id) }, value)?;
            }
            if !values.is_empty() {
                return Err(CrdtError::Malformed("a value without an entry"));
            }
        }
        None => {
            let named = check_node(&stamp.node, limits).is_ok();
            let stamp = if named { stamp.clone() } else { Stamp { node: SERVER.into(), ..stamp.clone() } };
            for (key, value) in values {
                put(key, stamp.clone(), Some(value))?;
            }
        }
    }
    map.collect(crdt.floor);
    Ok(())
}

fn read_set(
    crdt: &mut Crdt,
    value: Value,
    dots: Option<Vec<Vec<(String, u64)>>>,
    limits: &CrdtLimits,
) -> Result<(), CrdtError> {
    let elements = match value {
        Value::Array(elements) => elements,
        Value::Null => Vec::new(),
        _ => return Err(CrdtError::Malformed("a set's value is an array")),
    };
    if elements.len() > limits.max_entries {
        return Err(CrdtError::Limit { what: "entries", limit: limits.max_entries });
    }
    let texts = elements.iter().map(|value| Json::new(value, limits)).collect::<Result<BTreeSet<_>, _>>()?;
    if texts.len() != elements.len() {
        return Err(CrdtError::Malformed("a set has each element once"));
    }
    let Crdt { content, seen, .. } = crdt;
    match content {
        Content::GSet(set) => texts.iter().for_each(|text| set.add(text.text())),
        Content::OrSet(set) => {
            let server: Arc<str> = SERVER.into();
            let plain = || (1..).map(|counter| vec![(server.to_string(), counter)]).take(elements.len()).collect();
            let dots = dots.unwrap_or_else(plain);
            if dots.len() != elements.len() {
                return Err(CrdtError::Malformed("dots for each element"));
            }
            for (element, dots) in elements.iter().zip(dots) {
                if dots.is_empty() {
                    return Err(CrdtError::Malformed("an element without dots"));
                }
                if dots.len() > limits.max_dots {
                    return Err(CrdtError::Limit { what: "dots", limit: limits.max_dots });
                }
                let text = Json::new(element, limits)?;
                for (node, counter) in dots {
                    check_node(&node, limits)?;
                    let dot: Dot = (seen.name(&node), integer(counter)?);
                    set.add(text.text(), dot);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// An integer that every JSON implementation holds exactly.
fn integer(number: u64) -> Result<u64, CrdtError> {
    if number <= MAX_INTEGER { Ok(number) } else { Err(CrdtError::Malformed("an integer of 2^53 or more")) }
}
