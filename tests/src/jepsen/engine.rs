//! The engine under the nodes, started on a free port in a temporary folder.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
};

use super::{Options, postgres, replica};
use crate::{
    history::{Loss, Promises},
    port::free_port,
    proxy::{Proxy, Weather},
};

/// An engine by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The memory of one node, which a kill empties: its node is only ever stopped or cut off.
    Memory,
    /// The file of one node.
    Sqlite,
    /// `redis-server`.
    Redis,
    /// The same, with a replica that takes its place when it is killed.
    RedisReplica,
    /// `postgres`.
    Postgres,
    /// `nats-server`.
    Nats,
}

impl Kind {
    /// What it declares to lose, when a replica takes its place: what that had not got.
    pub fn promises(self) -> Promises {
        let loss = if self == Self::RedisReplica { Loss::Within(5_000_000) } else { Loss::Never };
        Promises { loss, ..Promises::default() }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "memory" => Self::Memory,
            "sqlite" => Self::Sqlite,
            "redis" => Self::Redis,
            "redis-replica" => Self::RedisReplica,
            "postgres" => Self::Postgres,
            "nats" => Self::Nats,
            _ => return Err(format!("no engine {name:?}: memory, sqlite, redis, redis-replica, postgres or nats")),
        })
    }
}

/// The engine and its process, if it has one. Killed when dropped, with its folder.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) kind: Kind,
    program: PathBuf,
    pub(super) folder: PathBuf,
    port: u16,
    child: Option<Child>,
    /// The one that follows it, if there is one.
    replica: Option<Replica>,
}

/// A server that follows the engine.
#[derive(Debug)]
struct Replica {
    port: u16,
    child: Child,
    /// The way by which it gets what the engine has.
    way: Proxy,
}

impl Engine {
    pub(super) async fn start(options: &Options) -> Self {
        let folder = std::env::temp_dir().join(format!("datasole-jepsen-{}-{}", std::process::id(), options.seed));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let program = match options.engine {
            Kind::Redis | Kind::RedisReplica => "redis-server".into(),
            Kind::Nats => options.nats.clone().unwrap_or_else(|| "nats-server".into()),
            Kind::Memory | Kind::Sqlite | Kind::Postgres => PathBuf::new(),
        };
        if options.engine == Kind::Postgres {
            postgres::make(&folder);
        }
        let mut engine = Self { kind: options.engine, program, folder, port: free_port(), child: None, replica: None };
        engine.run();
        if options.engine == Kind::RedisReplica {
            let way = Proxy::start(engine.address()).await;
            engine.follow(free_port(), way);
        }
        engine
    }

    /// Starts the server that follows it.
    fn follow(&mut self, port: u16, way: Proxy) {
        way.set_target(self.address());
        let mut arguments = self.redis(port);
        arguments.extend(["--replicaof", "127.0.0.1", &way.address().port().to_string()].map(str::to_owned));
        let child = spawn(&self.program, arguments);
        self.replica = Some(Replica { port, child, way });
    }

    fn redis(&self, port: u16) -> Vec<String> {
        let (port, folder) = (port.to_string(), self.folder.join(port.to_string()));
        fs::create_dir_all(&folder).unwrap();
        let settings = ["--port", &port, "--dir", folder.to_str().unwrap(), "--appendonly", "yes", "--save", ""];
        let settings = settings.into_iter().chain(["--repl-diskless-sync-delay", "0"]);
        settings.map(str::to_owned).collect()
    }

    /// Whether there is a server that has everything and may take this one's place.
    pub(super) fn may_fail_over(&self) -> bool {
        self.child.is_some()
            && self.replica.as_ref().is_some_and(|replica| replica::is_ready(([127, 0, 0, 1], replica.port).into()))
    }

    /// The weather on the way to the server that follows.
    pub(super) fn set_weather(&self, weather: Weather) {
        if let Some(replica) = &self.replica {
            replica.way.set_weather(weather);
        }
    }

    /// Kills the process; the one that follows takes its place, and it begins to follow that.
    pub(super) fn fail_over(&mut self) {
        self.kill();
        let Some(Replica { port, child, way }) = self.replica.take() else { return };
        // Whatever waits on the way never comes.
        way.end_all();
        way.set_weather(Weather::default());
        let old = std::mem::replace(&mut self.port, port);
        self.child = Some(child);
        assert!(replica::promote(self.address()), "a replica can be promoted");
        self.follow(old, way);
    }

    /// Starts the process, where it is a process of its own.
    pub(super) fn run(&mut self) {
        let (port, folder) = (self.port.to_string(), self.folder.to_str().unwrap().to_owned());
        let arguments: Vec<String> = match self.kind {
            Kind::Memory | Kind::Sqlite => return,
            Kind::Postgres => {
                self.child = Some(postgres::run(&self.folder, self.port));
                return;
            }
            Kind::Redis | Kind::RedisReplica => self.redis(self.port),
            Kind::Nats => {
                let file = Path::new(&folder).join("nats.conf");
                let text = format!(
                    "listen: \"127.0.0.1:{port}\"\nmax_payload: 8MB\njetstream {{ store_dir: \"{folder}/store\" }}\n"
                );
                fs::write(&file, text).unwrap();
                vec!["-c".into(), file.to_str().unwrap().into()]
            }
        };
        self.child = Some(spawn(&self.program, arguments));
    }

    /// Whether nodes reach it by TCP, and there are several.
    pub(super) fn is_shared(&self) -> bool {
        !matches!(self.kind, Kind::Memory | Kind::Sqlite)
    }

    pub(super) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The URL by which a node reaches it, through a proxy at this address.
    pub(super) fn url(&self, proxy: SocketAddr) -> String {
        match self.kind {
            Kind::Memory => "memory:".into(),
            Kind::Sqlite => format!("sqlite:{}", self.folder.join("data").display()),
            Kind::Redis | Kind::RedisReplica => format!("redis://{proxy}"),
            Kind::Postgres => format!("postgres://postgres@{proxy}/postgres"),
            Kind::Nats => format!("nats://{proxy}"),
        }
    }

    /// Whether it is a process of its own, which does not run.
    pub(super) fn is_down(&self) -> bool {
        self.child.is_none() && self.is_shared()
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let others = self.others(&child);
            let _ = child.kill();
            others.iter().for_each(|process| send(process, "-KILL"));
            let _ = child.wait();
        }
    }

    pub(super) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            signal(child, name);
            self.others(child).iter().for_each(|process| send(process, name));
        }
    }

    /// The processes that its own has started.
    fn others(&self, child: &Child) -> Vec<String> {
        if self.kind == Kind::Postgres { postgres::others(child) } else { Vec::new() }
    }
}

fn spawn(program: &Path, arguments: Vec<String>) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Sends a signal to a process.
pub(super) fn signal(child: &Child, name: &str) {
    send(&child.id().to_string(), name);
}

fn send(process: &str, name: &str) {
    // A process that has ended gets none.
    let _ = Command::new("kill").args([name, process]).stderr(Stdio::null()).status();
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        if let Some(Replica { child, .. }) = &mut self.replica {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
