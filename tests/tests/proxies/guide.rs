//! The configurations of docs/proxies.md.

use crate::process::Kind;

const GUIDE: &str = include_str!("../../../docs/proxies.md");

/// The page's block of this number, from 0, in the language of this proxy.
pub(crate) fn snippet(kind: Kind, number: usize) -> String {
    let opening = format!("```{}\n", kind.language());
    let block = GUIDE.split(&opening).nth(number + 1).expect("docs/proxies.md has it");
    block.split("```").next().unwrap().to_owned()
}
