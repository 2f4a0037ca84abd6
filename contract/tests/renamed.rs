//! A field that is renamed in Rust: the same contract twice, as it is and as it would be. `npm/test/package.test.ts` shows that the pages of
//! `examples/pages` compile with the one and not with the other; `datasole_client::Client::request` shows the same for Rust.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use datasole_contract::{file, typescript};

/// The contract of `examples/pages/contract.ts`.
mod present {
    use datasole_contract::{TS, contract};
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, TS)]
    pub struct Board {
        pub title: String,
        pub votes: u32,
    }

    #[derive(Serialize, Deserialize, TS)]
    pub struct Vote {
        pub by: u32,
    }

    contract! {
        pub App {
            rpc { Vote = "vote" -> Board; }
            state { TheBoard = "board" => Board; }
        }
    }
}

/// The same with `title` renamed.
mod renamed {
    use datasole_contract::{TS, contract};
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, TS)]
    pub struct Board {
        pub heading: String,
        pub votes: u32,
    }

    #[derive(Serialize, Deserialize, TS)]
    pub struct Vote {
        pub by: u32,
    }

    contract! {
        pub App {
            rpc { Vote = "vote" -> Board; }
            state { TheBoard = "board" => Board; }
        }
    }
}

#[test]
fn both_contracts_are_in_their_files() {
    let root = env!("CARGO_MANIFEST_DIR");
    file::check::<present::App>(format!("{root}/../examples/pages/contract.ts")).unwrap();
    file::check::<renamed::App>(format!("{root}/tests/renamed.ts")).unwrap();
    let (before, after) = (typescript::<present::App>().unwrap(), typescript::<renamed::App>().unwrap());
    assert!(before.contains("title: string") && !after.contains("title"), "{before}\n{after}");
}
