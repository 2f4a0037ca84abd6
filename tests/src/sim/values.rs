//! Values of every JSON kind, and changes to them.

use datasole_core::patch::{Operation, Pointer};
use serde_json::{Map, Value, json};

use crate::random::Random;

/// Any value: scalars at the root as likely as containers, a few long ones.
pub(super) fn value(random: &mut Random, depth: u32) -> Value {
    match random.below(if depth == 0 { 7 } else { 11 }) {
        0 => Value::Null,
        1 => json!(random.coin()),
        2 => json!(random.magnitude(40)),
        3 => json!(-(random.below(1_000) as i64)),
        4 => json!(random.below(1_000) as f64 / 8.0),
        5 => json!("äé\"/~0".chars().cycle().take(random.below(9) as usize).collect::<String>()),
        6 => json!("x".repeat(random.magnitude(11) as usize)),
        7 | 8 => (0..random.below(6)).map(|_| value(random, depth - 1)).collect(),
        _ => {
            let members = (0..random.below(6)).map(|_| (name(random).to_owned(), value(random, depth - 1)));
            Value::Object(members.collect::<Map<_, _>>())
        }
    }
}

/// A member's name; those that mean something to somebody are among them.
fn name(random: &mut Random) -> &'static str {
    ["a", "b", "n", "", "a/b", "m~n", "0", "__proto__"][random.below(8) as usize]
}

/// An operation at a place near the root of `target`, which may or may not be there.
pub(super) fn operation(random: &mut Random, target: &Value) -> Operation {
    let mut path = Pointer::root();
    let mut at = Some(target);
    for _ in 0..=random.below(2) {
        at = match at {
            Some(Value::Object(members)) => {
                let name = name(random);
                path.push(name);
                members.get(name)
            }
            Some(Value::Array(items)) => {
                let index = random.below(items.len() as u64 + 1) as usize;
                path.push(&if index == items.len() { "-".to_owned() } else { index.to_string() });
                items.get(index)
            }
            _ => break,
        };
    }
    match random.below(5) {
        0 => Operation::Remove { path },
        1 => Operation::Replace { path, value: value(random, 1).into() },
        2 => Operation::Copy { from: Pointer::root(), path },
        _ => Operation::Add { path, value: value(random, 2).into() },
    }
}
