//! A proxy as a process of its own, with one of its configurations in a folder of its own.

use std::{
    env, fs,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use datasole_tests::port::free_port;

/// Far above what any of them takes to start.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    HaProxy,
    Apache,
    Caddy,
}

impl Kind {
    /// How docs/proxies.md marks its configurations.
    pub(crate) fn language(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Apache => "apache",
            Self::Caddy => "caddy",
        }
    }

    /// The program and Debian's package.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Nginx => ("nginx", "nginx"),
            Self::HaProxy => ("haproxy", "haproxy"),
            Self::Apache => ("apache2", "apache2-bin"),
            Self::Caddy => ("caddy", "caddy"),
        }
    }

    /// Where it is, if it is there.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        folders.map(|folder| folder.join(self.names().0)).find(|program| program.is_file())
    }

    /// The line for those who do not have it.
    pub(crate) fn missing(self) -> String {
        let (program, package) = self.names();
        format!("{program} is missing: apt-get install {package}")
    }

    /// The whole configuration: what is particular to a test around the one of the page.
    fn configuration(self, snippet: &str, folder: &Path, port: u16) -> String {
        let folder = folder.display();
        match self {
            Self::Nginx => {
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
                    .concat();
                format!(
                    "daemon off; pid {folder}/pid; error_log stderr; worker_processes 2;\n\
                     events {{ worker_connections 2048; }}\n\
                     http {{ access_log off; {temporary} {snippet} }}\n"
                )
            }
            Self::HaProxy => snippet.to_owned(),
            Self::Apache => {
                let modules: String = [
                    ("mpm_event", "mpm_event"),
                    ("authz_core", "authz_core"),
                    ("proxy", "proxy"),
                    ("proxy_http", "proxy_http"),
                ]
                .map(|(module, file)| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{file}.so\n"))
                .concat();
                format!(
                    "{modules}ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\n\
                     ErrorLog {folder}/error.log\nListen {port}\n{snippet}"
                )
            }
            Self::Caddy => format!("{{\n\tadmin unix/{folder}/admin\n}}\n{snippet}"),
        }
    }

    fn command(self, configuration: &Path) -> Command {
        let mut command = Command::new(self.program().unwrap_or_else(|| panic!("{}", self.missing())));
        match self {
            Self::Nginx => command.arg("-e").arg("stderr").arg("-c").arg(configuration),
            Self::HaProxy => command.args(["-W", "-db", "-f"]).arg(configuration),
            Self::Apache => command.args(["-D", "FOREGROUND", "-f"]).arg(configuration),
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(configuration),
        };
        command
    }
}

/// A proxy that runs; killed with all of its workers when dropped.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    folder: PathBuf,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Proxy {
    /// Starts it with this configuration, which names port 8080 for its own and 127.0.0.1:4000 for the server.
    pub(crate) fn start(kind: Kind, snippet: &str, server: SocketAddr) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("datasole-proxy-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let snippet = snippet.replace("8080", &port.to_string()).replace("127.0.0.1:4000", &server.to_string());
        fs::write(folder.join("configuration"), kind.configuration(&snippet, &folder, port)).unwrap();
        let child = Self::spawn(kind, &folder, address);
        Self { kind, folder, address, child }
    }

    /// Its base URL for clients.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has it read its configuration again.
    pub(crate) fn reload(&mut self) {
        match self.kind {
            Kind::Nginx => self.signal("-HUP"),
            Kind::HaProxy => self.signal("-USR2"),
            Kind::Apache => self.signal("-USR1"),
            Kind::Caddy => {
                let mut command = Command::new(self.kind.program().unwrap());
                command.args(["reload", "--force", "--adapter", "caddyfile", "--config"]);
                command.arg(self.folder.join("configuration")).env("XDG_CONFIG_HOME", &self.folder);
                let output = command.output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        }
    }

    /// Ends it in order and starts it again.
    pub(crate) fn restart(&mut self) {
        self.signal("-TERM");
        self.child.wait().unwrap();
        self.child = Self::spawn(self.kind, &self.folder, self.address);
    }

    fn spawn(kind: Kind, folder: &Path, address: SocketAddr) -> Child {
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = kind.command(&folder.join("configuration"));
        command.env("XDG_CONFIG_HOME", folder).env("XDG_DATA_HOME", folder).process_group(0);
        let mut child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            let log = || fs::read_to_string(folder.join("log")).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{kind:?} has ended: {}", log());
            assert!(started.elapsed() < PATIENCE, "{kind:?} does not listen: {}", log());
            sleep(Duration::from_millis(10));
        }
        child
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its group: the workers would stay.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
