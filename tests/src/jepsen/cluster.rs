//! The nodes and what lies between them, their engine and their clients.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    Options,
    client::{Connection, mark_of},
    engine::{Engine, Kind, signal},
    record::Record,
};
use crate::{
    history::Mark,
    proxy::{Proxy, Weather},
    random::Random,
};

/// How long anything may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the seeds of failpoints from others.
const FAILPOINTS: u64 = 0x6661_696c;

/// A server in a process of its own.
pub(super) struct Node {
    child: Option<Child>,
    /// Between it and the engine.
    pub(super) engine_side: Proxy,
    /// Between it and its clients.
    pub(super) client_side: Proxy,
}

/// Everything that runs.
pub(super) struct Cluster {
    pub(super) engine: Engine,
    pub(super) nodes: Vec<Node>,
    program: std::path::PathBuf,
    /// Seeds the failpoints of nodes.
    random: Random,
    has_failpoints: bool,
    /// How many nodes have ended at one.
    pub(super) ended: u64,
}

impl Cluster {
    pub(super) async fn start(options: &Options) -> Self {
        let engine = Engine::start(options).await;
        let random = Random::new(options.seed ^ FAILPOINTS);
        let mut cluster =
            Self { engine, nodes: Vec::new(), program: options.node.clone(), random, has_failpoints: true, ended: 0 };
        let count = if cluster.engine.is_shared() { 3 } else { 1 };
        for number in 0..count {
            let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
            let engine_side = Proxy::start(cluster.engine.address()).await;
            let client_side = Proxy::start(nowhere).await;
            cluster.nodes.push(Node { child: None, engine_side, client_side });
            cluster.run(number).await;
        }
        cluster
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client_side.address()).collect()
    }

    /// Starts a node that does not run, again and again until it finds its engine.
    pub(super) async fn run(&mut self, number: usize) {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_run(number) {
            assert!(Instant::now() < deadline, "node {number} does not start");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Starts a node that does not run, if it finds its engine.
    pub(super) fn try_run(&mut self, number: usize) -> bool {
        let may_end = self.may_kill_nodes();
        let node = &mut self.nodes[number];
        let ended = node.child.take_if(|child| child.try_wait().is_ok_and(|status| status.is_some()));
        self.ended += u64::from(ended.is_some());
        if node.child.is_some() {
            return true;
        }
        let url = self.engine.url(node.engine_side.address());
        let mut command = Command::new(&self.program);
        command.arg(url).stdin(Stdio::null());
        if may_end && self.has_failpoints {
            command.arg(self.random.u64().to_string()).stdin(Stdio::piped());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program of a node");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        let address = line.trim().strip_prefix("listening ").and_then(|address| address.parse().ok());
        match (read, address) {
            (Ok(_), Some(address)) => {
                node.client_side.set_target(address);
                node.child = Some(child);
                true
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                false
            }
        }
    }

    pub(super) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.nodes[number].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A kill empties memory, and all that was acknowledged with it.
    pub(super) fn may_kill_nodes(&self) -> bool {
        self.engine.kind != Kind::Memory
    }

    /// Kills the engine, whose replica takes its place.
    pub(super) fn fail_over(&mut self) {
        self.engine.fail_over();
        for node in &self.nodes {
            node.engine_side.set_target(self.engine.address());
            node.engine_side.end_all();
        }
    }

    pub(super) fn signal(&self, number: usize, name: &str) {
        if let Some(child) = &self.nodes[number].child {
            signal(child, name);
        }
    }

    /// Ends all faults, and waits until every node is ready.
    pub(super) async fn heal(&mut self, record: &Record) {
        self.engine.signal("-CONT");
        self.engine.set_weather(Weather::default());
        if self.engine.is_down() {
            self.engine.run();
        }
        self.has_failpoints = false;
        for number in 0..self.len() {
            self.signal(number, "-CONT");
            // Its failpoints end.
            drop(self.nodes[number].child.as_mut().and_then(|child| child.stdin.take()));
            self.nodes[number].engine_side.set_weather(Weather::default());
            self.nodes[number].client_side.set_weather(Weather::default());
        }
        for number in 0..self.len() {
            self.run(number).await;
        }
        let deadline = Instant::now() + PATIENCE;
        for number in 0..self.len() {
            while !self.is_ready(number).await {
                assert!(Instant::now() < deadline, "node {number} does not become ready");
                self.try_run(number);
                sleep(Duration::from_millis(100)).await;
            }
        }
        record.count("healed");
    }

    async fn is_ready(&self, number: usize) -> bool {
        let ask = async {
            let mut socket = TcpStream::connect(self.nodes[number].client_side.address()).await.ok()?;
            socket
                .write_all(b"GET /__ds/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                .await
                .ok()?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.ok()?;
            Some(answer.starts_with("HTTP/1.1 200"))
        };
        timeout(Duration::from_secs(5), ask).await.ok().flatten().unwrap_or(false)
    }

    /// Writes through a node; where the entry is, if it was acknowledged.
    pub(super) async fn write(&self, number: usize, key: &str, id: u64) -> Option<Mark> {
        let mut connection = Connection::open(self.nodes[number].client_side.address(), "writer").await?;
        mark_of(&connection.call("write", &json!({ "key": key, "id": id })).await?)
    }

    /// The ids in a state, as a node has it.
    pub(super) async fn read(&self, number: usize, key: &str) -> Option<Vec<u64>> {
        let mut connection = Connection::open(self.nodes[number].client_side.address(), "reader").await?;
        let value = connection.call("read", &Value::from(key)).await?;
        let ids = value.as_array().map(|ids| ids.iter().filter_map(Value::as_u64).collect());
        Some(ids.unwrap_or_default())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.len()).for_each(|number| self.kill(number));
    }
}
