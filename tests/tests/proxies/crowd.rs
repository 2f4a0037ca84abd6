//! Many clients that follow one state through a proxy: native ones here, those of the npm package in one Node.

use std::process::Stdio;

use datasole_client::{Client, Reconnect, State};
use datasole_tests::running::Running;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::process::Proxy;

const KEY: &str = "n";
const SOON: Reconnect = Reconnect { enabled: true, base: 100, cap: 1_000, max_attempts: None };

pub(crate) struct Crowd {
    natives: Vec<(Client, State<u64>)>,
    node: Option<Node>,
}

/// `crowd.mjs`.
struct Node {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    /// So many clients of each kind, connected.
    pub(crate) async fn of(proxy: &Proxy, natives: usize, nodes: usize) -> Self {
        let node = if nodes > 0 { Some(Node::start(&proxy.url(), nodes).await) } else { None };
        let mut crowd = Self { natives: Vec::new(), node };
        for _ in 0..natives {
            let client = Client::builder(proxy.url()).reconnect(SOON).connect().await.unwrap();
            let state = client.state(KEY).unwrap();
            crowd.natives.push((client, state));
        }
        crowd
    }

    /// The server sets a value, and all see it sooner or later.
    pub(crate) async fn follows(&mut self, running: &Running, value: u64) {
        running.server.state().set(KEY, &value).await.unwrap();
        if let Some(node) = &mut self.node {
            node.ask(&value.to_string()).await;
        }
        for (client, state) in &mut self.natives {
            while state.get().unwrap() != Some(value) {
                state.changed().await.unwrap_or_else(|error| panic!("{error}: {}", client.status()));
            }
        }
    }

    pub(crate) async fn leave(self) {
        for (client, _) in &self.natives {
            client.close().await;
        }
        if let Some(mut node) = self.node {
            node.ask("leave").await;
            assert!(node.child.wait().await.unwrap().success());
        }
    }
}

impl Node {
    async fn start(url: &str, clients: usize) -> Self {
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxies/crowd.mjs")).arg(url).arg(clients.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("Node is there");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut node = Self { child, lines };
        node.answers("connected").await;
        node
    }

    /// Says something, which is answered with the same.
    async fn ask(&mut self, what: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        self.answers(what).await;
    }

    async fn answers(&mut self, expected: &str) {
        let line = self.lines.next_line().await.unwrap().expect("Node goes on: run `cargo xtask build` before");
        assert_eq!(line, expected);
    }
}
