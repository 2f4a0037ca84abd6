//! A Redis Cluster of three masters.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use datasole_core::StreamId;
use datasole_server::backend::{
    Backend, BackendError, Redis,
    conformance::verify,
    log::{Mark, News},
};
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, PROGRAM, Store, arguments, connect, heard};
use crate::{
    clients,
    port::free_port,
    running::Running,
    writers::{PAUSE, append, survives},
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
            let bus = free_port();
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
    // Whoever follows is told of every entry in order, or that some were lost; then the log says up to where.
    heard(&follower).await;
    let last = append(&redis.node().await.unwrap(), &stream, mark(&follower, &stream).await, 1).await.position;
    let (mut at, mut told) = (0, 0);
    while at < last.seq {
        match timeout(PATIENCE, news.recv()).await.expect("the last entry is told, or lost").unwrap() {
            News::Entries { stream: of, first, entries } => {
                assert_eq!(of, stream);
                // What the log has said is told as well.
                let end = first.seq - 1 + entries.len() as u64;
                assert!(first.seq <= at + 1, "nothing is lost in silence: {} behind {at}", first.seq);
                told += end.saturating_sub(at);
                at = at.max(end);
            }
            News::Lost => at = at.max(mark(&follower, &stream).await.position.seq),
            News::Generation(_) => panic!("a slot that moves loses nothing"),
            News::Advanced { .. } | News::Turn(_) => {}
        }
    }
    assert_eq!(at, last.seq);
    assert!(told > 0, "entries are told");
}

async fn mark(node: &Backend, stream: &StreamId) -> Mark {
    node.log.heads(std::slice::from_ref(stream)).await.unwrap().pop().unwrap().unwrap()
}

/// Whoever has followed nothing in a slot hears from another master than it knew, and loses nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_to_follow_in_a_slot_that_has_moved_hears() {
    let cluster = Cluster::start().await;
    let redis = connect(&cluster.url("")).await;
    let (follower, writer) = (redis.node().await.unwrap(), redis.node().await.unwrap());
    let mut news = follower.log.news().unwrap();
    // Two of their slots are moved.
    let streams: Vec<_> = (0..40).map(|n| StreamId::event(format!("s{n}"))).collect();
    let mut marks = Vec::new();
    for stream in &streams {
        marks.push(append(&writer, stream, Mark::birth(7), 1).await);
    }
    for n in 0..2 {
        let (from, key) = cluster.owner(&format!(":l:es{n}")).unwrap();
        let slot = cluster.ask(0, &format!("CLUSTER KEYSLOT {key}"));
        cluster.move_slot(&slot, from, (from + 1) % 3).await;
    }
    follower.log.follow(&streams).await.unwrap();
    for (stream, mark) in streams.iter().zip(marks) {
        let last = append(&writer, stream, mark, 2).await;
        match timeout(PATIENCE, news.recv()).await.expect("it is told").unwrap() {
            News::Entries { stream: of, first, entries } => {
                assert_eq!((&of, first, entries.len()), (stream, last.position, 1));
            }
            other => panic!("nothing is lost: {other:?}"),
        }
    }
}

/// A master that is silent is noticed while another one is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_master_is_noticed_while_others_speak() {
    let cluster = Cluster::start().await;
    for number in 0..3 {
        // The others go on without it.
        cluster.tell(number, "CONFIG SET cluster-node-timeout 60000");
        cluster.tell(number, "CONFIG SET cluster-require-full-coverage no");
    }
    let redis = connect(&cluster.url("")).await;
    let (follower, writer) = (redis.node().await.unwrap(), redis.node().await.unwrap());
    let mut news = follower.log.news().unwrap();
    let mut n = 0;
    let (busy, mut at) = loop {
        let stream = StreamId::event(format!("s{n}"));
        let at = append(&writer, &stream, Mark::birth(7), 1).await;
        if cluster.owner(&format!(":l:es{n}")).unwrap().0 == 0 {
            break (stream, at);
        }
        n += 1;
    };
    follower.log.follow(std::slice::from_ref(&busy)).await.unwrap();
    let signal = |name: &str| {
        let process = cluster.masters[1].server.process().to_string();
        assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
    };
    signal("-STOP");
    let (probe, deadline, mut count) = ([busy.clone()], Instant::now() + PATIENCE, 1);
    // Following what is followed asks no master.
    while follower.log.follow(&probe).await.is_ok() {
        assert!(Instant::now() < deadline, "it is noticed");
        count += 1;
        at = append(&writer, &busy, at, count).await;
        sleep(PAUSE * 10).await;
    }
    signal("-CONT");
    heard(&follower).await;
    loop {
        match timeout(PATIENCE, news.recv()).await.expect("what may be lost is told").unwrap() {
            News::Lost => break,
            other => assert!(matches!(other, News::Entries { .. }), "{other:?}"),
        }
    }
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

/// Run by `cargo xtask test --all`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo xtask test --all"]
async fn a_cluster_conforms() {
    let cluster = Arc::new(Mutex::new(Cluster::start().await));
    let stores = AtomicU64::new(0);
    verify(async || {
        let url = cluster.lock().unwrap().url(&format!("prefix=t{}", stores.fetch_add(1, Ordering::Relaxed)));
        let cluster = Arc::clone(&cluster);
        // Another run of one master is enough.
        let restart = move || {
            let Master { server, bus } = &mut cluster.lock().unwrap().masters[1];
            let bus = *bus;
            server.kill_and_start(PROGRAM, |port, dir| of_cluster(port, dir, bus));
        };
        Store::new(&url, restart).await
    })
    .await;
}
