//! What a hostile peer can make the server hold: the peak of this process's memory, which is the server's and very
//! little else. One test at a time, in a process of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use datasole_core::frame::Opcode;
use datasole_server::{Context, Limits, Payload, Replay, Server};
use datasole_tests::{
    document::{change, entries, follow},
    peer::{Peer, Received, frame, masked},
    random::Random,
    running::Running,
};
use flate2::{Compress, Compression, FlushCompress};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

const MIB: usize = 1024 * 1024;
/// Clients, and streams that each of them follows.
const CROWD: u32 = 100;
const STREAMS: u32 = 500;
/// Far above what an allocator waits before it gives memory back.
const PATIENCE: Duration = Duration::from_secs(120);

static ALONE: Mutex<()> = Mutex::const_new(());

/// Bytes of memory beyond those there were at the start.
struct Growth {
    before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Growth {
    async fn start() -> Self {
        let alone = ALONE.lock().await;
        // "5" forgets the peak (proc_pid_clear_refs(5)).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { before: kilobytes("VmRSS:") * 1024, _alone: alone }
    }

    fn peak(&self) -> usize {
        (kilobytes("VmHWM:") * 1024).saturating_sub(self.before)
    }

    fn assert_below(&self, limit: usize) {
        let peak = self.peak();
        println!("peak: {} KiB", peak / 1024);
        assert!(peak < limit, "grew by {peak} bytes, allowed are {limit}");
    }
}

fn kilobytes(name: &str) -> usize {
    kilobytes_of("self", name)
}

fn kilobytes_of(process: &str, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn serve(limits: Limits) -> Running {
    let echo = |_: Context, payload: Payload| async move { Ok(payload) };
    Running::start(Server::builder().limits(limits).rpc_raw("echo", echo).build()).await
}

async fn assert_serves(running: &Running) {
    let mut v2 = Peer::v2(running.address).await;
    assert_eq!(v2.call(1, "echo", "[1]").await["result"], json!([1]));
    let mut v1 = Peer::v1(running.address).await;
    // A version 1 client is sent the states first.
    v1.begin(1, "echo", "[1]").await;
    while !matches!(v1.receive().await, Received::Frame(Opcode::RpcResponse, 1, _)) {}
}

/// A call whose payload is said to be as long as allowed, and then zeros up to `inflated` bytes.
fn bomb(inflated: usize) -> Vec<u8> {
    let mut zlib = Compress::new(Compression::best(), true);
    let mut bomb = Vec::with_capacity(inflated / 900);
    let head = &frame(Opcode::RpcRequest as u8, 1, &vec![0; MIB])[..9];
    zlib.compress_vec(head, &mut bomb, FlushCompress::None).unwrap();
    let zeros = vec![0; MIB];
    for _ in 0..inflated / MIB {
        zlib.compress_vec(&zeros, &mut bomb, FlushCompress::None).unwrap();
    }
    zlib.compress_vec(&[], &mut bomb, FlushCompress::Finish).unwrap();
    assert_eq!(zlib.total_in() as usize, 9 + inflated / MIB * MIB);
    bomb
}

/// Under twice the limit of what a message may inflate to.
#[tokio::test]
async fn zlib_bombs() {
    let limits = Limits::default();
    let running = serve(limits.clone()).await;
    for inflated in [1024 * MIB, 300 * MIB] {
        let bomb = bomb(inflated);
        assert!(bomb.len() < 1_000 * inflated / 950_000 && bomb.len() <= limits.max_message, "{}", bomb.len());
        let message = masked(0x82, &bomb);
        drop(bomb);
        let growth = Growth::start().await;
        let mut peers = Vec::new();
        for _ in 0..8 {
            let mut peer = Peer::v2(running.address).await;
            peer.write(&message).await;
            peer.expect_error(0, -32600).await;
            peers.push(peer);
        }
        growth.assert_below(2 * limits.max_inflated);
        assert_serves(&running).await;
    }
}

#[tokio::test]
async fn lengths_that_are_announced() {
    let running = serve(Limits::default().with(|limits| limits.close_timeout = Duration::from_millis(200))).await;
    let growth = Growth::start().await;
    // The first bit of a length of 64 bits is 0.
    for (length, code) in [(200_000_000u64, 1009), (1 << 40, 1009), ((1 << 63) - 1, 1009), (1 << 63, 1002)] {
        let mut peer = Peer::v2(running.address).await;
        peer.write(&[&[0x82, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()).await;
        peer.expect_close(code).await;
    }
    // Allowed, and never sent.
    let mut peers = Vec::new();
    for _ in 0..64 {
        let mut peer = Peer::v2(running.address).await;
        peer.write(&[&[0x82, 0xff][..], &(4 * MIB as u64).to_be_bytes(), &[0; 4]].concat()).await;
        peers.push(peer);
    }
    assert_serves(&running).await;
    growth.assert_below(8 * MIB);
}

/// Text that does not compress well, unlike any other.
fn noise(random: &mut Random, length: usize) -> String {
    (0..length / 8).map(|_| format!("{:08x}", random.u64() as u32)).collect()
}

const LARGE: usize = 300_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_states_that_stops() {
    let running = serve(Limits::default()).await;
    let mut peer = Peer::v2(running.address).await;
    for (id, key) in [(1, "a"), (2, "b")] {
        peer.send(Opcode::Subscribe, id, json!({"kind": "state", "key": key}).to_string()).await;
        peer.expect(Opcode::Subscribed, id).await;
        peer.expect(Opcode::StateSnapshot, 0).await;
    }
    let mut random = Random::new(1);
    let growth = Growth::start().await;
    let mut last = Value::Null;
    for n in 0..200 {
        last = json!([n, noise(&mut random, LARGE)]);
        running.server.state().set("a", &last).await.unwrap();
        running.server.state().set("b", &n).await.unwrap();
        tokio::task::yield_now().await;
    }
    growth.assert_below(24 * MIB);
    let mut newest = (Value::Null, Value::Null);
    while newest != (last.clone(), json!(199)) {
        let Received::Frame(opcode, 0, payload) = peer.receive().await else { panic!("it is not closed") };
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        let value = match opcode {
            Opcode::StateSnapshot => payload["data"].clone(),
            Opcode::StatePatch => payload["patches"][0]["value"].clone(),
            other => panic!("{other:?}"),
        };
        *(if payload["key"] == "a" { &mut newest.0 } else { &mut newest.1 }) = value;
    }
    assert_eq!(running.server.metrics_snapshot().fell_behind, 0);
    assert_serves(&running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_events_that_stops() {
    let running = serve(Limits::default()).await;
    let mut peer = Peer::v2(running.address).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"event","key":"e"}"#).await;
    peer.expect(Opcode::Subscribed, 1).await;
    let mut random = Random::new(2);
    let growth = Growth::start().await;
    let mut published = 0;
    while running.server.metrics_snapshot().fell_behind == 0 {
        running.server.broadcast("e", &noise(&mut random, LARGE)).await.unwrap();
        published += LARGE;
        assert!(published < 500 * MIB, "the reader is let go");
        tokio::task::yield_now().await;
    }
    growth.assert_below(24 * MIB);
    // What had begun arrives whole, then the reason.
    loop {
        match peer.receive().await {
            Received::Frame(Opcode::ServerEvent, ..) => {}
            other => break assert_eq!(other, Received::Close(4001)),
        }
    }
    assert_serves(&running).await;
}

/// Writes this again and again until the server takes no more: its buffers and the kernel's are full.
async fn fill(peer: &mut Peer, bytes: &[u8]) {
    let (mut sent, mut at, mut refused) = (0, 0, 0);
    while refused < 200 {
        match peer.try_write(&bytes[at..]) {
            0 => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            written => {
                refused = 0;
                sent += written;
                at = (at + written) % bytes.len();
                assert!(sent < 500 * MIB, "the server stops reading");
            }
        }
    }
}

/// Neither answers nor pongs that nobody reads may pile up: from one who does not read, nothing is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_from_one_who_does_not_read() {
    let running = serve(Limits::default()).await;
    let text = noise(&mut Random::new(3), 100_000);
    let call = frame(Opcode::RpcRequest as u8, 1, format!(r#"{{"method":"echo","params":"{text}"}}"#).as_bytes());
    let pings = masked(0x89, &[7; 125]).repeat(1_000);
    for flood in [masked(0x82, &call), pings] {
        let mut peer = Peer::v2(running.address).await;
        let growth = Growth::start().await;
        fill(&mut peer, &flood).await;
        growth.assert_below(8 * MIB);
        assert_serves(&running).await;
    }
}

/// Asking for a history again and again, and reading none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_subscriptions_to_a_history() {
    let echo = |_: Context, payload: Payload| async move { Ok(payload) };
    let server = Server::builder().topic("feed", Replay::default()).rpc_raw("echo", echo).build();
    let running = Running::start(server).await;
    for n in 0..500 {
        running.server.broadcast("feed", &n).await.unwrap();
    }
    let mut peer = Peer::v2(running.address).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"event","key":"feed"}"#).await;
    let epoch = peer.expect(Opcode::Subscribed, 1).await["epoch"].clone();
    peer.send(Opcode::Unsubscribe, 1, "null").await;
    let again = json!({"kind": "event", "key": "feed", "since": {"epoch": epoch, "seq": 0}}).to_string();
    let subscribe = masked(0x82, &frame(Opcode::Subscribe as u8, 1, again.as_bytes()));
    let unsubscribe = masked(0x82, &frame(Opcode::Unsubscribe as u8, 1, b"null"));
    let growth = Growth::start().await;
    fill(&mut peer, &[subscribe, unsubscribe].concat()).await;
    growth.assert_below(8 * MIB);
    assert_serves(&running).await;
}

/// The program with nothing but its flags; killed when dropped.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start() -> Self {
        let tests = std::env::current_exe().unwrap();
        let program = tests.ancestors().nth(2).unwrap().join("datasole");
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "error"]).stdout(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|_| panic!("{} is missing: cargo build -p datasole-cli", program.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").expect("it listens").parse().unwrap();
        Self { child, address }
    }

    fn memory(&self) -> usize {
        kilobytes_of(&self.child.id().to_string(), "VmRSS:") * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A hundred clients that each follow as many streams as they may, none of them the same.
async fn crowd(program: &Program) -> Vec<Peer> {
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut peer = Peer::v2(program.address).await;
        for id in 1..=STREAMS {
            let key = format!("client {number}, stream {id}");
            peer.send(Opcode::Subscribe, id, json!({"kind": "state", "key": key}).to_string()).await;
            peer.expect(Opcode::Subscribed, id).await;
            peer.expect(Opcode::StateSnapshot, 0).await;
        }
        crowd.push(peer);
    }
    crowd
}

/// The program, whose allocator is its own: what a crowd took is the system's again, not kept for the next one.
#[tokio::test]
async fn a_crowd_that_has_left_gives_back() {
    let _alone = ALONE.lock().await;
    let program = Program::start();
    let before = program.memory();
    let crowd = crowd(&program).await;
    let grown = program.memory() - before;
    assert!(grown > 32 * MIB, "the crowd is one: {grown}");
    drop(crowd);
    let started = Instant::now();
    while program.memory() > before + grown / 2 {
        assert!(started.elapsed() < PATIENCE, "{} of {grown} bytes are kept", program.memory() - before);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("took {} KiB, half of it given back after {:?}", grown / 1024, started.elapsed());
}

/// Waiting calls are counted in bytes: a thousand calls of a megabyte, each of a kilobyte on the wire, on each of two connections.
#[tokio::test]
async fn values_that_wait() {
    let hang = |_: Context, _: Value| std::future::pending::<Result<(), datasole_server::RpcError>>();
    let running = Running::start(
        Server::builder()
            .rpc("hang", hang)
            .rpc("add", |_: Context, (a, b): (i64, i64)| async move { Ok(a + b) })
            .build(),
    )
    .await;
    let mut codec = datasole_core::frame::Codec::default();
    let payload = format!(r#"{{"method":"hang","params":{:?}}}"#, "x".repeat(1_000_000));
    let mut peers = [Peer::v2(running.address).await, Peer::v2(running.address).await];
    let growth = Growth::start().await;
    for peer in &mut peers {
        for id in 1..=1_000 {
            let call = codec.encode(Opcode::RpcRequest, id, payload.as_bytes(), 256);
            assert!(call.len() < 1_100);
            peer.message(0x82, &call).await;
        }
        peer.begin(2_000, "add", "[1, 2]").await;
        let mut refused = 0;
        loop {
            match peer.receive().await {
                Received::Frame(Opcode::RpcResponse, 2_000, _) => break,
                Received::Frame(Opcode::RpcResponse, ..) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!((990..1_000).contains(&refused), "{refused} were refused");
    }
    growth.assert_below(40 * MIB);
}

/// Messages whose end is missing have their share of what there is for all, and are read on once others have gone.
#[tokio::test]
async fn messages_that_never_end() {
    let limits = Limits::default().with(|limits| {
        limits.max_under_way_total = 16 * MIB;
        limits.message_timeout = Duration::from_secs(3);
        limits.close_timeout = Duration::from_millis(200);
    });
    let running = serve(limits).await;
    // Made once: what the test gives back, the server's buffers would take, and it would count as theirs.
    let zeros = vec![0; 4 * MIB];
    let growth = Growth::start().await;
    let mut peers = Vec::new();
    for _ in 0..40 {
        let mut peer = Peer::v2(running.address).await;
        let head = [&[0x82, 0xff][..], &(4 * MIB as u64).to_be_bytes(), &[0; 4]].concat();
        peer.write(&head).await;
        let mut written = 0;
        while let n @ 1.. = peer.try_write(&zeros[..4 * MIB - 1 - written]) {
            written += n;
        }
        peers.push(peer);
    }
    for _ in 0..20 {
        assert_serves(&running).await;
    }
    growth.assert_below(32 * MIB);
    drop(peers);
    // A message as long as any is read once their time is over.
    while running.server.connection_count() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut peer = Peer::v2(running.address).await;
    let mut call = frame(Opcode::RpcRequest as u8, 1, br#"{"method":"echo"}"#);
    call.resize(4 * MIB - 1, b' ');
    peer.message(0x82, &call).await;
    peer.expect(Opcode::RpcResponse, 1).await;
}

/// Documents of 40,000 blocks, half a megabyte on the wire and some 24 MB in memory: no more are held than there is memory
/// for, whoever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_many_blocks() {
    let limits = Limits::default().with(|limits| {
        limits.max_docs_memory = 64 * MIB;
        limits.max_docs_memory_per_user = usize::MAX;
        limits.max_docs_memory_followed = usize::MAX;
        limits.max_idle_docs = 0;
        limits.doc_stay = Duration::ZERO;
    });
    let running = serve(limits).await;
    let update = entries(40_000);
    assert!(update.len() < MIB / 2);
    let growth = Growth::start().await;
    let mut peers = [Peer::v2(running.address).await, Peer::v2(running.address).await];
    let mut accepted = 0;
    for (number, peer) in peers.iter_mut().enumerate() {
        for id in 1..=10 {
            let channel = follow(peer, id, &format!("{number}/{id}")).await.unwrap();
            match change(peer, channel, &update).await {
                Ok(seq) => accepted += seq,
                Err(code) => assert_eq!(code, -32004),
            }
        }
    }
    assert_eq!(accepted, 2);
    growth.assert_below(160 * MIB);
    assert!(growth.peak() > 32 * MIB, "the documents are there: {}", growth.peak());
    drop(peers);
    while running.server.connection_count() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut peer = Peer::v2(running.address).await;
    let channel = follow(&mut peer, 1, "another").await.unwrap();
    assert_eq!(change(&mut peer, channel, &update).await, Ok(1), "there is room again");
}

/// The program with its limits: documents that take more than a quarter of the memory for all of them leave it 30 seconds
/// after nobody follows them, and are the system's again.
#[tokio::test]
async fn documents_that_nobody_follows_give_back() {
    let _alone = ALONE.lock().await;
    let program = Program::start();
    let (before, update) = (program.memory(), entries(40_000));
    let mut peers = Vec::new();
    for number in 0..4 {
        let mut peer = Peer::v2(program.address).await;
        for id in 1..=4 {
            let channel = follow(&mut peer, id, &format!("{number}/{id}")).await.unwrap();
            assert_eq!(change(&mut peer, channel, &update).await, Ok(1));
        }
        peers.push(peer);
    }
    let grown = program.memory() - before;
    assert!(grown > 256 * MIB, "the documents are there: {grown}");
    drop(peers);
    let started = Instant::now();
    while program.memory() > before + grown / 2 {
        assert!(started.elapsed() < PATIENCE, "{} of {grown} bytes are kept", program.memory() - before);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("took {} KiB, half of it given back after {:?}", grown / 1024, started.elapsed());
}
