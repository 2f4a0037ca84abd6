//! A durable server that is killed again and again under a stream of edits: whatever it acknowledged is there when it
//! comes back, and those who follow go on from where they were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use datasole_client::{CallError, CallFailure, CallOptions, Client, Events, Reconnect, State};
use datasole_core::frame::Opcode;
use datasole_tests::{
    peer::{Peer, Received},
    proxy::Proxy,
    random::Random,
};
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

const KILLS: usize = 50;
const EDITORS: u64 = 4;
/// What tells those who follow that it was the last.
const LAST: u64 = u64::MAX;
/// Far above what this takes; without it a lost wake-up would look like a hanging machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Soon, but without spinning while there is no server.
const SOON: Reconnect = Reconnect { enabled: true, base: 5, cap: 20, max_attempts: None, retry_first: true };

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

/// Follows the state frame by frame, from one process to the next.
#[derive(Default)]
struct Follower {
    /// Epoch and sequence.
    at: Option<(u64, u64)>,
    resumed: usize,
}

impl Follower {
    /// Until the server is gone; `subscribed` once it goes on from where it was. Only the first time there is a snapshot.
    async fn follow(&mut self, address: SocketAddr, subscribed: oneshot::Sender<()>) {
        let mut subscribed = Some(subscribed);
        let mut peer = Peer::v2(address).await;
        let mut subscribe = json!({"kind": "state", "key": "log"});
        if let Some((epoch, seq)) = self.at {
            subscribe["since"] = json!({"epoch": epoch, "seq": seq});
        }
        peer.send(Opcode::Subscribe, 1, subscribe.to_string()).await;
        loop {
            let Received::Frame(opcode, _, payload) = peer.receive().await else { return };
            let frame: Value = serde_json::from_slice(&payload).unwrap();
            let at = (frame["epoch"].as_u64().unwrap(), frame["seq"].as_u64().unwrap());
            if opcode == Opcode::Subscribed {
                subscribed.take().unwrap().send(()).unwrap();
            }
            match (opcode, self.at) {
                (Opcode::Subscribed, None) => {}
                (Opcode::StateSnapshot, None) => self.at = Some(at),
                (Opcode::Subscribed, Some(since)) => {
                    assert_eq!((&frame["recovered"], at), (&Value::Bool(true), since));
                    self.resumed += 1;
                }
                (Opcode::StateSnapshot | Opcode::StatePatch, Some((epoch, seq))) => {
                    assert_eq!(at, (epoch, seq + 1), "entries go on without a gap");
                    self.at = Some(at);
                }
                other => panic!("{other:?} {frame}"),
            }
        }
    }
}

/// Whatever the client shows, the next value goes on from it. Returns with the last edit.
async fn watch_log(mut log: State<Value>) -> Vec<u64> {
    let mut seen: Vec<u64> = Vec::new();
    while seen.last() != Some(&LAST) {
        log.changed().await.unwrap();
        log.with_value(|value| {
            let Some(value) = value.and_then(Value::as_array) else { return assert!(seen.is_empty()) };
            assert!(value.len() >= seen.len(), "{} edits became {}", seen.len(), value.len());
            assert!(value.iter().zip(&seen).all(|(now, then)| now == then), "the past is as it was");
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
    let connect = async || Client::builder(&proxy.url()).reconnect(SOON).connect().await.unwrap();
    let (editing, following) = (connect().await, connect().await);
    let log = tokio::spawn(watch_log(following.state("log").unwrap()));
    let feed = tokio::spawn(read_feed(following.events("feed").unwrap()));
    // Frames are served in order: with this answer both subscriptions stand.
    following.call::<_, ()>("none", &()).await.unwrap_err();
    let mut editors = Editors::start(&editing);
    let mut follower = Follower::default();

    for kill in 0..KILLS {
        let address = process.address;
        let (subscribed, follows) = oneshot::channel();
        let edited = async {
            follows.await.unwrap();
            editors.wait_for(random.magnitude(8) as usize).await;
            drop(process);
        };
        tokio::join!(follower.follow(address, subscribed), edited);
        assert!(!log.is_finished() && !feed.is_finished(), "after kill {kill}");
        process = Process::start(&folder.0);
        proxy.set_target(process.address);
    }
    editors.wait_for(1).await;
    let acknowledged = editors.stop().await;
    editing.call::<_, u64>("edit", &LAST).await.unwrap();
    let (log, feed) = (log.await.unwrap(), feed.await.unwrap());
    assert_holds(&log, &acknowledged, "the state");
    assert_holds(&feed, &acknowledged, "the topic");
    assert_eq!(follower.resumed, KILLS - 1);

    let stored = snapshot(process.address).await;
    let (epoch, seq) = follower.at.unwrap();
    assert_eq!(stored["epoch"], epoch, "one life");
    assert!(stored["seq"].as_u64().unwrap() > seq);
    assert_eq!(stored["data"], json!(log), "a newcomer sees what the others do");
    println!("{} edits acknowledged, {} stored", acknowledged.len(), log.len());
    editing.close().await;
    following.close().await;
}

/// The state as it is, as a newcomer gets it.
async fn snapshot(address: SocketAddr) -> Value {
    let mut peer = Peer::v2(address).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"state","key":"log"}"#).await;
    peer.expect(Opcode::Subscribed, 1).await;
    peer.expect(Opcode::StateSnapshot, 0).await
}
