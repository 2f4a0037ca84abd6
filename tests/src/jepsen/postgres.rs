//! PostgreSQL as the engine under the nodes: made in a folder, as a user of its own where the runner is the
//! administrator, because PostgreSQL does not run as that.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long it may take to start: one that was killed reads its log first.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The folder with the programs: that of `initdb` on the path, else the newest of Debian's.
fn programs() -> PathBuf {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("initdb")).find_map(|program| program.canonicalize().ok())
    });
    let debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin/initdb")).filter(|program| program.is_file()).max()
    };
    let initdb = on_path.or_else(debian).expect("PostgreSQL 15 or later is needed: Debian's package is postgresql");
    initdb.parent().unwrap().to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The user and group under which it runs, if not those of the runner.
fn user() -> Option<(u32, u32)> {
    if output("id", &["-u"]) != "0" {
        return None;
    }
    let id = |flag, name| output("id", &[flag, name]).parse().ok();
    ["postgres", "nobody"].iter().find_map(|name| Some((id("-u", name)?, id("-g", name)?)))
}

fn program(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(programs().join(name));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_remove("PGDATA").current_dir(folder);
    #[cfg(unix)]
    if let Some((user, group)) = user() {
        use std::os::unix::process::CommandExt;
        command.uid(user).gid(group);
    }
    command.arg("-D").arg(folder.join("data"));
    command
}

/// Makes a cluster of databases in an empty folder.
pub(super) fn make(folder: &Path) {
    #[cfg(unix)]
    if let Some((user, group)) = user() {
        std::os::unix::fs::chown(folder, Some(user), Some(group)).unwrap();
    }
    let mut initdb = program("initdb", folder);
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"]);
    assert!(initdb.status().unwrap().success(), "initdb");
}

/// Starts it until it stays and listens: one that was killed may hold its memory for a moment.
pub(super) fn run(folder: &Path, port: u16) -> Child {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut postgres = program("postgres", folder);
        postgres.args(["-p", &port.to_string()]).arg("-k").arg(folder);
        for setting in ["listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=32MB"] {
            postgres.args(["-c", setting]);
        }
        let mut child = postgres.spawn().unwrap();
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

/// All processes but the first.
pub(super) fn others(child: &Child) -> Vec<String> {
    let processes = output("ps", &["-o", "pid=", "--ppid", &child.id().to_string()]);
    processes.split_whitespace().map(str::to_owned).collect()
}
