//! The native client against the real server over real sockets: through cuts, restarts, refusals and TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datasole_client::{
    CallError, CallFailure, CallOptions, Client, ConnectError, DisconnectReason, EventError, Events, Payload,
    Reconnect, State, Status, Tree, codes,
};
use datasole_server::{AuthError, AuthRequest, Context, Identity, Replay, Server, backend::Memory};
use datasole_tests::{
    proxy::{Cut, Direction, Proxy},
    random::Random,
    running::Running,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

/// Far above what any of these tests takes; without it a lost wake-up would look like a hanging machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// At once, so that no test waits for a delay.
const AT_ONCE: Reconnect = Reconnect { enabled: true, base: 0, cap: 0, max_attempts: None };

async fn connect(url: &str) -> Client {
    Client::builder(url).reconnect(AT_ONCE).connect().await.unwrap()
}

/// Waits until the client shows this value.
async fn shows(state: &mut State<Value>, expected: &Option<Value>) {
    while !state.is_loaded() || state.value() != *expected {
        state.changed().await.unwrap();
    }
}

async fn reaches(client: &Client, wanted: impl Fn(&Status) -> bool) {
    let mut statuses = client.statuses();
    while !wanted(&statuses.next().await.expect("the client is not closed")) {}
}

// --- cuts ---

const CUTS: usize = 100;

/// The server changes and publishes without a pause; the client is cut off at arbitrary bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cuts_lose_nothing() {
    timeout(PATIENCE, lose_nothing()).await.expect("in time");
}

async fn lose_nothing() {
    let mut random = Random::announced();
    let executed: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
    let server = Server::builder()
        .topic("feed", Replay::default().entries(10_000).bytes(16 << 20).age(None))
        .rpc("execute", {
            let executed = executed.clone();
            move |_: Context, id: u64| {
                *executed.lock().unwrap().entry(id).or_default() += 1;
                async move { Ok(id) }
            }
        })
        .build();
    let running = Running::start(server).await;
    let proxy = Proxy::start(running.address).await;
    let client = connect(&proxy.url()).await;

    let mut board = client.state::<Value>("board").unwrap();
    let feed = client.events("feed").unwrap();
    // Frames are served in order: with this answer both subscriptions stand.
    client.call::<_, u64>("execute", &0).await.unwrap();
    let writer = Writer::start(running.server.clone(), random.clone());
    let reader = tokio::spawn(read_feed(feed, writer.allowance.clone()));
    let caller = Caller::start(client.clone());
    let watcher = tokio::spawn(watch_whole(client.state("board").unwrap()));

    for round in 0..CUTS {
        // One cut, sometimes followed by others that hit the handshake and the resuming.
        for (number, bits) in [(0, 15), (1, 10), (2, 8)] {
            if number > 0 && random.coin() {
                break;
            }
            let direction = if random.coin() { Direction::Up } else { Direction::Down };
            proxy.cut(Cut { direction, after: random.magnitude(bits), reset: random.coin() }).await;
        }
        let paused = writer.pause().await;
        let expected = running.server.state().get("board").await.unwrap();
        shows(&mut board, &expected).await;
        drop(paused);
        assert!(!reader.is_finished(), "round {round}");
    }

    let published = writer.stop().await;
    let (calls, answered) = caller.stop().await;
    let read = reader.await.unwrap();
    assert_eq!(read, published, "the last event read and published");
    client.close().await;
    assert!(watcher.await.unwrap() > CUTS);
    let executed = executed.lock().unwrap();
    assert!(executed.values().all(|&times| times == 1), "no call was made twice");
    assert!(answered.iter().all(|id| executed.contains_key(id)));
    println!("{published} events, {calls} calls of which {} were answered", answered.len());
    assert!(answered.len() > CUTS, "calls go through between the cuts");
}

/// Changes the state and publishes, as far ahead of the reader as it is allowed to.
struct Writer {
    allowance: Arc<Semaphore>,
    turn: Arc<tokio::sync::Mutex<()>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

/// Events that may be published before one of them is read.
const AHEAD: usize = 64;

impl Writer {
    fn start(server: Server, mut random: Random) -> Self {
        let allowance = Arc::new(Semaphore::new(AHEAD));
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        let (stop, mut stopping) = watch::channel(false);
        let task = tokio::spawn({
            let (allowance, turn) = (allowance.clone(), turn.clone());
            async move {
                let mut published = 0;
                loop {
                    tokio::select! {
                        allowed = allowance.acquire() => allowed.unwrap().forget(),
                        _ = stopping.wait_for(|stop| *stop) => break,
                    }
                    let _turn = turn.lock().await;
                    published += 1;
                    change(&server, &mut random).await;
                    server.broadcast("feed", &published).await.unwrap();
                }
                server.broadcast("feed", &json!("end")).await.unwrap();
                published
            }
        });
        Self { allowance, turn, stop, task }
    }

    async fn pause(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    async fn stop(self) -> u64 {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// A change of some kind: in place, growing, shrinking, the whole value, the key away.
async fn change(server: &Server, random: &mut Random) {
    let state = server.state();
    let text = "x".repeat(random.magnitude(11) as usize);
    match random.below(20) {
        0 => {
            let entries: Vec<u64> = (0..random.below(50)).collect();
            let total: u64 = entries.iter().sum();
            state.set("board", &json!({"entries": entries, "total": total, "text": text})).await.unwrap();
        }
        1 => state.remove("board").await.unwrap(),
        kind => {
            let number = random.below(1_000);
            let place = random.u64();
            state
                .update("board", |draft| {
                    if draft.get("").is_none_or(Tree::is_null) {
                        draft.set("", json!({"entries": [], "total": 0, "text": ""}))?;
                    }
                    let entries = draft.get("/entries").and_then(Tree::as_array).unwrap().to_vec();
                    let place = place as usize % (entries.len() + 1);
                    if kind < 8 && place < entries.len() {
                        draft.remove(&format!("/entries/{place}"))?;
                        draft.add("/total", -entries[place].as_i64().unwrap())?;
                    } else if entries.len() < 200 {
                        draft.insert(&format!("/entries/{place}"), number)?;
                        draft.add("/total", number as i64)?;
                    }
                    draft.set("/text", &text)
                })
                .await
                .unwrap();
        }
    };
}

/// The total and the entries change together: half a change would show. Returns how many values were seen.
async fn watch_whole(mut board: State<Value>) -> usize {
    let mut seen = 0;
    while let Some(value) = board.next().await {
        seen += 1;
        let Some(value) = value.unwrap() else { continue };
        let total: u64 = value["entries"].as_array().unwrap().iter().map(|entry| entry.as_u64().unwrap()).sum();
        assert_eq!(value["total"].as_u64(), Some(total));
    }
    seen
}

/// Each event exactly once and in order; returns the last number.
async fn read_feed(mut feed: Events<Value>, allowance: Arc<Semaphore>) -> u64 {
    let mut last = 0;
    while let Some(event) = feed.next().await {
        let Some(number) = event.unwrap().data.as_u64() else { return last };
        assert_eq!(number, last + 1);
        last = number;
        allowance.add_permits(1);
    }
    panic!("the stream ended");
}

/// Calls one after another, some of them waiting for a connection, each with a number of its own.
struct Caller {
    stop: watch::Sender<bool>,
    task: JoinHandle<(u64, Vec<u64>)>,
}

impl Caller {
    fn start(client: Client) -> Self {
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut answered = Vec::new();
            let mut id = 0;
            while !*stopping.borrow() {
                id += 1;
                let options = CallOptions::new().queue();
                match client.call_with::<_, u64>("execute", &id, options).await {
                    Ok(result) => {
                        assert_eq!(result, id);
                        answered.push(id);
                    }
                    Err(CallError::Failed(CallFailure::ConnectionLost { .. })) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            (id, answered)
        });
        Self { stop, task }
    }

    async fn stop(self) -> (u64, Vec<u64>) {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

// --- restarts ---

#[tokio::test]
async fn a_restarted_server_is_a_new_epoch() {
    timeout(PATIENCE, async {
        let server = || Server::builder().topic("feed", Replay::default()).build();
        let first = Running::start(server()).await;
        first.server.state().set("board", &json!({"life": 1, "n": 5})).await.unwrap();
        first.server.state().set("gone", &1).await.unwrap();
        let proxy = Proxy::start(first.address).await;
        let client = connect(&proxy.url()).await;
        let mut board = client.state::<Value>("board").unwrap();
        let mut gone = client.state::<Value>("gone").unwrap();
        let mut feed = client.events::<u32>("feed").unwrap();
        shows(&mut board, &Some(json!({"life": 1, "n": 5}))).await;
        shows(&mut gone, &Some(json!(1))).await;
        client.call::<_, ()>("none", &()).await.unwrap_err();
        first.server.broadcast("feed", &1).await.unwrap();
        assert_eq!(feed.next().await.unwrap().unwrap().data, 1);

        let second = Running::start(server()).await;
        second.server.state().set("board", &json!({"life": 2})).await.unwrap();
        proxy.set_target(second.address);
        first.server.shutdown().await;

        shows(&mut board, &Some(json!({"life": 2}))).await;
        shows(&mut gone, &None).await;
        assert!(matches!(feed.next().await, Some(Err(EventError::Missed))));
        second.server.broadcast("feed", &2).await.unwrap();
        assert_eq!(feed.next().await.unwrap().unwrap().data, 2);
    })
    .await
    .expect("in time");
}

// --- who may ---

#[tokio::test]
async fn a_refused_token_is_an_error_at_once() {
    let asked = Arc::new(AtomicU64::new(0));
    let server = Server::builder()
        .auth({
            let asked = asked.clone();
            move |request: AuthRequest| {
                asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    match request.token.as_deref() {
                        Some("good") => Ok(Identity::user("ann")),
                        _ => Err(AuthError::refused("no such token")),
                    }
                }
            }
        })
        .build();
    let running = Running::start(server).await;
    let error = Client::builder(running.url()).token("bad").connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Failed(DisconnectReason::Unauthorized(_))), "{error}");
    assert_eq!((error.code(), error.retryable()), (codes::UNAUTHORIZED, false));
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    for client in [
        Client::builder(running.url()).token("good"),
        Client::builder(running.url()).token("good").token_via(datasole_client::TokenVia::Frame),
        Client::builder(running.url()).header("Authorization", "Bearer good"),
    ] {
        let client = client.connect().await.unwrap();
        assert!(matches!(client.status(), Status::Connected { user_id: Some(user), .. } if user == "ann"));
    }
}

#[tokio::test]
async fn the_provider_is_asked_anew_when_a_token_has_expired() {
    let server = Server::builder()
        .auth(|request: AuthRequest| async move { Ok(Identity::user(request.token.unwrap_or_default())) })
        .build();
    let running = Running::start(server).await;
    let issued = Arc::new(AtomicU64::new(0));
    let client = Client::builder(running.url())
        .reconnect(AT_ONCE)
        .token_provider(move || {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, String>(Some(format!("ticket {number}"))) }
        })
        .connect()
        .await
        .unwrap();
    let Status::Connected { connection_id, user_id, .. } = client.status() else { panic!() };
    assert_eq!(user_id.as_deref(), Some("ticket 0"));
    running.server.disconnect(&connection_id, 4002, "expired").await;
    reaches(&client, |status| matches!(status, Status::Connected { user_id: Some(id), .. } if id == "ticket 1")).await;
}

// --- bytes ---

#[tokio::test]
async fn raw_bytes_pass_unchanged() {
    let server = Server::builder()
        .rpc_raw("echo", |_: Context, payload: Payload| async move { Ok(payload) })
        .on_raw("blob", |context: Context, payload: Payload| async move {
            context.server().broadcast_payload("blob", payload).await.unwrap();
        })
        .build();
    let running = Running::start(server).await;
    let client = connect(&running.url()).await;
    let mut blobs = client.events_raw("blob").unwrap();
    let mut random = Random::announced();
    for length in [0, 1, 200, 300, 100_000, 1_000_000] {
        let bytes: Vec<u8> = (0..length).map(|_| random.u64() as u8).collect();
        assert_eq!(client.call_bytes("echo", bytes.clone()).await.unwrap(), bytes);
        client.emit_bytes("blob", bytes.clone()).await.unwrap();
        let Payload::Binary(returned) = blobs.next().await.unwrap().unwrap().data else { panic!("not bytes") };
        assert!(returned == bytes, "{length} bytes");
    }
    let error = client.call_bytes("echo", vec![0; 2 << 20]).await.unwrap_err();
    assert_eq!(error.code(), codes::TOO_LARGE);
}

// --- two clients ---

#[tokio::test]
async fn clients_stay_in_step_and_late_joiners_catch_up() {
    let server = Server::builder()
        .on_raw("chat:message", |context: Context, message: Payload| async move {
            context.server().broadcast_payload("chat:message", message).await.unwrap();
        })
        .build();
    let running = Running::start(server).await;
    let (ann, bob) = (connect(&running.url()).await, connect(&running.url()).await);
    let mut heard = bob.events::<String>("chat:message").unwrap();
    let mut board = bob.state::<Value>("board").unwrap();
    shows(&mut board, &None).await;
    ann.emit("chat:message", "hello").await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap().data, "hello");
    for value in [json!(null), json!(1), json!("text"), json!([1, 2]), json!({"a": {"b": []}}), json!(false)] {
        running.server.state().set("board", &value).await.unwrap();
        shows(&mut board, &Some(value.clone())).await;
        let late = connect(&running.url()).await;
        shows(&mut late.state("board").unwrap(), &Some(value)).await;
        late.close().await;
    }
    running.server.state().remove("board").await.unwrap();
    shows(&mut board, &None).await;
}

// --- several nodes ---

#[tokio::test]
async fn the_first_event_of_a_topic_with_history_is_told_by_any_node() {
    let memory = Memory::default();
    let server = || {
        Server::builder()
            .backend(memory.clone())
            .topic("feed", Replay::default())
            .rpc("ready", |_: Context, (): ()| async move { Ok(()) })
    };
    let (here, there) = (Running::start(server().build()).await, Running::start(server().build()).await);
    let client = connect(&here.url()).await;
    let mut feed = client.events::<u64>("feed").unwrap();
    // Frames are served in order: with this answer the subscription stands.
    client.call::<_, ()>("ready", &()).await.unwrap();
    for number in 1..=3 {
        there.server.broadcast("feed", &number).await.unwrap();
    }
    for number in 1..=3 {
        assert_eq!(feed.next().await.unwrap().unwrap().data, number, "nothing is lost, nor said to be");
    }
    client.close().await;
}

// --- TLS ---

mod tls {
    use super::*;
    use hyper::server::conn::http1;
    use hyper_util::{rt::TokioIo, service::TowerToHyperService};
    use rcgen::CertifiedKey;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::net::TcpListener;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{self, ClientConfig, RootCertStore, ServerConfig, crypto::ring},
    };

    /// A server behind TLS, with a certificate of its own.
    async fn serve(server: Server) -> (String, CertificateDer<'static>) {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), server.router());
                tokio::spawn(async move {
                    // A client that does not trust the certificate goes away here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router.into_service::<hyper::body::Incoming>());
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        (url, cert.der().clone())
    }

    #[tokio::test]
    async fn wss_works_for_those_who_trust_the_certificate() {
        let server = Server::builder().rpc("double", |_: Context, n: u64| async move { Ok(2 * n) }).build();
        server.state().set("board", &json!({"text": "x".repeat(500_000)})).await.unwrap();
        let (url, certificate) = serve(server.clone()).await;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let trusting = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder(&url).tls_config(trusting).connect().await.unwrap();
        assert_eq!(client.call::<_, u64>("double", &21).await.unwrap(), 42);
        let mut board = client.state::<Value>("board").unwrap();
        shows(&mut board, &server.state().get("board").await.unwrap()).await;
        client.close().await;

        let once = Reconnect { enabled: false, ..AT_ONCE };
        let error = Client::builder(&url).reconnect(once).connect().await.unwrap_err();
        assert!(matches!(&error, ConnectError::Failed(_)), "{error}");
        assert!(error.to_string().starts_with("TLS: "), "{error}");
    }
}
