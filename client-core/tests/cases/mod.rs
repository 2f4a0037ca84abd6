//! Generated (document, patch) pairs with the `json-patch` crate as judge. Shared by the test against our applier and
//! by the example that feeds the TypeScript one.
//!
//! One class is left out on purpose: numbers that are equal but written differently (`1` and `1.0`). RFC 6902 compares
//! numbers by value, as JavaScript does; `json-patch` compares how serde_json stores them. No float here is integral.

use serde_json::{Map, Value, json};

/// Names that are ordinary data and have tripped appliers up: prototypes, escapes, numbers, nothing at all.
const KEYS: &[&str] = &[
    "a",
    "b",
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "length",
    "a/b",
    "m~n",
    "~1",
    "",
    " ",
    "ü",
    "🎈",
    "0",
    "1",
    "01",
    "-",
];

/// SplitMix64: any seed will do.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// A document, a patch as JSON (not always a well-formed one), and what must come of it; `None` for an error.
pub(crate) struct Case {
    pub(crate) document: Value,
    pub(crate) patch: Value,
    pub(crate) expected: Option<Value>,
}

/// The next case.
pub(crate) fn case(rng: &mut Rng) -> Case {
    let document = if rng.chance(5) { scalar(rng) } else { value(rng, 4, true) };
    // Operations are made for the document as the ones before leave it, so that most patches go through.
    let mut current = document.clone();
    let mut operations = Vec::new();
    for _ in 0..1 + rng.below(6) {
        let operation = operation(rng, &current);
        if let Some(next) = judge(&current, &json!([operation])) {
            current = next;
        } else if rng.chance(70) {
            continue;
        }
        operations.push(operation);
    }
    let patch = Value::Array(operations);
    let expected = judge(&document, &patch);
    Case { document, patch, expected }
}

fn judge(document: &Value, patch: &Value) -> Option<Value> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone()).ok()?;
    let mut document = document.clone();
    // Not `patch`: its way back panics after an element moved into its parent's place in an array (version 5.0.0). The
    // half-changed document of a failed patch is dropped here anyway.
    json_patch::patch_unsafe(&mut document, &patch).ok()?;
    Some(document)
}

fn value(rng: &mut Rng, depth: usize, container: bool) -> Value {
    match rng.below(if container { 2 } else { 4 }) {
        0 if depth > 0 => {
            let members: Map<_, _> =
                (0..rng.below(5)).map(|_| (rng.pick(KEYS).to_owned(), value(rng, depth - 1, false))).collect();
            members.into()
        }
        1 if depth > 0 => (0..rng.below(5)).map(|_| value(rng, depth - 1, false)).collect(),
        _ => scalar(rng),
    }
}

fn scalar(rng: &mut Rng) -> Value {
    match rng.below(9) {
        0 => Value::Null,
        1 => json!(rng.chance(50)),
        2 => json!(rng.below(4) as i64 - 1),
        3 => json!(rng.next() as i32),
        4 => json!(rng.below(1_000) as f64 + 0.5),
        5 => json!(9_007_199_254_740_991_i64),
        6 => json!(rng.pick(KEYS)),
        7 => json!("\u{0}\u{2028}\"\\\u{7f}é"),
        _ => json!("x".repeat(rng.below(40))),
    }
}

fn operation(rng: &mut Rng, document: &Value) -> Value {
    let mut operation = match rng.below(12) {
        0..=2 => json!({"op": "add", "path": new_path(rng, document), "value": value(rng, 2, false)}),
        3 | 4 => json!({"op": "remove", "path": path(rng, document)}),
        5 | 6 => json!({"op": "replace", "path": path(rng, document), "value": value(rng, 2, false)}),
        7 | 8 => json!({"op": "move", "from": path(rng, document), "path": new_path(rng, document)}),
        9 | 10 => json!({"op": "copy", "from": path(rng, document), "path": new_path(rng, document)}),
        _ => {
            let path = path(rng, document);
            let found = document.pointer(&path).cloned();
            let expected = if rng.chance(85) { found.unwrap_or_default() } else { value(rng, 2, false) };
            json!({"op": "test", "path": path, "value": expected})
        }
    };
    if rng.chance(4) {
        spoil(rng, &mut operation);
    }
    operation
}

/// Makes an operation that is not well formed, or has something in it that must not matter.
fn spoil(rng: &mut Rng, operation: &mut Value) {
    let Some(members) = operation.as_object_mut() else { return };
    let member = rng.pick(&["op", "path", "from", "value"]);
    let (member, value) = match rng.below(6) {
        0 => {
            members.remove(member);
            return;
        }
        1 => ("op", json!(rng.pick(&["", "Add", "spam", "__proto__", "constructor"]))),
        2 => (member, Value::Null),
        3 => ("path", json!(rng.pick(&["a", "/~", "/~2", "/a~", "#/a"]))),
        4 => ("from", json!(rng.pick(&["a", "/~", "/m~n"]))),
        _ => (rng.pick(&["extra", "__proto__", "constructor"]), scalar(rng)),
    };
    members.insert(member.to_owned(), value);
}

/// Mostly the path of something that exists.
fn path(rng: &mut Rng, document: &Value) -> String {
    let mut paths = Vec::new();
    collect(document, String::new(), &mut paths);
    let mut path = paths[rng.below(paths.len())].0.clone();
    if rng.chance(10) {
        path = format!("{path}/{}", bad_token(rng));
    }
    path
}

/// Mostly the path of a place where something can be added.
fn new_path(rng: &mut Rng, document: &Value) -> String {
    let mut paths = Vec::new();
    collect(document, String::new(), &mut paths);
    if rng.chance(15) {
        return paths[rng.below(paths.len())].0.clone();
    }
    let containers: Vec<_> = paths.iter().filter(|(_, value)| value.is_object() || value.is_array()).collect();
    if containers.is_empty() {
        return String::new();
    }
    let (path, container) = rng.pick(&containers);
    let token = match container {
        _ if rng.chance(8) => bad_token(rng),
        Value::Array(_) if rng.chance(25) => "-".to_owned(),
        Value::Array(elements) => rng.below(elements.len() + 1).to_string(),
        _ => escape(rng.pick(KEYS)),
    };
    format!("{path}/{token}")
}

fn bad_token(rng: &mut Rng) -> String {
    const TOKENS: &[&str] = &[
        "missing",
        "-",
        "-1",
        "+0",
        "00",
        "01",
        "1e0",
        "0.0",
        " 0",
        "9",
        "99999999999999999999",
        "",
        "length",
        "__proto__",
        "constructor",
    ];
    rng.pick(TOKENS).to_owned()
}

fn collect<'v>(value: &'v Value, path: String, paths: &mut Vec<(String, &'v Value)>) {
    match value {
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect(element, format!("{path}/{index}"), paths);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                collect(member, format!("{path}/{}", escape(key)), paths);
            }
        }
        _ => {}
    }
    paths.push((path, value));
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
