//! A description as a TypeScript module.

use std::fmt::Write;

use crate::description::{Description, Item};

impl Description {
    /// The contract as one TypeScript module, which registers itself with the package `datasole`. Entries and types are in
    /// order of their names, documentation in comments.
    pub fn typescript(&self) -> String {
        render(self)
    }
}

fn render(contract: &Description) -> String {
    let mut out = String::new();
    let name = &contract.name;
    let _ = writeln!(out, "// Written by datasole from the contract {name}. Changes belong there.");
    // So that the module below is there where nothing else imports it.
    let _ = writeln!(out, "import type {{}} from 'datasole';\n");
    let _ = writeln!(
        out,
        "/** The contract {name}: give it to `DatasoleClient`, or let it register itself by importing this file. */"
    );
    let _ = writeln!(out, "export interface {name}Contract {{");
    section(&mut out, "rpc", &contract.rpc, |call| {
        let error = call.error.as_ref().map_or_else(String::new, |error| format!("; error: {error}"));
        let result = if call.result == "null" { "void" } else { &call.result };
        format!("{{ params: {}; result: {result}{error} }}", call.params)
    });
    section(&mut out, "events", &contract.events, |event| event.data.clone());
    let names = |up: bool| {
        let list: Vec<String> = contract
            .events
            .iter()
            .filter(|(_, event)| if up { event.shape.up } else { event.shape.down })
            .map(|(name, _)| quoted(name))
            .collect();
        if list.is_empty() { "never".to_owned() } else { list.join(" | ") }
    };
    let _ = writeln!(out, "  direction: {{ up: {}; down: {} }};", names(true), names(false));
    section(&mut out, "state", &contract.state, Clone::clone);
    section(&mut out, "crdt", &contract.crdt, Clone::clone);
    section(&mut out, "presence", &contract.presence, Clone::clone);
    section(&mut out, "docs", &contract.docs, |()| "true".to_owned());
    out.push_str("}\n");
    for declaration in contract.types.values() {
        out.push('\n');
        for line in declaration.docs.trim_end().lines() {
            let _ = writeln!(out, "{line}");
        }
        let _ = writeln!(out, "export {}", declaration.text);
    }
    let _ = write!(
        out,
        "\n/** Tells whether server and page were built from the same contract. */\nexport const contract = {{ name: '{name}', hash: '{}' }} as const;\n\n\
         declare module 'datasole' {{\n  interface Register {{\n    contract: {name}Contract;\n  }}\n}}\n",
        contract.hash()
    );
    out
}

fn section<T>(
    out: &mut String,
    name: &str,
    items: &std::collections::BTreeMap<String, Item<T>>,
    type_of: impl Fn(&T) -> String,
) {
    if items.is_empty() {
        let _ = writeln!(out, "  {name}: {{}};");
        return;
    }
    let _ = writeln!(out, "  {name}: {{");
    for (key, item) in items {
        comment(out, &item.docs);
        let _ = writeln!(out, "    {}: {};", member(key), type_of(&item.shape));
    }
    out.push_str("  };\n");
}

fn comment(out: &mut String, docs: &str) {
    // A comment cannot be left from inside.
    let docs = docs.replace("*/", "*\\/");
    match docs.lines().collect::<Vec<_>>()[..] {
        [] => {}
        [line] => drop(writeln!(out, "    /** {line} */")),
        ref lines => {
            out.push_str("    /**\n");
            for line in lines {
                let _ = writeln!(out, "{}", format!("     * {line}").trim_end());
            }
            out.push_str("     */\n");
        }
    }
}

/// The name of a member; an index signature for a family of keys.
fn member(key: &str) -> String {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    match pattern(key) {
        Some(pattern) => format!("[key: `{pattern}`]"),
        None if is_name(key) => key.to_owned(),
        None => quoted(key),
    }
}

/// `board:{id}` as a template literal type, or nothing for a plain key.
fn pattern(key: &str) -> Option<String> {
    let mut parts = key.split('{');
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('`', "\\`");
    let mut out = escaped(parts.next()?);
    let mut fields = 0;
    for part in parts {
        let (_, rest) = part.split_once('}')?;
        out.push_str("${string}");
        out.push_str(&escaped(rest));
        fields += 1;
    }
    (fields > 0).then_some(out)
}

fn quoted(name: &str) -> String {
    format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}
