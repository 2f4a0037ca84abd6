//! Autobahn's cases against a server that answers each message with itself. Reader, writer, closing handshake and the close
//! code of each violation are those of connections; their loop is not, which takes binary messages alone and answers the last
//! of several pings.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use futures_util::future::poll_fn;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    frame::Opcode,
    inbound::Inbound,
    parting::{End, goodbye},
    writer,
};
use crate::{Server, budget::Arriving};

const LIMIT: usize = 64 * 1024 * 1024;

/// Answers the upgrade request; the request ends where the first frame begins.
async fn upgrade(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.unwrap().as_bytes())
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}

async fn echo(mut stream: TcpStream) {
    upgrade(&mut stream).await;
    stream.set_nodelay(true).unwrap();
    let server = Server::builder().build();
    let mut inbound = Inbound::new(stream, b"", LIMIT, None, Arriving::new(std::sync::Arc::default()));
    loop {
        let mut out = Vec::new();
        let end = poll_fn(|cx| {
            inbound.poll_next(cx).map(|next| match next {
                Ok(Some(message)) => {
                    let payload = message.payload();
                    match message.opcode() {
                        Opcode::Binary => {
                            writer::binary(&mut out, payload.len());
                            out.extend_from_slice(payload);
                        }
                        Opcode::Text | Opcode::Continuation => {
                            let start = out.len();
                            writer::binary(&mut out, payload.len());
                            out[start] = 0x81;
                            out.extend_from_slice(payload);
                        }
                        opcode @ (Opcode::Ping | Opcode::Close) => writer::answer(&mut out, opcode, payload),
                        Opcode::Pong => {}
                    }
                    (message.opcode() == Opcode::Close).then_some(End::Goodbye)
                }
                Ok(None) => Some(End::Lost),
                Err(failure) => Some(failure.close().map_or(End::Lost, End::Close)),
            })
        })
        .await;
        if let Some(end) = end {
            // What fails here fails because the peer has gone.
            let _ = goodbye(inbound.into_stream(), end, &out, server.node()).await;
            return;
        }
        inbound.stream().write_all(&out).await.unwrap();
    }
}

/// Names Autobahn's program `wstest`, of the package `autobahntestsuite` for Python 2.
const PROGRAM: &str = "DATASOLE_WSTEST";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and Autobahn's program: `cargo xtask test --all`"]
async fn autobahn() {
    let program = env::var_os(PROGRAM).map(PathBuf::from).unwrap_or_else(|| panic!("{PROGRAM} names no program"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echo(stream));
        }
    });
    let folder = env::temp_dir().join(format!("datasole-autobahn-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let spec = json!({
        "outdir": folder.join("report"),
        "servers": [{ "agent": "datasole", "url": format!("ws://{address}") }],
        "cases": ["*"], "exclude-cases": [], "exclude-agent-cases": {},
    });
    fs::write(folder.join("spec.json"), spec.to_string()).unwrap();
    let mut wstest = Command::new(program);
    wstest.args(["-m", "fuzzingclient", "-s"]).arg(folder.join("spec.json")).stdout(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || wstest.status().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    serving.abort();
    let report = fs::read(folder.join("report/index.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let cases = report["datasole"].as_object().unwrap();
    let failed: Vec<String> = cases
        .iter()
        .filter(|(_, case)| {
            let good = ["OK", "INFORMATIONAL", "UNIMPLEMENTED"];
            !["behavior", "behaviorClose"].iter().all(|part| good.iter().any(|good| case[part] == *good))
        })
        .map(|(name, case)| format!("{name}: {case}"))
        .collect();
    let strict = cases.values().filter(|case| case["behavior"] == "OK").count();
    println!("{} cases, {strict} of them strictly as they should be", cases.len());
    assert!(failed.is_empty() && cases.len() >= 517, "{} cases, failed: {failed:#?}", cases.len());
    fs::remove_dir_all(folder).unwrap();
}
