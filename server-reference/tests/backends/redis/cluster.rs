//! A Redis Cluster of three masters.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datasole_core::StreamId;
use datasole_server::backend::{
    Backend, BackendError, Redis, async_trait,
    conformance::{Subject, verify},
    log::News,
};
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, PROGRAM, arguments, connect, heard};
use crate::{
    clients,
    running::Running,
    writers::{PAUSE, survives, whole},
};

/// The slots of each master at first.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

struct Cluster {
    masters: Vec<Master>,
}

struct Master {
    server: Running,
    /// Where masters speak with each other.
    bus: u16,
}

fn of_cluster(port: u16, dir: &Path, bus: u16) -> Vec<String> {
    let bus = bus.to_string();
    let more = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "5000"];
    [arguments(port, dir), more.map(str::to_owned).to_vec()].concat()
}

impl Cluster {
    /// Three masters that know each other and serve all slots.
    async fn start() -> Self {
        let masters = SLOTS.map(|_| {
            let bus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            Master { server: Running::start(PROGRAM, |port, dir| of_cluster(port, dir, bus)), bus }
        });
        let cluster = Self { masters: masters.into() };
        for (number, (first, last)) in SLOTS.into_iter().enumerate() {
            cluster.until(number, "PING", |answer| answer == "PONG").await;
            cluster.tell(number, &format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1));
            cluster.tell(number, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
        }
        for Master { server, bus } in &cluster.masters[1..] {
            cluster.tell(0, &format!("CLUSTER MEET 127.0.0.1 {} {bus}", server.port));
        }
        cluster.until_whole().await;
        cluster
    }

    async fn until_whole(&self) {
        for number in 0..self.masters.len() {
            let is_whole = |answer: &str| {
                ["cluster_state:ok", "cluster_size:3"]
                    .iter()
                    .all(|line| answer.lines().any(|known| known.trim() == *line))
            };
            self.until(number, "CLUSTER INFO", is_whole).await;
        }
    }

    async fn until(&self, number: usize, command: &str, is: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is(&self.ask(number, command)) {
            assert!(Instant::now() < deadline, "{command}: {}", self.ask(number, command));
            sleep(PAUSE * 2).await;
        }
    }

    /// What a master answers to Redis's own client.
    fn ask(&self, number: usize, command: &str) -> String {
        let mut client = Command::new("redis-cli");
        client.args(["-p", &self.masters[number].server.port.to_string()]).args(command.split(' '));
        let output = client.stderr(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn tell(&self, number: usize, command: &str) {
        let answer = self.ask(number, command);
        assert!(matches!(answer.as_str(), "OK" | "NOKEY"), "{command}: {answer}");
    }

    /// Its URL names two of the three.
    fn url(&self, options: &str) -> String {
        let port = |number: usize| self.masters[number].server.port;
        format!("redis://127.0.0.1:{},127.0.0.1:{}/?{options}", port(0), port(2))
    }

    /// The master that has a key, and the key.
    fn owner(&self, ending: &str) -> Option<(usize, String)> {
        (0..self.masters.len()).find_map(|number| {
            let keys = self.ask(number, &format!("KEYS *{ending}"));
            keys.lines().next().filter(|key| !key.is_empty()).map(|key| (number, key.to_owned()))
        })
    }

    /// Moves a slot to another master, as `redis-cli --cluster reshard` does, but with time between its steps.
    async fn move_slot(&self, slot: &str, from: usize, to: usize) {
        let id = |number| self.ask(number, "CLUSTER MYID");
        self.tell(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(from)));
        self.tell(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to)));
        sleep(PAUSE * 5).await;
        loop {
            let keys = self.ask(from, &format!("CLUSTER GETKEYSINSLOT {slot} 1"));
            if keys.is_empty() {
                break;
            }
            self.tell(from, &format!("MIGRATE 127.0.0.1 {} {keys} 0 5000", self.masters[to].server.port));
            sleep(PAUSE).await;
        }
        for number in [to, from, 3 - to - from] {
            self.tell(number, &format!("CLUSTER SETSLOT {slot} NODE {}", id(to)));
            sleep(PAUSE * 2).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_a_cluster_are_one() {
    let cluster = Cluster::start().await;
    let redis = connect(&cluster.url("prefix=app")).await;
    clients::two_servers_are_one(async || redis.node().await.unwrap()).await;
    // One host is enough.
    let redis = connect(&format!("redis://127.0.0.1:{}/?prefix=other", cluster.masters[1].server.port)).await;
    clients::members_and_cursors_are_shown_on_the_other_server(async || redis.node().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_a_slot_moves() {
    let cluster = Cluster::start().await;
    let redis = connect(&cluster.url("")).await;
    let (stream, follower) = (StreamId::event("s"), redis.node().await.unwrap());
    let mut news = follower.log.news().unwrap();
    follower.log.follow(std::slice::from_ref(&stream)).await.unwrap();
    let nodes = [redis.node().await.unwrap(), redis.node().await.unwrap()];
    survives(nodes, async || {
        let (mut from, key) = loop {
            sleep(PAUSE).await;
            if let Some(found) = cluster.owner(":l:es") {
                break found;
            }
        };
        let slot = cluster.ask(0, &format!("CLUSTER KEYSLOT {key}"));
        for _ in 0..3 {
            let to = (from + 1) % 3;
            cluster.move_slot(&slot, from, to).await;
            sleep(PAUSE * 10).await;
            assert_eq!(cluster.owner(":l:es").map(|(owner, _)| owner), Some(to), "the stream has moved");
            from = to;
        }
    })
    .await;
    // Whoever follows has been told of every entry, or that some were lost; then the log has them.
    let last = whole(&follower, &stream).await.unwrap().unwrap().mark.position;
    let (mut lost, mut at) = (0, 0);
    while let Ok(Some(one)) = timeout(Duration::from_millis(200), news.recv()).await {
        match one {
            News::Entries { first, entries, .. } if lost == 0 => {
                assert_eq!(first.seq, at + 1, "in order, until something is said to be lost");
                at += entries.len() as u64;
            }
            News::Lost => lost += 1,
            News::Generation(_) => panic!("a slot that moves loses nothing"),
            _ => {}
        }
    }
    assert!(lost > 0 || at == last.seq, "nothing is lost in silence: {at} of {}", last.seq);
    heard(&follower).await;
    let mut ahead = follower.log.heads(&[stream]).await.unwrap();
    assert_eq!(ahead.pop().flatten().map(|mark| mark.position), Some(last));
}

#[tokio::test]
async fn several_hosts_that_are_no_cluster_are_refused() {
    let server = Running::start(PROGRAM, arguments);
    connect(&format!("redis://127.0.0.1:{}", server.port)).await;
    let url = format!("redis://:secret@127.0.0.1:1,127.0.0.1:{}", server.port);
    let Err(error) = Redis::connect(&url).await else { panic!("{url} is refused") };
    assert!(!error.to_string().contains("secret"), "{error}");
    let url = format!("redis://127.0.0.1:1,127.0.0.1:{}", server.port);
    let Err(error) = Redis::connect(&url).await else { panic!("{url} is refused") };
    assert!(matches!(&error, BackendError::Invalid(why) if why.contains("Redis Cluster")), "{error}");
}

struct Store {
    cluster: Arc<Mutex<Cluster>>,
    redis: Redis,
    nodes: Mutex<Vec<Backend>>,
}

#[async_trait]
impl Subject for Store {
    async fn node(&self) -> Result<Backend, BackendError> {
        let node = self.redis.node().await?;
        self.nodes.lock().unwrap().push(node.clone());
        Ok(node)
    }

    async fn pass(&self, time: Duration) {
        sleep(time + Duration::from_millis(2)).await;
    }

    /// Another run of one master is enough.
    async fn fail_over(&self, _nodes: usize) -> Result<bool, BackendError> {
        {
            let mut cluster = self.cluster.lock().unwrap();
            let Master { server, bus } = &mut cluster.masters[1];
            let bus = *bus;
            server.kill_and_start(PROGRAM, |port, dir| of_cluster(port, dir, bus));
        }
        let nodes = self.nodes.lock().unwrap().clone();
        for node in nodes {
            heard(&node).await;
        }
        Ok(true)
    }
}

/// Run by `cargo xtask test --all`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo xtask test --all"]
async fn a_cluster_conforms() {
    let cluster = Arc::new(Mutex::new(Cluster::start().await));
    let stores = AtomicU64::new(0);
    verify(async || {
        let url = cluster.lock().unwrap().url(&format!("prefix=t{}", stores.fetch_add(1, Ordering::Relaxed)));
        Store { cluster: Arc::clone(&cluster), redis: connect(&url).await, nodes: Mutex::default() }
    })
    .await;
}
