//! CRDTs, presence and documents of native clients against the real server, through cuts: nothing is lost, nothing
//! counts twice, everybody ends with the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use datasole_client::{
    Client, Document, Presence, Reconnect, SyncStatus,
    yrs::{GetString, Text, TextRef, Transact},
};
use datasole_server::Server;
use datasole_tests::{
    proxy::{Cut, Direction, Proxy},
    random::Random,
    running::Running,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Far above what any of these tests takes; without it a lost wake-up would look like a hanging machine.
const PATIENCE: Duration = Duration::from_secs(120);

const CUTS: usize = 50;

/// At once, so that no test waits for a delay.
const AT_ONCE: Reconnect = Reconnect { enabled: true, base: 0, cap: 0, max_attempts: None };

async fn connect(url: &str) -> Client {
    Client::builder(url).reconnect(AT_ONCE).connect().await.unwrap()
}

/// A client behind a proxy of its own.
struct Cuttable {
    proxy: Proxy,
    client: Client,
}

impl Cuttable {
    async fn connect(running: &Running) -> Self {
        let proxy = Proxy::start(running.address).await;
        let client = connect(&proxy.url()).await;
        Self { proxy, client }
    }

    /// Cuts the connection after a few bytes, which `busy` makes flow for as long as it takes.
    async fn cut(&self, random: &mut Random, bits: u32, mut busy: impl AsyncFnMut(&mut Random)) {
        let direction = if random.coin() { Direction::Up } else { Direction::Down };
        let cut = self.proxy.cut(Cut { direction, after: random.magnitude(bits), reset: random.coin() });
        tokio::pin!(cut);
        loop {
            tokio::select! {
                biased;
                () = &mut cut => return,
                () = busy(random) => tokio::task::yield_now().await,
            }
        }
    }
}

/// What has been done to the CRDTs, and so what must come out of it.
#[derive(Default)]
struct Ledger {
    sum: i64,
    entries: BTreeMap<String, u64>,
    elements: BTreeSet<u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_cuts_lose_no_edit_and_count_none_twice() {
    timeout(PATIENCE, cut_crdts()).await.expect("in time");
}

async fn cut_crdts() {
    let mut random = Random::announced();
    let running = Running::start(Server::builder().build()).await;
    let clients = [Cuttable::connect(&running).await, Cuttable::connect(&running).await];
    let counters = clients.each_ref().map(|cuttable| cuttable.client.crdt().counter("sum").unwrap());
    let maps = clients.each_ref().map(|cuttable| cuttable.client.crdt().map::<u64>("map").unwrap());
    let sets = clients.each_ref().map(|cuttable| cuttable.client.crdt().set::<u64>("set").unwrap());
    let mut refusals = clients[0].client.refusals();
    let mut ledger = Ledger::default();
    let mut edits = 0;

    for round in 0..CUTS {
        let which = round % 2;
        clients[which]
            .cut(&mut random, 12, async |random| {
                if clients[which].client.crdt().pending() > 200 {
                    return tokio::time::sleep(Duration::from_millis(1)).await;
                }
                edits += 1;
                let by = random.below(9) + 1;
                match random.below(4) {
                    0 => {
                        counters[which].increment(by).unwrap();
                        ledger.sum += i64::try_from(by).unwrap();
                    }
                    1 => {
                        counters[1 - which].decrement(by).unwrap();
                        ledger.sum -= i64::try_from(by).unwrap();
                    }
                    2 => {
                        // Each client has keys of its own: what is there last is what it wrote last.
                        let key = format!("{which}-{}", random.below(20));
                        if random.below(4) == 0 {
                            maps[which].remove(&key).unwrap();
                            ledger.entries.remove(&key);
                        } else {
                            maps[which].insert(&key, &edits).unwrap();
                            ledger.entries.insert(key, edits);
                        }
                    }
                    _ => {
                        let element = random.below(40) * 2 + which as u64;
                        if random.coin() {
                            sets[which].add(&element).unwrap();
                            ledger.elements.insert(element);
                        } else {
                            sets[which].remove(&element).unwrap();
                            ledger.elements.remove(&element);
                        }
                    }
                }
                tokio::task::yield_now().await;
            })
            .await;
    }
    for cuttable in &clients {
        cuttable.client.crdt().synced().await.unwrap();
    }
    for which in 0..2 {
        let mut changes = [counters[which].changes(), maps[which].changes(), sets[which].changes()];
        let ended = || {
            counters[which].value() == ledger.sum
                && maps[which].value() == ledger.entries
                && sets[which].iter().collect::<BTreeSet<_>>() == ledger.elements
        };
        while !ended() {
            let [counter, map, set] = &mut changes;
            tokio::select! {
                Some(changed) = counter.next() => changed.unwrap(),
                Some(changed) = map.next() => changed.unwrap(),
                Some(changed) = set.next() => changed.unwrap(),
            }
        }
        assert_eq!(counters[which].status(), SyncStatus::Synced);
    }
    assert_eq!(running.server.crdt().counter("sum").value().await.unwrap(), ledger.sum);
    assert!(timeout(Duration::ZERO, refusals.next()).await.is_err(), "nothing was refused");
    println!("{edits} edits, the sum {}", ledger.sum);
    assert!(edits > CUTS as u64);
}

/// Waits until these values are in the room.
async fn shows(room: &Presence, values: &[Value]) {
    let mut changes = room.changes();
    loop {
        let mut seen: Vec<_> = room.members().into_iter().map(|member| member.value).collect();
        seen.sort_by_key(Value::to_string);
        if seen == values {
            return;
        }
        changes.next().await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_appears_comes_back_and_vanishes() {
    timeout(PATIENCE, presence()).await.expect("in time");
}

async fn presence() {
    let mut random = Random::announced();
    let running = Running::start(Server::builder().build()).await;
    let watcher = connect(&running.url()).await;
    let watched = watcher.presence::<Value>("room").unwrap();
    let ann = Cuttable::connect(&running).await;
    let bob = connect(&running.url()).await;
    let (here, there) = (ann.client.presence("room").unwrap(), bob.presence("room").unwrap());
    here.join(&json!("ann")).unwrap();
    there.join(&json!("bob")).unwrap();
    shows(&watched, &[json!("ann"), json!("bob")]).await;
    for n in 0..10 {
        ann.cut(&mut random, 8, async |_| {
            here.update(&json!(["ann", n])).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        })
        .await;
        here.update(&json!(["ann", n])).unwrap();
        shows(&watched, &[json!("bob"), json!(["ann", n])]).await;
    }
    // The watcher may hear of the last update before its author does.
    shows(&here, &[json!("bob"), json!(["ann", 9])]).await;
    assert!(here.members().iter().any(|member| member.own && member.value == json!(["ann", 9])));
    there.leave();
    shows(&watched, &[json!(["ann", 9])]).await;
    drop(here);
    shows(&watched, &[]).await;
    there.join(&json!("bob")).unwrap();
    shows(&watched, &[json!("bob")]).await;
    drop((bob, there));
    shows(&watched, &[]).await;
}

fn text(document: &Document) -> TextRef {
    document.yrs_doc().get_or_insert_text("text")
}

fn read(document: &Document) -> String {
    text(document).get_string(&document.yrs_doc().transact())
}

/// What each of the two types.
const MARKS: [char; 2] = ['a', 'b'];

/// Inserts a character somewhere.
fn edit(document: &Document, random: &mut Random, mark: char) {
    let text = text(document);
    let mut transaction = document.yrs_doc().transact_mut();
    let length = text.get_string(&transaction).len() as u64;
    let at = u32::try_from(random.below(length + 1)).unwrap();
    text.insert(&mut transaction, at, &mark.to_string());
}

/// Waits until both have the same text.
async fn equal(documents: &[Document; 2]) -> String {
    for document in documents {
        document.synced().await.unwrap();
    }
    let mut statuses = documents.each_ref().map(Document::statuses);
    loop {
        let (first, second) = (read(&documents[0]), read(&documents[1]));
        if first == second {
            return first;
        }
        let [first, second] = &mut statuses;
        tokio::select! {
            status = first.next() => drop(status.unwrap()),
            status = second.next() => drop(status.unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_equal_after_cuts_and_edits_without_a_connection() {
    timeout(PATIENCE, cut_documents()).await.expect("in time");
}

async fn cut_documents() {
    let mut random = Random::announced();
    let running = Running::start(Server::builder().build()).await;
    let clients = [Cuttable::connect(&running).await, Cuttable::connect(&running).await];
    let documents = clients.each_ref().map(|cuttable| cuttable.client.doc("notes").unwrap());
    let mut typed = [0; 2];
    for round in 0..CUTS {
        let which = round % 2;
        clients[which]
            .cut(&mut random, 12, async |random| {
                if documents[which].pending() > 200 {
                    return tokio::time::sleep(Duration::from_millis(1)).await;
                }
                edit(&documents[which], random, MARKS[which]);
                typed[which] += 1;
                tokio::task::yield_now().await;
            })
            .await;
        // While it is away, most likely.
        for which in 0..2 {
            edit(&documents[which], &mut random, MARKS[which]);
            typed[which] += 1;
        }
    }
    let text = equal(&documents).await;
    let count = |mark| text.chars().filter(|&found| found == mark).count();
    println!("{typed:?} characters");
    assert_eq!(MARKS.map(count), typed, "no character is lost or doubled");
    assert!(running.server.docs().text("notes", "text").await.unwrap() == text);
    assert!(documents.iter().all(|document| document.status() == SyncStatus::Synced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_appear_and_vanish() {
    timeout(PATIENCE, cursors()).await.expect("in time");
}

async fn cursors() {
    let running = Running::start(Server::builder().build()).await;
    let (ann, bob) = (connect(&running.url()).await, connect(&running.url()).await);
    let (here, there) = (ann.doc("notes").unwrap(), bob.doc("notes").unwrap());
    here.set_awareness(&json!({"user": {"name": "Ann"}})).unwrap();
    there.set_awareness(&json!({"user": {"name": "Bob"}})).unwrap();
    let mut changes = here.awareness_changes();
    while here.awareness::<Value>().len() < 2 {
        changes.next().await.unwrap();
    }
    assert!(here.awareness::<Value>().iter().any(|shown| !shown.own && shown.value["user"]["name"] == "Bob"));
    drop(there);
    while here.awareness::<Value>().len() > 1 {
        changes.next().await.unwrap();
    }
}

/// Single characters as fast as a program can make them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_single_edits_flow() {
    timeout(PATIENCE, flow()).await.expect("in time");
}

async fn flow() {
    const EDITS: usize = 50_000;
    let running = Running::start(Server::builder().build()).await;
    let clients = [connect(&running.url()).await, connect(&running.url()).await];
    let documents = clients.each_ref().map(|client| client.doc("notes").unwrap());
    let typed = text(&documents[0]);
    for _ in 0..EDITS {
        typed.push(&mut documents[0].yrs_doc().transact_mut(), "x");
        if documents[0].pending() >= 1_000 {
            documents[0].synced().await.unwrap();
        }
    }
    assert_eq!(equal(&documents).await.len(), EDITS);
}
