//! A durable server that is killed again and again under a stream of edits: whatever it acknowledged is there when it
//! comes back, and those who follow go on from where they were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod streams;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use datasole_client::{CallError, CallFailure, CallOptions, Client, Events, Reconnect, State, Tree};
use datasole_core::frame::Opcode;
use datasole_tests::{proxy::Proxy, random::Random};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use yrs::Doc;

use crate::streams::{Author, Follower, Work, document};

const KILLS: usize = 50;
const EDITORS: u64 = 4;
/// What tells those who follow that it was the last.
const LAST: u64 = u64::MAX;
/// Far above what this takes; without it a lost wake-up would look like a hanging machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Soon, but without spinning while there is no server.
const SOON: Reconnect = Reconnect { enabled: true, base: 5, cap: 20, max_attempts: None };

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("datasole-durable-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server in a process of its own; killed when dropped, as it always is: with SIGKILL.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_durable"));
        let mut child = command.arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").expect("the server starts").parse().unwrap();
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Edit at the same time, each one after the other, and note what was acknowledged.
struct Editors {
    acknowledged: watch::Receiver<Vec<u64>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Editors {
    fn start(client: &Client) -> Self {
        let (acknowledge, acknowledged) = watch::channel(Vec::new());
        let (stop, stopping) = watch::channel(false);
        let edit = |editor: u64| {
            let (client, acknowledge, stopping) = (client.clone(), acknowledge.clone(), stopping.clone());
            async move {
                let mut n = editor;
                while !*stopping.borrow() {
                    n += EDITORS;
                    match client.call_with::<_, u64>("edit", &n, CallOptions::new().queue()).await {
                        Ok(edited) => acknowledge.send_modify(|all| all.push(edited)),
                        Err(CallError::Failed(CallFailure::ConnectionLost { .. })) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        };
        let tasks = (0..EDITORS).map(|editor| tokio::spawn(edit(editor))).collect();
        Self { acknowledged, stop, tasks }
    }

    /// Waits for so many more acknowledgements.
    async fn wait_for(&mut self, more: usize) {
        let target = self.acknowledged.borrow().len() + more;
        self.acknowledged.wait_for(|all| all.len() >= target).await.expect("the editors go on");
    }

    /// What was acknowledged.
    async fn stop(self) -> Vec<u64> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.acknowledged.borrow().clone()
    }
}

/// Whatever the client shows, the next value goes on from it. Returns with the last edit.
async fn watch_log(mut log: State<Value>) -> Vec<u64> {
    let mut seen: Vec<u64> = Vec::new();
    while seen.last() != Some(&LAST) {
        log.changed().await.unwrap();
        log.with_value(|value| {
            let Some(value) = value.and_then(Tree::as_array) else { return assert!(seen.is_empty()) };
            assert!(value.len() >= seen.len(), "{} edits became {}", seen.len(), value.len());
            assert!(value.iter().zip(&seen).all(|(now, then)| now.as_u64() == Some(*then)), "the past is as it was");
            seen.extend(value[seen.len()..].iter().map(|edit| edit.as_u64().unwrap()));
        });
    }
    seen
}

/// None is missed. Returns with the last edit.
async fn read_feed(mut feed: Events<u64>) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&LAST) {
        seen.push(feed.next().await.unwrap().expect("nothing is missed").data);
    }
    seen
}

fn assert_holds(seen: &[u64], acknowledged: &[u64], whose: &str) {
    let all: BTreeSet<_> = seen.iter().collect();
    assert_eq!(all.len(), seen.len(), "{whose}: no edit twice");
    let missing: Vec<_> = acknowledged.iter().filter(|edit| !all.contains(edit)).take(5).collect();
    assert!(missing.is_empty(), "{whose}: acknowledged and gone: {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_nothing_acknowledged() {
    timeout(PATIENCE, lose_nothing()).await.expect("in time");
}

async fn lose_nothing() {
    let mut random = Random::announced();
    let folder = Folder::new("kills");
    let mut process = Process::start(&folder.0);
    let proxy = Proxy::start(process.address).await;
    let connect = async || Client::builder(proxy.url()).reconnect(SOON).connect().await.unwrap();
    let (editing, following) = (connect().await, connect().await);
    let log = tokio::spawn(watch_log(following.state("log").unwrap()));
    let mut feed = following.events("feed").unwrap();
    // An event comes before the answer of the call that made it, once the subscription stands.
    for first in (0..LAST).rev() {
        following.call::<_, u64>("edit", &first).await.unwrap();
        if feed.next().now_or_never().is_some() {
            break;
        }
    }
    let feed = tokio::spawn(read_feed(feed));
    let mut editors = Editors::start(&editing);
    let mut counter = Author::start(Work::Counter, process.address).await;
    let mut writer = Author::start(Work::Document(Doc::new()), process.address).await;
    let (mut states, mut operations) = (Follower::new("state", "log"), Follower::new("crdt", "hits"));

    for kill in 0..KILLS {
        let address = process.address;
        let (ready, mut begun) = mpsc::channel(4);
        let edited = async {
            for _ in 0..4 {
                begun.recv().await.unwrap();
            }
            editors.wait_for(random.magnitude(8) as usize).await;
            drop(process);
        };
        tokio::join!(
            states.follow(address, ready.clone()),
            operations.follow(address, ready.clone()),
            counter.work(address, ready.clone()),
            writer.work(address, ready),
            edited
        );
        assert!(!log.is_finished() && !feed.is_finished(), "after kill {kill}");
        process = Process::start(&folder.0);
        proxy.set_target(process.address);
    }
    editors.wait_for(1).await;
    let acknowledged = editors.stop().await;
    editing.call::<_, u64>("edit", &LAST).await.unwrap();
    counter.finish(process.address).await;
    writer.finish(process.address).await;
    let (log, feed) = (log.await.unwrap(), feed.await.unwrap());
    assert_holds(&log, &acknowledged, "the state");
    assert_holds(&feed, &acknowledged, "the topic");

    assert_eq!((states.resumed, operations.resumed), (KILLS - 1, KILLS - 1));

    let data = states.newcomer(process.address, Opcode::StateSnapshot).await["data"].take();
    assert_eq!(data, json!(log), "a newcomer sees what the others do");
    let state = operations.newcomer(process.address, Opcode::CrdtState).await["state"].take();
    assert_eq!(state["value"], counter.made, "each increment counts once");
    let written: String = (1..=writer.made).map(|number| format!("{number},")).collect();
    assert!(document(process.address).await == written, "nothing written is lost, and nothing doubled");
    println!(
        "{} edits of {} acknowledged, {} increments, {} updates",
        acknowledged.len(),
        log.len(),
        counter.made,
        writer.made
    );
    editing.close().await;
    following.close().await;
}
