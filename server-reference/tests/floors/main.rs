//! The floors: a file imports only from floors below its own, and loops are at most two long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod imports;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use imports::{Module, Tree};

/// The server's floors from the bottom, each with its modules.
const FLOORS: [&[&str]; 8] = [
    &[
        "access",
        "admission",
        "answer",
        "auth",
        "budget",
        "clock",
        "connection",
        "contract",
        "desk",
        "entry",
        "error",
        "few",
        "limits",
        "mailbox",
        "message",
        "metrics",
        "account",
        "sync",
        "task",
    ],
    &["backend"],
    &["hub"],
    &["primitives"],
    &["gate"],
    &["protocol"],
    &["assets", "transport"],
    &["api"],
];

/// Longest loop that is allowed.
const LOOP: usize = 2;

type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Imports that run upward, and modules that are on no floor.
fn upward(floors: &[&[&str]], imports: &Imports) -> Vec<String> {
    let floor = |module: &Module| {
        let top = module.first()?.as_str();
        floors.iter().position(|floor| floor.contains(&top))
    };
    let mut found = Vec::new();
    for (from, targets) in imports.iter().filter(|(from, _)| !from.is_empty()) {
        let Some(own) = floor(from) else {
            found.push(format!("{} is on no floor", name(from)));
            continue;
        };
        // The root only says what there is.
        for target in targets.iter().filter(|target| !target.is_empty()) {
            if floor(target).is_none_or(|floor| floor > own) {
                found.push(format!("{} imports {}", name(from), name(target)));
            }
        }
        if targets.contains(&Vec::new()) {
            found.push(format!("{} imports from the root", name(from)));
        }
    }
    found
}

fn name(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("/") }
}

/// Sets of modules that reach each other, and are more than may.
fn loops(imports: &Imports) -> Vec<Vec<String>> {
    let reach = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for target in imports.get(&module).into_iter().flatten() {
                if seen.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = imports.keys().map(|module| (module, reach(module))).collect();
    let mut found = BTreeSet::new();
    for (module, targets) in &reached {
        let mutual = targets.iter().filter(|target| reached.get(target).is_some_and(|back| back.contains(*module)));
        let mutual: Vec<String> = mutual.map(name).collect();
        if mutual.len() > LOOP {
            found.insert(mutual);
        }
    }
    found.into_iter().collect()
}

/// The same imports between the modules of the root.
fn tops(imports: &Imports) -> Imports {
    let mut tops = Imports::new();
    for (from, targets) in imports {
        let top = |module: &Module| module.iter().take(1).cloned().collect::<Module>();
        let from = top(from);
        tops.entry(from.clone()).or_default().extend(targets.iter().map(top).filter(|target| *target != from));
    }
    tops
}

fn read(folder: &str) -> Imports {
    Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).imports()
}

fn check_loops(imports: &Imports) {
    assert_eq!(loops(imports), [[""; 0]; 0], "files that import each other in loops");
    assert_eq!(loops(&tops(imports)), [[""; 0]; 0], "modules that import each other in loops");
}

#[test]
fn the_server_imports_downward() {
    let imports = read("src");
    assert!(imports.len() > 40, "the sources are read");
    assert_eq!(upward(&FLOORS, &imports), [""; 0]);
    check_loops(&imports);
}

/// Its types of CRDTs and of patches know each other: only the modules of its root are held to be without loops.
#[test]
fn the_clients_core_has_no_loops_of_modules() {
    assert_eq!(loops(&tops(&read("../client-core/src"))), [[""; 0]; 0], "modules that import each other in loops");
}

#[test]
fn the_native_client_has_no_loops() {
    check_loops(&read("../client-native/src"));
}

/// A crate of two floors, `low` and `high`, in which a file of the lower one has this code.
fn forged(code: &str) -> Vec<String> {
    let files = [
        ("lib.rs", "mod low; mod high; pub use high::Thing;"),
        ("low/mod.rs", "mod a; mod b { } pub(crate) use a::Named; pub(crate) struct Own;"),
        ("low/a.rs", code),
        ("low/c.rs", "pub struct C;"),
        ("high/mod.rs", "mod deep; pub(crate) use self::deep::Deep as Renamed; pub(crate) struct Thing;"),
        ("high/deep.rs", "pub(crate) struct Deep;"),
    ];
    let files = files.map(|(path, source)| (path.to_owned(), source.to_owned()));
    upward(&[&["low"], &["high"]], &Tree::new(files).imports())
}

#[test]
fn an_upward_import_is_found_in_every_spelling() {
    for code in [
        "use crate::high::Thing;",
        "use crate::high;",
        "use crate::high::*;",
        "pub(crate) use crate::high::Thing; fn f(_: Thing) {}",
        "use super::super::high::Thing;",
        "use crate::{low::Own, high::Thing};",
        "use crate::{low::{self, Own}, high::{self}};",
        "use {std::fmt, crate::high::Thing as Other};",
        "use r#crate as _; use crate :: high :: Thing;",
        "fn f() { crate::high::thing(); }",
        "fn f() -> super::super::high::Thing { g() }",
        "fn f() { let _ = <crate::high::Thing as Default>::default(); }",
        "fn f() { assert!(crate::high::is()); }",
        "mod inner { use super::super::super::high::Thing; }",
        "#[cfg(test)] mod tests { fn f() { '}' } } use crate::high::Thing;",
        "const C: char = '\"'; use crate::high::Thing; // \"",
        "const S: &str = r#\"\"//\"#; use crate::high::Thing;",
        "fn f<'a>() { crate::high::thing::<'a>(); }",
    ] {
        assert_eq!(forged(code), ["low/a imports high"], "{code}");
    }
    assert_eq!(forged("use crate::high::Renamed;"), ["low/a imports high/deep"]);
    assert_eq!(forged("use crate::high::deep::Deep;"), ["low/a imports high/deep"]);
    assert_eq!(forged("use crate::Thing;"), ["low/a imports high"], "by way of the root");
}

#[test]
fn what_is_no_upward_import_is_not_found() {
    for code in [
        "use crate::low::Own; use super::c::C; use std::high::Thing;",
        "// use crate::high::Thing;\n/* use crate::high::Thing; */",
        "const S: &str = \"use crate::high::Thing;\";",
        "const S: &str = r##\"use crate::high::Thing; \"# \"##;",
        "/// [`crate::high::Thing`]\nfn f(high: u8) {}",
        "#[cfg(test)] mod tests { use crate::high::Thing; fn f() { } }",
        "#[cfg(test)] use crate::high::Thing;",
        "struct S { #[cfg(test)] thing: crate::high::Thing, other: u8 } fn f() { }",
        "struct S { #[cfg(test)] thing: crate::high::Thing } fn f() { }",
        "use high::Thing;",
    ] {
        assert_eq!(forged(code), [""; 0], "{code}");
    }
}

#[test]
fn loops_longer_than_two_are_found() {
    let check = |files: &[(&str, &str)], files_in_loops: &[&[&str]], modules_in_loops: &[&[&str]]| {
        let tree = Tree::new(files.iter().map(|&(path, source)| (path.to_owned(), source.to_owned())));
        let imports = tree.imports();
        assert_eq!(loops(&imports), files_in_loops, "{files:?}");
        assert_eq!(loops(&tops(&imports)), modules_in_loops, "{files:?}");
    };
    check(&[("a.rs", "use crate::b::B;"), ("b.rs", "use super::a::A;")], &[], &[]);
    let three = [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "fn f() { crate::a::f() }")];
    check(&three, &[&["a", "b", "c"]], &[&["a", "b", "c"]]);
    let modules = [
        ("a/mod.rs", "mod x; mod y;"),
        ("a/x.rs", "use crate::b::B;"),
        ("a/y.rs", ""),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::a::y::Y;"),
    ];
    check(&modules, &[], &[&["a", "b", "c"]]);
    // What is only passed on makes no loop; what is used as well does.
    let passed = |more: &'static str| {
        [("m/mod.rs", more), ("m/a.rs", "use super::Own; use super::b::B;"), ("m/b.rs", "use super::Own;")]
    };
    check(&passed("mod a; mod b; pub use self::a::A; pub struct Own;"), &[], &[]);
    check(&passed("mod a; mod b; pub use self::a::A; pub struct Own(A);"), &[&["m", "m/a", "m/b"]], &[]);
}
