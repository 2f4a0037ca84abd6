//! `datasole dev`: who may connect, and the command beside the server.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

/// Far above what any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of a port of its own; killed when dropped.
struct Dev {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Dev {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_datasole"));
        command
            .args(["dev", "--listen", "127.0.0.1:0", "--log", "warn"])
            .args(args)
            .env("DATASOLE_URL", "http://wrong");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// The status with which it ended, and what else it said.
    fn end(&mut self) -> (Option<i32>, String, String) {
        let (mut out, mut log) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), out, log)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of an attempt to open the WebSocket as a page of `origin`.
fn open(url: &str, origin: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        socket,
        "GET /__ds HTTP/1.1\r\nHost: {address}\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn pages_of_this_machine_connect_and_no_others() {
    let mut dev = Dev::start(&[]);
    let url = dev.line();
    for (origin, status) in
        [("http://localhost:5173", "101"), ("http://127.0.0.1:3000", "101"), ("https://app.example", "403")]
    {
        assert_eq!(open(&url, origin), status, "{origin}");
    }
    dev.signal("-INT");
    let (code, out, log) = dev.end();
    assert_eq!((code, out.as_str()), (Some(0), ""), "{log}");
}

#[test]
fn the_command_knows_the_url_and_its_end_is_the_servers() {
    for code in [0, 3] {
        let mut dev = Dev::start(&["--", "sh", "-c", &format!("echo at $DATASOLE_URL; exit {code}")]);
        let lines = [dev.line(), dev.line()];
        let url = lines.iter().find(|line| line.starts_with("http://127.0.0.1:")).unwrap();
        assert!(lines.contains(&format!("at {url}")), "{lines:?}");
        let (ended, out, log) = dev.end();
        assert_eq!((ended, out.as_str()), (Some(code), ""), "{log}");
    }
}

#[test]
fn a_signal_ends_both_in_order() {
    // Without a terminal, which would tell the command itself.
    let command = "trap 'echo over; exit 7' TERM; echo here; while :; do sleep 0.05; done";
    let mut dev = Dev::start(&["--", "sh", "-c", command]);
    let lines = [dev.line(), dev.line()];
    assert!(lines.contains(&"here".to_owned()), "{lines:?}");
    dev.signal("-TERM");
    let (code, out, log) = dev.end();
    assert_eq!((code, out.as_str()), (Some(0), "over\n"), "{log}");
}

#[test]
fn a_command_that_is_not_there_is_named() {
    let mut dev = Dev::start(&["--", "/no/such/program"]);
    let (code, out, log) = dev.end();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{log}");
    assert!(log.contains("datasole: cannot start /no/such/program"), "{log}");
}
