//! One contract, two ends: what the server offers by its types, a native client uses by the same.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use datasole_client::{Client, Status};
use datasole_contract::{TS, contract};
use datasole_server::{Context, EventError, RpcError, Server};
use datasole_tests::running::Running;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, TS)]
pub struct GetUser {
    id: u32,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, TS)]
pub struct User {
    name: String,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, TS)]
pub struct NoSuchUser {
    id: u32,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, TS)]
pub struct ChatMessage {
    text: String,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, TS)]
pub struct Board {
    votes: u32,
}

contract! {
    pub App {
        rpc { GetUser = "user.get" -> User | NoSuchUser; }
        events { ChatMessage = "chat:message" both; }
        state { BoardOf { id: u32 } = "board:{id}" => Board; }
        crdt { Likes = "likes" => PnCounter; Todo = "todo" => OrSet<String>; }
        presence { Lobby = "lobby" => String; }
        docs { Notes = "notes"; }
    }
}

async fn get_user(_: Context, asked: GetUser) -> Result<User, RpcError> {
    match asked.id {
        1 => Ok(User { name: "Ann".into() }),
        id => Err(RpcError::new("no such user").code(404).data(&NoSuchUser { id })),
    }
}

async fn chat(context: Context, message: ChatMessage) -> Result<(), EventError> {
    context.server().publish(&message).await
}

#[tokio::test]
async fn both_ends_infer_the_same_names_and_types() {
    let server = Server::builder().contract::<App>().method(get_user).event(chat).try_build().unwrap();
    server.at(BoardOf { id: 7 }).set(&Board { votes: 1 }).await.unwrap();
    let running = Running::start(server.clone()).await;
    let client = Client::builder(running.url()).connect().await.unwrap();

    assert_eq!(client.request(&GetUser { id: 1 }).await.unwrap(), User { name: "Ann".into() });
    let error = client.request(&GetUser { id: 2 }).await.unwrap_err();
    assert_eq!((error.code(), error.data()), (404, Some(NoSuchUser { id: 2 })));
    assert_eq!(error.data::<String>(), None, "of another type");

    let mut board = client.at(BoardOf { id: 7 }).unwrap();
    board.changed().await.unwrap();
    assert_eq!(board.get().unwrap(), Some(Board { votes: 1 }));
    server.at(BoardOf { id: 7 }).patch(|board| board.votes += 1).await.unwrap();
    board.changed().await.unwrap();
    assert_eq!(board.get().unwrap(), Some(Board { votes: 2 }));

    let mut heard = client.listen::<ChatMessage>().unwrap();
    // In the order of the connection: the topic is followed before it is spoken on.
    client.publish(&ChatMessage { text: "hello".into() }).await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap().data, ChatMessage { text: "hello".into() });

    client.replica(Likes).unwrap().increment(2).unwrap();
    client.replica(Todo).unwrap().add(&"milk".into()).unwrap();
    client.crdt().synced().await.unwrap();
    assert_eq!(server.crdt().counter("likes").value().await.unwrap(), 2);
    assert_eq!(server.crdt().set("todo").values::<String>().await.unwrap(), ["milk"]);

    let room = client.room(Lobby).unwrap();
    let mut changes = room.changes();
    room.join(&"Ann".into()).unwrap();
    while room.members().is_empty() {
        changes.next().await.unwrap().unwrap();
    }
    assert_eq!(room.members()[0].value, "Ann");
    let notes = client.document(Notes).unwrap();
    assert_eq!(notes.key(), "notes");
    client.close().await;
}

/// The contract of [`App`] at another time.
mod later {
    use datasole_contract::contract;

    contract! { pub App { docs { Notes = "notes"; } } }
}

#[tokio::test]
async fn a_client_of_another_contract_is_told() {
    let server = Server::builder().contract::<App>().method(get_user).event(chat).try_build().unwrap();
    let running = Running::start(server).await;
    let same = |client: &Client| match client.status() {
        Status::Connected { same_contract, .. } => same_contract,
        status => panic!("{status}"),
    };
    let client = Client::builder(running.url()).contract::<App>().connect().await.unwrap();
    assert_eq!(same(&client), Some(true));
    let client = Client::builder(running.url()).contract::<later::App>().connect().await.unwrap();
    assert_eq!(same(&client), Some(false));
    let client = Client::builder(running.url()).connect().await.unwrap();
    assert_eq!(same(&client), None);

    let without = Running::start(Server::builder().build()).await;
    let client = Client::builder(without.url()).contract::<App>().connect().await.unwrap();
    assert_eq!(same(&client), None);
}
