//! `cargo xtask cluster`: an engine and several nodes of `datasole serve` on it, in a temporary folder and on free ports,
//! until Ctrl-C.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::{
    command::{cargo, program, run},
    project, tools,
};

/// How long an engine may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// The engines that a machine can have for a moment.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Engine {
    /// redis-server, which keeps an append-only file
    Redis,
    /// A cluster of PostgreSQL's own, made for this
    Postgres,
    /// nats-server with JetStream
    Nats,
}

/// Programs that end with this value, and their folder.
struct Running {
    dir: PathBuf,
    /// The engine first.
    children: Vec<Child>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nodes before their engine, each asked to end in order.
        for child in self.children.iter_mut().rev() {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                continue;
            }
            let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            if !asked.is_ok_and(|status| status.success()) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Prints the URL of the engine and of each node, a line each, and runs until it is interrupted. `args` are for every
/// node.
pub(crate) fn serve(engine: Engine, nodes: u16, args: &[String]) -> Result<()> {
    match engine {
        Engine::Redis => tools::redis()?,
        Engine::Postgres => tools::postgres().map(drop)?,
        Engine::Nats => tools::nats().map(drop)?,
    }
    let (interrupted, wait) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _ = interrupted.send(());
    })?;
    run(&mut cargo(["build", "--package", "datasole-cli", "--bin", "datasole"]))?;
    let dir = std::env::temp_dir().join(format!("datasole-cluster-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut running = Running { dir, children: Vec::new() };
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let Start { mut command, url, mut probe } = match engine {
        Engine::Redis => redis(&running.dir, port),
        Engine::Postgres => postgres(&running.dir, port)?,
        Engine::Nats => nats(&running.dir, port)?,
    };
    let mut child = command.stdout(Stdio::null()).spawn().context("cannot start the engine")?;
    let answers = until_it_answers(&mut child, &mut probe);
    running.children.push(child);
    answers?;
    println!("{url}");
    for _ in 0..nodes {
        let (child, address) = node(&url, args)?;
        running.children.push(child);
        println!("http://{address}");
    }
    eprintln!("xtask: {nodes} nodes run until Ctrl-C; more join with `datasole serve --backend {url}`");
    loop {
        if wait.recv_timeout(PAUSE * 10).is_ok() {
            return Ok(());
        }
        for child in &mut running.children {
            if let Some(status) = child.try_wait()? {
                bail!("a program of the cluster ended with {status}");
            }
        }
    }
}

/// The way to start an engine, and to see that it answers.
struct Start {
    command: Command,
    url: String,
    probe: Probe,
}

/// Whether the engine answers.
type Probe = Box<dyn FnMut() -> Result<bool>>;

/// A program that succeeds when the engine answers.
fn asking(mut program: Command) -> Probe {
    Box::new(move || Ok(program.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success()))
}

fn redis(dir: &Path, port: u16) -> Start {
    let mut redis = program("redis-server");
    redis.args(["--port", &port.to_string(), "--save", "", "--appendonly", "yes", "--dir"]).arg(dir);
    let mut probe = program("redis-cli");
    probe.args(["-p", &port.to_string(), "ping"]);
    Start { command: redis, url: format!("redis://127.0.0.1:{port}"), probe: asking(probe) }
}

/// Makes a cluster of databases, as a user of its own for the administrator: PostgreSQL does not run as that.
fn postgres(dir: &Path, port: u16) -> Result<Start> {
    let programs = tools::postgres()?;
    let user = tools::user_for_postgres();
    let of = |name: &str| {
        let mut command = program(programs.join(name));
        #[cfg(unix)]
        if let Some((user, group)) = user {
            use std::os::unix::process::CommandExt;
            command.uid(user).gid(group);
        }
        command.current_dir(dir).arg("-D").arg(dir.join("data"));
        command
    };
    #[cfg(unix)]
    if let Some((user, group)) = user {
        std::os::unix::fs::chown(dir, Some(user), Some(group))?;
    }
    run(of("initdb").args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]))?;
    let mut postgres = of("postgres");
    postgres.args(["-p", &port.to_string(), "-k"]).arg(dir).args(["-c", "listen_addresses=127.0.0.1"]);
    let mut probe = program(programs.join("pg_isready"));
    probe.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
    Ok(Start { command: postgres, url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), probe: asking(probe) })
}

fn nats(dir: &Path, port: u16) -> Result<Start> {
    let file = dir.join("nats.conf");
    let store = dir.join("store");
    let text = format!("listen: \"127.0.0.1:{port}\"\nmax_payload: 8MB\njetstream {{ store_dir: {store:?} }}\n");
    fs::write(&file, text)?;
    let mut nats = program(tools::nats()?);
    nats.arg("-c").arg(file).stderr(Stdio::null());
    // It greets whoever connects once it serves.
    let greets = move || {
        let Ok(socket) = TcpStream::connect(("127.0.0.1", port)) else { return Ok(false) };
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        Ok(BufReader::new(socket).read_line(&mut line).is_ok() && line.starts_with("INFO "))
    };
    Ok(Start { command: nats, url: format!("nats://127.0.0.1:{port}"), probe: Box::new(greets) })
}

fn until_it_answers(engine: &mut Child, probe: &mut Probe) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !probe()? {
        ensure!(engine.try_wait()?.is_none(), "the engine ended at once");
        ensure!(Instant::now() < deadline, "the engine does not answer");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A node on a free port, and its address.
fn node(url: &str, args: &[String]) -> Result<(Child, String)> {
    let mut command = program(project::binary("debug", "datasole"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--dev", "--backend", url, "--log-level", "warn"]).args(args);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start a node")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a node has no output")?).read_line(&mut line)?;
    match line.trim().strip_prefix("listening ") {
        Some(address) => Ok((child, address.to_owned())),
        None => {
            let status = child.wait()?;
            bail!("a node did not start: {status}")
        }
    }
}
