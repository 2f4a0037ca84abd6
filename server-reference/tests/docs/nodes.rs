//! Awareness between servers on one memory: who is shown where, and for how long.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use datasole_core::wire::split_varuint;
use datasole_server::{
    Limits, Server,
    backend::{Memory, bus::NodeId},
    clock::Manual,
};
use tokio::{task::yield_now, time::sleep};

use datasole_server::yrs::{Text, WriteTxn};

use super::client::{Client, state};

/// Servers on one memory whose time the test lets pass.
struct Site {
    clock: Arc<Manual>,
    memory: Memory,
}

impl Site {
    fn new() -> Self {
        let (clock, names) = (Arc::new(Manual::default()), Mutex::new(0));
        let random = move || {
            let mut names = names.lock().unwrap();
            *names += 1;
            *names
        };
        Self { clock: clock.clone(), memory: Memory::new(clock, Arc::new(random)) }
    }

    fn server(&self) -> Server {
        self.with(Limits::default())
    }

    fn with(&self, limits: Limits) -> Server {
        Server::builder().limits(limits).backend(self.memory.clone()).build()
    }

    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_secs(1)).await;
            settle().await;
        }
    }

    async fn fields(&self, map: &str) -> usize {
        self.memory.node().kv.fields(map).await.unwrap().len()
    }
}

async fn settle() {
    for _ in 0..64 {
        yield_now().await;
    }
}

/// A follower of the document, and the states it is shown, by client id; `told`: how many updates it got.
struct Viewer {
    client: Client,
    shown: BTreeMap<u64, String>,
    told: usize,
}

impl Viewer {
    async fn new(server: &Server, user: &str) -> Self {
        let mut viewer = Self { client: Client::following(server, user, "d"), shown: BTreeMap::new(), told: 0 };
        viewer.see().await;
        viewer
    }

    /// The states that it is shown by now.
    async fn see(&mut self) -> BTreeMap<u64, String> {
        settle().await;
        self.client.hear();
        for update in std::mem::take(&mut self.client.awareness) {
            self.told += 1;
            let (count, mut rest) = split_varuint(&update).unwrap();
            for _ in 0..count {
                let (client, after) = split_varuint(rest).unwrap();
                let (_clock, after) = split_varuint(after).unwrap();
                let (length, after) = split_varuint(after).unwrap();
                let (text, after) = after.split_at(usize::try_from(length).unwrap());
                rest = after;
                match std::str::from_utf8(text).unwrap() {
                    "null" => assert!(self.shown.remove(&client).is_some(), "one that was there"),
                    text => _ = self.shown.insert(client, text.to_owned()),
                }
            }
        }
        self.shown.clone()
    }

    fn say(&mut self, client: u64, clock: u64, text: &str) -> Result<u64, i64> {
        self.client.ask(0, &state(client, clock, text))
    }
}

fn shown(states: &[(u64, &str)]) -> BTreeMap<u64, String> {
    states.iter().map(|(client, text)| (*client, (*text).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn cursors_are_shown_on_every_server() {
    let site = Site::new();
    let (a, b, c) = (site.server(), site.server(), site.server());
    let (mut ann, mut bob) = (Viewer::new(&a, "ann").await, Viewer::new(&b, "bob").await);
    assert_eq!(ann.say(1, 1, r#"{"at":1}"#), Ok(0));
    assert_eq!(bob.see().await, shown(&[(1, r#"{"at":1}"#)]));
    assert_eq!(bob.say(2, 1, "\"bob\""), Ok(0));
    assert_eq!(ann.say(1, 2, r#"{"at":2}"#), Ok(0));
    assert_eq!(ann.see().await, shown(&[(2, "\"bob\"")]));
    let both = shown(&[(1, r#"{"at":2}"#), (2, "\"bob\"")]);
    let mut eve = Viewer::new(&c, "eve").await;
    assert_eq!(eve.see().await, both, "a new follower of another server sees all that are present");
    // Ids belong to their users on every server.
    assert_eq!(eve.say(1, 3, "\"eve\""), Err(-32_002));
    assert_eq!(bob.say(2, 2, "null"), Ok(0));
    assert_eq!((ann.see().await, eve.see().await), (shown(&[]), shown(&[(1, r#"{"at":2}"#)])));
    ann.client.unfollow(0);
    assert_eq!((bob.see().await, eve.see().await), (shown(&[]), shown(&[])), "gone with the subscription");
    assert_eq!(eve.say(1, 3, "\"eve\""), Err(-32_002), "for a minute");
    assert_eq!(site.fields("a:d").await, 0);
    let told = (bob.told, eve.told);
    site.pass(60).await;
    assert_eq!((bob.see().await, eve.see().await), (shown(&[]), shown(&[])));
    assert_eq!((bob.told, eve.told), told, "nothing is told that has not changed");
    assert_eq!(eve.say(1, 3, "\"eve\""), Ok(0));
    assert_eq!(bob.see().await, shown(&[(1, "\"eve\"")]));
    drop(eve);
    assert_eq!(bob.see().await, shown(&[]), "gone with the connection");
}

#[tokio::test(start_paused = true)]
async fn one_server_alone_writes_no_cursors_until_another_comes() {
    let site = Site::new();
    let a = site.server();
    let mut ann = Viewer::new(&a, "ann").await;
    assert_eq!(ann.say(1, 1, "1"), Ok(0));
    site.pass(30).await;
    assert_eq!((site.fields("nodes").await, site.fields("a:d").await), (0, 0));
    let b = site.server();
    let mut bob = Viewer::new(&b, "bob").await;
    assert_eq!(bob.see().await, shown(&[(1, "1")]), "told as soon as somebody is there");
    assert_eq!(site.fields("a:d").await, 1);
    // A document that starts over keeps its cursors, here and there.
    a.docs().remove("d").await.unwrap();
    site.pass(1).await;
    let (mut late, mut later) = (Viewer::new(&a, "late").await, Viewer::new(&b, "later").await);
    assert_eq!((late.see().await, later.see().await), (shown(&[(1, "1")]), shown(&[(1, "1")])));
}

#[tokio::test(start_paused = true)]
async fn cursors_of_a_server_that_dies_leave_with_its_lease() {
    let site = Site::new();
    let (b, other) = (site.server(), site.memory.node());
    let kv = &other.kv;
    // The fields of a server that is about to die, whose name is 7: of ann, client 1 at clock 4.
    let lease = kv.lease("n:7.0", NodeId(7), Duration::from_secs(15)).await.unwrap().unwrap();
    let share = [&1u64.to_be_bytes()[..], b"\x01\x03ann", b"\x01\x01\x04\x05\"ann\""].concat();
    for (map, field, value) in [("nodes", "7.0", vec![]), ("m:7.0", "a:d", vec![]), ("a:d", "7.0-1", share)] {
        kv.set_field(map, field, Some(value.into()), None).await.unwrap();
    }
    let mut bob = Viewer::new(&b, "bob").await;
    let known = shown(&[(1, "\"ann\"")]);
    for _ in 0..6 {
        site.pass(5).await;
        assert!(kv.renew(&lease).await.unwrap());
        assert_eq!(bob.see().await, known, "a server that lives keeps them");
    }
    site.pass(14).await;
    assert_eq!(bob.see().await, known);
    site.pass(7).await;
    assert_eq!(bob.see().await, shown(&[]));
    assert_eq!(site.fields("a:d").await, 0, "what the server has left is cleared up");
    assert_eq!(bob.say(1, 5, "5"), Err(-32_002), "the id stays its user's");
    let mut ann = Viewer::new(&b, "ann").await;
    assert_eq!(ann.say(1, 5, "5"), Ok(0), "who comes back to another server");
    assert_eq!(bob.see().await, shown(&[(1, "5")]));
}

#[tokio::test(start_paused = true)]
async fn a_user_goes_on_with_the_id_on_another_server() {
    let site = Site::new();
    let (a, b, c) = (site.server(), site.server(), site.server());
    let mut bob = Viewer::new(&c, "bob").await;
    let (mut old, mut new) = (Viewer::new(&a, "ann").await, Viewer::new(&b, "ann").await);
    assert_eq!(old.say(1, 1, "1"), Ok(0));
    assert_eq!(new.see().await, shown(&[(1, "1")]));
    // The old connection is thought to be there.
    assert_eq!(new.say(1, 2, "2"), Ok(0));
    assert_eq!((bob.see().await, old.see().await), (shown(&[(1, "2")]), shown(&[(1, "2")])));
    settle().await;
    assert_eq!(site.fields("a:d").await, 1, "what was taken over is shared once");
    drop(old);
    assert_eq!(bob.see().await, shown(&[(1, "2")]), "and not gone with the old one");
    site.pass(40).await;
    assert_eq!(bob.see().await, shown(&[(1, "2")]));
    drop(new);
    assert_eq!(bob.see().await, shown(&[]));
}

/// Writes into a document of its own; whether that is allowed.
fn create(server: &Server, user: &str, key: &str) -> Result<u64, i64> {
    Client::following(server, user, key).write(0, 0, "text")
}

#[tokio::test(start_paused = true)]
async fn documents_of_a_user_are_counted_on_all_servers() {
    let site = Site::new();
    let limits = || Limits::default().with(|limits| limits.max_docs_per_user = 3);
    let (a, b) = (site.with(limits()), site.with(limits()));
    assert_eq!((create(&a, "ann", "1"), create(&b, "ann", "2")), (Ok(1), Ok(1)), "below");
    assert_eq!(create(&a, "ann", "3"), Ok(1), "at the limit");
    assert_eq!((create(&a, "ann", "4"), create(&b, "ann", "4")), (Err(-32_004), Err(-32_004)), "above it, on each");
    let mut client = Client::following(&b, "ann", "4");
    assert_eq!(client.write(0, 0, "text"), Err(-32_004));
    assert_eq!(b.docs().text("4", "text").await.unwrap(), "", "nothing is left of what was refused");
    assert_eq!(create(&b, "ann", "3"), Ok(2), "what exists is changed");
    assert_eq!(create(&b, "bob", "4"), Ok(1));
    b.docs().edit("5", |edit| edit.get_or_insert_text("text").insert(edit, 0, "by the server")).await.unwrap();
    let restarted = site.with(limits());
    assert_eq!(create(&restarted, "ann", "6"), Err(-32_004), "a server that starts begins with what was created");
    site.clock.advance(Duration::from_secs(26 * 3_600));
    assert_eq!(create(&restarted, "ann", "6"), Ok(1), "after a day");
}

#[tokio::test(start_paused = true)]
async fn all_documents_are_counted_on_all_servers() {
    let site = Site::new();
    let limits = || Limits::default().with(|limits| limits.max_docs = 4);
    let (a, b) = (site.with(limits()), site.with(limits()));
    // Each has counted once.
    assert_eq!((create(&a, "ann", "1"), create(&b, "ann", "2")), (Ok(1), Ok(1)));
    assert_eq!(create(&a, "ann", "3"), Ok(1));
    site.pass(30).await;
    assert_eq!(create(&b, "ann", "4"), Ok(1), "at the limit");
    assert_eq!(create(&b, "ann", "5"), Err(-32_004), "above it");
    site.pass(30).await;
    assert_eq!(create(&a, "ann", "5"), Err(-32_004), "which the other has counted again");
    b.docs().remove("1").await.unwrap();
    site.pass(30).await;
    assert_eq!(create(&a, "ann", "5"), Ok(1), "there is room again");
}
