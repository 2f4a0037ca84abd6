//! The engine under the nodes, started on a free port in a temporary folder.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
};

use super::Options;

/// An engine by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The memory of one node, which a kill empties: its node is only ever stopped or cut off.
    Memory,
    /// The file of one node.
    Sqlite,
    /// `redis-server`.
    Redis,
    /// `nats-server`.
    Nats,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "memory" => Self::Memory,
            "sqlite" => Self::Sqlite,
            "redis" => Self::Redis,
            "nats" => Self::Nats,
            _ => return Err(format!("no engine {name:?}: memory, sqlite, redis or nats")),
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
}

/// A port that nobody has now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Engine {
    pub(super) fn start(options: &Options) -> Self {
        let folder = std::env::temp_dir().join(format!("datasole-jepsen-{}-{}", std::process::id(), options.seed));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let program = match options.engine {
            Kind::Redis => "redis-server".into(),
            Kind::Nats => options.nats.clone().unwrap_or_else(|| "nats-server".into()),
            Kind::Memory | Kind::Sqlite => PathBuf::new(),
        };
        let mut engine = Self { kind: options.engine, program, folder, port: free_port(), child: None };
        engine.run();
        engine
    }

    /// Starts the process, where it is a process of its own.
    pub(super) fn run(&mut self) {
        let (port, folder) = (self.port.to_string(), self.folder.to_str().unwrap().to_owned());
        let arguments: Vec<String> = match self.kind {
            Kind::Memory | Kind::Sqlite => return,
            Kind::Redis => {
                ["--port", &port, "--dir", &folder, "--appendonly", "yes", "--save", ""].map(str::to_owned).to_vec()
            }
            Kind::Nats => {
                let file = Path::new(&folder).join("nats.conf");
                let text = format!(
                    "listen: \"127.0.0.1:{port}\"\nmax_payload: 8MB\njetstream {{ store_dir: \"{folder}/store\" }}\n"
                );
                fs::write(&file, text).unwrap();
                vec!["-c".into(), file.to_str().unwrap().into()]
            }
        };
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display())));
    }

    /// Whether nodes reach it by TCP, and there are several.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Redis | Kind::Nats)
    }

    pub(super) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The URL by which a node reaches it, through a proxy at this address.
    pub(super) fn url(&self, proxy: SocketAddr) -> String {
        match self.kind {
            Kind::Memory => "memory:".into(),
            Kind::Sqlite => format!("sqlite:{}", self.folder.join("data").display()),
            Kind::Redis => format!("redis://{proxy}"),
            Kind::Nats => format!("nats://{proxy}"),
        }
    }

    /// Whether it is a process of its own, which does not run.
    pub(super) fn is_down(&self) -> bool {
        self.child.is_none() && self.is_shared()
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            signal(child, name);
        }
    }
}

/// Sends a signal to a process.
pub(super) fn signal(child: &Child, name: &str) {
    // A process that has ended gets none.
    let _ = Command::new("kill").args([name, &child.id().to_string()]).stderr(Stdio::null()).status();
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
