//! A PostgreSQL of a test's own: made in a temporary folder, as a user of its own where the test runs as the
//! administrator (PostgreSQL refuses to), and stopped when this is dropped.

use std::{
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::PATIENCE;
use crate::port::free_port;

const PAUSE: Duration = Duration::from_millis(20);

/// Who needs a password: by TCP everybody but the administrator.
const HBA: &str = "local all all trust
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
";

pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    pub(crate) port: u16,
    settings: Vec<String>,
}

/// The folder with PostgreSQL's programs: that of `initdb` on the path, else the newest of Debian's.
fn programs() -> PathBuf {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("initdb")).find_map(|program| program.canonicalize().ok())
    });
    let debian = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs = versions.map(|version| version.path().join("bin/initdb")).filter(|program| program.is_file());
        programs.max()
    };
    let initdb = on_path.or_else(debian).expect("PostgreSQL 15 or later is needed: Debian's package is postgresql");
    initdb.parent().unwrap().to_owned()
}

/// The user and group under which PostgreSQL runs, if not those of the test.
fn user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)))
}

fn program(name: &str) -> Command {
    let mut command = Command::new(programs().join(name));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_remove("PGDATA");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command
}

/// A free port, and an empty folder that belongs to the server.
fn place() -> (u16, PathBuf) {
    let port = free_port();
    let dir = std::env::temp_dir().join(format!("datasole-postgres-{}-{port}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    if let Some((user, group)) = user() {
        chown(&dir, Some(user), Some(group)).unwrap();
    }
    (port, dir)
}

fn signal(process: &str, signal: &str) {
    let _ = Command::new("kill").args([signal, process]).stderr(Stdio::null()).status();
}

impl Server {
    /// Starts a server that does not wait for the disk.
    pub(crate) fn start() -> Self {
        Self::with(&["fsync=off", "full_page_writes=off"])
    }

    /// Starts a server with these settings, each `name=value`.
    pub(crate) fn with(settings: &[&str]) -> Self {
        Self::made(settings, |_| {})
    }

    /// Starts a server that speaks TLS, with copies of a certificate and its key.
    pub(crate) fn with_tls(certificate: &str, key: &str) -> Self {
        let settings =
            ["ssl=on", "ssl_cert_file=cert.pem", "ssl_key_file=key.pem", "fsync=off", "full_page_writes=off"];
        let server = Self::made(&settings, |data| {
            for (from, name) in [(certificate, "cert.pem"), (key, "key.pem")] {
                let to = data.join(name);
                std::fs::copy(from, &to).unwrap();
                // It refuses a key that others may read.
                std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
                if let Some((user, group)) = user() {
                    chown(&to, Some(user), Some(group)).unwrap();
                }
            }
        });
        server.until_it_answers();
        server
    }

    fn made(settings: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let (port, dir) = place();
        let mut initdb = program("initdb");
        initdb.arg("-D").arg(dir.join("data")).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        assert!(initdb.args(["--no-sync", "--wal-segsize=1"]).current_dir(&dir).status().unwrap().success(), "initdb");
        std::fs::write(dir.join("data/pg_hba.conf"), HBA).unwrap();
        prepare(&dir.join("data"));
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let child = spawn(&dir, port, &settings);
        Self { child, dir, port, settings }
    }

    /// Starts a server that follows this one, whom it reaches at `port`, with everything that this one has.
    pub(crate) fn standby(&self, source: u16) -> Self {
        self.until_it_answers();
        let (port, dir) = place();
        let mut copy = program("pg_basebackup");
        copy.arg("-D").arg(dir.join("data")).args(["-h", "127.0.0.1", "-p", &source.to_string(), "-U", "postgres"]);
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        let copied = copy.current_dir(&dir).stderr(Stdio::piped()).output().unwrap();
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        let child = spawn(&dir, port, &self.settings);
        let standby = Self { child, dir, port, settings: self.settings.clone() };
        standby.until_it_answers();
        standby
    }

    /// Waits until it is no longer starting.
    fn until_it_answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.ask("SELECT 1") {
            assert!(Instant::now() < deadline, "{error}");
            sleep(PAUSE);
        }
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?{options}", self.port)
    }

    pub(crate) fn socket_url(&self, options: &str) -> String {
        let dir = self.dir.display();
        format!("postgres:///postgres?user=postgres&host={dir}&port={}&{options}", self.port)
    }

    /// Kills all processes of the server at once, and starts it again.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.start_again();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.dir, self.port, &self.settings);
    }

    pub(crate) fn kill(&mut self) {
        let children = self.processes();
        self.child.kill().unwrap();
        children.iter().for_each(|process| signal(process, "-KILL"));
        self.child.wait().unwrap();
    }

    /// All processes but the first.
    fn processes(&self) -> Vec<String> {
        let parent = self.child.id().to_string();
        let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    }

    /// Stops all processes where they are, or lets them go on.
    pub(crate) fn pause(&self, signals: &str) {
        signal(&self.child.id().to_string(), signals);
        self.processes().iter().for_each(|process| signal(process, signals));
    }

    /// Runs SQL as the administrator; what it answers, one line a row.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.ask(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn ask(&self, sql: &str) -> Result<String, String> {
        let mut psql = program("psql");
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-tAq", "-c", sql]);
        let output = psql.current_dir(&self.dir).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

/// Starts the server until it stays and listens: one that was killed may hold its memory for a moment.
fn spawn(dir: &Path, port: u16, settings: &[String]) -> Child {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut postgres = program("postgres");
        postgres.arg("-D").arg(dir.join("data")).args(["-p", &port.to_string()]).arg("-k").arg(dir);
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", "-c", "shared_buffers=32MB"]);
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        let mut child = postgres.current_dir(dir).spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return child;
            }
            assert!(Instant::now() < deadline, "PostgreSQL listens");
            sleep(PAUSE);
        }
        assert!(Instant::now() < deadline, "PostgreSQL stays");
        sleep(PAUSE);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, but in order: killed, it would leave memory to the system.
        self.pause("-CONT");
        signal(&self.child.id().to_string(), "-QUIT");
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
