//! An engine of the benchmark's own: on a free port, in a temporary folder, with the settings that its makers ship.

use std::{
    env, fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Result, process::Cpu};

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `redis-server` with an append-only file.
    Redis,
    /// PostgreSQL.
    Postgres,
    /// `nats-server` with JetStream.
    Nats,
}

/// Every engine.
pub(crate) const ALL: [Kind; 3] = [Kind::Redis, Kind::Postgres, Kind::Nats];

impl Kind {
    /// As in the names of scenarios.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Nats => "nats",
        }
    }
}

/// A running engine; it ends, with its folder, when this is dropped.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    dir: PathBuf,
    child: Child,
}

impl Engine {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let dir = env::temp_dir().join(format!("datasole-bench-{}-{}-{port}", kind.name(), std::process::id()));
        fs::create_dir_all(&dir)?;
        let mut command = match kind {
            Kind::Redis => redis(&dir, port),
            Kind::Postgres => postgres(&dir, port)?,
            Kind::Nats => nats(&dir, port)?,
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
        let mut engine = Self { kind, port, dir: dir.clone(), child };
        let deadline = Instant::now() + PATIENCE;
        let is_ready = || match kind {
            // It listens before it is ready.
            Kind::Postgres => {
                fs::read_to_string(dir.join("data/postmaster.pid")).is_ok_and(|text| text.contains("\nready"))
            }
            Kind::Redis | Kind::Nats => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
        };
        while !is_ready() {
            if engine.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(format!("{} does not listen", kind.name()).into());
            }
            thread::sleep(PAUSE);
        }
        Ok(engine)
    }

    /// The URL of an application's part, by way of a port.
    pub(crate) fn url_at(&self, port: u16, prefix: &str) -> String {
        match self.kind {
            Kind::Redis => format!("redis://127.0.0.1:{port}?prefix={prefix}"),
            Kind::Postgres => format!("postgres://postgres@127.0.0.1:{port}/postgres?prefix={prefix}"),
            Kind::Nats => format!("nats://127.0.0.1:{port}?prefix={prefix}"),
        }
    }

    pub(crate) fn url(&self, prefix: &str) -> String {
        self.url_at(self.port, prefix)
    }

    /// What its processes have used; one for each of PostgreSQL's sessions.
    pub(crate) fn cpu(&self) -> Result<u64> {
        Cpu::of(&self.processes()?).read()
    }

    /// Resident memory of its processes; bytes. What processes share is counted in each.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.processes()?.iter().map(|process| crate::process::resident(*process)).sum()
    }

    fn processes(&self) -> Result<Vec<u32>> {
        let parent = self.child.id();
        let mut processes = vec![parent];
        if self.kind == Kind::Postgres {
            for entry in fs::read_dir("/proc")?.flatten() {
                let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                // Whatever ended meanwhile is nobody's child.
                let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
                let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
                if fields.and_then(|mut fields| fields.nth(1)) == Some(parent.to_string().as_str()) {
                    processes.push(id);
                }
            }
        }
        Ok(processes)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // PostgreSQL, killed, would leave memory to the system.
        let quit = || Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let is_asked = self.kind == Kind::Postgres && quit().is_ok_and(|status| status.success());
        if !is_asked {
            // It may have ended by itself; either way it is reaped.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

fn redis(dir: &Path, port: u16) -> Command {
    let mut redis = Command::new("redis-server");
    redis.args(["--port", &port.to_string(), "--save", "", "--appendonly", "yes", "--dir"]).arg(dir);
    // Of one that catches up with 100,000 channels.
    redis.args(["--client-output-buffer-limit", "pubsub 64mb 16mb 60"]);
    redis
}

/// Makes a cluster of databases, as a user of its own for the administrator: PostgreSQL does not run as that.
fn postgres(dir: &Path, port: u16) -> Result<Command> {
    use std::os::unix::{fs::chown, process::CommandExt};
    let programs = programs().ok_or("PostgreSQL is missing: install 15 or later, Debian's package is postgresql")?;
    let user = user();
    if let Some((user, group)) = user {
        chown(dir, Some(user), Some(group))?;
    }
    let of = |name: &str| {
        let mut command = Command::new(programs.join(name));
        if let Some((user, group)) = user {
            command.uid(user).gid(group);
        }
        command.current_dir(dir).env_remove("PGDATA").arg("-D").arg(dir.join("data"));
        command
    };
    let mut initdb = of("initdb");
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]).stdout(Stdio::null());
    if !initdb.status()?.success() {
        return Err("initdb failed".into());
    }
    let mut postgres = of("postgres");
    postgres.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"]).arg(dir);
    // Its work would be counted for whom it happens to meet.
    postgres.args(["-c", "autovacuum=off"]);
    Ok(postgres)
}

fn programs() -> Option<PathBuf> {
    let on_path = || {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).find(|folder| folder.join("initdb").is_file())
    };
    let debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|version| version.path().join("bin"));
        versions.filter(|folder| folder.join("initdb").is_file()).max()
    };
    on_path().or_else(debian)
}

fn user() -> Option<(u32, u32)> {
    let id = |args: [&str; 2]| {
        let output = Command::new("id").args(args.into_iter().filter(|arg| !arg.is_empty())).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
    };
    if id(["-u", ""]) != Some(0) {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|name| Some((id(["-u", name])?, id(["-g", name])?)))
}

fn nats(dir: &Path, port: u16) -> Result<Command> {
    let file = dir.join("nats.conf");
    let store = dir.join("store");
    let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n", store.display());
    fs::write(&file, text)?;
    let mut nats = Command::new(env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into()));
    nats.arg("-c").arg(file);
    Ok(nats)
}
