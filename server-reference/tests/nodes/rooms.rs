//! Presence rooms: their members on every server, of servers that live.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use datasole_server::{
    Limits,
    backend::{
        Kv,
        kv::{Expected, Lease, Quota, Taken, Version},
    },
    clock::Manual,
};
use tokio::time::sleep;

use super::*;

/// Servers on one memory whose time the test lets pass.
struct Site {
    clock: Arc<Manual>,
    memory: Memory,
}

impl Site {
    fn new() -> Self {
        let clock = Arc::new(Manual::default());
        let names = Mutex::new(0);
        let random = move || {
            let mut names = names.lock().unwrap();
            *names += 1;
            *names
        };
        Self { clock: clock.clone(), memory: Memory::new(clock, Arc::new(random)) }
    }

    fn server(&self) -> Server {
        server(self.memory.clone())
    }

    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_secs(1)).await;
            settle().await;
        }
    }

    fn kv(&self) -> Arc<dyn Kv> {
        self.memory.node().kv
    }

    /// The names of the fields of a map.
    async fn fields(&self, map: &str) -> Vec<String> {
        self.kv().fields(map).await.unwrap().into_iter().map(|(field, _)| field).collect()
    }
}

/// A client and the members it is shown, by connection.
struct Viewer {
    peer: Peer,
    members: BTreeMap<String, Value>,
    /// Frames that showed members.
    shown: usize,
}

impl Viewer {
    fn new(server: &Server) -> Self {
        let mut viewer = Self { peer: client(server, Protocol::V2, "viewer"), members: BTreeMap::new(), shown: 0 };
        let request = json!({ "kind": "presence", "key": "lobby" }).to_string();
        viewer.peer.receive(&Codec::default().encode(Opcode::Subscribe, 1, request.as_bytes(), usize::MAX));
        viewer
    }

    fn look(&mut self) -> BTreeMap<String, Value> {
        for (opcode, body) in received(&mut self.peer) {
            if opcode != Opcode::Presence {
                continue;
            }
            self.shown += 1;
            if body["whole"] == true {
                self.members.clear();
            }
            for member in body["members"].as_array().unwrap() {
                let id = member["id"].as_str().unwrap().to_owned();
                match member.get("value") {
                    Some(value) => _ = self.members.insert(id, value.clone()),
                    None => assert!(self.members.remove(&id).is_some(), "one who was there"),
                }
            }
        }
        self.members.clone()
    }
}

fn announce(peer: &mut Peer, value: &Value) {
    let (opcode, answer) = send(peer, Opcode::Presence, &json!({ "key": "lobby", "value": value }));
    assert_eq!(opcode, Opcode::Ack, "{answer}");
}

fn leave(peer: &mut Peer) {
    assert_eq!(send(peer, Opcode::Presence, &json!({ "key": "lobby" })).0, Opcode::Ack);
}

fn members(of: &[(&Peer, Value)]) -> BTreeMap<String, Value> {
    of.iter().map(|(peer, value)| (peer.connection_id(), value.clone())).collect()
}

/// The members that a server lists; the count must be the same.
async fn listed(server: &Server) -> BTreeMap<String, Value> {
    let list = server.presence("lobby").list().await;
    assert_eq!(server.presence("lobby").count().await, list.len());
    list.into_iter().map(|member| (member.connection_id, member.value)).collect()
}

/// Waits until followers have been told what has changed.
async fn told() {
    settle().await;
    sleep(Duration::from_millis(60)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn members_are_shown_on_every_server() {
    let site = Site::new();
    let (a, b) = (site.server(), site.server());
    let (mut ann, mut bob) = (client(&a, Protocol::V2, "ann"), client(&b, Protocol::V2, "bob"));
    // Before anybody looks, and with nobody here: the next is the first that the other server hears.
    announce(&mut ann, &json!(1));
    told().await;
    assert_eq!(listed(&b).await, members(&[(&ann, json!(1))]), "read where nobody follows");
    let mut there = Viewer::new(&b);
    told().await;
    assert_eq!(there.look(), members(&[(&ann, json!(1))]));
    announce(&mut bob, &json!("b"));
    announce(&mut ann, &json!(2));
    told().await;
    let both = members(&[(&ann, json!(2)), (&bob, json!("b"))]);
    assert_eq!(there.look(), both);
    assert_eq!((listed(&a).await, listed(&b).await), (both.clone(), both.clone()));
    let mut here = Viewer::new(&a);
    told().await;
    assert_eq!(here.look(), both);
    leave(&mut bob);
    told().await;
    assert_eq!((here.look(), there.look()), (members(&[(&ann, json!(2))]), members(&[(&ann, json!(2))])));
    drop(ann);
    told().await;
    assert!(here.look().is_empty() && there.look().is_empty() && listed(&a).await.is_empty());
    let shown = (here.shown, there.shown);
    assert_eq!(site.fields("p:lobby").await, Vec::<String>::new());
    site.pass(60).await;
    assert!(here.look().is_empty() && there.look().is_empty());
    assert_eq!((here.shown, there.shown), shown, "nothing is told that has not changed");
}

#[tokio::test(start_paused = true)]
async fn one_server_alone_writes_nothing_until_another_comes() {
    let site = Site::new();
    let a = site.server();
    let mut ann = client(&a, Protocol::V2, "ann");
    announce(&mut ann, &json!(1));
    site.pass(30).await;
    assert_eq!(site.fields("nodes").await, Vec::<String>::new());
    assert_eq!(site.fields("p:lobby").await, Vec::<String>::new());
    let b = site.server();
    let mut there = Viewer::new(&b);
    told().await;
    assert_eq!(there.look(), members(&[(&ann, json!(1))]), "told as soon as somebody is there");
    // Only servers with followers of a room hear of it.
    let spy = site.memory.node();
    assert!(spy.bus.is_heard(Address::Topic("p:lobby")));
    drop(there);
    site.pass(60).await;
    assert!(!spy.bus.is_heard(Address::Topic("p:lobby")));
    assert_eq!(listed(&b).await, members(&[(&ann, json!(1))]));
}

#[tokio::test(start_paused = true)]
async fn members_of_a_server_that_dies_leave_with_its_lease() {
    let site = Site::new();
    let (b, other) = (site.server(), site.memory.node());
    let kv = &other.kv;
    // The fields of a server that is about to die, whose name is 7.
    let lease = kv.lease("n:7.0", NodeId(7), Duration::from_secs(15)).await.unwrap().unwrap();
    let member = [&1u64.to_be_bytes()[..], br#"{"id":"7-1","userId":"ann","value":1}"#].concat();
    for (map, field, value) in [("nodes", "7.0", vec![]), ("m:7.0", "p:lobby", vec![]), ("p:lobby", "7.0-1", member)] {
        kv.set_field(map, field, Some(value.into()), None).await.unwrap();
    }
    let mut there = Viewer::new(&b);
    told().await;
    let known = BTreeMap::from([("7-1".to_owned(), json!(1))]);
    for _ in 0..12 {
        site.pass(5).await;
        assert!(kv.renew(&lease).await.unwrap());
        assert_eq!(there.look(), known, "a server that lives keeps them");
    }
    site.pass(14).await;
    assert_eq!(there.look(), known);
    site.pass(7).await;
    assert!(there.look().is_empty() && listed(&b).await.is_empty());
    assert_eq!(site.fields("p:lobby").await, Vec::<String>::new(), "what the server has left is cleared up");
    assert_eq!(site.fields("m:7.0").await, Vec::<String>::new());
    assert_eq!(site.fields("nodes").await.len(), 1, "this server alone is left");
}

#[tokio::test(start_paused = true)]
async fn members_of_a_server_that_shuts_down_leave_at_once() {
    let site = Site::new();
    let (a, b) = (site.server(), site.server());
    let mut there = Viewer::new(&b);
    let mut ann = client(&a, Protocol::V2, "ann");
    announce(&mut ann, &json!(1));
    told().await;
    assert_eq!(there.look().len(), 1);
    drop(ann);
    a.shutdown().await;
    told().await;
    assert!(there.look().is_empty());
    assert_eq!(site.fields("nodes").await.len(), 1);
    assert_eq!(site.kv().leases("n:").await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_taken_for_dead_begins_anew_with_the_same_connections() {
    let site = Site::new();
    let (a, b) = (site.server(), site.server());
    let mut there = Viewer::new(&b);
    let mut ann = client(&a, Protocol::V2, "ann");
    announce(&mut ann, &json!(1));
    told().await;
    let known = members(&[(&ann, json!(1))]);
    let before = site.fields("p:lobby").await;
    // Its lease ends while it does not see it.
    let kv = site.kv();
    let (name, holder) =
        kv.leases("n:").await.unwrap().into_iter().find(|(name, _)| before[0].starts_with(&name[2..])).unwrap();
    let lease = kv.lease(&name, holder, Duration::from_secs(15)).await.unwrap().unwrap();
    kv.end(lease).await.unwrap();
    site.pass(20).await;
    assert_eq!((there.look(), listed(&b).await), (known.clone(), known));
    let after = site.fields("p:lobby").await;
    assert_eq!(after.len(), 1);
    assert_ne!(after, before, "another incarnation");
    b.to_connection(&ann.connection_id()).emit("hi", &1).await.unwrap();
    announce(&mut ann, &json!(2));
    told().await;
    assert_eq!(events(&mut ann), one("hi", json!(1)), "its connections keep their ids");
    assert_eq!(there.look(), members(&[(&ann, json!(2))]));
}

#[tokio::test(start_paused = true)]
async fn a_room_that_fills_on_two_servers_shows_what_fits() {
    const MEMBERS: usize = 10;
    let site = Site::new();
    let value = json!("x".repeat(1_000));
    let limits = || Limits::default().with(|limits| limits.max_payload = 8 * 1_024);
    let server = || Server::builder().limits(limits()).backend(site.memory.clone()).build();
    let (a, b) = (server(), server());
    let mut there = Viewer::new(&b);
    let mut peers: Vec<Peer> =
        (0..MEMBERS).map(|n| client(if n % 2 == 0 { &a } else { &b }, Protocol::V2, "ann")).collect();
    peers.iter_mut().for_each(|peer| announce(peer, &value));
    told().await;
    let shown = there.look().len();
    assert!((5..MEMBERS).contains(&shown), "those of its own and some others: {shown}");
    // Places that become free are taken a little later.
    for peer in peers.iter_mut().skip(1).step_by(2) {
        leave(peer);
    }
    site.pass(40).await;
    let left: Vec<_> = peers.iter().step_by(2).map(|peer| (peer, value.clone())).collect();
    assert_eq!(there.look(), members(&left));
}

/// Values of an engine that has carried out nothing of what it has not answered, and does so later.
struct Late {
    kv: Arc<dyn Kv>,
    /// How many fields that are set are not answered.
    silent: AtomicUsize,
    held: Mutex<Vec<(String, String, Option<Bytes>)>>,
    /// How long it takes to read the fields of a room.
    reading: Mutex<Duration>,
}

impl Late {
    fn new(kv: Arc<dyn Kv>) -> Arc<Self> {
        let (silent, held, reading) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Arc::new(Self { kv, silent, held, reading })
    }

    async fn arrive(&self) -> usize {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        for (key, field, value) in &held {
            self.kv.set_field(key, field, value.clone(), None).await.unwrap();
        }
        held.len()
    }
}

#[async_trait]
impl Kv for Late {
    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        let is_silent = |left: usize| left.checked_sub(1);
        if key.starts_with("p:") && self.silent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_silent).is_ok() {
            self.held.lock().unwrap().push((key.to_owned(), field.to_owned(), value));
            return Err(BackendError::Unavailable("no answer".into()));
        }
        self.kv.set_field(key, field, value, ttl).await
    }

    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        self.kv.get(key).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        self.kv.put(key, value, expected, ttl).await
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.kv.delete(key).await
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        if key.starts_with("p:") {
            let reading = *self.reading.lock().unwrap();
            sleep(reading).await;
        }
        self.kv.fields(key).await
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        self.kv.take(key, quota).await
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        self.kv.lease(name, holder, ttl).await
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        self.kv.renew(lease).await
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        self.kv.end(lease).await
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        self.kv.leases(prefix).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_written_late_does_not_stay() {
    let site = Site::new();
    let backend = site.memory.node();
    let kv = Late::new(backend.kv.clone());
    let (a, b) = (site.server(), server(Backend { kv: kv.clone(), ..backend }));
    let join = |name: &str| {
        let mut peer = client(&b, Protocol::V2, name);
        announce(&mut peer, &json!(name));
        peer
    };
    let (mut viewer, stays) = (Viewer::new(&a), join("stays"));
    site.pass(6).await;
    assert_eq!(viewer.look().into_values().collect::<Vec<_>>(), [json!("stays")]);
    // The join is not answered, and repeated.
    kv.silent.store(1, Ordering::SeqCst);
    let goes = join("goes");
    site.pass(2).await;
    assert_eq!(viewer.look().len(), 2);
    drop(goes);
    site.pass(2).await;
    assert_eq!(viewer.look().into_values().collect::<Vec<_>>(), [json!("stays")]);
    assert_eq!(kv.arrive().await, 1, "now it comes to the engine");
    assert_eq!(site.fields("p:lobby").await.len(), 2, "somebody who has gone");
    site.pass(6).await;
    assert_eq!(site.fields("p:lobby").await.len(), 1);
    site.pass(60).await;
    assert_eq!(viewer.look().into_values().collect::<Vec<_>>(), [json!("stays")]);
    // In the end nothing is left of a room, either.
    kv.silent.store(1, Ordering::SeqCst);
    let last = join("last");
    site.pass(2).await;
    drop((stays, last));
    site.pass(2).await;
    assert_eq!(kv.arrive().await, 1);
    site.pass(7).await;
    assert!(site.fields("p:lobby").await.is_empty());
    assert!(viewer.look().is_empty());
}

/// Comparing what was not answered takes its time; nobody takes the server for dead meanwhile.
#[tokio::test(start_paused = true)]
async fn a_lease_does_not_wait_for_what_is_looked_after() {
    let site = Site::new();
    let backend = site.memory.node();
    let kv = Late::new(backend.kv.clone());
    let (a, b) = (site.server(), server(Backend { kv: kv.clone(), ..backend }));
    let mut viewer = Viewer::new(&a);
    let mut ann = client(&b, Protocol::V2, "ann");
    announce(&mut ann, &json!(1));
    site.pass(6).await;
    let fields = site.fields("p:lobby").await;
    assert_eq!(viewer.look(), members(&[(&ann, json!(1))]));
    *kv.reading.lock().unwrap() = Duration::from_secs(40);
    kv.silent.store(1, Ordering::SeqCst);
    announce(&mut ann, &json!(2));
    for _ in 0..60 {
        site.pass(1).await;
        assert_eq!(viewer.look().len(), 1, "somebody who is there");
    }
    assert_eq!(viewer.look(), members(&[(&ann, json!(2))]));
    assert_eq!(site.fields("p:lobby").await, fields, "no other incarnation");
}
