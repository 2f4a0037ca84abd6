//! `datasole types` and `datasole contract-check` before servers that have a contract, and others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread,
};

const OLD: &str = r#"{"name":"App","rpc":{"add":{"type":{"params":"{ a: number }","result":"number"}}}}"#;
const NEW: &str = r#"{"name":"App","rpc":{"add":{"type":{"params":"{ a: number, b: string }","result":"number"}},
    "sub":{"type":{"params":"null","result":"null"}}}}"#;

fn datasole() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasole"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A server that answers the text it is given at the time, and tells each request's target.
fn server(kind: &'static str, text: &str) -> (String, Arc<Mutex<String>>, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shown = Arc::new(Mutex::new(text.to_owned()));
    let (asked, requests) = channel();
    let answer = shown.clone();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            BufReader::new(&socket).read_line(&mut line).unwrap();
            let body = answer.lock().unwrap().clone();
            let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: ");
            let _ = write!(socket, "{head}{}\r\n\r\n{body}", body.len());
            if asked.send(line.split(' ').nth(1).unwrap().to_owned()).is_err() {
                return;
            }
        }
    });
    (url, shown, requests)
}

fn folder(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("datasole-types-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn types_are_written_once_and_to_stdout() {
    let folder = folder("once");
    let (url, _, requests) = server("text/plain", "export {};\n");
    let output = datasole().args(["types", &url]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "export {};\n");
    assert_eq!(requests.recv().unwrap(), "/__ds/contract.ts");
    let file = folder.join("web/contract.ts");
    for said in ["written", "is up to date"] {
        let output = datasole().args(["types", &url, "--out"]).arg(&file).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stderr).unwrap().trim_end().ends_with(said));
        assert_eq!(fs::read_to_string(&file).unwrap(), "export {};\n");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_watched_contract_is_written_when_it_changes() {
    let folder = folder("watch");
    let file = folder.join("contract.ts");
    let (url, shown, requests) = server("text/plain", "one\n");
    let mut command = datasole();
    command.args(["types", &url, "--watch", "--out"]).arg(&file).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().ends_with("written"));
    // Away while it is restarted.
    shown.lock().unwrap().clear();
    assert!(said.next().unwrap().unwrap().contains("contract.ts is not there"));
    *shown.lock().unwrap() = "two\n".to_owned();
    assert!(said.next().unwrap().unwrap().ends_with("written"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "two\n");
    assert!(requests.try_iter().all(|target| target == "/__ds/contract.ts"));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_server_for_development_keeps_the_contract_of_the_applications() {
    let folder = folder("dev");
    let file = folder.join("web/contract.ts");
    let (url, shown, requests) = server("text/plain", "one\n");
    let mut command = datasole();
    command.args(["dev", "--listen", "127.0.0.1:0", "--log", "error", "--types-from", &url, "--types"]).arg(&file);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    for text in ["one\n", "two\n"] {
        *shown.lock().unwrap() = text.to_owned();
        assert!(said.any(|line| line.ends_with("contract.ts written")), "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    assert!(requests.try_iter().all(|target| target == "/__ds/contract.ts"));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(folder).unwrap();

    let output = datasole().args(["dev", "--types", "contract.ts"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--types-from"), "one names the other");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_file_that_cannot_be_written_is_told_once_and_written_as_soon_as_it_can_be() {
    let folder = folder("unwritable");
    let blocked = folder.join("web");
    let file = blocked.join("contract.ts");
    let (url, _, requests) = server("text/plain", "one\n");
    let watches: [&[&str]; 2] = [
        &["types", &url, "--watch", "--out"],
        &["dev", "--listen", "127.0.0.1:0", "--log", "error", "--types-from", &url, "--types"],
    ];
    for args in watches {
        // No folder.
        fs::write(&blocked, "").unwrap();
        requests.try_iter().count();
        let mut command = datasole();
        command.args(args).arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(said.any(|line| line.contains("contract.ts: ")), "{args:?}");
        // Two looks more, which say nothing.
        for _ in 0..3 {
            requests.recv().unwrap();
        }
        fs::remove_file(&blocked).unwrap();
        let next = said.find(|line| line.contains("contract.ts"));
        assert!(next.as_ref().is_some_and(|line| line.ends_with("written")), "{args:?}: {next:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\n");
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(&blocked).unwrap();
    }
    // Once only: an error.
    fs::write(&blocked, "").unwrap();
    let output = datasole().args(["types", &url, "--out"]).arg(&file).output().unwrap();
    assert!(!output.status.success() && String::from_utf8(output.stderr).unwrap().contains("contract.ts: "));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_has_no_contract_is_told() {
    let fails = |url: &str, what: &str| {
        let output = datasole().args(["types", url]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(what), "{said}");
        assert!(output.stdout.is_empty());
    };
    let (missing, ..) = server("text/plain", "");
    fails(&missing, "`Builder::contract`");
    let (page, ..) = server("text/html", "<!doctype html>");
    fails(&page, "an HTML page, not a contract");
    fails("http://127.0.0.1:1", "cannot be reached");
    fails("localhost", "the URL must be http");
}

#[test]
fn changes_that_break_are_a_failure() {
    let folder = folder("check");
    let old = folder.join("old.json");
    fs::write(&old, OLD).unwrap();
    let (url, ..) = server("application/json", NEW);
    let check = |old: &str, new: &str| {
        let output = datasole().args(["contract-check", old, new]).output().unwrap();
        let mut said = String::from_utf8(output.stdout).unwrap();
        (&output.stderr[..]).read_to_string(&mut said).unwrap();
        (output.status.code(), said)
    };
    let old = old.to_str().unwrap();
    let expected = "breaking: rpc add: params.b is missing\nsafe: rpc sub: added\n";
    assert_eq!(check(old, &url), (Some(1), expected.to_owned()));
    assert_eq!(check(old, old), (Some(0), "no changes\n".to_owned()));
    let (code, said) = check("missing.json", old);
    assert!(code == Some(2) && said.contains("missing.json"), "{said}");
    fs::remove_dir_all(folder).unwrap();
}
