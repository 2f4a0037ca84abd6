//! A contract with everything: what it is called, what TypeScript says, which changes break.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};

use datasole_contract::{
    ContractError, CrdtKey, Direction, DocKey, Event, Invalid, Key, Method, RoomKey, TS, changes, contract, describe,
    typescript,
};
use serde::{Deserialize, Serialize};

/// Asks for a user.
#[derive(Serialize, Deserialize, TS)]
pub struct GetUser {
    /// The user's number.
    pub id: u32,
    #[serde(default)]
    #[ts(optional)]
    pub fields: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize, TS)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub display_name: String,
    pub created: u64,
    pub role: Role,
    pub tags: BTreeMap<String, bool>,
    pub extra: serde_json::Value,
}

#[derive(Serialize, Deserialize, TS)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Role {
    Admin { since: i64 },
    Guest,
}

#[derive(Serialize, Deserialize, TS)]
pub struct NoSuchUser {
    pub id: u32,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Vote {
    pub option: u8,
}

impl Vote {
    fn known(&self) -> Result<(), Invalid> {
        if self.option < 4 { Ok(()) } else { Err(Invalid::new("/option", "there are 4 options")) }
    }
}

#[derive(Serialize, Deserialize, TS)]
pub struct List {
    pub after: Option<String>,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

#[derive(Serialize, Deserialize, TS)]
pub struct ChatMessage {
    pub text: String,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Alert {
    pub level: (u8, String),
}

#[derive(Serialize, Deserialize, TS)]
pub struct Typing {}

#[derive(Serialize, Deserialize, TS)]
pub struct Board {
    pub title: String,
    pub rows: HashMap<u32, Vec<Cell>>,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Cell(pub String);

#[derive(Serialize, Deserialize, TS)]
pub struct Cursor {
    pub x: f64,
    pub y: f64,
}

contract! {
    /// The offers of the board's server.
    pub App {
        rpc {
            /// Finds a user.
            GetUser = "user.get" -> User | NoSuchUser;
            Vote = "vote" -> () where Vote::known;
            List = "list" -> Page<User>;
        }
        events {
            ChatMessage = "chat:message" both;
            /// Something is wrong.
            /// Look at once.
            Alert = "alert" down;
            Typing = "typing" up;
        }
        state {
            Dashboard = "dashboard" => Board;
            /// One board of many.
            BoardOf { team: String, id: u32 } = "board:{team}:{id}" => Board;
        }
        crdt {
            Likes = "likes" => PnCounter;
            Todo { user: String } = "todo:{user}" => OrSet<Cell>;
        }
        presence { Lobby = "lobby" => Cursor; }
        docs { Notes { id: u64 } = "notes:{id}"; }
    }
}

contract! { Empty {} }

#[test]
fn names_are_inferred_from_types() {
    assert_eq!((GetUser::NAME, Vote::NAME), ("user.get", "vote"));
    assert_eq!((Typing::DIRECTION, Alert::DIRECTION), (Direction::Up, Direction::Down));
    assert_eq!(Dashboard.key(), "dashboard");
    assert_eq!(BoardOf { team: "a{id}".into(), id: 7 }.key(), "board:a{id}:7");
    assert_eq!((Likes.key(), Lobby.key()), ("likes".into(), "lobby".into()));
    assert_eq!(Todo { user: "ann".into() }.key(), "todo:ann");
    assert_eq!(Notes { id: 1 }.key(), "notes:1");
}

#[test]
fn parameters_are_checked() {
    assert_eq!(Vote { option: 3 }.check(), Ok(()));
    assert_eq!(Vote { option: 4 }.check(), Err(Invalid::new("/option", "there are 4 options")));
    assert_eq!(GetUser { id: 1, fields: None }.check(), Ok(()));
}

#[test]
fn typescript_says_what_rust_says() {
    let text = typescript::<App>().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract.ts");
    datasole_contract::file::check::<App>(path).unwrap();
    for part in [
        "export interface AppContract {",
        "    /** Finds a user. */\n    'user.get': { params: GetUser; result: User; error: NoSuchUser };",
        "    vote: { params: Vote; result: void };",
        "    list: { params: List; result: Page<User> };",
        "    /**\n     * Something is wrong.\n     * Look at once.\n     */\n    alert: Alert;",
        "direction: { up: 'chat:message' | 'typing'; down: 'alert' | 'chat:message' };",
        "    [key: `board:${string}:${string}`]: Board;",
        "    likes: 'pn-counter';",
        "    [key: `todo:${string}`]: { type: 'or-set'; value: Cell };",
        "    [key: `notes:${string}`]: true;",
        "created: number",
        "export type Page<T> = ",
        "  interface Register {\n    contract: AppContract;\n  }",
    ] {
        assert!(text.contains(part), "{part}\nis missing in\n{text}");
    }
    assert!(typescript::<Empty>().unwrap().contains("direction: { up: never; down: never };"));
}

#[test]
fn a_description_survives_json_and_has_a_hash() {
    let description = describe::<App>().unwrap();
    let text = serde_json::to_string(&description).unwrap();
    let again: datasole_contract::Description = serde_json::from_str(&text).unwrap();
    assert_eq!(again, description);
    assert_eq!(again.hash().len(), 16);
    let mut other = again.clone();
    other.rpc.get_mut("vote").unwrap().docs = "documentation".into();
    assert_eq!(other.hash(), again.hash(), "documentation does not count");
    other.rpc.remove("vote");
    assert_ne!(other.hash(), again.hash());
    assert!(changes(&description, &again).is_empty());
}

mod twice {
    use super::{Deserialize, Serialize, TS};

    #[derive(Serialize, Deserialize, TS)]
    pub struct One {}
    #[derive(Serialize, Deserialize, TS)]
    pub struct Two {}
    datasole_contract::contract! { pub Names { rpc { One = "a" -> (); Two = "a" -> (); } } }

    pub mod other {
        use super::{Deserialize, Serialize, TS};

        #[derive(Serialize, Deserialize, TS)]
        pub struct One {
            pub a: u8,
        }
        datasole_contract::contract! { pub Types { rpc { One = "b" -> super::One; } } }
    }
}

#[test]
fn names_and_types_are_there_once() {
    let Err(ContractError::Twice { name, .. }) = describe::<twice::Names>() else { panic!("one name, two methods") };
    assert_eq!(name, "a");
    let Err(ContractError::TwoTypes { name, .. }) = describe::<twice::other::Types>() else { panic!("two types") };
    assert_eq!(name, "One");
}
