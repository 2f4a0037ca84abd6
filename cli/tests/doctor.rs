//! `datasole doctor` before servers, and before what stands in front of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
};

fn datasole() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasole"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Whether all is well, and what it says.
fn doctor(url: &str, flags: &[&str]) -> (bool, String) {
    let output = datasole().arg("doctor").arg(url).args(flags).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

/// A running server; killed when dropped.
struct Running(Child, String);

impl Running {
    fn start(flags: &[&str]) -> Self {
        let mut command = datasole();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "error"]).args(flags).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, format!("http://{}", line.trim().strip_prefix("listening ").unwrap()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_as_it_should_be() {
    let server = Running::start(&["--base-path", "/app"]);
    let (healthy, said) = doctor(&format!("{}/app/", server.1), &["--quiet", "1"]);
    for line in [
        concat!("ok    health: a datasole server, version ", env!("CARGO_PKG_VERSION"), "\n"),
        "ok    connection: a page of this URL connects, and is greeted\n",
        "ok    other pages: refused, as they should be\n",
        "ok    quiet: not cut in 1 s\n",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    // A server that was built before the browser files is not well.
    assert_eq!(healthy, said.contains("ok    files: served, in br\n"), "{said}");
    assert_eq!(healthy, !said.contains("WRONG"), "{said}");
}

#[test]
fn tokens_and_pages_of_every_origin() {
    let server = Running::start(&["--token", "a b=ann", "--allow-origin", "*"]);
    let (healthy, said) = doctor(&server.1, &[]);
    assert!(!healthy && said.contains("ok    connection: pages get through; the server wants a token"), "{said}");
    let (_, said) = doctor(&server.1, &["--token", "wrong"]);
    assert!(said.contains("WRONG connection: the token is refused"), "{said}");
    let (healthy, said) = doctor(&server.1, &["--token", "a b"]);
    assert!(said.contains("ok    connection: a page of this URL connects"), "{said}");
    assert!(!healthy && said.contains("WRONG other pages: pages of every origin may connect"), "{said}");
}

/// Answers of proxies to everything, and the words for them.
#[test]
fn what_stands_in_front_is_told_by_its_answers() {
    let html = "200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<!doctype html>";
    let ours = "403 Forbidden\r\nDatasole-Refused: origin\r\nContent-Length: 26\r\n\r\norigin x is not this one's";
    for (answer, words) in [
        ("301 Moved\r\nLocation: /__ds/\r\nContent-Length: 0\r\n\r\n", "to /__ds/: proxy the path itself"),
        (html, "WRONG health: an HTML page, not a datasole server"),
        (html, "datasole.iife.min.js is an HTML page"),
        ("401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "not by the server: the proxy's own sign-on"),
        ("426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "a proxy does not pass the upgrade on"),
        ("429 Too Many\r\nContent-Length: 0\r\n\r\n", "raise the proxy's limit of requests"),
        ("502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "the proxy does not reach the server"),
        (ours, "WRONG connection: 403 origin x is not this one's"),
        ("garbage", "no HTTP answer"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Ends with the test's process: one answer to each that asks.
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if socket.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    asked.push(byte[0]);
                }
                let _ = socket.write_all(format!("HTTP/1.1 {answer}").as_bytes());
            }
        });
        let (healthy, said) = doctor(&format!("http://{address}"), &[]);
        assert!(!healthy && said.contains(words), "{words} is not in {said}");
    }
}

#[test]
fn nobody_there_and_no_url() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (healthy, said) = doctor(&format!("http://{taken}"), &[]);
    assert!(!healthy && said.contains("cannot be reached"), "{said}");
    let (healthy, said) = doctor("ftp://a.example", &[]);
    assert!(!healthy && said.contains("the URL must be http, https, ws or wss"), "{said}");
}
