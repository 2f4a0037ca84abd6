//! `datasole` as a program: its output, its pages and its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Far above what any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn datasole(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasole"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn serve(args: &[&str]) -> Command {
    let mut command = datasole(&["serve"]);
    command.args(args);
    command
}

/// A running server; killed when dropped.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::of(serve(&["--listen", "127.0.0.1:0", "--log", "warn"]).args(args))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").expect(&line).to_owned();
        Self { child, address }
    }

    #[cfg(unix)]
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// The whole answer to a GET, headers in lower case.
    fn get(&self, path: &str, headers: &str) -> String {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address).unwrap();
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        // An accepted upgrade does not end by itself: its head is all there is to see.
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") || !answer.starts_with(b"HTTP/1.1 101") {
            match socket.read(&mut chunk).unwrap() {
                0 => break,
                n => answer.extend_from_slice(&chunk[..n]),
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        format!("{}\n\n{body}", head.to_lowercase())
    }

    fn page(&self, path: &str) -> String {
        self.get(path, "Connection: close\r\n")
    }

    /// The status of an attempt to open the WebSocket.
    fn open(&self, path: &str, headers: &str) -> String {
        let socket = self.get(path, &format!("{UPGRADE}{headers}Connection: close\r\n"));
        socket.split(' ').nth(1).unwrap().to_owned()
    }

    /// The HELLO of a client of version 2.
    fn hello(&self) -> String {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let protocol = "Sec-WebSocket-Protocol: datasole.v2\r\n";
        write!(socket, "GET /__ds HTTP/1.1\r\nHost: {}\r\n{UPGRADE}{protocol}\r\n", self.address).unwrap();
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        // The first WebSocket frame, of 126 to 65,535 bytes.
        let mut header = [0; 4];
        reader.read_exact(&mut header).unwrap();
        assert_eq!(header[..2], [0x82, 126], "{head}");
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
        reader.read_exact(&mut hello).unwrap();
        String::from_utf8_lossy(&hello).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tokens_and_origins_decide_who_gets_in() {
    let server =
        Running::start(&["--path", "/live", "--token", "secret==ann", "--allow-origin", "https://app.example"]);
    for (path, headers, status) in [
        ("/live", "", "401"),
        ("/live?token=secret", "", "401"),
        ("/live?token=secret%3D", "", "101"),
        ("/live?token=secret%3D", "Origin: https://app.example\r\n", "101"),
        ("/live?token=secret%3D", "Origin: https://evil.example\r\n", "403"),
        ("/__ds?token=secret%3D", "", "404"),
    ] {
        assert_eq!(server.open(path, headers), status, "{path} {headers}");
    }
    let health = server.page("/live/health");
    assert!(health.contains("\"ready\":true") && !health.contains("metrics"), "{health}");
}

#[test]
fn clients_are_told_the_window_in_which_to_come_back() {
    let hello = Running::start(&["--reconnect-window", "7s"]).hello();
    assert!(hello.contains("\"reconnectWindow\":7000"), "{hello}");
    let hello = Running::start(&[]).hello();
    assert!(hello.contains("\"limits\"") && !hello.contains("reconnectWindow"), "{hello}");
}

#[test]
fn the_environment_is_as_good_as_flags() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");
    let server = Running::of(
        serve(&[])
            .env("DATASOLE_LISTEN", "127.0.0.1:0")
            .env("DATASOLE_TOKEN", "a=ann,b=bob")
            .env("DATASOLE_STATIC", folder),
    );
    assert_eq!(server.open("/__ds", ""), "401");
    assert_eq!(server.open("/__ds?token=b", ""), "101");
    assert!(server.page("/").contains("<title>datasole demo</title>"));
    assert!(server.page("/../Cargo.toml").starts_with("http/1.1 404"));
}

#[test]
fn hidden_files_stay_hidden() {
    let folder = std::env::temp_dir().join(format!("datasole-static-{}", std::process::id()));
    for (file, text) in [
        ("page.txt", "a page"),
        (".env", "SECRET"),
        (".git/config", "SECRET"),
        ("sub/index.html", "an index"),
        ("sub/.x", "SECRET"),
    ] {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let server = Running::start(&["--static", folder.to_str().unwrap()]);
    let page = server.page("/page.txt");
    assert!(page.ends_with("a page") && page.contains("x-content-type-options: nosniff"), "{page}");
    for path in
        ["/.env", "/.git/config", "/.git/", "/sub/.x", "/%2eenv", "/sub/%2E%67it", "/sub/../.env", "//.env", "/none"]
    {
        let page = server.page(path);
        assert!(page.starts_with("http/1.1 404") && !page.contains("SECRET"), "{path}: {page}");
    }
    // Redirects stay on this server.
    assert!(server.page("/sub").contains("location: /sub/\r\n"), "{}", server.page("/sub"));
    assert!(server.page("//sub").starts_with("http/1.1 404"));
    drop(server);
    let based = Running::start(&["--static", folder.to_str().unwrap(), "--base-path", "/app"]);
    assert!(based.page("/app/page.txt").ends_with("a page"));
    assert!(based.page("/app/sub/").ends_with("an index"));
    assert!(based.page("/app/sub").contains("location: /app/sub/\r\n"), "{}", based.page("/app/sub"));
    assert!(based.page("/page.txt").starts_with("http/1.1 404"));
    assert_eq!(based.open("/app/__ds", ""), "101");
    assert_eq!(based.open("/app/__ds/", ""), "101");
    assert_eq!(based.open("/__ds", ""), "404");
    drop(based);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn tokens_come_from_a_file() {
    let file = std::env::temp_dir().join(format!("datasole-token-file-{}", std::process::id()));
    std::fs::write(&file, "# users\nsecret=ann\n").unwrap();
    let server = Running::start(&["--token-file", file.to_str().unwrap()]);
    assert_eq!(server.open("/__ds", ""), "401");
    assert_eq!(server.open("/__ds?token=secret", ""), "101");
    drop(server);
    std::fs::remove_file(&file).unwrap();
    let output = serve(&["--listen", "127.0.0.1:0", "--token-file", file.to_str().unwrap()]).output().unwrap();
    assert!(!output.status.success() && String::from_utf8(output.stderr).unwrap().contains("--token-file"));
}

#[test]
fn refusals_are_logged_once_with_the_flag_that_helps() {
    let mut server = Running::start(&[]);
    for _ in 0..3 {
        assert_eq!(server.open("/__ds", "Origin: http://app:8080\r\n"), "403");
    }
    assert_eq!(server.open("/__ds", "Host: evil.example\r\n"), "400", "two hosts");
    let plain = server.page("/__ds");
    assert!(
        plain.contains("this is a websocket endpoint") || plain.contains("this is a WebSocket endpoint"),
        "{plain}"
    );
    let proxied = server.get("/__ds", "Connection: close\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    assert!(proxied.contains("426") && proxied.contains("does not pass the upgrade on"), "{proxied}");
    assert!(proxied.contains("datasole-refused: upgrade"), "{proxied}");
    server.child.kill().unwrap();
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(told("origin http://app:8080 is not this server's"), 1, "{log}");
    assert_eq!(told("--allow-origin http://app:8080"), 1, "{log}");
    assert_eq!(told("does not pass the upgrade on"), 1, "{log}");
    assert!(log.contains("WARN") && !log.contains('\u{1b}'), "plain text where there is no terminal: {log}");
}

#[test]
fn on_loopback_only_this_machines_names_are_served() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");
    let ask = |server: &Running, host: &str| {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        write!(socket, "GET /index.html HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let server = Running::start(&["--static", folder]);
    for (host, status) in [("localhost:9", "200"), ("127.0.0.1", "200"), ("[::1]:1", "200"), ("evil.example", "403")] {
        assert_eq!(ask(&server, host), status, "{host}");
    }
    let listed = Running::start(&["--static", folder, "--allow-host", "app.example"]);
    assert_eq!((ask(&listed, "app.example:80"), ask(&listed, "evil.example")), ("200".into(), "403".into()));
    let proxied = Running::start(&["--static", folder, "--trust-proxy", "127.0.0.1"]);
    assert_eq!(ask(&proxied, "app.example"), "200");
}

#[test]
fn development_lets_pages_of_this_machine_in() {
    for (flags, status) in [(&[][..], "403"), (&["--dev"], "101"), (&["--demo"], "101")] {
        let server = Running::start(flags);
        assert_eq!(server.open("/__ds", "Origin: http://localhost:5173\r\n"), status, "{flags:?}");
        assert_eq!(server.open("/__ds", "Origin: http://evil.example\r\n"), "403", "{flags:?}");
        let forwarded = "Origin: http://localhost:5304\r\nX-Forwarded-Host: localhost:5304\r\n";
        assert_eq!(server.open("/__ds", forwarded), "101", "{flags:?}");
    }
}

#[test]
fn the_demo_page_is_in_the_binary_under_a_strict_policy() {
    let server = Running::start(&["--demo"]);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard", "text/html; charset=utf-8"),
        ("/demo.css", "text/css; charset=utf-8"),
        ("/pane.css", "text/css; charset=utf-8"),
        ("/dashboard.js", "text/javascript; charset=utf-8"),
        ("/board", "text/html; charset=utf-8"),
        ("/board.js", "text/javascript; charset=utf-8"),
        ("/demo.svg", "image/svg+xml"),
    ] {
        let page = server.page(path);
        assert!(page.starts_with("http/1.1 200"), "{path}: {page}");
        assert!(page.contains(&format!("content-type: {kind}")), "{path}");
        assert!(page.contains("content-security-policy: default-src 'self';"), "{path}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let text = |args: &[&str]| {
        let output = datasole(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(text(&["--version"]), concat!("datasole ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(text(&["--help"]).contains("datasole serve --demo"));
    let flags = text(&["serve", "--help"]);
    for flag in [
        "listen",
        "path",
        "static",
        "base-path",
        "allow-origin",
        "allow-host",
        "trust-proxy",
        "heartbeat",
        "reconnect-window",
        "dev",
        "metrics",
        "max-connections",
        "token",
        "token-file",
        "relay",
        "history",
        "data",
        "sync",
        "redis",
        "backend",
        "log",
        "bus",
        "kv",
        "log-level",
        "demo",
    ] {
        let variable = format!("[env: DATASOLE_{}", flag.replace('-', "_").to_uppercase());
        assert!(flags.contains(&format!("--{flag} ")) || flags.contains(&format!("--{flag}\n")), "{flag}: {flags}");
        assert!(flags.contains(&variable), "{variable}: {flags}");
    }
}

/// The program in a shell that has set this limit of descriptors.
#[cfg(unix)]
fn limited(limit: &str, flags: &str) -> Running {
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_datasole");
    shell.arg("-c").arg(format!("ulimit {limit} && exec {program} serve --listen 127.0.0.1:0 --log warn {flags}"));
    Running::of(shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// The log of a program that is killed.
#[cfg(unix)]
fn log(mut server: Running) -> String {
    server.child.kill().unwrap();
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    log
}

#[cfg(unix)]
#[test]
fn it_takes_the_descriptors_that_it_may_have() {
    // The soft limit is the program's own to raise.
    let server = limited("-Sn 64", "--max-connections 200");
    let held: Vec<_> = (0..200).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    assert_eq!(server.open("/__ds", ""), "101");
    drop(held);
    assert_eq!(log(server), "");
    let log = log(limited("-n 300", "--max-connections 45"));
    assert!(log.contains("the system allows 300 descriptors, 45 connections need 301"), "{log}");
}

/// The attack: more sockets than the program may have descriptors, each with a file open, and nothing is read.
#[cfg(unix)]
#[test]
fn out_of_descriptors_it_lets_in_whoever_means_it() {
    let folder = std::env::temp_dir().join(format!("datasole-descriptors-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("file"), vec![7; 16 << 20]).unwrap();
    let server = limited("-n 64", &format!("--max-connections 8 --static {}", folder.display()));
    let mut held = Vec::new();
    for round in 0..20 {
        for _ in 0..10 {
            let mut socket = TcpStream::connect(&server.address).unwrap();
            write!(socket, "GET /file HTTP/1.1\r\nHost: {}\r\n\r\n", server.address).unwrap();
            held.push(socket);
        }
        assert_eq!(server.open("/__ds", ""), "101", "round {round}");
    }
    drop(held);
    let log = log(server);
    assert_eq!(log.lines().filter(|line| line.contains("a socket was not accepted")).count(), 1, "{log}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_missing_or_unknown_command_is_an_error_with_usage() {
    for args in [&[][..], &["server"], &["--listen", "127.0.0.1:0"]] {
        let output = datasole(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: datasole"), "{args:?}");
    }
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = serve(&["--listen", &address]).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = "something else listens there; choose another address with --listen";
    assert_eq!(error, format!("datasole: cannot listen on {address}: {expected}\n"));
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_properly() {
    for signal in ["-TERM", "-INT"].repeat(10) {
        // Right after the address was printed.
        let mut server = Running::start(&[]);
        server.signal(signal);
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_folder_of_data_is_one_servers() {
    let dir = std::env::temp_dir().join(format!("datasole-binary-{}", std::process::id()));
    let text = dir.to_str().unwrap();
    let server = Running::start(&["--data", text]);
    let second = serve(&["--listen", "127.0.0.1:0", "--sync"]).env("DATASOLE_DATA", text).output().unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.starts_with("datasole: ") && error.contains("in use by another server"), "{error}");
    drop(server);
    #[cfg_attr(not(unix), expect(unused_mut))]
    let mut third = Running::start(&["--data", text, "--sync"]);
    #[cfg(unix)]
    {
        let connected = TcpStream::connect(&third.address).unwrap();
        assert!(third.page("/__ds/health").starts_with("http/1.1 200"));
        third.signal("-TERM");
        assert_eq!(third.child.wait().unwrap().code(), Some(0));
        let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["datasole.sqlite"], "closed in order, it is one file");
        drop(connected);
    }
    drop(third);
    std::fs::remove_dir_all(dir).unwrap();
}

/// The engines, what they hold and may lose, are logged on start; a URL that names none is refused, its password not told.
#[test]
fn engines_are_described() {
    let dir = std::env::temp_dir().join(format!("datasole-engines-binary-{}", std::process::id()));
    let url = format!("sqlite:{}?prefix=shop", dir.display());
    let mut command = serve(&["--listen", "127.0.0.1:0", "--log", &url]);
    let mut server = Running::of(command.env("DATASOLE_BACKEND", "memory:"));
    assert!(server.page("/__ds/health").contains("\"ready\":true"));
    assert!(dir.join("shop/datasole.sqlite").is_file());
    server.child.kill().unwrap();
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let expected =
        format!("log in {url}; may be lost: nothing when the process is killed, the last moments when the power fails");
    assert!(log.contains(&expected), "{log}");
    assert!(log.contains("bus, kv in memory:; may be lost: everything, when the process ends"), "{log}");
    std::fs::remove_dir_all(dir).unwrap();
    // A level on the command line leaves the engine of the variable; without any engine there is memory.
    for (engine, told) in [("sqlte:./data", "sqlte: is no engine"), ("", "log, bus, kv in memory:")] {
        let mut command = serve(&["--listen", "127.0.0.1:0", "--log", "info"]);
        let mut child = command.env("DATASOLE_LOG", engine).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        assert!(log.lines().any(|line| line.unwrap().contains(told)), "{told}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for (flag, url, expected) in [
        ("--backend", "mysql://ann:secret@h/db", "datasole: not a valid request: mysql: is no engine"),
        ("--bus", "mysql://ann:secret@h/db", "datasole: not a valid request: mysql: is no engine"),
        ("--kv", "memory:?secret", "datasole: not a valid request: secret in the URL of memory:"),
        ("--log", "redis://ann:secret@127.0.0.1:1", "datasole: backend unavailable: "),
    ] {
        let refused = serve(&["--listen", "127.0.0.1:0", flag, url]).output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && error.starts_with(expected), "{url}: {error}");
        assert!(flag == "--kv" || !error.contains("secret"), "{url}: {error}");
    }
}

/// Without its Redis a server does not start, and the password stays out of what it says; once it runs, health tells
/// that its Redis is away, and that it is back.
#[test]
fn a_redis_is_shared_and_its_absence_told() {
    let refused = serve(&["--listen", "127.0.0.1:0", "--redis", "redis://:secret@127.0.0.1:1"]).output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && error.contains("backend unavailable") && !error.contains("secret"), "{error}");

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let redis = || {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("Ready to accept connections")));
        child
    };
    let mut engine = redis();
    let url = format!("redis://127.0.0.1:{port}");
    let servers = ["--redis", "--backend"].map(|flag| Running::start(&[flag, &url]));
    let all_are = |status: &str| {
        let began = std::time::Instant::now();
        while !servers.iter().all(|server| server.page("/__ds/health").split(' ').nth(1) == Some(status)) {
            assert!(began.elapsed().as_secs() < 60, "health becomes {status}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    all_are("200");
    engine.kill().unwrap();
    engine.wait().unwrap();
    all_are("503");
    assert!(servers[0].page("/__ds/health").contains("the backend does not store"));
    let mut engine = redis();
    all_are("200");
    engine.kill().unwrap();
    engine.wait().unwrap();
}
