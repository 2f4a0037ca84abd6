//! A table of old and new contracts: which changes break running apps, and how they are told.

#![allow(missing_docs, clippy::unwrap_used)]

use datasole_contract::{Description, changes};
use serde_json::{Value, json};

/// A contract with one method, event, state and room, all of the type `T`.
fn contract(declaration: &str) -> Description {
    let types: Value = declaration
        .split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let name: String =
                part.trim().trim_start_matches("type ").chars().take_while(|c| c.is_alphanumeric()).collect();
            (name, json!({ "text": format!("{};", part.trim()) }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    serde_json::from_value(json!({
        "name": "App",
        "rpc": { "in": { "type": { "params": "T", "result": "null" } }, "out": { "type": { "params": "null", "result": "T" } } },
        "types": types,
    }))
    .unwrap()
}

/// What breaks, as parameters and as a result.
fn breaks(old: &str, new: &str) -> [Option<String>; 2] {
    let found = changes(&contract(old), &contract(new));
    ["rpc in", "rpc out"].map(|place| {
        found.iter().find(|change| change.place == place && change.breaking).map(|change| change.what.clone())
    })
}

#[test]
fn types_by_the_table() {
    let table: &[(&str, &str, Option<&str>, Option<&str>)] = &[
        ("{ a: number }", "{ a: number }", None, None),
        ("{ a: number }", "{ a: number, b: string }", Some("params.b is missing"), None),
        ("{ a: number }", "{ a: number, b?: string }", None, None),
        ("{ a: number }", "{ a: number, b: string | null }", None, None),
        ("{ a: number, b: string }", "{ a: number }", None, Some("result.b is missing")),
        ("{ a: number, b?: string }", "{ a: number }", None, None),
        ("{ a: number }", "{ b: number }", Some("params.b is missing"), Some("result.a is missing")),
        ("{ a: number }", "{ a: string }", Some("params.a: string was number"), Some("result.a: string was number")),
        ("{ a: number }", "{ a: number | null }", None, Some("result.a: null was number")),
        ("{ a: number | null }", "{ a: number }", Some("params.a: number was null"), None),
        ("{ a?: number }", "{ a: number }", Some("params.a may be missing"), None),
        ("{ a: number }", "{ a?: number }", None, Some("result.a may be missing")),
        (r#""x" | "y""#, r#""x" | "y" | "z""#, None, Some("result: \"z\" was")),
        (r#""x" | "y""#, r#""x""#, Some("params: "), None),
        (r#""x""#, "string", None, Some("result: ")),
        ("Array<number>", "Array<string>", Some("params[]: string was number"), Some("result[]: string was number")),
        (
            "Array<U>; type U = { a: number }",
            "Array<U>; type U = { a: number, b: number }",
            Some("params[].b is missing"),
            None,
        ),
        ("{ [key in string]?: number }", "{ [key in string]?: string }", Some("params[]"), Some("result[]")),
        ("[number, string]", "[number, string, string]", Some("params: "), Some("result: ")),
        ("{ a: T | null, n: number }", "{ a: T | null, n: string }", Some("params.n"), Some("result.n")),
        (
            "P<number>; type P<X> = { items: Array<X> }",
            "P<string>; type P<X> = { items: Array<X> }",
            Some("params.items[]"),
            Some("result.items[]"),
        ),
        ("P<number>; type P<X> = { items: Array<X> }", "{ items: Array<number> }", None, None),
        (
            r#"{ "kind": "a", x: number } | { "kind": "b" }"#,
            r#"{ "kind": "a", x: number } | { "kind": "b" } | { "kind": "c" }"#,
            None,
            Some("result: { kind }"),
        ),
        ("{ a: number } & U; type U = { b: string }", "{ a: number, b: string }", None, None),
        ("{ a: { b: { c: number } } }", "{ a: { b: { c: boolean } } }", Some("params.a.b.c"), Some("result.a.b.c")),
        ("{ a: unknown }", "{ a: number }", Some("params.a"), None),
    ];
    for (old, new, input, output) in table {
        let found = breaks(&format!("type T = {old};"), &format!("type T = {new};"));
        for (found, expected) in found.iter().zip([input, output]) {
            let fits = match (found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.starts_with(expected),
                _ => false,
            };
            assert!(fits, "{old} → {new}: found {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn entries_come_and_go() {
    let old: Description = serde_json::from_value(json!({
        "rpc": { "a": { "type": { "params": "null", "result": "null", "error": "string" } } },
        "events": { "e": { "type": { "data": "number", "up": true, "down": true } } },
        "state": { "s": { "type": "number" }, "t:{id}": { "type": "number" } },
        "crdt": { "c": { "type": "'pn-counter'" } },
        "docs": { "d": { "type": null } },
    }))
    .unwrap();
    let new: Description = serde_json::from_value(json!({
        "rpc": { "a": { "type": { "params": "null", "result": "null" } }, "b": { "type": { "params": "null", "result": "null" } } },
        "events": { "e": { "type": { "data": "number", "up": true, "down": false } } },
        "state": { "s": { "type": "number" } },
        "crdt": { "c": { "type": "'g-counter'" } },
    }))
    .unwrap();
    let found: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "breaking: rpc a: error has no data any more",
            "safe: rpc b: added",
            "breaking: events e: is not sent by the server any more",
            "breaking: state t:{id}: removed",
            "breaking: crdt c: value: \"g-counter\" was \"pn-counter\"",
            "breaking: docs d: removed",
        ]
    );
    assert!(changes(&old, &old).is_empty());
}
